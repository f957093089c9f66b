// libplugin_MEMKV.so as NIXL loads it: its entry points, its threads, real sockets, fork, exit and
// broken invariants. What matters here is also what the sanitizers see.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/limits.h"
#include "base/log.h"
#include "nixl/host_guard.h"
#include "nixl/plugin.h"
#include "nixl/stat.h"
#include "support/fake_core.h"
#include "support/node_thread.h"

#if defined(__SANITIZE_THREAD__)
// The children of these tests start threads of their own.
extern "C" [[gnu::visibility("default")]] const char* __tsan_default_options();  // NOLINT
extern "C" const char* __tsan_default_options() {                                // NOLINT
  return "die_after_fork=0";
}
#endif

namespace memkv::testing {
namespace {

constexpr const char* kNobody = "127.0.0.1:1";

class NixlPluginTest : public ::testing::Test {
 protected:
  NixlPluginTest() {
    // There is no NIXL in this process that the plugin could look at.
    setenv(nixl::kGuardVariable, "off", 1);
    table_ = load();
  }

  // As NIXL does it; the library is never unloaded.
  static abi::Table* load() {
    const auto program = std::filesystem::read_symlink("/proc/self/exe");
    const auto path = program.parent_path().parent_path() / "libplugin_MEMKV.so";
    void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) throw std::runtime_error(dlerror());
    using Init = abi::Table*();
    auto* const init = reinterpret_cast<Init*>(dlsym(library, "nixl_plugin_init"));
    EXPECT_NE(dlsym(library, "nixl_plugin_fini"), nullptr);
    return init();
  }
  abi::Engine* create(abi::Parameters parameters) {
    const abi::Init init{.agent = "agent", .type = "MEMKV", .parameters = &parameters};
    return table_->create_engine(&init);
  }
  FakeCore core(const std::string& nodes, abi::Parameters parameters = {}) {
    parameters.emplace("nodes", nodes);
    return FakeCore("agent", std::unique_ptr<abi::Engine>(create(parameters)));
  }
  // What NIXL reads when an engine was made.
  static bool making_failed(const abi::Engine* engine) {
    bool failed = false;
    std::memcpy(&failed, reinterpret_cast<const char*>(engine) + 160, 1);
    return failed;
  }
  static Answer finish(FakeCore& core, FakeCore::Transfer& transfer) {
    Answer answer = Answer::in_progress;
    while ((answer = core.check(transfer)) == Answer::in_progress) std::this_thread::yield();
    return answer;
  }
  // Runs it in a process that is forked off; true when all of it was so.
  static bool in_child(const std::function<bool()>& body) {
    const pid_t child = fork();
    if (child == 0) _exit(body() ? 0 : 1);
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }

