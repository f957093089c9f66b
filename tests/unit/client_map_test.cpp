// The map: clients learn it from the nodes, follow its epoch, and still find what former maps put
// elsewhere. Virtual time.
#include "client/client_map.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "support/client_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ClientMapTest : public ClientWorldTest {
 protected:
  using Weights = std::vector<std::pair<std::size_t, std::uint32_t>>;  // a node's index; its weight

  [[nodiscard]] std::vector<wire::MapNode> records(const Weights& weights) const {
    std::vector<wire::MapNode> found;
    for (const auto& [node, weight] : weights) {
      const std::string& address = nodes_[node].address;
      found.push_back({.node = node_id_of(address), .weight = weight, .address = address});
    }
    return found;
  }
  // All nodes that are up hold this map, which says that these were before it.
  void publish(std::uint32_t epoch, const Weights& weights,
               const std::vector<Weights>& formers = {}) {
    auto map = records(weights);
    for (std::size_t i = 0; i < formers.size(); ++i) {
      for (const auto& [node, weight] : formers[i]) {
        const auto one = std::ranges::find(map, nodes_[node].address, &wire::MapNode::address);
        one->former_weights.at(i) = weight;
      }
    }
    for (Node& node : nodes_) {
      if (node.fake) node.fake->hold_map(epoch, map);
    }
  }
  void open_with_seeds(std::vector<std::size_t> seeds, std::uint64_t timeout_ms = 0) {
    ClientOptions options;
    for (const std::size_t seed : seeds) options.nodes.push_back(nodes_[seed].address);
    options.timeout_ms = timeout_ms;
    auto client = Client::open(options, world());
    ASSERT_TRUE(client.has_value()) << client.error().message();
    client_ = std::move(*client);
  }
  [[nodiscard]] std::size_t node_by(const Weights& weights, const std::string& key) const {
    std::vector<PlacementNode> map;
    for (const auto& [node, weight] : weights) {
      map.push_back({.id = node_id_of(nodes_[node].address), .weight = weight});
    }
    return weights[place(group_fingerprint(space_.id, key_bytes(key)), map).value()].first;
  }
  static std::vector<Named> blocks_of(int count, const std::string& name = "k") {
    std::vector<Named> blocks;
    for (int i = 0; i < count; ++i) blocks.emplace_back(name + std::to_string(i), pattern(500, i));
    return blocks;
  }
  [[nodiscard]] bool lies_on(std::size_t node, const std::string& key) {
    return fake(node).blocks.contains(key);
  }
  bool follows(std::uint32_t epoch, std::uint64_t ms = 60'000) {
    return run_until([&] { return client_->stats().epoch == epoch; }, ms);
  }
  std::vector<Code> drop(const std::vector<Named>& blocks) {
    std::vector<NamedBlock> asked;
    for (const auto& [key, bytes] : blocks) asked.push_back({.key = key_bytes(key), .group = {}});
    return finish(client_->drop(space_, asked));
  }
  std::size_t present(const std::vector<Named>& blocks) {
    std::vector<NamedBlock> asked;
    for (const auto& [key, bytes] : blocks) asked.push_back({.key = key_bytes(key), .group = {}});
    const auto request = client_->match(space_, asked);
    EXPECT_EQ(finish(*request), all(blocks.size(), Code::ok));
    return static_cast<std::size_t>(std::ranges::count_if(
        request->matches(), [](const Match& match) { return match.where != Where::absent; }));
  }
  // Three nodes, of which two are in the map, and blocks by that map; then the third joins.
  std::vector<Named> grow() {
    for (int i = 0; i < 3; ++i) add_node();
    publish(2, kTwo);
    open_with_seeds({0});
    std::vector<Named> blocks = blocks_of(60);
    EXPECT_EQ(put(blocks), all(60, Code::ok));
    publish(3, kThree, {kTwo});
    std::vector<Named> one = blocks_of(1, "another");
    EXPECT_EQ(put(one), all(1, Code::ok));  // its answer says that there is a newer map
    EXPECT_TRUE(follows(3));
    return blocks;
  }

  const Weights kTwo = {{0, 100}, {1, 100}};
  const Weights kThree = {{0, 100}, {1, 100}, {2, 100}};
};

