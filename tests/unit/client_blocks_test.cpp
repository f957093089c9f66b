// What becomes of blocks: put, get, match and drop through a real client against fake nodes.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "base/mutant.h"
#include "support/client_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ClientBlocksTest : public ClientWorldTest {};

std::vector<std::pair<std::string, Bytes>> some_blocks() {
  std::vector<std::pair<std::string, Bytes>> blocks;
  const std::size_t lengths[] = {1, 2, 4095, 4096, 65535, 65536, 65537, 200'000, 1 << 20};
  for (int i = 0; i < 45; ++i) {
    blocks.emplace_back("block " + std::to_string(i), pattern(lengths[i % 9], 100 + i));
  }
  return blocks;
}

TEST_F(ClientBlocksTest, BatchesOverThreeNodesComeBackByteForByte) {
  for (int i = 0; i < 3; ++i) add_node();
  open_client();
  const auto blocks = some_blocks();
  EXPECT_EQ(put(blocks), all(blocks.size(), Code::ok));
  std::size_t held = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_FALSE(fake(i).blocks.empty());
    for (const auto& [key, block] : fake(i).blocks) EXPECT_EQ(node_of(key), i) << key;
    held += fake(i).blocks.size();
  }
  EXPECT_EQ(held, blocks.size());

  auto read = blocks;
  for (auto& [key, bytes] : read) std::ranges::fill(bytes, std::byte{0xee});
  EXPECT_EQ(get(read), all(blocks.size(), Code::ok));
  EXPECT_TRUE(read == blocks);

  EXPECT_EQ(put(blocks), all(blocks.size(), Code::exists));
  const ClientStats stats = client_->stats();
  EXPECT_EQ(stats.puts, 2 * blocks.size());
  EXPECT_EQ(stats.put_ok, blocks.size());
  EXPECT_EQ(stats.put_exists, blocks.size());
  EXPECT_EQ(stats.get_ok, blocks.size());
  EXPECT_EQ(stats.bytes_got, stats.bytes_put);
}

TEST_F(ClientBlocksTest, EachBlockHasItsOwnStatus) {
  for (int i = 0; i < 3; ++i) add_node();
  open_client();
  EXPECT_EQ(put({{"a", pattern(1000, 1)}, {"c", pattern(3000, 3)}}), all(2, Code::ok));
  std::vector<Named> read = {{"a", Bytes(1000)}, {"b", Bytes(10)}, {"c", Bytes(3000)}};
  EXPECT_EQ(get(read), (std::vector{Code::ok, Code::not_found, Code::ok}));
  EXPECT_TRUE(read[0].second == pattern(1000, 1));
  EXPECT_TRUE(read[2].second == pattern(3000, 3));
  EXPECT_EQ(client_->stats().get_misses, 1u);
  EXPECT_EQ(put({{"a", pattern(999, 1)}, {"d", pattern(5, 4)}}),
            (std::vector{Code::conflict, Code::ok}));
}

