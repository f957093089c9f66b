// What slow and greedy peers of a node do to the others: real server, real store with the least
// memory that a node has, real client; a simulated device and network.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "support/fake_node.h"
#include "support/raw_client.h"
#include "support/real_node.h"
#include "support/sim.h"

namespace memkv::testing {
namespace {

using wire::Type;

constexpr std::uint64_t kArenaPages = kArenaBytesMin / kArenaPageBytes;
// Ten of these are pinned for one peer at a time, and thirty leave nothing of what gets may have.
constexpr std::size_t kReadBytes =
    kGetBytesInFlightPerPeer / 10 / kArenaPageBytes * kArenaPageBytes;
constexpr std::size_t kReads = 10;
constexpr std::size_t kReaders = 3;
static_assert(kReaders * kReads * kReadBytes < kArenaBytesMin / 4 * 3);
static_assert((kReaders * kReads + 1) * kReadBytes > kArenaBytesMin / 4 * 3);
static_assert(kArenaPages % 4 == 0);
// Two peers' grants are more than all that puts may have.
constexpr std::uint32_t kWriteBytes = 6 * kMiB;
constexpr std::size_t kWrites = kPutBytesGrantedPerPeer / kWriteBytes;
static_assert(2 * kWrites * kWriteBytes > kArenaBytesMin / 4 * 3);

constexpr std::uint64_t kTrickleNs = 500 * kNsPerMs;
constexpr std::size_t kTrickleBytes = 4096;

std::string name_of(std::size_t number) {
  return "block " + std::to_string(number);
}

class ServerFairnessTest : public ::testing::Test {
 protected:
  ServerFairnessTest()
      : world_(sim::World::create(3, {.short_steps = 0})), people_(world_->spawn("people")) {}
  ~ServerFairnessTest() override {
    over_ = true;
    for (auto& client : clients_) {
      bool closed = false;
      client->close([&closed] { closed = true; });
      EXPECT_TRUE(world_->run_until([&closed] { return closed; }));
    }
    clients_.clear();
    people_->kill();
    raw_.clear();
    streams_.clear();
    node_.reset();
  }