TEST_F(ClientMapTest, OneNodeIsEnoughToLearnOfAll) {
  const Weights weights = {{0, 100}, {1, 300}, {2, 0}, {3, 50}};
  for (int i = 0; i < 4; ++i) add_node();
  publish(7, weights);
  open_with_seeds({2});
  std::vector<Named> blocks = blocks_of(80);
  ASSERT_EQ(put(blocks), all(80, Code::ok)) << "the first request waits for the map";
  std::set<std::size_t> used;
  for (const auto& [key, bytes] : blocks) {
    const std::size_t node = node_by(weights, key);
    EXPECT_TRUE(lies_on(node, key)) << key;
    used.insert(node);
  }
  EXPECT_EQ(used.size(), 3u);
  EXPECT_TRUE(fake(2).blocks.empty());
  EXPECT_EQ(get(blocks), all(80, Code::ok));
  EXPECT_EQ(client_->stats().epoch, 7u);
  EXPECT_EQ(client_->health().size(), 4u);
}

TEST_F(ClientMapTest, WithoutAControlPlaneTheGivenNodesAreTheMap) {
  for (int i = 0; i < 2; ++i) add_node();
  fake(0).hold_map(kStaticEpoch, records({{0, 100}}));
  fake(1).hold_map(kStaticEpoch, records({{1, 100}}));
  open_client();
  std::vector<Named> blocks = blocks_of(20);
  ASSERT_EQ(put(blocks), all(20, Code::ok));
  for (const auto& [key, bytes] : blocks) EXPECT_TRUE(lies_on(node_of(key), key));
  EXPECT_EQ(fake(0).seen(Type::map) + fake(1).seen(Type::map), 0);
  EXPECT_EQ(client_->stats().epoch, 0u);
}

TEST_F(ClientMapTest, GrowingCostsNoHits) {
  std::vector<Named> blocks = grow();
  std::size_t moved = 0;
  for (const auto& [key, bytes] : blocks) moved += node_by(kThree, key) == 2 ? 1 : 0;
  ASSERT_GT(moved, 5u);
  EXPECT_EQ(present(blocks), blocks.size());
  std::vector<Named> read = blocks;
  for (auto& [key, bytes] : read) std::ranges::fill(bytes, std::byte{0});
  EXPECT_EQ(get(read), all(60, Code::ok));
  EXPECT_EQ(read, blocks);
  EXPECT_EQ(client_->stats().found_older, 2 * moved);
  // What is put goes where it belongs now.
  EXPECT_EQ(put(blocks).size(), 60u);
  for (const auto& [key, bytes] : blocks) EXPECT_TRUE(lies_on(node_by(kThree, key), key));
}

// All who hold a map look at the same places, also those who slept while it changed.
TEST_F(ClientMapTest, FormerPlacesAreAskedAsLongAsTheMapNamesThem) {
  std::vector<Named> blocks = grow();
  run_for(kOldMapMs);
  EXPECT_EQ(get(blocks), all(60, Code::ok));
  const std::uint64_t asked = client_->stats().asked_older;
  EXPECT_GT(asked, 0u);
  publish(4, kThree);
  std::vector<Named> one = blocks_of(1, "one more");
  ASSERT_EQ(put(one), all(1, Code::ok));
  ASSERT_TRUE(follows(4));
  std::size_t found = 0;
  for (const Code code : get(blocks)) found += code == Code::ok ? 1 : 0;
  std::size_t stayed = 0;
  for (const auto& [key, bytes] : blocks) stayed += node_by(kThree, key) != 2 ? 1 : 0;
  EXPECT_EQ(found, stayed);
  EXPECT_EQ(client_->stats().asked_older, asked);
}

TEST_F(ClientMapTest, WhatIsNowhereIsAskedForAtFewPlaces) {
  (void)grow();
  publish(4, {{0, 100}, {1, 1}, {2, 900}});
  std::vector<Named> one = blocks_of(1, "one more");
  ASSERT_EQ(put(one), all(1, Code::ok));
  ASSERT_TRUE(follows(4));
  std::vector<Named> nothing = blocks_of(50, "nothing");
  EXPECT_EQ(get(nothing), all(50, Code::not_found));
  EXPECT_EQ(present(nothing), 0u);
  EXPECT_LE(client_->stats().asked_older, 2 * 50 * (kPlacesMax - 1));
}

