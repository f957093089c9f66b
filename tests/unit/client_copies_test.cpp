// Blocks on two nodes: whom a read asks, what a drop reaches, and a put that is held. Virtual time.
#include "client/copies.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "support/client_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

// Four nodes in two failure domains, all in one map.
class ClientCopiesTest : public ClientWorldTest {
 protected:
  void open_pool() {
    for (int i = 0; i < 4; ++i) add_node();
    publish(2);
    open_client();
    std::vector<Named> one{{"to hear of the map", pattern(10, 1)}};
    ASSERT_EQ(put(one), all(1, Code::ok));
    ASSERT_TRUE(run_until([&] { return client_->stats().epoch == 2; }));
    run_for(1000);  // every node is connected
  }
  void publish(std::uint32_t epoch, std::set<std::size_t> drained = {}) {
    map_.clear();
    std::vector<wire::MapNode> records;
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      const std::uint32_t weight = drained.contains(i) ? 0 : 100;
      map_.push_back({.id = node_id_of(nodes_[i].address), .weight = weight, .domain = 1 + i % 2});
      records.push_back({.node = map_[i].id,
                         .weight = weight,
                         .former_weights = {drained.empty() ? 0u : 100u},
                         .domain = map_[i].domain,
                         .draining = static_cast<std::uint8_t>(drained.contains(i) ? 1 : 0),
                         .address = nodes_[i].address});
    }
    for (Node& node : nodes_) {
      if (node.fake) node.fake->hold_map(epoch, records);
    }
  }
  [[nodiscard]] Fingerprint group(const std::string& key) const {
    return group_fingerprint(space_.id, key_bytes(key));
  }
  [[nodiscard]] std::size_t first_of(const std::string& key) const {
    return place(group(key), map_).value();
  }
  [[nodiscard]] std::size_t second_of(const std::string& key) const {
    return place_copy(group(key), map_).value();
  }
  // A block on both of its nodes, and the first says so.
  std::string copied_block() {
    const std::string key = "copied " + std::to_string(++copied_);
    plant(first_of(key), key, pattern(500, 3));
    plant(second_of(key), key, pattern(500, 3));
    fake(first_of(key)).copied.insert(key);
    return key;
  }
  Code read(const std::string& key) {
    Bytes bytes(500);
    const Code code = get_one(key, bytes);
    EXPECT_TRUE(code != Code::ok || bytes == pattern(500, 3));
    return code;
  }
  // From now on the node answers reads so much later.
  void slow_down(std::size_t node, std::uint64_t ms) {
    Executor& executor = nodes_[node].process->executor();
    fake(node).intercept = [&executor, ms](FakePeer& peer, const wire::Header& header,
                                           std::span<const std::byte> body) {
      if (header.type != Type::get) return false;
      const Bytes kept(body.begin(), body.end());
      (void)executor.after(ms * kNsPerMs, [&peer, header, kept] {
        if (!peer.gone()) peer.answer(header, kept);
      });
      return true;
    };
  }
  // So many blocks on two nodes, of which the one is the first place, or the second.
  std::vector<std::string> copied_blocks(std::size_t count, std::size_t node, bool first) {
    std::vector<std::string> keys;
    while (keys.size() < count) {
      const std::string key = copied_block();
      if ((first ? first_of(key) : second_of(key)) == node) keys.push_back(key);
    }
    return keys;
  }
  // Reads each of them so often, one after another, a hundred in a second.
  void read_all(const std::vector<std::string>& keys, int times) {
    for (int i = 0; i < times; ++i) {
      for (const std::string& key : keys) {
        EXPECT_EQ(read(key), Code::ok);
        run_for(10);
      }
    }
  }
  Code drop(const std::string& key) {
    const std::vector<NamedBlock> asked{{.key = key_bytes(key), .group = {}}};
    return finish(client_->drop(space_, asked))[0];
  }

  // Notes in drops_ which node was asked to drop something.
  void watch_drops() {
    for (std::size_t i = 0; i < nodes_.size(); ++i) {
      fake(i).intercept = [this, i](FakePeer&, const wire::Header& header,
                                    std::span<const std::byte>) {
        if (header.type == Type::drop) drops_.push_back(i);
        return false;
      };
    }
  }

  std::vector<PlacementNode> map_;
  std::vector<std::size_t> drops_;
  int copied_ = 0;
};