  void start(std::uint64_t disk_bytes) {
    node_ = std::make_unique<RealNode>(
        *world_, "node",
        NodeSizes{.disk = disk_bytes, .segment = 32 * kMiB, .arena = kArenaBytesMin});
    node_->start(true);
  }
  Client& client() {
    ClientOptions options;
    options.nodes = {node_->address()};
    auto made = Client::open(options, {people_->executor(), people_->network(), random_});
    EXPECT_TRUE(made.has_value());
    clients_.push_back(std::move(*made));
    return *clients_.back();
  }
  ::testing::AssertionResult runs_until(const std::function<bool()>& done,
                                        std::uint64_t virtual_ms = 60'000) {
    if (world_->run_until(done, virtual_ms)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "it never happened";
  }
  [[nodiscard]] std::uint64_t now_ms() { return world_->clock().now_ns() / kNsPerMs; }

  [[nodiscard]] Code put(Client& by, const std::string& key, std::span<const std::byte> bytes) {
    const PutBlock asked{.key = key_bytes(key), .group = {}, .bytes = bytes};
    const auto request = by.put(space_, std::span(&asked, 1));
    EXPECT_TRUE(runs_until([&] { return request->done(); }));
    return request->codes()[0];
  }
  [[nodiscard]] Code get(Client& by, const std::string& key, std::span<std::byte> target) {
    const GetBlock asked{.key = key_bytes(key), .group = {}, .offset = 0, .target = target};
    const auto request = by.get(space_, std::span(&asked, 1));
    EXPECT_TRUE(runs_until([&] { return request->done(); }));
    return request->codes()[0];
  }
  // Its node answered whatever it was asked.
  static bool trusts(const Client& by) {
    const auto health = by.health();
    return health.size() == 1 && health[0].connected && !health[0].breaker_open &&
           health[0].failures == 0;
  }

  // One that writes a little now and then, and is welcome. Unless `is_granted` it need not have
  // heard of any memory yet.
  RawClient& writer(std::size_t number, std::size_t blocks, std::uint32_t bytes,
                    bool is_granted = true) {
    raw_.push_back(
        std::make_unique<RawClient>(people_->network(), people_->executor(), node_->address()));
    RawClient& peer = *raw_.back();
    EXPECT_TRUE(runs_until([&] { return peer.link != nullptr; }));
    peer.hello();
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::challenge, 0) == 1; }));
    peer.auth();
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::welcome, 0) == 1; }));
    Body body(kBodyBytesMax);
    wire::PutWriter put(body, space_);
    for (std::size_t i = 0; i < blocks; ++i) {
      const std::string key = std::to_string(number) + "/" + std::to_string(i);
      EXPECT_TRUE(put.add({.length = bytes, .traits = {}, .key = key_bytes(key)}));
    }
    peer.say_body(Type::put, 1, put.body());
    EXPECT_TRUE(runs_until([&] { return !is_granted || peer.count(Type::grant, 1) >= 1; }));
    trickle(peer, 0);
    return peer;
  }
  void trickle(RawClient& peer, std::uint32_t offset) {
    if (over_ || peer.closed) return;
    if (peer.count(Type::grant, 1) > 0) {
      peer.send_bytes(1, 0, offset, Body(kTrickleBytes));
      offset += kTrickleBytes;
    }
    world_->after(kTrickleNs, [this, &peer, offset] { trickle(peer, offset); });
  }
  // One that reads a little now and then of the blocks [first, first + kReads).
  RawStream& reader(std::size_t first) {
    streams_.push_back(std::make_unique<RawStream>(people_->network(), node_->address()));
    RawStream& peer = *streams_.back();
    EXPECT_TRUE(runs_until([&] { return peer.stream != nullptr; }));
    peer.send(Type::hello, 0, body_of(wire::Hello{.session = 1, .name = "raw"}));
    EXPECT_TRUE(runs_until([&] { return peer.frames().size() == 1; }));
    peer.send(Type::auth, 0, body_of(wire::Auth{}));
    EXPECT_TRUE(runs_until([&] { return peer.frames().size() == 2; }));
    peer.reading = false;
    Body body(kBodyBytesMax);
    wire::GetWriter get(body, space_);
    for (std::size_t i = first; i < first + kReads; ++i) {
      const std::string key = name_of(i);
      EXPECT_TRUE(get.add({.offset = 0, .length = kReadBytes, .key = key_bytes(key)}));
    }
    peer.send(Type::get, 1, get.body());
    sip(peer);
    return peer;
  }
  void sip(RawStream& peer) {
    if (over_ || peer.ended) return;
    Body piece(kTrickleBytes);
    const iovec place{piece.data(), piece.size()};
    if (peer.stream->read_some({&place, 1}).code == Code::unreachable) peer.ended = true;
    world_->after(kTrickleNs, [this, &peer] { sip(peer); });
  }

  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Process> people_;
  SeededRandom random_{5};
  std::unique_ptr<RealNode> node_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<std::unique_ptr<RawClient>> raw_;
  std::vector<std::unique_ptr<RawStream>> streams_;
  bool over_ = false;
  Namespace space_{.id = {std::byte{1}}, .generation = 0};
};

TEST_F(ServerFairnessTest, WritersThatTrickleDoNotShutOutTheOthers) {
  start(256 * kMiB);
  Client& fast = client();
  const Bytes block = pattern(1'500'000, 1);
  Bytes read(block.size());
  ASSERT_EQ(put(fast, "early", block), Code::ok);
  RawClient& modest = writer(0, 1, 1'000'000);
  RawClient& one = writer(1, kWrites, kWriteBytes);
  RawClient& two = writer(2, kWrites, kWriteBytes);
  ASSERT_TRUE(runs_until([&] { return node_->stat("puts_waiting") > 0; }));

  const std::uint64_t began = now_ms();
  EXPECT_EQ(put(fast, "late", block), Code::ok);
  EXPECT_LE(now_ms() - began, 4000U);
  EXPECT_TRUE(trusts(fast));
  EXPECT_EQ(get(fast, "late", read), Code::ok);
  EXPECT_TRUE(read == block);
  EXPECT_EQ(get(fast, "early", read), Code::ok);
  // Who held most had to go, and was told why; nobody else had to.
  EXPECT_TRUE(runs_until([&] { return one.closed.has_value(); }));
  EXPECT_EQ(one.refused(0).code, Code::timeout);
  EXPECT_NE(one.refused(0).text.find("while others wait"), std::string::npos);
  EXPECT_EQ(node_->stat("peers_slow"), 1U);
  (void)world_->run_until([] { return false; }, 4 * kPeerStallMs);
  EXPECT_FALSE(two.closed) << "nobody waits any more";
  EXPECT_FALSE(modest.closed);
  EXPECT_EQ(node_->stat("peers_slow"), 1U);
}