TEST_F(ClientMapTest, ADropReachesOldPlaces) {
  std::vector<Named> blocks = grow();
  EXPECT_EQ(drop(blocks), all(60, Code::ok));
  for (std::size_t node = 0; node < 3; ++node) {
    for (const auto& [key, bytes] : blocks) EXPECT_FALSE(lies_on(node, key));
  }
  EXPECT_EQ(drop(blocks), all(60, Code::not_found));
}

TEST_F(ClientMapTest, ADropIsNotDoneWhileAnOldPlaceIsDown) {
  std::vector<Named> blocks = grow();
  std::erase_if(blocks, [this](const Named& one) {
    return node_by(kTwo, one.first) != 1 || node_by(kThree, one.first) != 2;
  });
  ASSERT_FALSE(blocks.empty());
  kill_node(1);
  ASSERT_TRUE(run_until([&] { return client_->health()[1].breaker_open; }));
  EXPECT_EQ(drop(blocks), all(blocks.size(), Code::unreachable));
}

TEST_F(ClientMapTest, WhoOnlyAsksADeadNodeHearsOfTheNewMapWithinASecond) {
  for (int i = 0; i < 3; ++i) add_node();
  publish(2, kThree);
  open_with_seeds({0, 1, 2});
  std::vector<Named> blocks = blocks_of(60);
  ASSERT_EQ(put(blocks), all(60, Code::ok));
  kill_node(1);
  ASSERT_TRUE(run_until([&] { return client_->health()[1].breaker_open; }));
  publish(3, {{0, 100}, {1, 0}, {2, 100}});
  ASSERT_TRUE(follows(3, 1000)) << "without a request of anybody's";
  std::erase_if(blocks, [this](const Named& one) { return node_by(kThree, one.first) != 1; });
  EXPECT_EQ(get(blocks), all(blocks.size(), Code::not_found));
  EXPECT_EQ(put(blocks), all(blocks.size(), Code::ok));
  EXPECT_EQ(get(blocks), all(blocks.size(), Code::ok));
}

TEST_F(ClientMapTest, ANodeThatLeftIsForgottenAndMayReturn) {
  (void)grow();
  publish(4, {{0, 100}, {2, 100}});
  std::vector<Named> one = blocks_of(1, "one more");
  ASSERT_EQ(put(one), all(1, Code::ok));
  ASSERT_TRUE(follows(4));
  EXPECT_EQ(client_->health().size(), 3u);
  run_for(kOldMapMs + 1000);
  EXPECT_EQ(client_->health().size(), 2u);
  EXPECT_EQ(fake(1).peers(), 0u);
  publish(5, kThree);
  std::vector<Named> two = blocks_of(1, "and more");
  ASSERT_EQ(put(two), all(1, Code::ok));
  ASSERT_TRUE(follows(5));
  std::vector<Named> blocks = blocks_of(30, "again");
  EXPECT_EQ(put(blocks), all(30, Code::ok));
  for (const auto& [key, bytes] : blocks) EXPECT_TRUE(lies_on(node_by(kThree, key), key));
}

TEST_F(ClientMapTest, AMapInWhichNobodyTakesBlocksChangesNoPlace) {
  std::vector<Named> blocks = grow();
  publish(4, {{0, 0}, {1, 0}, {2, 0}});
  EXPECT_EQ(put(blocks).size(), 60u);
  ASSERT_TRUE(follows(4));
  EXPECT_EQ(get(blocks), all(60, Code::ok));
  for (const auto& [key, bytes] : blocks) EXPECT_TRUE(lies_on(node_by(kThree, key), key));
}