  abi::Table* table_ = nullptr;
};

TEST_F(NixlPluginTest, WithoutANixlThatFitsThereIsNoTable) {
  EXPECT_TRUE(in_child([] {
    unsetenv(nixl::kGuardVariable);
    std::string said;
    set_log_sink([&said](LogLevel, std::string_view line) { said = line; });
    const bool refused = nixl_plugin_init() == nullptr;
    set_log_sink({});
    return refused && said.find("cannot tell whether this NIXL fits") != std::string::npos;
  }));
}

TEST_F(NixlPluginTest, TheTableSaysWhoItIs) {
  EXPECT_EQ(table_->api_version, 1);
  EXPECT_STREQ(table_->get_plugin_name(), "MEMKV");
  EXPECT_STREQ(table_->get_plugin_version(), MEMKV_VERSION);
  EXPECT_EQ(table_->get_backend_mems(), (std::vector{MemoryKind::dram, MemoryKind::object}));
  const abi::Parameters options = table_->get_backend_options();
  EXPECT_EQ(options.size(), 13u);
  EXPECT_EQ(options.at("namespace"), "default");
}

TEST_F(NixlPluginTest, TheCoreReadsWhatTheEngineIs) {
  abi::Engine* const engine = create({{"nodes", kNobody}, {"namespace", "x"}});
  ASSERT_NE(engine, nullptr);
  EXPECT_FALSE(making_failed(engine));
  // At the places the core's inlined accessors read from.
  const char* const bytes = reinterpret_cast<const char*>(engine);
  EXPECT_EQ(*reinterpret_cast<const std::string*>(bytes + 8), "MEMKV");
  EXPECT_EQ(reinterpret_cast<const abi::Parameters*>(bytes + 40)->at("namespace"), "x");
  EXPECT_TRUE(reinterpret_cast<const std::vector<char>*>(bytes + 96)->empty());
  EXPECT_EQ(*reinterpret_cast<const std::string*>(bytes + 168), "agent");
  table_->destroy_engine(engine);
}

TEST_F(NixlPluginTest, AnEngineWhoseMakingFailedHurtsNobody) {
  EXPECT_EQ(table_->create_engine(nullptr), nullptr);
  const abi::Init bare{.agent = "agent", .type = "MEMKV"};
  for (const abi::Parameters& parameters : {abi::Parameters{},
                                            {{"nodes", kNobody}, {"nodess", "x"}},
                                            {{"nodes", "nowhere"}},
                                            {{"nodes", "a:1,a:1"}},
                                            {{"nodes", kNobody}, {"verify", "server"}}}) {
    abi::Engine* const engine = create(parameters);
    ASSERT_NE(engine, nullptr);
    EXPECT_TRUE(making_failed(engine));
    abi::Metadata* made = nullptr;
    EXPECT_EQ(engine->registerMem(FakeCore::place(0, 0, 1, "k"), MemoryKind::object, made),
              Answer::backend_error);
    std::vector<abi::Found> found;
    EXPECT_EQ(engine->queryMem(abi::DescribedList(MemoryKind::object, {{}}), found),
              Answer::success);
    EXPECT_EQ(found, std::vector<abi::Found>(1));
    abi::Notices notices;
    EXPECT_EQ(engine->getNotifs(notices), Answer::success);
    abi::Handle* handle = nullptr;
    const abi::RegisteredList none(MemoryKind::dram, {});
    EXPECT_EQ(engine->prepXfer(Direction::read, none, none, "agent", handle, nullptr),
              Answer::backend_error);
    table_->destroy_engine(engine);
  }
  abi::Engine* const engine = table_->create_engine(&bare);
  EXPECT_TRUE(making_failed(engine));
  table_->destroy_engine(engine);
}

TEST_F(NixlPluginTest, ManyThreadsShareOneEngine) {
  NodeThread first;
  NodeThread second;
  FakeCore agent = core(first.address() + "," + second.address());
  abi::Engine& engine = agent.engine();
  const auto work = [&](std::uint64_t worker) {
    FakeCore mine("agent", std::unique_ptr<abi::Engine>(&engine));
    for (std::uint64_t round = 0; round < 10; ++round) {
      const std::uint64_t device = worker * 100 + round;
      mine.object(device, "key " + std::to_string(device));
      Buffer block = random_buffer(1 + 30'000 * round, device);
      Buffer target(block.size());
      abi::Metadata* const from = mine.memory(block);
      abi::Metadata* const to = mine.memory(target);
      const std::string text = "n";
      auto write = mine.describe(Direction::write, {{&block, from, device}});
      auto read = mine.describe(Direction::read, {{&target, to, device}});
      EXPECT_EQ(mine.prepare(write, &text), Answer::success);
      EXPECT_EQ(mine.prepare(read, &text), Answer::success);
      (void)mine.post(write);
      EXPECT_EQ(finish(mine, write), Answer::success);
      (void)mine.post(read);
      EXPECT_EQ(finish(mine, read), Answer::success);
      EXPECT_EQ(target, block);
      // Released on the way: its memory is ours again at once.
      (void)mine.post(read);
      EXPECT_EQ(mine.release(read), Answer::success);
      std::ranges::fill(target, std::byte{1});
      EXPECT_EQ(mine.release(write), Answer::success);
      EXPECT_EQ(mine.query({{device, "key " + std::to_string(device)}}),
                std::vector<std::string>{std::to_string(block.size())});
      (void)mine.notices();
      mine.forget_memory(from);
      mine.forget_memory(to);
    }
    mine.leave();
    (void)mine.disown();
  };
  std::vector<std::thread> threads;
  for (std::uint64_t worker = 0; worker < 4; ++worker) threads.emplace_back(work, worker);
  for (std::thread& thread : threads) thread.join();
}

TEST_F(NixlPluginTest, AnEngineEndsWithTransfersUnderWay) {
  NodeThread node;
  node.swallow(wire::Type::get);
  FakeCore agent = core(node.address());
  agent.object(1, "one");
  Buffer target(100'000);
  auto transfer = agent.describe(Direction::read, {{&target, agent.memory(target), 1}});
  ASSERT_EQ(agent.prepare(transfer), Answer::success);
  EXPECT_EQ(agent.post(transfer), Answer::in_progress);
  EXPECT_EQ(agent.check(transfer), Answer::in_progress);
  // NIXL would release it first. What is left of it is harmless.
  table_->destroy_engine(agent.disown());
  delete transfer.handle;
  agent.scrap();
}

TEST_F(NixlPluginTest, TheChildOfAForkAnswersMisses) {
  NodeThread node;
  node.swallow(wire::Type::get);
  FakeCore agent = core(node.address());
  agent.object(1, "one");
  Buffer target(100'000);
  abi::Metadata* const memory = agent.memory(target);
  auto under_way = agent.describe(Direction::read, {{&target, memory, 1}});
  auto prepared = agent.describe(Direction::read, {{&target, memory, 1}});
  ASSERT_EQ(agent.prepare(under_way), Answer::success);
  ASSERT_EQ(agent.prepare(prepared), Answer::success);
  ASSERT_EQ(agent.post(under_way), Answer::in_progress);
  EXPECT_TRUE(in_child([&] {
    abi::Engine& engine = agent.engine();
    auto fresh = agent.describe(Direction::read, {{&target, memory, 1}});
    std::vector<abi::Found> found;
    abi::DescribedList list(MemoryKind::object, {FakeCore::place(0, 0, 1, "one")});
    const bool right = agent.check(under_way) == Answer::backend_error &&
                       agent.post(prepared) == Answer::backend_error &&
                       agent.prepare(fresh) == Answer::backend_error &&
                       agent.try_object(2, "two") == Answer::backend_error &&
                       engine.queryMem(list, found) == Answer::success && !found.at(0) &&
                       agent.notices().empty() && agent.release(under_way) == Answer::success &&
                       agent.release(prepared) == Answer::success;
    agent.leave();
    table_->destroy_engine(agent.disown());
    return right;
  }));
  EXPECT_EQ(agent.check(under_way), Answer::in_progress) << "the parent goes on";
  EXPECT_EQ(agent.release(under_way), Answer::success);
  EXPECT_EQ(agent.release(prepared), Answer::success);
  agent.leave();
}

TEST_F(NixlPluginTest, TheChildOfAForkMayHaveAnEngineOfItsOwn) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer takes the child's new thread for one of the parent's";
#endif
  NodeThread node;
  FakeCore agent = core(node.address());
  EXPECT_TRUE(in_child([&] {
    FakeCore own = core(node.address());
    return own.try_object(1, "one") == Answer::success &&
           own.query({{1, "one"}}) == std::vector<std::string>{"0"};
  }));
}

// A client whose counters somebody is reading for as long as the test wants.
class SlowlyRead final : public Client {
 public:
  explicit SlowlyRead(std::function<void()> reading) : reading_(std::move(reading)) {}
  void close(std::move_only_function<void()>) override {}
  std::unique_ptr<Request> put(const Namespace&, std::span<const PutBlock>, std::uint64_t,
                               Finished) override {
    return nullptr;
  }
  std::unique_ptr<Request> get(const Namespace&, std::span<const GetBlock>, std::uint64_t,
                               Finished) override {
    return nullptr;
  }
  std::unique_ptr<Request> match(const Namespace&, std::span<const NamedBlock>, std::uint32_t,
                                 std::uint64_t, Finished) override {
    return nullptr;
  }
  std::unique_ptr<Request> drop(const Namespace&, std::span<const NamedBlock>, std::uint64_t,
                                Finished) override {
    return nullptr;
  }
  std::unique_ptr<HeldRequest> put_held(const Namespace&, std::span<const PutBlock>, std::uint64_t,
                                        Finished) override {
    return nullptr;
  }
  void ask(std::size_t, const Question&, std::uint64_t,
           std::move_only_function<void(Result<std::string>)>) override {}
  void stat(std::size_t, std::uint64_t,
            std::move_only_function<void(Result<std::string>)>) override {}
  std::vector<NodeHealth> health() const override { return {}; }
  ClientStats stats() const override {
    reading_();
    return {};
  }

 private:
  std::function<void()> reading_;
};

TEST_F(NixlPluginTest, AForkWhileTheCountersAreReadLetsTheChildHaveItsOwnEngine) {
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "ThreadSanitizer takes the child's new thread for one of the parent's";
#endif
  std::promise<void> inside;
  std::promise<void> leave;
  SlowlyRead slow([&, first = true]() mutable {
    if (!std::exchange(first, false)) return;
    inside.set_value();
    leave.get_future().wait();
  });
  const std::uint64_t number = nixl::joined(slow);
  std::thread reader([] { (void)nixl::stat_text(); });
  inside.get_future().wait();
  NodeThread node;
  const std::string address = node.address();
  EXPECT_TRUE(in_child([&] {
    alarm(20);  // who waits for the reader's lock waits for ever
    abi::Parameters parameters = {{"nodes", address}};
    const abi::Init init{.agent = "agent", .type = "MEMKV", .parameters = &parameters};
    FakeCore own("agent", std::unique_ptr<abi::Engine>(nixl_plugin_init()->create_engine(&init)));
    const bool works = own.query({{1, "one"}}).size() == 1;
    delete own.disown();
    return works && memkv_plugin_stat(nullptr, 0) == 0;
  }));
  leave.set_value();
  reader.join();
  nixl::left(number);
}

TEST_F(NixlPluginTest, AProcessExitsUnderATransfer) {
  NodeThread node;
  node.swallow(wire::Type::get);
  const std::string address = node.address();
  const pid_t child = fork();
  if (child == 0) {
    // Nobody takes them apart.
    static auto* const agent = new FakeCore(core(address));
    static auto* const target = new Buffer(100'000);
    static FakeCore::Transfer transfer;
    agent->object(1, "one");
    transfer = agent->describe(Direction::read, {{target, agent->memory(*target), 1}});
    (void)agent->prepare(transfer);
    (void)agent->post(transfer);
    std::exit(agent->check(transfer) == Answer::in_progress ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
}

// ---- a broken invariant. The plugin that is linked into this test is poisoned, in a child.

using NixlPoisonTest = NixlPluginTest;

TEST_F(NixlPoisonTest, ABrokenInvariantTurnsEverythingIntoMisses) {
  NodeThread node;
  const std::string address = node.address();
  EXPECT_TRUE(in_child([&] {
    abi::Table* const table = nixl_plugin_init();
    abi::Parameters parameters = {{"nodes", address}};
    const abi::Init init{.agent = "agent", .type = "MEMKV", .parameters = &parameters};
    FakeCore agent("agent", std::unique_ptr<abi::Engine>(table->create_engine(&init)));
    agent.object(1, "one");
    Buffer block(1000);
    abi::Metadata* const memory = agent.memory(block);
    const std::string text = "n";
    auto before = agent.describe(Direction::write, {{&block, memory, 1}});
    if (agent.prepare(before, &text) != Answer::success) return false;
    (void)agent.post(before);
    if (finish(agent, before) != Answer::success) return false;
    if (agent.query({{1, "one"}}) != std::vector<std::string>{"1000"}) return false;

    check_failed("1 == 2", "numbers are what they are", "test.cpp", 1);
    check_failed("1 == 2", "and it is said once", "test.cpp", 2);
    abi::Handle* handle = nullptr;
    const bool right = agent.post(before) == Answer::backend_error &&
                       agent.query({{1, "one"}}) == std::vector<std::string>{"0"} &&
                       agent.engine().prepXfer(Direction::read, before.local, before.remote,
                                               "agent", handle, nullptr) == Answer::backend_error &&
                       agent.try_object(2, "two") == Answer::backend_error &&
                       agent.release(before) == Answer::success;
    agent.leave();
    return right;
  }));
}

TEST_F(NixlPoisonTest, WhatWasUnderWayFailsToo) {
  NodeThread node;
  const std::string address = node.address();
  EXPECT_TRUE(in_child([&] {
    abi::Table* const table = nixl_plugin_init();
    abi::Parameters parameters = {{"nodes", address}};
    const abi::Init init{.agent = "agent", .type = "MEMKV", .parameters = &parameters};
    FakeCore agent("agent", std::unique_ptr<abi::Engine>(table->create_engine(&init)));
    agent.object(1, "one");
    Buffer block(4'000'000);
    const std::string text = "n";
    auto write = agent.describe(Direction::write, {{&block, agent.memory(block), 1}});
    if (agent.prepare(write, &text) != Answer::success) return false;
    (void)agent.post(write);
    check_failed("1 == 2", "numbers are what they are", "test.cpp", 1);
    const Answer answer = finish(agent, write);
    const bool right = answer == Answer::backend_error &&
                       agent.notices() == std::vector{notice_text(text, {Code::internal})};
    (void)agent.release(write);
    agent.leave();
    return right;
  }));
}

TEST_F(NixlPoisonTest, NothingWaitsForWhatMayNeverCome) {
  NodeThread node;
  node.swallow(wire::Type::get);
  const std::string address = node.address();
  EXPECT_TRUE(in_child([&] {
    (void)nixl_plugin_init();
    auto client = Client::open({.nodes = {address}});
    const nixl::Settings settings{.nodes = {address}, .timeout_ms = 100, .query_timeout_ms = 1000};
    // As if no request ever ended.
    const nixl::EngineWorld world{.clock = system_clock(),
                                  .wait = [](Request&, std::uint64_t) { return false; }};
    const abi::Init init{.agent = "agent", .type = "MEMKV"};
    FakeCore agent("agent", nixl::make_engine(init, settings, std::move(*client), world));
    agent.object(1, "one");
    Buffer target(1000);
    Buffer other(1000);
    abi::Metadata* const memory = agent.memory(target);
    auto robbed = agent.describe(Direction::read, {{&target, memory, 1}});
    auto read = agent.describe(Direction::read, {{&other, agent.memory(other), 1}});
    for (FakeCore::Transfer* transfer : {&robbed, &read}) {
      if (agent.prepare(*transfer) != Answer::success) return false;
      if (agent.post(*transfer) != Answer::in_progress) return false;
    }
    const auto began = std::chrono::steady_clock::now();
    check_failed("1 == 2", "numbers are what they are", "test.cpp", 1);
    if (agent.engine().deregisterMem(memory) != Answer::backend_error) return false;
    // Nor does a transfer that never ends keep its engine: some time after its deadline it failed.
    if (agent.check(read) != Answer::in_progress) return false;
    if (finish(agent, read) != Answer::backend_error) return false;
    const auto took = std::chrono::steady_clock::now() - began;
    return took > std::chrono::milliseconds(kPoisonedWaitMs) &&
           agent.release(read) == Answer::backend_error;
  }));
}

TEST_F(NixlPoisonTest, AnEngineIsNotLeftBehindWhileBytesLand) {
  NodeThread node;
  node.swallow(wire::Type::get);
  const std::string address = node.address();
  for (const bool ends : {true, false}) {
    EXPECT_TRUE(in_child([&] {
      (void)nixl_plugin_init();
      auto client = Client::open({.nodes = {address}});
      const nixl::Settings settings{.nodes = {address}, .timeout_ms = 60'000};
      std::vector<bool> ended;
      const nixl::EngineWorld world{.clock = system_clock(),
                                    .wait = [&](Request& request, std::uint64_t timeout_ms) {
                                      ended.push_back(ends && request.wait(timeout_ms));
                                      return ended.back();
                                    }};
      const abi::Init init{.agent = "agent", .type = "MEMKV"};
      FakeCore agent("agent", nixl::make_engine(init, settings, std::move(*client), world));
      agent.object(1, "one");
      std::vector<Buffer> targets(3, Buffer(1000));
      for (Buffer& target : targets) {
        auto read = agent.describe(Direction::read, {{&target, agent.memory(target), 1}});
        if (agent.prepare(read) != Answer::success) return false;
        if (agent.post(read) != Answer::in_progress) return false;
      }
      check_failed("1 == 2", "numbers are what they are", "test.cpp", 1);
      delete agent.disown();
      return ended == std::vector<bool>(3, ends);
    })) << ends;
  }
}

// ---- nothing is thrown across the table

TEST(NixlGuardTest, WhatIsThrownInsideBecomesAnAnswer) {
  NodeThread node;
  for (const bool standard : {true, false}) {
    auto client = Client::open({.nodes = {node.address()}});
    ASSERT_TRUE(client.has_value());
    const abi::Init init{.agent = "agent", .type = "MEMKV"};
    const nixl::Settings settings{.nodes = {node.address()}, .query_timeout_ms = 1000};
    const auto engine = nixl::make_engine(
        init, settings, std::move(*client),
        {.clock = system_clock(), .wait = [standard](Request&, std::uint64_t) -> bool {
           if (standard) throw std::bad_alloc();
           throw 7;
         }});
    std::vector<abi::Found> found;
    const abi::DescribedList list(MemoryKind::object, {FakeCore::place(0, 0, 1, "k")});
    EXPECT_EQ(engine->queryMem(list, found), standard ? Answer::backend_error : Answer::unknown);
  }
}

}  // namespace
}  // namespace memkv::testing
