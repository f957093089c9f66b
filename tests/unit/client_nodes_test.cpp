// What becomes of requests when nodes do not do as they should: dead, mute, slow, restarted,
// refusing; and when the caller gives up. Virtual time.
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <functional>
#include <string>
#include <vector>

#include "support/client_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ClientNodesTest : public ClientWorldTest {
 protected:
  // A GET of the key into `bytes`, under way. The key is kept until the test is over.
  std::unique_ptr<Request> begin_get(const std::string& key, Bytes& bytes,
                                     std::uint64_t timeout_ms = 0, Finished finished = {}) {
    keys_.push_back(key);
    const std::vector<GetBlock> asked = {
        {.key = key_bytes(keys_.back()), .group = {}, .offset = 0, .target = bytes}};
    return client_->get(space_, asked, timeout_ms, std::move(finished));
  }
  // The node takes these frames and never answers.
  void swallow(std::size_t node, std::vector<Type> types) {
    fake(node).intercept = [types](FakePeer&, const wire::Header& header,
                                   std::span<const std::byte>) {
      return std::ranges::find(types, header.type) != types.end();
    };
  }
  bool connected(std::size_t node) { return client_->health()[node].connected; }
  bool breaker_open(std::size_t node) { return client_->health()[node].breaker_open; }

  std::deque<std::string> keys_;
};

TEST_F(ClientNodesTest, ADeadNodeCostsItsOwnBlocksOnly) {
  add_node();
  add_node(false);
  add_node();
  open_client();
  std::vector<Named> blocks;
  std::vector<Code> expected;
  for (int i = 0; i < 30; ++i) {
    blocks.emplace_back("k" + std::to_string(i), pattern(1000, i));
    expected.push_back(node_of(blocks.back().first) == 1 ? Code::unreachable : Code::ok);
  }
  ASSERT_EQ(std::ranges::count(expected, Code::unreachable) > 0, true);
  EXPECT_EQ(put(blocks), expected);
  EXPECT_EQ(get(blocks), expected);
  EXPECT_TRUE(breaker_open(1));
  EXPECT_FALSE(connected(1));
  EXPECT_TRUE(connected(0));
  EXPECT_FALSE(client_->health()[1].last_error.empty());
  EXPECT_EQ(client_->health()[1].node, node_id_of(nodes_[1].address));
}