TEST_F(ClientMapTest, WhoComesWhenAllDrainAsksTheNodesItWasGiven) {
  for (int i = 0; i < 2; ++i) add_node();
  publish(2, {{0, 0}, {1, 0}});
  plant(0, "k0", pattern(500, 0));
  open_with_seeds({0});
  std::vector<Named> blocks = blocks_of(1);
  EXPECT_EQ(get(blocks), all(1, Code::ok));
  EXPECT_EQ(client_->stats().epoch, 2u);
}

// Nobody saw the former map: the one in force says how it was.
class ClientMapNewcomer : public ClientMapTest {
 protected:
  void begin(const Weights& now, const Weights& former, std::size_t seed) {
    for (int i = 0; i < 3; ++i) add_node();
    publish(7, now, {former});
    blocks_ = blocks_of(60);
    for (const auto& [key, bytes] : blocks_) {
      plant(node_by(former, key), key, bytes);
      moved_ += node_by(former, key) != node_by(now, key) ? 1 : 0;
    }
    ASSERT_GT(moved_, 5u);
    open_with_seeds({seed});
  }
  std::vector<Code> get_all() { return get(blocks_); }
  std::vector<Named> blocks_;
  std::size_t moved_ = 0;
};

TEST_F(ClientMapNewcomer, DuringAMoveItFindsWhatTheMapBeforePlaced) {
  begin(kThree, kTwo, 2);
  EXPECT_EQ(present(blocks_), blocks_.size());
  EXPECT_EQ(get_all(), all(60, Code::ok));
  EXPECT_EQ(client_->stats().found_older, 2 * moved_);
  run_for(2 * kOldMapMs);
  EXPECT_EQ(get_all(), all(60, Code::ok)) << "as long as the map says so";
  publish(8, kThree);
  std::vector<Named> one = blocks_of(1, "another");
  ASSERT_EQ(put(one), all(1, Code::ok));
  ASSERT_TRUE(follows(8));
  const auto codes = get_all();
  EXPECT_EQ(static_cast<std::size_t>(std::ranges::count(codes, Code::ok)), 60 - moved_);
}

TEST_F(ClientMapNewcomer, ItsDropsReachTheFormerPlaces) {
  begin(kThree, kTwo, 2);
  run_for(2 * kOldMapMs);  // it asks no other nodes any more
  EXPECT_EQ(drop(blocks_), all(60, Code::ok));
  for (std::size_t node = 0; node < 3; ++node) {
    for (const auto& [key, bytes] : blocks_) EXPECT_FALSE(lies_on(node, key));
  }
}

TEST_F(ClientMapNewcomer, DuringADrainItFindsWhatDidNotMoveYet) {
  begin({{0, 100}, {1, 0}, {2, 100}}, kThree, 0);
  run_for(2 * kOldMapMs);
  EXPECT_EQ(get_all(), all(60, Code::ok));
  EXPECT_EQ(client_->stats().found_older, moved_);
}

TEST_F(ClientMapTest, WhoComesAfterSeveralMovesFindsWhatEachMapBeforePlaced) {
  const std::vector<Weights> before = {
      {{0, 100}, {1, 100}, {2, 100}}, {{0, 100}, {1, 100}}, {{0, 100}}};
  for (int i = 0; i < 4; ++i) add_node();
  publish(7, {{0, 100}, {1, 100}, {2, 100}, {3, 100}}, before);
  std::vector<Named> blocks = blocks_of(90);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    plant(node_by(before[i % 3], blocks[i].first), blocks[i].first, blocks[i].second);
  }
  open_with_seeds({3});
  EXPECT_EQ(get(blocks), all(90, Code::ok));
  run_for(2 * kOldMapMs);  // it asks no other nodes any more
  EXPECT_EQ(drop(blocks), all(90, Code::ok));
  for (std::size_t node = 0; node < 4; ++node) {
    for (const auto& [key, bytes] : blocks) EXPECT_FALSE(lies_on(node, key));
  }
}

TEST_F(ClientMapTest, WhoComesWhenAllDrainFindsWhatTheMapBeforePlaced) {
  for (int i = 0; i < 3; ++i) add_node();
  publish(2, {{0, 0}, {1, 0}, {2, 0}}, {kThree});
  std::vector<Named> blocks = blocks_of(30);
  for (const auto& [key, bytes] : blocks) plant(node_by(kThree, key), key, bytes);
  open_with_seeds({0});
  EXPECT_EQ(get(blocks), all(30, Code::ok));
  run_for(2 * kOldMapMs);
  EXPECT_EQ(get(blocks), all(30, Code::ok));
  EXPECT_EQ(client_->health().size(), 3u);
}

