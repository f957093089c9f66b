// The plugin when there is no memory: each allocation that a slot makes on its caller's thread
// fails in turn. Nothing is thrown, nothing is under way that nobody knows of, nothing is lost, and
// nothing is freed twice.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "nixl/plugin.h"
#include "nixl/stat.h"
#include "support/fake_core.h"
#include "support/node_thread.h"

namespace {
thread_local std::size_t fails_in = 0;  // the allocation that fails; 0: none
thread_local bool has_failed = false;
}  // namespace

[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (fails_in != 0 && --fails_in == 0) {
    has_failed = true;
    throw std::bad_alloc();
  }
  void* const memory = std::malloc(bytes != 0 ? bytes : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/) noexcept {
  std::free(memory);
}

namespace memkv::testing {
namespace {

using Piece = FakeCore::Piece;

class NixlMemoryTest : public ::testing::Test {
 protected:
  NixlMemoryTest() : agent_(kName, make()) { agent_.object(1, "one"); }
  ~NixlMemoryTest() override { agent_.leave(); }

  std::unique_ptr<abi::Engine> make() {
    const nixl::Settings settings{
        .nodes = {node_.address()}, .timeout_ms = 60'000, .query_timeout_ms = 60'000};
    auto client = Client::open({.nodes = settings.nodes, .timeout_ms = settings.timeout_ms});
    const nixl::EngineWorld world{.clock = system_clock(),
                                  .wait = [](Request& request, std::uint64_t timeout_ms) {
                                    return request.wait(timeout_ms);
                                  }};
    const abi::Init init{.agent = kName, .type = "MEMKV"};
    return nixl::make_engine(init, settings, std::move(*client), world);
  }
  // Calls it with each of its allocations failing, then `look` at what it answered; at last it is
  // called when none fails.
  template <typename Call, typename Look>
  static void starved(Call call, Look look) {
    for (std::size_t number = 1;; ++number) {
      has_failed = false;
      fails_in = number;
      const auto answer = call();
      fails_in = 0;
      look(answer, has_failed);
      if (!has_failed) return;
      ASSERT_LT(number, 1000u);
    }
  }
  Answer finish(FakeCore::Transfer& transfer) {
    Answer answer = Answer::in_progress;
    while ((answer = agent_.check(transfer)) == Answer::in_progress) std::this_thread::yield();
    return answer;
  }
  // Asked of nodes by all postings until now: a query goes the same way, after them.
  std::string gets() {
    (void)agent_.query({{1, "one"}});
    const std::string text = nixl::stat_text();
    const std::size_t at = text.find("\ngets ") + 6;
    return text.substr(at, text.find('\n', at) - at);
  }

  // Longer than what a string holds in itself.
  static constexpr const char* kName = "an agent whose name has to be allocated";
  NodeThread node_;
  FakeCore agent_;
};

TEST_F(NixlMemoryTest, ThePlacesOfMemoryAreAsked) {
  starved([this] { return agent_.engine().getSupportedMems(); },
          [](const std::vector<MemoryKind>& kinds, bool failed) {
            EXPECT_EQ(kinds.size(), failed ? 0u : 2u);
          });
}

TEST_F(NixlMemoryTest, SomethingIsRegistered) {
  Buffer buffer(1000);
  const auto at = reinterpret_cast<std::uintptr_t>(buffer.data());
  for (const auto& [kind, place] :
       {std::pair{MemoryKind::dram, FakeCore::place(at, buffer.size(), 0)},
        std::pair{MemoryKind::object, FakeCore::place(0, 0, 7, std::string(100, 'k'))}}) {
    abi::Metadata* made = nullptr;
    starved([&] { return agent_.engine().registerMem(place, kind, made); },
            [&](Answer answer, bool failed) {
              EXPECT_EQ(answer, failed ? Answer::backend_error : Answer::success);
              EXPECT_EQ(made == nullptr, failed);
              if (!failed || kind != MemoryKind::object) return;
              EXPECT_EQ(agent_.try_object(7, "another"), Answer::success)
                  << "nothing is left of it";
              EXPECT_EQ(agent_.forget_object(7), Answer::success);
            });
    EXPECT_EQ(agent_.engine().deregisterMem(made), Answer::success);
    EXPECT_EQ(agent_.engine().deregisterMem(made), Answer::invalid_param);
  }
}

TEST_F(NixlMemoryTest, ATransferIsPreparedAndPosted) {
  Buffer block = random_buffer(50'000, 1);
  auto write = agent_.describe(Direction::write, {{&block, agent_.memory(block), 1}});
  ASSERT_EQ(agent_.prepare(write), Answer::success);
  (void)agent_.post(write);
  ASSERT_EQ(finish(write), Answer::success);
  ASSERT_EQ(agent_.release(write), Answer::success);

  Buffer target(block.size());
  auto read = agent_.describe(Direction::read, {{&target, agent_.memory(target), 1}});
  const abi::Options options = FakeCore::options_of(nullptr);
  const std::string name = kName;
  abi::Engine& engine = agent_.engine();
  starved(
      [&] {
        return engine.prepXfer(read.direction, read.local, read.remote, name, read.handle,
                               &options);
      },
      [&](Answer answer, bool failed) {
        EXPECT_EQ(answer, failed ? Answer::backend_error : Answer::success);
        EXPECT_EQ(read.handle == nullptr, failed);
      });
  // What the node answers before the post returns is told by the post: so it answers nothing.
  node_.swallow(wire::Type::get);
  starved(
      [&] {
        return engine.postXfer(read.direction, read.local, read.remote, name, read.handle,
                               &options);
      },
      [&](Answer answer, bool failed) {
        EXPECT_EQ(answer, failed ? Answer::backend_error : Answer::in_progress);
        if (!failed) return;
        EXPECT_EQ(answer, Answer::backend_error);
        EXPECT_EQ(agent_.check(read), Answer::not_posted);
        EXPECT_EQ(gets(), "0") << "it goes on behind its caller's back";
      });
  EXPECT_EQ(agent_.release(read), Answer::success);

  node_.on_mind([](FakeNode& fake) { fake.intercept = nullptr; });
  auto again = agent_.describe(Direction::read, {{&target, agent_.memory(target), 1}});
  ASSERT_EQ(agent_.prepare(again), Answer::success);
  (void)agent_.post(again);
  EXPECT_EQ(finish(again), Answer::success);
  EXPECT_EQ(target, block);
  EXPECT_EQ(agent_.release(again), Answer::success);
}

TEST_F(NixlMemoryTest, ATransferIsReleasedAndItsMemoryDeregistered) {
  node_.swallow(wire::Type::get);
  Buffer target(50'000);
  abi::Metadata* const memory = agent_.memory(target);
  auto released = agent_.describe(Direction::read, {{&target, memory, 1}});
  auto robbed = agent_.describe(Direction::read, {{&target, memory, 1}});
  for (FakeCore::Transfer* transfer : {&released, &robbed}) {
    ASSERT_EQ(agent_.prepare(*transfer), Answer::success);
    ASSERT_EQ(agent_.post(*transfer), Answer::in_progress);
  }
  unsigned failures = 0;
  const auto look = [&](Answer answer, bool failed) {
    EXPECT_EQ(answer, failed ? Answer::backend_error : Answer::success);
    failures += failed ? 1 : 0;
  };
  starved([&] { return agent_.engine().releaseReqH(released.handle); },
          [&](Answer answer, bool failed) {
            look(answer, failed);
            if (!failed) return;
            EXPECT_EQ(agent_.check(released), Answer::in_progress) << "it is kept";
          });
  EXPECT_GT(failures, 0u);
  failures = 0;
  starved([&] { return agent_.engine().deregisterMem(memory); }, look);
  EXPECT_GT(failures, 0u);
  agent_.scrap();
  EXPECT_EQ(agent_.check(robbed), Answer::backend_error);
  EXPECT_EQ(agent_.release(robbed), Answer::success);
}

TEST_F(NixlMemoryTest, NotificationsAreFetched) {
  Buffer block = random_buffer(1000, 1);
  auto write = agent_.describe(Direction::write, {{&block, agent_.memory(block), 1}});
  ASSERT_EQ(agent_.prepare(write), Answer::success);
  std::vector<std::string> sent;
  for (int i = 0; i < 9; ++i) {
    sent.push_back("notification " + std::to_string(i));
    (void)agent_.post(write, &sent.back());
    ASSERT_EQ(finish(write), Answer::success);
  }
  std::vector<std::string> got;
  abi::Notices out;
  starved(
      [&] {
        abi::Notices().swap(out);
        return agent_.engine().getNotifs(out);
      },
      [&](Answer answer, bool failed) {
        EXPECT_EQ(answer, failed && out.empty() ? Answer::backend_error : Answer::success);
        for (const auto& [from, text] : out) {
          EXPECT_EQ(from, kName);
          got.push_back(text.substr(0, text.find(':')));
        }
      });
  EXPECT_EQ(got, sent);
  EXPECT_EQ(agent_.release(write), Answer::success);
}

}  // namespace
}  // namespace memkv::testing
