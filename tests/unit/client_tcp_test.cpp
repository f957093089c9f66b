// The client with its thread of its own, over real sockets: many callers, waiting, destruction,
// fork. What matters here is what the sanitizers see.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "client/client.h"
#include "support/fake_node.h"
#include "support/node_thread.h"

namespace memkv::testing {
namespace {

using wire::Type;

constexpr std::uint64_t kLongMs = 60'000;

class ClientTcpTest : public ::testing::Test {
 protected:
  void open(std::size_t nodes) {
    ClientOptions options;
    for (std::size_t i = 0; i < nodes; ++i) {
      nodes_.push_back(std::make_unique<NodeThread>());
      options.nodes.push_back(nodes_.back()->address());
    }
    options.timeout_ms = kLongMs;
    auto client = Client::open(options);
    ASSERT_TRUE(client.has_value()) << client.error().message();
    client_ = std::move(*client);
  }
  std::unique_ptr<Request> begin_get(const std::string& key, std::span<std::byte> target,
                                     Finished finished = {}) {
    const GetBlock asked{.key = key_bytes(key), .group = {}, .offset = 0, .target = target};
    return client_->get(space_, std::span(&asked, 1), 0, std::move(finished));
  }
  std::unique_ptr<Request> begin_put(const std::string& key, std::span<const std::byte> bytes) {
    const PutBlock asked{.key = key_bytes(key), .group = {}, .bytes = bytes};
    return client_->put(space_, std::span(&asked, 1));
  }
  static Code finish(const std::unique_ptr<Request>& request) {
    EXPECT_TRUE(request->wait(kLongMs));
    return request->done() ? request->codes()[0] : Code::internal;
  }