TEST_F(ClientBlocksTest, RangesLandExactlyAndNothingElseIsTouched) {
  add_node();
  open_client();
  const Bytes block = pattern(200'001, 5);
  ASSERT_EQ(put({{"k", block}}), all(1, Code::ok));
  std::vector<std::pair<std::uint32_t, std::uint32_t>> ranges = {
      {0, 1},           {0, 200'001},     {200'000, 1},      {65'535, 2},
      {65'536, 65'536}, {65'537, 1},      {70'000, 100'000}, {131'072, 68'929},
      {196'607, 2},     {196'608, 3'393}, {1, 200'000},      {0, 65'536}};
  SeededRandom random(9);
  for (int i = 0; i < 60; ++i) {
    const auto offset = static_cast<std::uint32_t>(random.below(block.size()));
    ranges.emplace_back(offset, 1 + random.below(block.size() - offset));
  }
  constexpr std::size_t kMargin = 64;
  const std::string key = "k";
  std::vector<Bytes> memory;
  for (const auto& [offset, length] : ranges) {
    memory.emplace_back(length + 2 * kMargin, std::byte{0x5a});
  }
  std::vector<GetBlock> asked;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto [offset, length] = ranges[i];
    asked.push_back({.key = key_bytes(key),
                     .group = {},
                     .offset = offset,
                     .target = std::span(memory[i]).subspan(kMargin, length)});
  }
  EXPECT_EQ(finish(client_->get(space_, asked)), all(ranges.size(), Code::ok));
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const auto [offset, length] = ranges[i];
    EXPECT_TRUE(std::ranges::equal(asked[i].target, std::span(block).subspan(offset, length)))
        << offset << " +" << length;
    const auto untouched = [](std::byte b) { return b == std::byte{0x5a}; };
    EXPECT_TRUE(std::ranges::all_of(std::span(memory[i]).first(kMargin), untouched));
    EXPECT_TRUE(std::ranges::all_of(std::span(memory[i]).last(kMargin), untouched));
  }
}

TEST_F(ClientBlocksTest, RangesOfBlocksWithLargeUnits) {
  add_node();
  const Bytes block = pattern(33 * kMiB + 5, 6);
  ASSERT_EQ(unit_bytes_of(block.size()), 2 * kUnitBytesMin);
  plant(0, "big", block);
  open_client();
  Bytes tail(7), middle(200'000);
  const std::string key = "big";
  const auto tail_at = static_cast<std::uint32_t>(block.size() - tail.size());
  const std::vector<GetBlock> asked = {
      {.key = key_bytes(key), .group = {}, .offset = tail_at, .target = tail},
      {.key = key_bytes(key), .group = {}, .offset = 1'000'001, .target = middle}};
  EXPECT_EQ(finish(client_->get(space_, asked)), all(2, Code::ok));
  EXPECT_TRUE(std::ranges::equal(tail, std::span(block).last(tail.size())));
  EXPECT_TRUE(std::ranges::equal(middle, std::span(block).subspan(1'000'001, middle.size())));
}

TEST_F(ClientBlocksTest, ARangeOutsideOfItsBlockIsInvalid) {
  add_node();
  open_client();
  ASSERT_EQ(put({{"k", pattern(1000, 1)}}), all(1, Code::ok));
  Bytes target(10);
  const std::string key = "k";
  const std::vector<GetBlock> asked = {
      {.key = key_bytes(key), .group = {}, .offset = 990, .target = target},
      {.key = key_bytes(key), .group = {}, .offset = 991, .target = target},
      {.key = key_bytes(key), .group = {}, .offset = 5000, .target = target},
      {.key = key_bytes(key), .group = {}, .offset = 0xffffffff, .target = target}};
  EXPECT_EQ(finish(client_->get(space_, asked)),
            (std::vector{Code::ok, Code::invalid, Code::invalid, Code::invalid}));
}

TEST_F(ClientBlocksTest, WhatBreaksTheRulesIsRefusedAndTheRestGoesOn) {
  add_node();
  open_client();
  const std::string longest(512, 'k'), too_long(513, 'k'), key = "k", other = "l";
  const Bytes bytes = pattern(10, 1);
  const Bytes too_large(kBlockBytesMax + 1);
  const std::vector<PutBlock> puts = {{.key = {}, .group = {}, .bytes = bytes},
                                      {.key = key_bytes(longest), .group = {}, .bytes = bytes},
                                      {.key = key_bytes(too_long), .group = {}, .bytes = bytes},
                                      {.key = key_bytes(key), .group = {}, .bytes = {}},
                                      {.key = key_bytes(key), .group = {}, .bytes = too_large},
                                      {.key = key_bytes(other), .group = {}, .bytes = bytes}};
  EXPECT_EQ(finish(client_->put(space_, puts)),
            (std::vector{Code::invalid, Code::ok, Code::too_large, Code::invalid, Code::too_large,
                         Code::ok}));
  Bytes target(10);
  const std::vector<GetBlock> gets = {
      {.key = {}, .group = {}, .offset = 0, .target = target},
      {.key = key_bytes(too_long), .group = {}, .offset = 0, .target = target},
      {.key = key_bytes(other), .group = {}, .offset = 0, .target = {}},
      {.key = key_bytes(other), .group = {}, .offset = 0, .target = target}};
  EXPECT_EQ(finish(client_->get(space_, gets)),
            (std::vector{Code::invalid, Code::too_large, Code::invalid, Code::ok}));
  const std::vector<NamedBlock> names = {{.key = {}, .group = {}},
                                         {.key = key_bytes(too_long), .group = {}},
                                         {.key = key_bytes(other), .group = {}}};
  const auto matched = client_->match(space_, names);
  EXPECT_EQ(finish(*matched), (std::vector{Code::invalid, Code::too_large, Code::ok}));
  EXPECT_EQ(matched->matches()[0].code, Code::invalid);
  EXPECT_EQ(matched->matches()[2].code, Code::ok);
  EXPECT_EQ(matched->matches()[2].length, 10u);
}

TEST_F(ClientBlocksTest, ARequestForNothingIsOver) {
  add_node();
  open_client();
  int finished = 0;
  const auto request = client_->get(space_, {}, 0, [&] { finished += 1; });
  EXPECT_TRUE(finish(*request).empty());
  EXPECT_EQ(finished, 1);
}

// Answers each GET item with the incarnation the test wants.
void answer_with_incarnations(FakeNode& node, std::vector<std::uint64_t> incarnations) {
  node.intercept = [incarnations](FakePeer& peer, const wire::Header& header,
                                  std::span<const std::byte> body) {
    if (header.type != Type::get) return false;
    auto asked = wire::GetReader::open(body);
    for (std::uint32_t i = 0; const auto item = asked->next(); ++i) {
      const Bytes& block = peer.node().blocks[std::string(as_text_of(item->key))].bytes;
      peer.send_block(header.request, i, *item, block, incarnations[i]);
    }
    return true;
  };
}

TEST_F(ClientBlocksTest, RangesOfOneKeyMustAgreeOnTheIncarnation) {
  add_node();
  open_client();
  plant(0, "a", pattern(1000, 1));
  plant(0, "b", pattern(1000, 2));
  Bytes target(100);
  const std::string a = "a", b = "b";
  const std::vector<GetBlock> asked = {
      {.key = key_bytes(a), .group = {}, .offset = 0, .target = std::span(target).first(10)},
      {.key = key_bytes(b), .group = {}, .offset = 0, .target = std::span(target).subspan(10, 10)},
      {.key = key_bytes(a), .group = {}, .offset = 9, .target = std::span(target).subspan(20, 10)},
      {.key = key_bytes(b), .group = {}, .offset = 9, .target = std::span(target).subspan(30, 10)},
      {.key = key_bytes(a), .group = {}, .offset = 99, .target = std::span(target).subspan(40, 1)}};
  answer_with_incarnations(fake(0), {5, 7, 5, 7, 6});
  EXPECT_EQ(finish(client_->get(space_, asked)),
            (std::vector{Code::not_found, Code::ok, Code::not_found, Code::ok, Code::not_found}));
  answer_with_incarnations(fake(0), {5, 7, 5, 7, 5});
  EXPECT_EQ(finish(client_->get(space_, asked)), all(5, Code::ok));
}

TEST_F(ClientBlocksTest, AWrongByteIsCorruptAndReported) {
  add_node();
  open_client();
  ASSERT_EQ(put({{"good", pattern(100'000, 1)}, {"bad", pattern(100'000, 2)}}), all(2, Code::ok));
  fake(0).spoil.insert("bad");
  std::vector<Named> read = {{"good", Bytes(100'000)}, {"bad", Bytes(100'000)}};
  EXPECT_EQ(get(read), (std::vector{Code::ok, Code::corrupt}));
  run_for(10);
  EXPECT_EQ(fake(0).reports, std::vector<std::string>{"bad"});
  EXPECT_EQ(client_->stats().corrupt, 1u);
  // The flipped bit is not in the range that is asked for, but in its unit: nobody can tell them
  // apart.
  Bytes head(3);
  EXPECT_EQ(get_one("bad", head), Code::corrupt);
}

TEST_F(ClientBlocksTest, TheMutantThatSkipsCrcsBelievesAWrongByte) {
  add_node();
  open_client();
  const Bytes block = pattern(1000, 2);
  plant(0, "bad", block);
  fake(0).spoil.insert("bad");
  Bytes read(1000);
  set_mutant(Mutant::skip_crc_on_read);
  EXPECT_EQ(get_one("bad", read), Code::ok);
  set_mutant(Mutant::none);
  EXPECT_NE(read, block);
  EXPECT_EQ(get_one("bad", read), Code::corrupt);
}

TEST_F(ClientBlocksTest, TenThousandKeysAreSplitOverFrames) {
  for (int i = 0; i < 2; ++i) {
    FakeNode* node = add_node();
    node->welcome.items_max = 1500;
  }
  open_client();
  std::vector<std::string> keys;
  std::vector<NamedBlock> names;
  for (int i = 0; i < 10'000; ++i) {
    std::string key = std::to_string(i) + ":";
    key.resize(400 + i % 113, 'x');
    keys.push_back(std::move(key));
  }
  for (const std::string& key : keys) names.push_back({.key = key_bytes(key), .group = {}});
  for (std::size_t i = 0; i < keys.size(); i += 7) {
    plant(node_of(keys[i]), keys[i], pattern(1 + i % 50, i));
  }
  const auto request = client_->match(space_, names);
  EXPECT_EQ(finish(*request), all(keys.size(), Code::ok));
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const Match& match = request->matches()[i];
    ASSERT_EQ(match.code, Code::ok);
    ASSERT_EQ(match.where, i % 7 == 0 ? Where::dram : Where::absent) << i;
    ASSERT_EQ(match.length, i % 7 == 0 ? 1 + i % 50 : 0);
  }
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_GE(fake(i).batches.size(), 3u);
    EXPECT_LE(std::ranges::max(fake(i).batches), 1500u);
  }
}

TEST_F(ClientBlocksTest, LongKeysAreSplitByTheBodysSize) {
  add_node();
  open_client();
  std::vector<std::string> keys;
  std::vector<NamedBlock> names;
  for (int i = 0; i < 5000; ++i) keys.push_back(std::to_string(10'000 + i) + std::string(507, 'x'));
  for (const std::string& key : keys) names.push_back({.key = key_bytes(key), .group = {}});
  EXPECT_EQ(finish(client_->drop(space_, names)), all(keys.size(), Code::not_found));
  EXPECT_GE(fake(0).batches.size(), 3u);
}

// Answers GETs after a while, and counts how many wait for an answer at a time.
struct SlowGets {
  std::size_t requests = 0, requests_max = 0, blocks = 0, blocks_max = 0;

  void over(FakeNode& node, Executor& executor) {
    node.intercept = [this, &executor](FakePeer& peer, const wire::Header& header,
                                       std::span<const std::byte> body) {
      if (header.type != Type::get) return false;
      const std::size_t count = wire::GetReader::open(body)->count();
      requests_max = std::max(requests_max, ++requests);
      blocks_max = std::max(blocks_max, blocks += count);
      Bytes kept(body.begin(), body.end());
      (void)executor.after(kNsPerMs, [this, &peer, header, count, later = std::move(kept)] {
        requests -= 1;
        blocks -= count;
        peer.answer(header, later);
      });
      return true;
    };
  }
};

TEST_F(ClientBlocksTest, TheNodesLimitsAreKept) {
  FakeNode* node = add_node();
  node->welcome.batch_max = 4;
  node->welcome.requests_max = 3;
  node->welcome.block_bytes_max = 1000;
  SlowGets slow;
  slow.over(*node, nodes_[0].process->executor());
  open_client();
  std::vector<Named> blocks;
  for (int i = 0; i < 50; ++i) blocks.emplace_back("k" + std::to_string(i), pattern(100, i));
  blocks.emplace_back("too large", pattern(1001, 1));
  auto expected = all(50, Code::ok);
  expected.push_back(Code::too_large);
  EXPECT_EQ(put(blocks), expected);
  blocks.pop_back();
  auto read = blocks;
  for (auto& [key, bytes] : read) std::ranges::fill(bytes, std::byte{0});
  EXPECT_EQ(get(read), all(50, Code::ok));
  EXPECT_TRUE(read == blocks);
  EXPECT_LE(std::ranges::max(node->batches), 4u);
  EXPECT_GE(slow.requests_max, 2u);
  EXPECT_LE(slow.requests_max, 3u);
  EXPECT_LE(slow.blocks_max, 8u);
}

TEST_F(ClientBlocksTest, AGroupStaysTogetherAndItsTraitsArrive) {
  for (int i = 0; i < 3; ++i) add_node();
  std::map<std::string, wire::PutItem> seen;
  for (std::size_t i = 0; i < 3; ++i) {
    fake(i).intercept = [&](FakePeer&, const wire::Header& header,
                            std::span<const std::byte> body) {
      if (header.type != Type::put) return false;
      auto asked = wire::PutReader::open(body);
      EXPECT_EQ(asked->head(), space_);
      while (const auto item = asked->next()) seen[std::string(as_text_of(item->key))] = *item;
      return false;
    };
  }
  open_client();
  const std::string group = "the ancestor";
  const Bytes bytes = pattern(50, 1);
  std::vector<std::string> keys;
  for (int i = 0; i < 30; ++i) keys.push_back("k" + std::to_string(i));
  std::vector<PutBlock> puts;
  for (std::uint32_t i = 0; i < 30; ++i) {
    puts.push_back({.key = key_bytes(keys[i]),
                    .group = key_bytes(group),
                    .bytes = bytes,
                    .depth = i,
                    .recompute_cost = 1000 + i});
  }
  EXPECT_EQ(finish(client_->put(space_, puts)), all(30, Code::ok));
  EXPECT_EQ(fake(node_of(group)).blocks.size(), 30u);
  ASSERT_EQ(seen.size(), 30u);
  for (std::uint32_t i = 0; i < 30; ++i) {
    EXPECT_EQ(seen[keys[i]].traits.depth, i);
    EXPECT_EQ(seen[keys[i]].traits.recompute_cost, 1000 + i);
    EXPECT_EQ(seen[keys[i]].traits.group, group_fingerprint(space_.id, key_bytes(group)));
  }
  Bytes target(50);
  const std::vector<GetBlock> gets = {
      {.key = key_bytes(keys[3]), .group = key_bytes(group), .offset = 0, .target = target}};
  EXPECT_EQ(finish(client_->get(space_, gets)), all(1, Code::ok));
  const std::vector<NamedBlock> names = {{.key = key_bytes(keys[3]), .group = key_bytes(group)},
                                         {.key = key_bytes(keys[4]), .group = key_bytes(group)}};
  EXPECT_EQ(finish(client_->drop(space_, names)), all(2, Code::ok));
  EXPECT_EQ(finish(client_->drop(space_, names)), all(2, Code::not_found));
}

TEST_F(ClientBlocksTest, ARefusedRequestRefusesItsBlocks) {
  add_node();
  open_client();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::put && header.type != Type::match) return false;
    peer.say(Type::refuse, header.request, wire::Refuse{.code = Code::busy, .text = "full"});
    return true;
  };
  EXPECT_EQ(put({{"a", pattern(10, 1)}, {"b", pattern(10, 1)}}), all(2, Code::busy));
  const std::string key = "a";
  const std::vector<NamedBlock> names = {{.key = key_bytes(key), .group = {}}};
  const auto request = client_->match(space_, names);
  EXPECT_EQ(finish(*request), all(1, Code::busy));
  EXPECT_EQ(request->matches()[0].code, Code::busy);
  EXPECT_FALSE(client_->health()[0].breaker_open);
}

TEST_F(ClientBlocksTest, StatAsksOneNode) {
  add_node();
  add_node(false);
  open_client();
  std::vector<Result<std::string>> got;
  const auto keep = [&got](Result<std::string> text) { got.push_back(std::move(text)); };
  for (const std::size_t node : {0u, 1u, 2u}) {
    const std::size_t before = got.size();
    client_->stat(node, 0, keep);
    ASSERT_TRUE(run_until([&] { return got.size() > before; }));
  }
  EXPECT_EQ(got[0].value_or(""), "blocks 3\n");
  EXPECT_EQ(got[1].error().code, Code::unreachable);
  EXPECT_EQ(got[2].error().code, Code::invalid);
}

TEST_F(ClientBlocksTest, MoreBlocksUnderWayThanThereMayBeAreBusy) {
  add_node();
  world_->partition("client", "node0", true);  // nobody says yet where blocks are: all wait
  open_client();
  const std::string key = "k";
  const std::vector<NamedBlock> many(kClientBlocksMax, {.key = key_bytes(key), .group = {}});
  const auto all_there_may_be = client_->match(space_, many);
  const auto one_more = client_->match(space_, std::span(many).first(1));
  const std::uint64_t before = now_ms();
  EXPECT_EQ(finish(one_more), all(1, Code::busy));
  EXPECT_EQ(now_ms(), before) << "at once";
  EXPECT_FALSE(all_there_may_be->done());
  all_there_may_be->cancel();
  EXPECT_EQ(finish(all_there_may_be), all(many.size(), Code::cancelled));
  world_->partition("client", "node0", false);
  ASSERT_TRUE(run_until([&] { return client_->health()[0].connected; }));
  EXPECT_EQ(put({{key, pattern(10, 1)}}), all(1, Code::ok)) << "what ended makes room";
}

TEST_F(ClientBlocksTest, TheSameKeyTwiceInOnePutEnds) {
  add_node();
  open_client();
  const auto codes = put({{"k", pattern(1000, 1)}, {"k", pattern(1000, 1)}});
  ASSERT_EQ(codes.size(), 2u);
  EXPECT_EQ(codes[0], Code::ok);
  EXPECT_EQ(fake(0).blocks["k"].bytes, pattern(1000, 1));
}

TEST_F(ClientBlocksTest, WrongOptionsAreRefusedWithASentence) {
  const auto refused = [&](std::vector<std::string> addresses) {
    ClientOptions options;
    options.nodes = std::move(addresses);
    const auto client = Client::open(options, world());
    return client ? Status() : client.error();
  };
  EXPECT_EQ(refused({}).code, Code::invalid);
  EXPECT_EQ(refused({"a:1", "b:1", "a:1"}).code, Code::invalid);
  EXPECT_NE(refused({"a:1", "b:1", "a:1"}).text.find("a:1"), std::string::npos);
  for (const char* wrong :
       {"", "host", ":1", "host:", "host:0", "host:65536", "host:1x", "ho st:1"}) {
    EXPECT_EQ(refused({wrong}).code, Code::invalid) << wrong;
  }
  std::vector<std::string> many;
  for (std::size_t i = 0; i <= kSeedsMax; ++i) many.push_back("h" + std::to_string(i) + ":1");
  EXPECT_EQ(refused(many).code, Code::invalid);
  ClientOptions options;
  options.nodes = {"a:1"};
  options.name = std::string(65, 'n');
  EXPECT_EQ(Client::open(options, world()).error().code, Code::invalid);
  options.name = "bell\a";
  EXPECT_EQ(Client::open(options, world()).error().code, Code::invalid);
  options.name = "fine";
  options.token.resize(kTokenBytesMax + 1);
  EXPECT_EQ(Client::open(options, world()).error().code, Code::invalid);
}

}  // namespace
}  // namespace memkv::testing