TEST_F(ClientNodesTest, TheFirstConnectIsWaitedForUpToTheDeadline) {
  add_node();
  world_->partition("client", "node0", true);
  open_client();
  Bytes bytes(10);
  const std::uint64_t begin = now_ms();
  EXPECT_EQ(get_one("k", bytes, 300), Code::timeout);
  EXPECT_GE(now_ms() - begin, 299u);
  EXPECT_LT(now_ms() - begin, 400u);
  EXPECT_EQ(client_->stats().timeouts, 1u);
  // The connect itself gives up within kConnectTimeoutMs; then nobody waits any more.
  EXPECT_EQ(get_one("k", bytes, 30'000), Code::unreachable);
  EXPECT_LE(now_ms() - begin, kConnectTimeoutMs + 100);
  const std::uint64_t open = now_ms();
  EXPECT_EQ(get_one("k", bytes, 30'000), Code::unreachable);
  EXPECT_LE(now_ms() - open, 1u);
}

TEST_F(ClientNodesTest, TheBreakerHealsWhenTheNodeComesUp) {
  add_node(false);
  open_client();
  Bytes bytes(100);
  EXPECT_EQ(get_one("k", bytes), Code::unreachable);
  EXPECT_TRUE(breaker_open(0));
  start_node(0);
  plant(0, "k", pattern(100, 1));
  ASSERT_TRUE(run_until([&] { return connected(0); }, 2 * kBackoffMsMax));
  EXPECT_FALSE(breaker_open(0));
  EXPECT_EQ(get_one("k", bytes), Code::ok);
  EXPECT_TRUE(bytes == pattern(100, 1));
  EXPECT_EQ(client_->stats().reconnects, 1u);
}

TEST_F(ClientNodesTest, ARestartedNodeIsFoundAgain) {
  add_node();
  open_client();
  ASSERT_EQ(put({{"k", pattern(100, 1)}}), all(1, Code::ok));
  swallow(0, {Type::get});
  Bytes bytes(100);
  const auto under_way = begin_get("k", bytes);
  ASSERT_TRUE(run_until([&] { return fake(0).seen(Type::get) == 1; }));
  const auto kept = kill_node(0);
  EXPECT_EQ(finish(*under_way), all(1, Code::unreachable));
  EXPECT_TRUE(breaker_open(0));
  run_for(500);
  start_node(0);
  fake(0).welcome.boot = 2;
  fake(0).blocks = kept;
  ASSERT_TRUE(run_until([&] { return connected(0); }, 2 * kBackoffMsMax));
  EXPECT_EQ(get_one("k", bytes), Code::ok);
  EXPECT_TRUE(bytes == pattern(100, 1));
  EXPECT_EQ(client_->health()[0].boot, 2u);
  EXPECT_GE(client_->health()[0].failures, 1u);
}

TEST_F(ClientNodesTest, AMuteNodeCostsOneDeadlineOnce) {
  add_node();
  open_client();
  ASSERT_EQ(put({{"k", pattern(100, 1)}}), all(1, Code::ok));
  swallow(0, {Type::get, Type::hello});
  Bytes bytes(100);
  EXPECT_EQ(get_one("k", bytes, 1000), Code::timeout);
  EXPECT_TRUE(breaker_open(0));
  const std::uint64_t begin = now_ms();
  EXPECT_EQ(get_one("k", bytes, 1000), Code::unreachable);
  EXPECT_LE(now_ms() - begin, 1u);
  fake(0).intercept = nullptr;
  ASSERT_TRUE(run_until([&] { return connected(0); }, 10'000));
  EXPECT_EQ(get_one("k", bytes), Code::ok);
}

TEST_F(ClientNodesTest, ThreeDeadlinesInARowOpenTheBreaker) {
  add_node();
  open_client();
  plant(0, "k", pattern(100, 1));
  // It answers one block of two: not mute, and never done.
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::get) return false;
    peer.say(Type::get_block, header.request, wire::GetBlock{.item = 0, .code = Code::not_found});
    return true;
  };
  std::vector<Named> read = {{"k", Bytes(100)}, {"l", Bytes(100)}};
  for (unsigned i = 1; i <= kTimeoutsInRowMax; ++i) {
    EXPECT_EQ(get(read, 300), (std::vector{Code::not_found, Code::timeout}));
    EXPECT_EQ(breaker_open(0), i == kTimeoutsInRowMax) << i;
  }
  fake(0).intercept = nullptr;
  ASSERT_TRUE(run_until([&] { return connected(0); }, 10'000));
  EXPECT_EQ(get(read), (std::vector{Code::ok, Code::not_found}));
}

TEST_F(ClientNodesTest, AnAnswerInBetweenForgivesDeadlines) {
  add_node();
  open_client();
  std::vector<Named> read = {{"k", Bytes(100)}, {"l", Bytes(100)}};
  const auto half = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::get) return false;
    peer.say(Type::get_block, header.request, wire::GetBlock{.item = 0, .code = Code::not_found});
    return true;
  };
  for (int i = 0; i < 10; ++i) {
    fake(0).intercept = half;
    EXPECT_EQ(get(read, 300), (std::vector{Code::not_found, Code::timeout}));
    fake(0).intercept = nullptr;
    EXPECT_EQ(get(read, 300), all(2, Code::not_found));
  }
  EXPECT_EQ(fake(0).connections, 1);
}

TEST_F(ClientNodesTest, ACancelledGetLeavesTheMemoryAlone) {
  add_node();
  open_client();
  const Bytes block = pattern(2 * kMiB, 3);
  plant(0, "k", block);
  int cancelled = 0;
  for (int when = 0; when < 60; ++when) {
    Bytes target(block.size());
    bool finished = false;
    const auto request = begin_get("k", target, 0, [&] {
      // The caller's again: what a hand still holds or what is on the way must not land in it.
      std::ranges::fill(target, std::byte{0x77});
      finished = true;
    });
    for (int step = 0; step < 10 + 5 * when; ++step) world_->step();
    request->cancel();
    ASSERT_TRUE(run_until([&] { return finished; }));
    cancelled += request->codes()[0] == Code::cancelled ? 1 : 0;
    run_for(20);
    EXPECT_TRUE(std::ranges::all_of(target, [](std::byte b) { return b == std::byte{0x77}; }));
  }
  EXPECT_GT(cancelled, 30);
  EXPECT_GE(fake(0).seen(Type::cancel), cancelled - 2);  // the first may end before they are sent
  EXPECT_EQ(fake(0).connections, 1);
  Bytes again(block.size());
  EXPECT_EQ(get_one("k", again), Code::ok);
  EXPECT_TRUE(again == block);
}

TEST_F(ClientNodesTest, ACancelledPutIsNeverPublishedWithOtherBytes) {
  add_node();
  open_client();
  const Bytes original = pattern(2 * kMiB, 4);
  const std::string key = "k";
  int cancelled = 0;
  for (int when = 0; when < 40; ++when) {
    // Freed when the request is over: whoever reads it then is seen by the address sanitizer.
    auto source = std::make_unique<Bytes>(original);
    const int commits = fake(0).seen(Type::commit);
    const std::vector<PutBlock> asked = {{.key = key_bytes(key), .group = {}, .bytes = *source}};
    const auto request = client_->put(space_, asked, 0, [&] {
      std::ranges::fill(*source, std::byte{0x77});
      source.reset();
    });
    for (int step = 0; step < 10 + 5 * when; ++step) world_->step();
    request->cancel();
    ASSERT_TRUE(run_until([&] { return source == nullptr; }));
    cancelled += request->codes()[0] == Code::cancelled ? 1 : 0;
    run_for(20);
    EXPECT_TRUE(fake(0).blocks.empty() || fake(0).blocks[key].bytes == original);
    EXPECT_LE(fake(0).seen(Type::commit), commits + 1);
    fake(0).blocks.clear();
  }
  EXPECT_GT(cancelled, 20);
  EXPECT_EQ(put({{key, original}}), all(1, Code::ok));
  EXPECT_TRUE(fake(0).blocks[key].bytes == original);
  EXPECT_EQ(fake(0).connections, 1);
}

TEST_F(ClientNodesTest, BytesThatComeAfterTheDeadlineAreThrownAway) {
  add_node();
  open_client();
  const Bytes block = pattern(300'000, 3);
  plant(0, "k", block);
  std::uint64_t asked_as = 0;
  fake(0).intercept = [&](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::get) return false;
    asked_as = header.request;
    const Bytes crcs = packed_crcs(block, 0, unit_count_of(block.size()) - 1);
    peer.say(
        Type::get_block, header.request,
        wire::GetBlock{.code = Code::ok, .incarnation = 1, .block_length = 300'000, .crcs = crcs});
    peer.send_bytes(header.request, 0, 0, Bytes(block.begin(), block.begin() + 100'000));
    return true;
  };
  Bytes target(block.size());
  EXPECT_EQ(get_one("k", target, 500), Code::timeout);
  std::ranges::fill(target, std::byte{0x77});
  fake(0).intercept = nullptr;
  fake(0).peer()->send_bytes(asked_as, 0, 100'000, Bytes(block.begin() + 100'000, block.end()));
  run_for(100);
  EXPECT_TRUE(std::ranges::all_of(target, [](std::byte b) { return b == std::byte{0x77}; }));
  EXPECT_EQ(get_one("k", target), Code::ok);
  EXPECT_TRUE(target == block);
  EXPECT_EQ(fake(0).connections, 1);
}

TEST_F(ClientNodesTest, WhatIsCompleteWhenALinkBreaksStaysOk) {
  add_node();
  open_client();
  const Bytes block = pattern(100'000, 3);
  plant(0, "a", block);
  fake(0).intercept = [&](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::get) return false;
    const std::string key = "a";
    const wire::GetItem whole{.offset = 0, .length = 100'000, .key = key_bytes(key)};
    peer.send_block(header.request, 0, whole, block, 1);
    return true;
  };
  std::vector<Named> read = {{"a", Bytes(100'000)}, {"b", Bytes(10)}};
  std::vector<GetBlock> asked;
  for (auto& [key, bytes] : read) {
    asked.push_back({.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes});
  }
  const auto request = client_->get(space_, asked, 10'000);
  ASSERT_TRUE(run_until([&] { return fake(0).seen(Type::get) == 1; }));
  run_for(100);
  EXPECT_FALSE(request->done());
  fake(0).peer()->hang_up();
  EXPECT_EQ(finish(*request), (std::vector{Code::ok, Code::unreachable}));
  EXPECT_TRUE(read[0].second == block);
}

TEST_F(ClientNodesTest, WhatWasNotAskedYetGoesOutOnTheNextLink) {
  add_node();
  fake(0).welcome.requests_max = 1;
  open_client();
  plant(0, "k", pattern(100, 1));
  swallow(0, {Type::get});
  Bytes first(100), second(100);
  const auto asked = begin_get("k", first, 10'000);
  ASSERT_TRUE(run_until([&] { return fake(0).seen(Type::get) == 1; }));
  const auto waiting = begin_get("k", second, 10'000);
  run_for(100);
  EXPECT_EQ(fake(0).seen(Type::get), 1);
  fake(0).intercept = nullptr;
  fake(0).peer()->hang_up();
  EXPECT_EQ(finish(*asked), all(1, Code::unreachable));
  EXPECT_EQ(finish(*waiting), all(1, Code::ok));
  EXPECT_TRUE(second == pattern(100, 1));
  EXPECT_EQ(fake(0).seen(Type::get), 2);
}

TEST_F(ClientNodesTest, CloseInFlightCancelsAndThenNothingRuns) {
  add_node();
  add_node(false);
  add_node();
  world_->partition("client", "node2", true);
  open_client();
  const std::string at_zero = key_on(0), at_two = key_on(2);
  plant(0, at_zero, pattern(4 * kMiB, 1));
  std::vector<Named> read = {{at_zero, Bytes(4 * kMiB)}, {at_two, Bytes(10)}};
  std::vector<GetBlock> asked;
  for (auto& [key, bytes] : read) {
    asked.push_back({.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes});
  }
  int finished = 0;
  bool closed = false;
  const auto request = client_->get(space_, asked, 0, [&] { finished += 1; });
  ASSERT_TRUE(run_until([&] { return fake(0).seen(Type::get) == 1; }));
  client_->close([&] { closed = true; });
  ASSERT_TRUE(run_until([&] { return closed; }, 500));
  EXPECT_EQ(finished, 1);
  EXPECT_EQ(request->codes()[0], Code::cancelled);
  EXPECT_EQ(request->codes()[1], Code::cancelled);
  Bytes bytes(10);
  const auto late = begin_get("k", bytes, 0, [&] { finished += 1; });
  EXPECT_TRUE(late->done());
  EXPECT_EQ(late->codes()[0], Code::shutdown);
  EXPECT_EQ(finished, 2);
  run_for(5000);
  EXPECT_EQ(fake(0).peers(), 0u);
  client_.reset();
  run_for(5000);
}

TEST_F(ClientNodesTest, ADestroyedRequestEndsByItself) {
  add_node();
  open_client();
  swallow(0, {Type::get});
  Bytes bytes(100);
  int finished = 0;
  begin_get("k", bytes, 0, [&] { finished += 1; }).reset();
  ASSERT_TRUE(run_until([&] { return finished == 1; }, 1000));
  EXPECT_EQ(finished, 1);
}

TEST_F(ClientNodesTest, FinishedMayBeginTheNextRequest) {
  add_node();
  open_client();
  plant(0, "k", pattern(100, 1));
  Bytes bytes(100);
  int left = 20;
  std::vector<std::unique_ptr<Request>> requests;
  std::function<void()> next = [&] {
    if (!requests.empty()) {
      EXPECT_TRUE(requests.back()->done());
      EXPECT_TRUE(requests.back()->wait(0));  // does not wait inside of `finished`
      requests.pop_back();
    }
    if (left-- > 0) requests.push_back(begin_get("k", bytes, 0, [&] { next(); }));
  };
  next();
  ASSERT_TRUE(run_until([&] { return left < 0; }));
  EXPECT_EQ(client_->stats().get_ok, 20u);
}

TEST_F(ClientNodesTest, ARefusedGreetingIsToldInItsSentence) {
  add_node();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::auth) return false;
    peer.say(Type::refuse, 0, wire::Refuse{.code = Code::denied, .text = "no such tenant"});
    return true;
  };
  open_client();
  Bytes bytes(10);
  EXPECT_EQ(get_one("k", bytes), Code::unreachable);
  EXPECT_NE(client_->health()[0].last_error.find("no such tenant"), std::string::npos);
  EXPECT_NE(client_->health()[0].last_error.find("denied"), std::string::npos);
}

TEST_F(ClientNodesTest, ANodeThatWantsATokenIsNotGivenNone) {
  add_node();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::hello) return false;
    peer.say(Type::challenge, 0, wire::Challenge{.auth = 0});
    return true;
  };
  open_client();
  Bytes bytes(10);
  EXPECT_EQ(get_one("k", bytes), Code::unreachable);
  EXPECT_NE(client_->health()[0].last_error.find("token"), std::string::npos);
  EXPECT_EQ(fake(0).seen(Type::auth), 0);
}

TEST_F(ClientNodesTest, ANodeThatChoosesAVersionThatWasNotOfferedIsUnreachable) {
  add_node();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::hello) return false;
    Bytes body(wire::kSmallBodyMax);
    body.resize(wire::encode(wire::Challenge{}, body));
    body[0] = std::byte{2};
    peer.say_raw(Type::challenge, 0, body);
    return true;
  };
  open_client();
  Bytes bytes(10);
  EXPECT_EQ(get_one("k", bytes), Code::unreachable);
  const std::string why = client_->health()[0].last_error;
  EXPECT_TRUE(why.starts_with("unsupported: ")) << why;
  EXPECT_NE(why.find("a version that was not offered, this side speaks 1"), std::string::npos)
      << why;
  EXPECT_EQ(fake(0).seen(Type::auth), 0);
}

TEST_F(ClientNodesTest, ANodeThatNeverGreetsOpensItsBreaker) {
  add_node();
  swallow(0, {Type::hello});
  open_client();
  Bytes bytes(10);
  const std::uint64_t begin = now_ms();
  EXPECT_EQ(get_one("k", bytes, 30'000), Code::unreachable);
  EXPECT_LE(now_ms() - begin, 2 * kConnectTimeoutMs);
}

TEST_F(ClientNodesTest, ANodeThatHangsUpAtOnceIsNotHammered) {
  add_node();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header,
                         std::span<const std::byte> body) {
    peer.answer(header, body);
    if (header.type == Type::auth) peer.hang_up();
    return true;
  };
  open_client();
  run_for(60'000);
  EXPECT_GE(fake(0).connections, 30);
  EXPECT_LE(fake(0).connections, 90);
}

TEST_F(ClientNodesTest, ABadNetworkCostsBlocksAndNeverABytesTruth) {
  int ok = 0, failed = 0;
  std::uint64_t flips = 0, cuts = 0;
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    SCOPED_TRACE(seed);
    end_world();
    begin_world(seed);
    for (int i = 0; i < 3; ++i) add_node();
    open_client(800);
    sim::Faults faults;
    faults.cut_connection = 2'000;
    faults.flip_network = 8'000;
    faults.refuse_connect = 200'000;
    faults.hang_connect = 100'000;
    world_->set_faults(faults);
    std::vector<Named> blocks;
    for (int i = 0; i < 12; ++i) {
      blocks.emplace_back("k" + std::to_string(i), pattern(1 + 40'000 * i, seed * 100 + i));
    }
    for (int round = 0; round < 6; ++round) {
      const std::uint64_t begin = now_ms();
      (void)put(blocks);
      EXPECT_LE(now_ms() - begin, 850u);
      auto read = blocks;
      for (auto& [key, bytes] : read) std::ranges::fill(bytes, std::byte{0xee});
      const std::uint64_t reading = now_ms();
      const auto codes = get(read);
      EXPECT_LE(now_ms() - reading, 850u);
      for (std::size_t i = 0; i < blocks.size(); ++i) {
        (codes[i] == Code::ok ? ok : failed) += 1;
        EXPECT_TRUE(codes[i] != Code::ok || read[i] == blocks[i]) << blocks[i].first;
      }
      run_for(random_->below(400));
    }
    world_->set_faults({});
    const auto fired = world_->fired();
    if (fired.contains("flip_network")) flips += fired.at("flip_network");
    if (fired.contains("cut_connection")) cuts += fired.at("cut_connection");
  }
  EXPECT_GT(ok, 300);
  EXPECT_GT(failed, 100);
  EXPECT_GT(flips, 50u);
  EXPECT_GT(cuts, 20u);
}

TEST_F(ClientNodesTest, TheSameSeedIsTheSameRun) {
  std::vector<std::uint64_t> events;
  for (int run = 0; run < 2; ++run) {
    end_world();
    begin_world(77);
    for (int i = 0; i < 3; ++i) add_node(i != 1);
    open_client();
    std::vector<Named> blocks;
    for (int i = 0; i < 40; ++i) blocks.emplace_back("k" + std::to_string(i), pattern(70'000, i));
    (void)put(blocks);
    (void)get(blocks);
    run_for(3000);
    events.push_back(world_->events());
  }
  EXPECT_EQ(events[0], events[1]);
  EXPECT_GT(events[0], 1000u);
}

}  // namespace
}  // namespace memkv::testing