  std::vector<std::unique_ptr<NodeThread>> nodes_;
  std::unique_ptr<Client> client_;
  Namespace space_{};
};

TEST_F(ClientTcpTest, ManyThreadsShareOneClient) {
  open(2);
  std::atomic<int> right = 0;
  const auto work = [&](int worker) {
    for (int round = 0; round < 12; ++round) {
      const std::string key = std::to_string(worker) + "/" + std::to_string(round);
      const Bytes block = pattern(1 + 37'777 * static_cast<std::size_t>(round), 100 + worker);
      ASSERT_EQ(finish(begin_put(key, block)), Code::ok);
      Bytes read(block.size());
      ASSERT_EQ(finish(begin_get(key, read)), Code::ok);
      ASSERT_EQ(read, block);
      // One that is given up on the way: its memory is ours again at once.
      begin_get(key, read).reset();
      std::ranges::fill(read, std::byte{1});
      const NamedBlock name{.key = key_bytes(key), .group = {}};
      const auto matched = client_->match(space_, std::span(&name, 1));
      ASSERT_EQ(finish(matched), Code::ok);
      ASSERT_EQ(matched->matches()[0].length, block.size());
      (void)client_->stats();
      (void)client_->health();
      right += 1;
    }
  };
  std::vector<std::thread> threads;
  for (int worker = 0; worker < 4; ++worker) threads.emplace_back(work, worker);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 48);
  EXPECT_EQ(client_->stats().put_ok, 48u);
}

TEST_F(ClientTcpTest, ACancelledRequestIsQuietBeforeItIsOver) {
  open(1);
  const std::string key = "k";
  Bytes block = pattern(4 * kMiB, 1);
  ASSERT_EQ(finish(begin_put(key, block)), Code::ok);
  for (int i = 0; i < 20; ++i) {
    Bytes read(block.size());
    const auto request = begin_get(key, read);
    for (int spin = 0; spin < i * 1000; ++spin) (void)request->done();
    request->cancel();
    const Code code = finish(request);
    EXPECT_TRUE(code == Code::ok || code == Code::cancelled);
    std::ranges::fill(read, std::byte{1});
    const std::string other = "other " + std::to_string(i);
    begin_put(other, block).reset();
    block[0] = static_cast<std::byte>(i);  // nobody reads it any more
  }
}

TEST_F(ClientTcpTest, FinishedRunsOnTheMindAndMayDestroyItsRequest) {
  open(1);
  const std::string key = "k";
  Bytes read(10);
  std::promise<std::thread::id> ran;
  std::unique_ptr<Request> request;
  std::promise<void> assigned;
  auto is_assigned = assigned.get_future();
  request = begin_get(key, read, [&] {
    is_assigned.wait();
    request.reset();
    ran.set_value(std::this_thread::get_id());
  });
  assigned.set_value();
  EXPECT_NE(ran.get_future().get(), std::this_thread::get_id());
}

TEST_F(ClientTcpTest, WaitGivesUpWhenItsTimeIsOver) {
  open(1);
  nodes_[0]->swallow(Type::get);
  const std::string key = "k";
  Bytes read(10);
  const auto request = begin_get(key, read);
  EXPECT_FALSE(request->wait(1));
  EXPECT_FALSE(request->done());
  request->cancel();
  EXPECT_EQ(finish(request), Code::cancelled);
}

TEST_F(ClientTcpTest, DestroyingTheClientEndsWhatIsUnderWay) {
  open(2);
  nodes_[0]->swallow(Type::get);
  nodes_[1]->swallow(Type::get);
  std::vector<std::string> keys;
  std::vector<Bytes> targets(20, Bytes(1000));
  std::vector<std::unique_ptr<Request>> requests;
  for (int i = 0; i < 20; ++i) keys.push_back("k" + std::to_string(i));
  for (std::size_t i = 0; i < keys.size(); ++i) requests.push_back(begin_get(keys[i], targets[i]));
  client_.reset();
  for (const auto& request : requests) {
    ASSERT_TRUE(request->done());
    EXPECT_EQ(request->codes()[0], Code::cancelled);
    request->cancel();  // nobody is there to hear it
  }
}

TEST_F(ClientTcpTest, ClosingTwiceAndFromAnywhereIsFine) {
  open(1);
  std::promise<void> first, second;
  client_->close([&] { first.set_value(); });
  client_->close([&] { second.set_value(); });
  first.get_future().wait();
  second.get_future().wait();
  const std::string key = "k";
  Bytes read(10);
  EXPECT_EQ(finish(begin_get(key, read)), Code::shutdown);
}

TEST_F(ClientTcpTest, ANodeThatDiesIsAMissAndTheOthersAnswer) {
  open(2);
  std::vector<std::string> keys;
  for (int i = 0; i < 40; ++i) keys.push_back("k" + std::to_string(i));
  const Bytes block = pattern(5000, 1);
  for (const std::string& key : keys) ASSERT_EQ(finish(begin_put(key, block)), Code::ok);
  nodes_[1]->stop();
  int ok = 0, unreachable = 0;
  for (const std::string& key : keys) {
    Bytes read(block.size());
    const Code code = finish(begin_get(key, read));
    ok += code == Code::ok ? 1 : 0;
    unreachable += code == Code::unreachable ? 1 : 0;
  }
  EXPECT_EQ(ok + unreachable, 40);
  EXPECT_GT(ok, 0);
  EXPECT_GT(unreachable, 0);
}

// What the child does after fork; 0 when all is as promised.
int in_child(std::unique_ptr<Client>& client, std::unique_ptr<Request>& under_way,
             std::unique_ptr<Request>& over, const Namespace& space) {
  alarm(30);  // a child that hangs is a failure, not a hanging test
  if (!over->done() || over->codes()[0] != Code::ok) return 1;
  if (!under_way->wait(1'000'000) || !under_way->done()) return 2;
  if (under_way->codes()[0] != Code::unreachable) return 3;
  under_way->cancel();
  Bytes read(10);
  const std::string key = "k";
  int finished = 0;
  const GetBlock get{.key = key_bytes(key), .group = {}, .offset = 0, .target = read};
  auto request = client->get(space, std::span(&get, 1), 0, [&] { finished += 1; });
  if (!request->wait(1'000'000) || request->codes()[0] != Code::unreachable) return 4;
  if (finished != 1) return 5;
  const NamedBlock name{.key = key_bytes(key), .group = {}};
  auto match = client->match(space, std::span(&name, 1));
  if (match->matches()[0].code != Code::unreachable) return 6;
  int told = 0;
  client->stat(0, 0, [&](Result<std::string> text) { told += text ? 0 : 1; });
  if (told != 1) return 7;
  (void)client->stats();
  if (client->health().size() != 2 || client->health()[0].connected) return 8;
  client->close([&] { told += 1; });
  if (told != 2) return 9;
  under_way.reset();
  over.reset();
  request.reset();
  match.reset();
  client.reset();
  return 0;
}

TEST_F(ClientTcpTest, AForkedChildIsAnsweredAtOnceAndHarmsNobody) {
  open(2);
  const std::string key = "k";
  const Bytes block = pattern(100'000, 1);
  auto over = begin_put(key, block);
  ASSERT_EQ(finish(over), Code::ok);
  for (const auto& node : nodes_) node->swallow(Type::get);
  Bytes read(block.size());
  auto under_way = begin_get(key, read);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(in_child(client_, under_way, over, space_));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status)) << "signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_FALSE(under_way->done());
  under_way.reset();
  for (const auto& node : nodes_) {
    node->on_mind([](FakeNode& fake) { fake.intercept = nullptr; });
  }
  EXPECT_EQ(finish(begin_get(key, read)), Code::ok);
  EXPECT_TRUE(read == block);
}

}  // namespace
}  // namespace memkv::testing