TEST_F(ClientCopiesTest, TheSecondPlaceIsInAnotherDomain) {
  open_pool();
  for (int i = 0; i < 200; ++i) {
    const std::string key = "k" + std::to_string(i);
    EXPECT_NE(first_of(key) % 2, second_of(key) % 2);
  }
}

TEST_F(ClientCopiesTest, WhatHasACopyIsReadFromBoth) {
  open_pool();
  const std::string key = copied_block();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(read(key), Code::ok);  // says that there is a copy
  fake(first_of(key)).frames.clear();
  fake(second_of(key)).frames.clear();
  std::vector<std::unique_ptr<Request>> requests;
  std::vector<Bytes> targets(200, Bytes(500));  // one is faster, until enough wait for it
  for (Bytes& target : targets) {
    const std::vector<GetBlock> asked{{.key = key_bytes(key), .group = {}, .target = target}};
    requests.push_back(client_->get(space_, asked));
  }
  for (const auto& request : requests) EXPECT_EQ(finish(*request), all(1, Code::ok));
  EXPECT_GT(fake(first_of(key)).seen(Type::get), 0);
  EXPECT_GT(fake(second_of(key)).seen(Type::get), 0);
  EXPECT_GT(client_->stats().asked_copy, 0u);
  EXPECT_EQ(client_->stats().found_older, 0u);
}

TEST_F(ClientCopiesTest, ASlowNodeIsAvoided) {
  open_pool();
  const std::size_t slow = 0;
  slow_down(slow, 100);
  std::vector<std::string> keys = copied_blocks(5, slow, true);
  for (const std::string& key : copied_blocks(5, slow, false)) keys.push_back(key);
  read_all(keys, 2);  // which says that there are copies, and who is slow
  fake(slow).frames.clear();
  read_all(keys, 100);
  EXPECT_LE(fake(slow).seen(Type::get), 3);  // of 1,000
}