// All of them together ask for five times what puts may have, before the fast one asks.
TEST_F(ServerFairnessTest, WhoAsksForMuchDoesNotKeepTheOthersBehindIt) {
  start(256 * kMiB);
  Client& fast = client();
  const Bytes block = pattern(1'500'000, 1);
  ASSERT_EQ(put(fast, "early", block), Code::ok);
  for (std::size_t i = 0; i < 8; ++i) writer(i, kWrites, kWriteBytes, i < 2);
  ASSERT_TRUE(runs_until([&] { return node_->stat("requests_put") == 9; }));
  const std::uint64_t began = now_ms();
  EXPECT_EQ(put(fast, "late", block), Code::ok);
  EXPECT_LE(now_ms() - began, 4000U);
  EXPECT_TRUE(trusts(fast));
}

TEST_F(ServerFairnessTest, ReadersThatTrickleDoNotShutOutTheOthers) {
  start(448 * kMiB);
  Client& fast = client();
  const std::size_t blocks = kReaders * kReads + 1;
  for (std::size_t i = 0; i < blocks; ++i) {
    ASSERT_EQ(put(fast, name_of(i), pattern(kReadBytes, i)), Code::ok) << i;
  }
  node_->stop();
  node_->start(false);  // with nothing in memory
  ASSERT_TRUE(runs_until([&] { return fast.health()[0].connected; }));
  const std::uint64_t failures = fast.health()[0].failures;
  for (std::size_t i = 0; i < kReaders; ++i) reader(i * kReads);
  ASSERT_TRUE(runs_until([&] { return node_->stat("get_blocks_pinned") == kReaders * kReads; }));

  const Bytes block = pattern(kReadBytes, blocks - 1);
  Bytes read(block.size());
  const std::uint64_t began = now_ms();
  EXPECT_EQ(get(fast, name_of(blocks - 1), read), Code::ok);
  EXPECT_LE(now_ms() - began, 4000U);
  EXPECT_TRUE(read == block);
  EXPECT_FALSE(fast.health()[0].breaker_open);
  EXPECT_EQ(fast.health()[0].failures, failures);
  EXPECT_EQ(node_->stat("peers_slow"), 1U);
  (void)world_->run_until([] { return false; }, 4 * kPeerStallMs);
  EXPECT_EQ(node_->stat("peers_slow"), 1U) << "nobody waits any more";
  EXPECT_EQ(node_->stat("peers"), kReaders) << "the fast one and two that trickle";
}

TEST_F(ServerFairnessTest, ASmallGetDoesNotWaitForALargeBatchOfAnotherPeer) {
  start(256 * kMiB);
  Client& greedy = client();
  Client& other = client();
  const Bytes small = pattern(100'000, 1);
  ASSERT_EQ(put(other, "small", small), Code::ok);
  std::vector<std::string> names;
  std::vector<Bytes> targets;
  for (std::size_t i = 0; i < kReads; ++i) {
    names.push_back(name_of(i));
    targets.emplace_back(kReadBytes);
    ASSERT_EQ(put(greedy, names.back(), pattern(kReadBytes, i)), Code::ok);
  }
  std::vector<GetBlock> batch;
  for (std::size_t i = 0; i < kReads; ++i) {
    batch.push_back({.key = key_bytes(names[i]), .group = {}, .offset = 0, .target = targets[i]});
  }
  const auto large = greedy.get(space_, batch);
  const std::uint64_t sent = node_->stat("bytes_out");
  ASSERT_TRUE(runs_until([&] { return node_->stat("bytes_out") > sent + kReadBytes; }));
  Bytes read(small.size());
  EXPECT_EQ(get(other, "small", read), Code::ok);
  EXPECT_TRUE(read == small);
  EXPECT_FALSE(large->done());
  EXPECT_LT(node_->stat("bytes_out"), sent + kReads * kReadBytes / 2);
  ASSERT_TRUE(runs_until([&] { return large->done(); }));
  for (std::size_t i = 0; i < kReads; ++i) EXPECT_TRUE(targets[i] == pattern(kReadBytes, i));
}

}  // namespace
}  // namespace memkv::testing