TEST_F(ClientMapTest, WhoWaitsForAMapKeepsItsDeadline) {
  add_node();
  publish(2, {{0, 100}});
  fake(0).intercept = [](FakePeer&, const wire::Header& header, std::span<const std::byte>) {
    return header.type == Type::map;  // and never answers
  };
  open_with_seeds({0}, 200);
  std::vector<Named> blocks = blocks_of(3);
  const std::uint64_t before = now_ms();
  EXPECT_EQ(put(blocks), all(3, Code::timeout));
  EXPECT_LE(now_ms() - before, 250u);
  const auto cancelled = client_->put(
      space_,
      std::vector<PutBlock>{{.key = key_bytes(blocks[0].first), .bytes = blocks[0].second}});
  run_for(10);
  cancelled->cancel();
  EXPECT_EQ(finish(*cancelled), all(1, Code::cancelled));
  fake(0).intercept = {};
  run_for(3000);  // a node that says nothing is given up, and greeted anew
  EXPECT_EQ(put(blocks, 5000), all(3, Code::ok));
  EXPECT_TRUE(follows(2, 1000));
}

TEST_F(ClientMapTest, AMapThatCannotBeIsRefused) {
  for (int i = 0; i < 2; ++i) add_node();
  publish(2, {{0, 100}});
  open_with_seeds({0});
  std::vector<Named> blocks = blocks_of(5);
  ASSERT_EQ(put(blocks), all(5, Code::ok));
  auto wrong = records({{1, 100}});
  wrong[0].node += 1;
  const auto twice = records({{1, 100}, {1, 100}});
  const auto good = records({{1, 100}});
  for (const auto& [epoch, nodes] :
       {std::pair{3u, wrong}, {4u, twice}, {2u + kEpochLeapMax + 1, good}, {1u, good}}) {
    fake(0).hold_map(epoch, nodes);
    for (int i = 0; i < 20; ++i) EXPECT_EQ(get(blocks), all(5, Code::ok));
    run_for(kMapAskMs);
    EXPECT_EQ(get(blocks), all(5, Code::ok)) << "epoch " << epoch;
    run_for(100);
    EXPECT_EQ(client_->stats().epoch, 2u);
  }
  EXPECT_LE(fake(0).seen(Type::map), 1 + 3 * 3) << "it asks now and then, not with each answer";
  fake(0).map.resize(3);
  fake(0).welcome.epoch = 9;
  run_for(kMapAskMs);
  EXPECT_EQ(get(blocks), all(5, Code::ok));
  run_for(100);
  EXPECT_EQ(client_->stats().epoch, 2u);
}

// One item of a GET goes on elsewhere while the other is still with the first node.
class ClientMapTwoItems : public ClientMapTest {
 protected:
  void begin() {
    std::vector<Named> blocks = grow();
    std::erase_if(blocks, [this](const Named& one) {
      return node_by(kThree, one.first) != 2 || node_by(kTwo, one.first) != 1;
    });
    ASSERT_GE(blocks.size(), 2u);
    keys_ = {blocks[0].first, blocks[1].first};
    expected_ = blocks[0].second;
    fake(2).intercept = [this](FakePeer& peer, const wire::Header& header,
                               std::span<const std::byte>) {
      if (header.type != Type::get) return false;
      held_back_ = header.request;
      miss(peer);  // of the first; the second is withheld
      return true;
    };
    fake(1).intercept = [this](FakePeer& peer, const wire::Header& header,
                               std::span<const std::byte> body) {
      if (header.type != Type::get || answer_old_) return false;
      asked_old_ += 1;
      old_peer_ = &peer;
      old_header_ = header;
      old_body_.assign(body.begin(), body.end());
      return true;
    };
    std::vector<GetBlock> asked;
    for (int i = 0; i < 2; ++i) {
      targets_[i] = Bytes(500);
      asked.push_back({.key = key_bytes(keys_[i]), .group = {}, .target = targets_[i]});
    }
    request_ = client_->get(space_, asked, 2000);
    ASSERT_TRUE(run_until([this] { return asked_old_ == 1; }));
  }
  void miss(FakePeer& peer) {
    peer.say(Type::get_block, held_back_,
             wire::GetBlock{.epoch = 3, .item = 0, .code = Code::not_found});
  }
  void answer_old() { old_peer_->answer(old_header_, old_body_); }