// Also the node that is the second place of all that is read, which nobody has to ask.
TEST_F(ClientCopiesTest, ASlowNodeIsTriedAgainOnceItIsFast) {
  open_pool();
  const std::size_t slow = 0;
  slow_down(slow, 100);
  const std::vector<std::string> keys = copied_blocks(5, slow, false);
  read_all(keys, 20);
  fake(slow).intercept = nullptr;
  fake(slow).frames.clear();
  while (fake(slow).seen(Type::get) == 0 && now_ms() < 60'000) read_all(keys, 1);
  ASSERT_GT(fake(slow).seen(Type::get), 0);
  read_all(keys, 40);
  EXPECT_GT(fake(slow).seen(Type::get), 50);  // of 200
}

TEST_F(ClientCopiesTest, ACopyThatIsGoneOrSpoiltCostsNoHit) {
  open_pool();
  const std::string key = copied_block();
  ASSERT_EQ(read(key), Code::ok);
  fake(second_of(key)).spoil.insert(key);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(read(key), Code::ok);
  fake(second_of(key)).blocks.erase(key);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(read(key), Code::ok);
}

TEST_F(ClientCopiesTest, WhenTheFirstPlaceDiesTheCopyIsFound) {
  open_pool();
  const std::string key = copied_block();
  const std::string never_read = copied_block();
  ASSERT_EQ(read(key), Code::ok);
  kill_node(first_of(key));
  if (first_of(never_read) != first_of(key)) kill_node(first_of(never_read));
  run_for(kConnectTimeoutMs * 2);
  EXPECT_EQ(read(key), Code::ok);
  if (nodes_[second_of(never_read)].fake != nullptr) {
    EXPECT_EQ(read(never_read), Code::ok);
  }
}

// The new map names another first place, in the dead one's domain, which has the block not yet: the
// copy is where the old map had it.
TEST_F(ClientCopiesTest, WhenTheMapForgetsTheFirstPlaceTheCopyIsFound) {
  open_pool();
  std::string key;
  std::size_t first = 0;
  std::size_t second = 0;
  const std::vector<PlacementNode> old = map_;
  for (int i = 0; key.empty(); ++i) {
    const std::string tried = "k" + std::to_string(i);
    first = first_of(tried);
    second = second_of(tried);
    map_[first].weight = 0;
    if (first_of(tried) != second) key = tried;
    map_ = old;
  }
  plant(first, key, pattern(500, 3));
  plant(second, key, pattern(500, 3));
  kill_node(first);
  publish(3, {first});
  std::vector<Named> one{{"to hear of the map", pattern(10, 1)}};
  (void)put(one);
  run_for(kConnectTimeoutMs * 2);
  ASSERT_EQ(client_->stats().epoch, 3u);
  ASSERT_NE(first_of(key), second);
  EXPECT_EQ(read(key), Code::ok);
  const std::vector<NamedBlock> asked{{.key = key_bytes(key), .group = {}}};
  const auto request = client_->match(space_, asked);
  EXPECT_EQ(finish(*request), all(1, Code::ok));
  EXPECT_NE(request->matches()[0].where, Where::absent);
}

TEST_F(ClientCopiesTest, WhatIsBelievedOfCopiesEnds) {
  open_pool();
  const std::string key = copied_block();
  ASSERT_EQ(read(key), Code::ok);
  fake(first_of(key)).copied.clear();
  run_for(kCopiedMs + 1);
  fake(second_of(key)).frames.clear();
  for (int i = 0; i < 20; ++i) EXPECT_EQ(read(key), Code::ok);
  EXPECT_EQ(fake(second_of(key)).seen(Type::get), 0);
}

TEST_F(ClientCopiesTest, ADropReachesEveryPlaceTwice) {
  open_pool();
  const std::string key = copied_block();
  const std::vector<std::size_t> once{first_of(key), second_of(key)};
  run_for(kOldMapMs);  // this client knows where the maps of all that time had blocks
  watch_drops();
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_EQ(drops_, (std::vector{once[0], once[1], once[0], once[1]}));
  EXPECT_FALSE(fake(second_of(key)).blocks.contains(key));
  EXPECT_EQ(drop(key), Code::not_found);
}

// By a map before this client's first, say.
TEST_F(ClientCopiesTest, ADropOfWhoJustCameReachesAllNodes) {
  open_pool();
  const std::string key = "k";
  std::size_t other = 0;
  while (other == first_of(key) || other == second_of(key)) ++other;
  plant(other, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_FALSE(fake(other).blocks.contains(key));
}

// Whoever places by a map that this client never saw may have put it anywhere.
TEST_F(ClientCopiesTest, ADropOfWhoMissedAMapReachesAllNodes) {
  open_pool();
  run_for(kOldMapMs);
  publish(4);
  const std::string key = "k";
  std::size_t other = 0;
  while (other == first_of(key) || other == second_of(key)) ++other;
  plant(other, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_FALSE(fake(other).blocks.contains(key));
}

// A block that moved behind the drop's back is met by its second round.
TEST_F(ClientCopiesTest, WhatMovesWhileItIsDroppedIsDropped) {
  open_pool();
  const std::string key = "k";
  const std::size_t source = second_of(key);
  const std::size_t target = first_of(key);
  plant(source, key, pattern(500, 3));
  fake(source).intercept = [this, &key, target](FakePeer&, const wire::Header& header,
                                                std::span<const std::byte>) {
    const bool first = header.type == Type::drop && fake(first_of(key)).seen(Type::drop) == 1;
    if (first) plant(target, key, pattern(500, 3));  // a moment before it goes here
    return false;
  };
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_FALSE(fake(target).blocks.contains(key));
  EXPECT_FALSE(fake(source).blocks.contains(key));
}

// From S to T in the first round, and back to S in the second, each behind the drop's back.
TEST_F(ClientCopiesTest, WhatMovesOnFromPlaceToPlaceIsDropped) {
  open_pool();
  const std::string key = "k";
  const std::size_t target = first_of(key);
  const std::size_t source = second_of(key);
  plant(source, key, pattern(500, 3));
  int drops = 0;
  fake(source).intercept = [&](FakePeer&, const wire::Header& header, std::span<const std::byte>) {
    if (header.type == Type::drop && ++drops <= 2) plant(target, key, pattern(500, 3));
    return false;
  };
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_EQ(drops, 4) << "the third round still found it";
  EXPECT_FALSE(fake(target).blocks.contains(key));
  EXPECT_FALSE(fake(source).blocks.contains(key));
}

TEST_F(ClientCopiesTest, WhatNeverStopsMovingIsNotSaidToBeDropped) {
  open_pool();
  const std::string key = "k";
  int drops = 0;
  fake(second_of(key)).intercept = [&](FakePeer&, const wire::Header& header,
                                       std::span<const std::byte>) {
    drops += header.type == Type::drop ? 1 : 0;
    if (header.type == Type::drop) plant(first_of(key), key, pattern(500, 3));
    return false;
  };
  EXPECT_EQ(drop(key), Code::busy);
  EXPECT_EQ(drops, static_cast<int>(kDropRoundsMax));
}

// Also by a client that never saw a map in which it had a share.
TEST_F(ClientCopiesTest, ADropReachesNodesThatDrain) {
  for (int i = 0; i < 4; ++i) add_node();
  publish(2);
  const std::string key = "k";
  const std::size_t former = first_of(key);
  publish(3, {former});
  open_client();
  std::vector<Named> one{{"to hear of the map", pattern(10, 1)}};
  ASSERT_EQ(put(one), all(1, Code::ok));
  ASSERT_TRUE(run_until([&] { return client_->stats().epoch == 3; }));
  plant(former, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_FALSE(fake(former).blocks.contains(key));
  kill_node(former);
  EXPECT_EQ(drop(key), Code::unreachable);
}

TEST_F(ClientCopiesTest, ADropReachesFormerSecondPlaces) {
  open_pool();
  const std::string key = "k";
  const std::size_t second = second_of(key);
  std::set<std::size_t> drained{second};
  publish(3, drained);
  std::vector<Named> one{{"another", pattern(10, 1)}};
  (void)put(one);
  ASSERT_TRUE(run_until([&] { return client_->stats().epoch == 3; }));
  plant(second, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_FALSE(fake(second).blocks.contains(key));
}

TEST_F(ClientCopiesTest, ADropIsInDoubtWhenTheNewerMapDoesNotCome) {
  open_pool();
  const std::string key = "k";
  plant(first_of(key), key, pattern(500, 3));
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    fake(i).welcome.epoch = 3;  // and the map that it gives is the old one
  }
  EXPECT_EQ(drop(key), Code::unreachable);
}

TEST_F(ClientCopiesTest, RangesOfOneBlockComeFromOneNode) {
  open_pool();
  const std::string key = copied_block();
  for (int i = 0; i < 3; ++i) ASSERT_EQ(read(key), Code::ok);
  Bytes small(4);
  Bytes large(400);
  for (int i = 0; i < 50; ++i) {
    const std::vector<GetBlock> asked{
        {.key = key_bytes(key), .group = {}, .offset = 0, .target = small},
        {.key = key_bytes(key), .group = {}, .offset = 100, .target = large}};
    EXPECT_EQ(finish(client_->get(space_, asked)), all(2, Code::ok));
  }
}

TEST_F(ClientCopiesTest, ADropThatHearsOfANewerMapGoesToItsPlaces) {
  open_pool();
  const std::string key = "k";
  const std::size_t former = first_of(key);
  publish(3, {former});  // the client holds the map of epoch 2 still
  const std::size_t now = first_of(key);
  plant(now, key, pattern(500, 3));
  plant(former, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    EXPECT_FALSE(fake(i).blocks.contains(key)) << i;
  }
}

TEST_F(ClientCopiesTest, WithoutAMapNobodyAsksForCopies) {
  for (int i = 0; i < 3; ++i) add_node();
  open_client();
  const std::string key = key_on(1);
  plant(1, key, pattern(500, 3));
  EXPECT_EQ(drop(key), Code::ok);
  EXPECT_EQ(fake(0).seen(Type::drop) + fake(2).seen(Type::drop), 0);
}

// ---- a put that is held

class ClientHeldTest : public ClientCopiesTest {
 protected:
  const std::string key_ = "k";  // outlives the requests about it

  std::unique_ptr<HeldRequest> hold(const Bytes& bytes) {
    const std::vector<PutBlock> blocks{{.key = key_bytes(key_),
                                        .group = {},
                                        .bytes = bytes,
                                        .group_print = Fingerprint{.high = 1, .low = 2}}};
    return client_->put_held(space_, blocks, 5000);
  }
  void open_one() {
    add_node();
    ClientOptions options{.nodes = {nodes_[0].address}};
    options.follow = false;
    auto client = Client::open(options, world());
    ASSERT_TRUE(client.has_value());
    client_ = std::move(*client);
  }
};

TEST_F(ClientHeldTest, ItIsInvisibleUntilItIsReleased) {
  open_one();
  const Bytes bytes = pattern(300'000, 5);
  std::uint64_t group = 0;
  fake(0).intercept = [&group](FakePeer&, const wire::Header& header,
                               std::span<const std::byte> body) {
    if (header.type == Type::put) group = wire::PutReader::open(body)->next()->traits.group.low;
    return false;
  };
  const auto request = hold(bytes);
  run_for(1000);
  EXPECT_FALSE(request->done());
  EXPECT_TRUE(request->wait_held(0));
  EXPECT_EQ(group, 2u);
  EXPECT_EQ(fake(0).seen(Type::commit), 0);
  EXPECT_TRUE(fake(0).blocks.empty());
  request->release();
  EXPECT_EQ(finish(*request), all(1, Code::ok));
  EXPECT_EQ(fake(0).blocks["k"].bytes, bytes);
}

TEST_F(ClientHeldTest, OneThatIsCancelledLeavesNothing) {
  open_one();
  const Bytes bytes = pattern(300'000, 5);
  const auto request = hold(bytes);
  run_for(1000);
  ASSERT_TRUE(request->wait_held(0));
  request->cancel();
  EXPECT_EQ(finish(*request), all(1, Code::cancelled));
  run_for(100);
  EXPECT_EQ(fake(0).seen(Type::commit), 0);
  EXPECT_EQ(fake(0).seen(Type::cancel), 1);
  EXPECT_TRUE(fake(0).blocks.empty());
}

TEST_F(ClientHeldTest, WhatIsThereIsHeldAtOnceAndOver) {
  open_one();
  plant(0, "k", pattern(500, 3));
  const Bytes bytes = pattern(500, 3);
  const auto request = hold(bytes);
  EXPECT_EQ(finish(*request), all(1, Code::exists));
  EXPECT_TRUE(request->wait_held(0));
}

TEST_F(ClientHeldTest, ANodeThatDiesOrADeadlineLetsTheWaitersGo) {
  open_one();
  const Bytes bytes = pattern(300'000, 5);
  auto request = hold(bytes);
  run_for(1000);
  kill_node(0);
  EXPECT_EQ(finish(*request), all(1, Code::unreachable));
  EXPECT_TRUE(request->wait_held(0));
  start_node(0);
  ASSERT_TRUE(run_until([&] { return client_->health()[0].connected; }));
  request = hold(bytes);
  EXPECT_EQ(finish(*request), all(1, Code::timeout));
}

TEST_F(ClientHeldTest, WhoDoesNotFollowKeepsItsNodes) {
  open_one();
  add_node();
  publish(5);
  const std::vector<Named> blocks{{"a", pattern(10, 1)}, {"b", pattern(10, 2)}};
  EXPECT_EQ(put(blocks), all(2, Code::ok));
  run_for(5000);
  EXPECT_EQ(put(blocks), all(2, Code::exists));
  EXPECT_EQ(fake(0).seen(Type::map), 0);
  EXPECT_EQ(client_->stats().epoch, 0u);
  EXPECT_TRUE(fake(1).blocks.empty());
}

// ---- which of two answers sooner

TEST(Copies, TheOneOfWhichLessIsWantedAndTheFasterOne) {
  Copies copies;
  const auto sooner = [&copies](std::size_t first, std::size_t second) {
    return copies.sooner(first, kMiB, second, kMiB, kNsPerMs);
  };
  EXPECT_EQ(sooner(0, 1), 0u);
  EXPECT_GE(copies.wanted(0, 8 * kMiB), 8 * kMiB);
  EXPECT_EQ(sooner(0, 1), 1u);
  copies.over(0, 8 * kMiB);
  EXPECT_EQ(sooner(0, 1), 0u);
  for (int i = 0; i < 50; ++i) {
    copies.came(0, kMiB, 100 * kNsPerMs, kNsPerMs);  // a slow node
    copies.came(1, kMiB, kNsPerMs, kNsPerMs);
  }
  EXPECT_EQ(sooner(0, 1), 1u);
  copies.wanted(1, 50 * kMiB);
  EXPECT_EQ(sooner(0, 1), 1u);
  copies.wanted(1, 100 * kMiB);
  EXPECT_EQ(sooner(0, 1), 0u);
  copies.over(1, 1000 * kMiB);
  copies.forget(0);
  EXPECT_EQ(sooner(1, 0), 0u);  // it may have become a fast one
}

TEST(Copies, WhoIsNotSeenForLongIsTriedAndSaysHowFastItIs) {
  Copies copies;
  std::uint64_t now = kNsPerMs;
  const auto sooner = [&] { return copies.sooner(0, kMiB, 1, kMiB, now); };
  for (int i = 0; i < 50; ++i) copies.came(0, kMiB, 100 * kNsPerMs, now);
  copies.came(1, kMiB, kNsPerMs, now);
  const auto until_tried_ms = [&] {  // while the other goes on to answer
    const std::uint64_t began = now;
    while (sooner() == 1 && now - began < 60 * kSpeedHalfMs * kNsPerMs) {
      copies.came(1, kMiB, kNsPerMs, now += kNsPerMs);
    }
    return (now - began) / kNsPerMs;
  };
  EXPECT_NEAR(until_tried_ms(), 6.64 * kSpeedHalfMs, 100);
  copies.came(0, kMiB, 100 * kNsPerMs, now);
  EXPECT_NEAR(until_tried_ms(), 6.64 * kSpeedHalfMs, 100);
  copies.came(0, kMiB, kNsPerMs, now);
  copies.came(0, kMiB, kNsPerMs, now);
  EXPECT_LT(until_tried_ms(), kSpeedHalfMs);  // alike now
}

TEST(Copies, ANodeThatCannotBeReachedIsNotTheSoonerOne) {
  Copies copies;
  copies.came(0, kMiB, 10 * kNsPerMs, kNsPerMs);
  copies.came(1, kMiB, kNsPerMs, kNsPerMs);
  for (int i = 0; i < 50; ++i) copies.failed(0, kMiB, 0, kNsPerMs);
  EXPECT_EQ(copies.sooner(0, kMiB, 1, kMiB, kNsPerMs), 1u);
  for (int i = 0; i < 50; ++i) copies.failed(1, kMiB, 100 * kNsPerMs, kNsPerMs);
  EXPECT_EQ(copies.sooner(0, kMiB, 1, kMiB, kNsPerMs), 0u);
}

TEST(Copies, GroupsAreRememberedForAWhileAndTheLatestStay) {
  Copies copies;
  const Fingerprint a{.high = 1, .low = 5};
  const Fingerprint same_place{.high = 2, .low = 5};
  copies.heard(a, true, 0);
  EXPECT_TRUE(copies.known(a, 1));
  EXPECT_FALSE(copies.known(same_place, 1));
  EXPECT_FALSE(copies.known(a, kCopiedMs * kNsPerMs));
  copies.heard(same_place, false, 1);
  EXPECT_TRUE(copies.known(a, 1));
  copies.heard(a, false, 1);
  EXPECT_FALSE(copies.known(a, 1));
  copies.heard(a, true, 2);
  copies.heard(same_place, true, 3);
  EXPECT_FALSE(copies.known(a, 4));
  EXPECT_TRUE(copies.known(same_place, 4));
}

}  // namespace
}  // namespace memkv::testing