  std::array<std::string, 2> keys_;
  std::array<Bytes, 2> targets_;
  Bytes expected_;
  std::unique_ptr<Request> request_;
  std::uint64_t held_back_ = 0;
  int asked_old_ = 0;
  bool answer_old_ = false;
  FakePeer* old_peer_ = nullptr;
  wire::Header old_header_;
  Bytes old_body_;
};

TEST_F(ClientMapTwoItems, TheDeadlineEndsBothAndNoByteComesLater) {
  begin();
  const auto codes = finish(*request_);
  EXPECT_EQ(codes, (std::vector<Code>{Code::not_found, Code::timeout}));
  const Bytes then = targets_[0];
  if (!old_peer_->gone()) answer_old();
  run_for(100);
  EXPECT_EQ(targets_[0], then);
}

TEST_F(ClientMapTwoItems, TheFirstNodeDiesAndTheOldOneAnswers) {
  begin();
  kill_node(2);
  answer_old_ = true;  // the second item is asked for there, too
  ASSERT_TRUE(run_until([this] { return client_->health()[2].breaker_open; }));
  answer_old();
  EXPECT_EQ(finish(*request_), all(2, Code::ok));
  EXPECT_EQ(targets_[0], expected_);
}

TEST_F(ClientMapTwoItems, ASecondMissOfOneItemIsABrokenProtocol) {
  begin();
  answer_old_ = true;
  miss(*fake(2).peer());
  ASSERT_TRUE(run_until([this] { return client_->health()[2].breaker_open; }));
  answer_old();
  EXPECT_EQ(finish(*request_), all(2, Code::ok));
  EXPECT_EQ(targets_[0], expected_);
}

TEST_F(ClientMapTest, ANodeThatComesBackWhileItIsForgottenIsKept) {
  (void)grow();
  std::uint32_t epoch = 4;
  // Five maps push out the one that had blocks on node 1, then it is named again.
  for (int i = 0; i < 6; ++i) {
    const auto weight = static_cast<std::uint32_t>(100 + i);
    publish(epoch, {{0, weight}, {2, 100}});
    std::vector<Named> one = blocks_of(1, "map" + std::to_string(epoch));
    (void)put(one);
    ASSERT_TRUE(follows(epoch++)) << epoch;
  }
  publish(epoch, kThree);
  std::vector<Named> one = blocks_of(1, "last");
  (void)put(one);
  ASSERT_TRUE(follows(epoch));
  std::vector<Named> blocks = blocks_of(40, "again");
  EXPECT_EQ(put(blocks), all(40, Code::ok));
  for (const auto& [key, bytes] : blocks) EXPECT_TRUE(lies_on(node_by(kThree, key), key));
}

TEST_F(ClientMapTest, RangesOfOneBlockFromTwoPlacesAreNoBlock) {
  std::vector<Named> blocks = grow();
  std::erase_if(blocks, [this](const Named& one) { return node_by(kThree, one.first) != 2; });
  ASSERT_FALSE(blocks.empty());
  const std::string key = blocks[0].first;
  plant(2, key, Bytes(blocks[0].second.begin(), blocks[0].second.begin() + 250));
  Bytes first(250), second(250);
  const std::vector<GetBlock> asked = {
      {.key = key_bytes(key), .group = {}, .offset = 0, .target = first},
      {.key = key_bytes(key), .group = {}, .offset = 250, .target = second}};
  // The short one at the new place has no second half; the long one at the old place is not asked.
  const auto codes = finish(client_->get(space_, asked));
  EXPECT_TRUE(codes[1] != Code::ok);
}

}  // namespace
}  // namespace memkv::testing
