// What a server does with peers that ask for too much, are slow, silent or gone, and when it stops.
#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <string>

#include "base/limits.h"
#include "base/log.h"
#include "support/server_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ServerLimitsTest : public ServerWorldTest {
 protected:
  // A welcome peer that is granted one block of 1 MB.
  RawClient& granted_client() {
    RawClient& peer = client();
    ask_put(peer, 1, {1'000'000}, 500);
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 1; }));
    return peer;
  }
  // As many blocks as one GET may ask for.
  void ask_many(RawClient& peer, std::uint64_t request) {
    const Body key = key_of(1);
    peer.say_body(Type::get, request,
                  get_body(std::vector<wire::GetItem>(kBatchMax, {.length = 1, .key = key})));
  }
  // A DROP of nearly 1 MiB.
  std::size_t ask_large_drop(RawClient& peer, std::uint64_t request) {
    Body body(kBodyBytesMax);
    wire::DropWriter writer(body, Namespace{});
    const Body key(60, std::byte{'k'});
    for (std::uint32_t i = 0; i < kItemsMax; ++i) EXPECT_TRUE(writer.add({key}));
    peer.say_body(Type::drop, request, writer.body());
    return writer.body().size();
  }

  struct Rush {
    std::size_t most = 0;      // peers at a time
    std::size_t told = 0;      // that they are too many
    std::size_t shut_out = 0;  // without a word
  };
  // So many come at the same moment, say nothing, and are gone again.
  Rush rush(std::size_t count) {
    Rush seen;
    std::vector<std::unique_ptr<RawStream>> crowd;
    for (std::size_t i = 0; i < count; ++i) {
      crowd.push_back(std::make_unique<RawStream>(people_->network(), "node:9900"));
    }
    EXPECT_TRUE(runs_until(
        [&] {
          seen.most = std::max<std::size_t>(seen.most, stat("peers"));
          return std::ranges::all_of(crowd, [](const auto& one) { return one->ended; });
        },
        2 * kHelloDeadlineMs));
    for (const auto& one : crowd) {
      const auto frames = one->frames();
      seen.shut_out += one->received.empty();
      seen.told += frames.size() == 1 && frames[0].type == Type::refuse &&
                   wire::decode_refuse(frames[0].body)->code == Code::busy;
    }
    std::ranges::move(crowd, std::back_inserter(streams_));
    return seen;
  }
};

// ---- bounds

TEST_F(ServerLimitsTest, MoreRequestsAtATimeAreRefusedAndTheConnectionGoesOn) {
  serve();
  RawClient& peer = client();
  store_->hold_gets = true;
  const std::uint64_t over = kRequestsPerPeerMax + 1;
  for (std::uint64_t request = 1; request <= over; ++request) ask_get(peer, request, 1, 0, 100);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, over) == 1; }));
  EXPECT_EQ(peer.refused(over).code, Code::busy);
  EXPECT_EQ(stat("requests_open"), kRequestsPerPeerMax);
  store_->release();
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::get_block, kRequestsPerPeerMax) == 1; }));
  EXPECT_EQ(peer.count(Type::get_block, over), 0U) << "a refused request is over";
  ask_get(peer, over + 1, 1, 0, 100);
  EXPECT_EQ(wait_get_block(peer, over + 1).code, Code::not_found);
}

TEST_F(ServerLimitsTest, MoreBlocksThanMayWaitAreRefused) {
  serve();
  RawClient& peer = client();
  store_->hold_gets = true;
  constexpr std::uint64_t kFit = kItemsPerPeerMax / kBatchMax;
  for (std::uint64_t request = 1; request <= kFit; ++request) ask_many(peer, request);
  ask_get(peer, kFit + 1, 1, 0, 1);
  ask_put(peer, kFit + 2, {5}, 7);
  for (const std::uint64_t over : {kFit + 1, kFit + 2}) {
    ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, over) == 1; }));
    EXPECT_EQ(peer.refused(over).code, Code::busy);
    EXPECT_EQ(peer.refused(over).text, "more than 8192 blocks wait");
  }
  EXPECT_EQ(stat("requests_open"), kFit);
  store_->release();
  const auto answered = [&](std::uint64_t request) { return peer.count(Type::get_block, request); };
  ASSERT_TRUE(runs_until([&] { return answered(kFit) == kBatchMax; }));
  EXPECT_EQ(answered(1), kBatchMax);
  EXPECT_EQ(answered(kFit + 1), 0U) << "a refused request is over";
  ask_get(peer, kFit + 3, 1, 0, 1);
  EXPECT_EQ(wait_get_block(peer, kFit + 3).code, Code::not_found);
}

TEST_F(ServerLimitsTest, MoreBytesOfRequestsAreRefused) {
  serve();
  RawClient& peer = client();
  store_->hold_drops = true;
  const std::uint64_t fit = kRequestBytesPerPeerMax / ask_large_drop(peer, 1);
  for (std::uint64_t request = 2; request <= fit + 1; ++request) ask_large_drop(peer, request);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, fit + 1) == 1; }));
  EXPECT_EQ(peer.refused(fit + 1).code, Code::busy);
  EXPECT_EQ(peer.refused(fit + 1).text, "more than 16777216 bytes of requests at a time");
  EXPECT_EQ(stat("requests_open"), fit);
  peer.say(Type::cancel, 2, wire::Cancel{});  // makes room for another
  ask_large_drop(peer, fit + 2);
  ask_large_drop(peer, fit + 3);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, fit + 3) == 1; }));
  EXPECT_EQ(peer.count(Type::refuse, fit + 2), 0U);
  EXPECT_EQ(stat("requests_open"), fit);
  store_->release();
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::drop_reply, fit + 2) == 1; }));
  EXPECT_EQ(stat("requests_open"), 0U);
}

TEST_F(ServerLimitsTest, ANumberInUseIsNotFree) {
  serve();
  RawClient& peer = client();
  store_->hold_gets = true;
  ask_get(peer, 9, 1, 0, 100);
  ask_put(peer, 9, {100});
  EXPECT_TRUE(is_refused(peer, Code::protocol));
}

TEST_F(ServerLimitsTest, GrantedBytesAreBoundedAndOneBlockAlwaysGoes) {
  serve();
  RawClient& peer = client();
  const auto largest = static_cast<std::uint32_t>(kBlockBytesMax);
  ask_put(peer, 1, {largest, largest, largest, 10});
  run_for(1000);
  EXPECT_EQ(peer.count(Type::grant, 1), kPutBytesGrantedPerPeer / kBlockBytesMax);
  EXPECT_EQ(stat("put_bytes_granted"), kPutBytesGrantedPerPeer);
  // Whatever ends makes room for what waits, in its order.
  peer.say(Type::cancel, 1, wire::Cancel{.item = 0});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 3; }));
  EXPECT_EQ(wire::decode_grant(*peer.find(Type::grant, 1, 2))->item, 2U);
  peer.say(Type::cancel, 1, wire::Cancel{});
  ASSERT_TRUE(runs_until([&] { return at_rest(); }));
  EXPECT_EQ(stat("put_bytes_granted"), 0U);
  EXPECT_EQ(stat("requests_open"), 0U);
}

TEST_F(ServerLimitsTest, PinnedBytesAreBounded) {
  serve();
  RawClient& peer = client();
  store_->hold_gets = true;
  for (std::uint64_t request = 1; request <= 5; ++request) {
    ask_get(peer, request, request, 0, static_cast<std::uint32_t>(24 * kMiB));
  }
  run_for(1000);
  EXPECT_EQ(store_->open_gets(), 2U) << "3 × 24 MiB are more than 64 MiB";
  store_->release();
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::get_block, 5) == 1; }));
  EXPECT_EQ(store_->most_gets, 2U);
  EXPECT_TRUE(at_rest());
}

TEST_F(ServerLimitsTest, NobodyStandsInLineForMuchMemory) {
  serve();
  RawClient& peer = client();
  store_->is_short = store_->hold_gets = store_->hold_grants = true;
  constexpr std::size_t kBlocks = 20;
  const std::vector<std::uint32_t> lengths(kBlocks, kMiB);
  ask_put(peer, 1, lengths);
  for (std::uint64_t request = 2; request < 2 + kBlocks; ++request)
    ask_get(peer, request, request, 0, static_cast<std::uint32_t>(kMiB));
  run_for(1000);
  EXPECT_EQ(store_->open_puts(), kAskedBytesWhileShort / kMiB);
  EXPECT_EQ(store_->open_gets(), kAskedBytesWhileShort / kMiB);
  // What was answered makes room for what waits.
  store_->release();
  ASSERT_TRUE(runs_until(
      [&] {
        return peer.count(Type::grant, 1) == kBlocks &&
               peer.count(Type::get_block, kBlocks + 1) == 1;
      },
      2000));
  // One block may always be asked for.
  store_->hold_gets = true;
  ask_get(peer, 50, 50, 0, static_cast<std::uint32_t>(4 * kAskedBytesWhileShort));
  EXPECT_TRUE(runs_until([&] { return store_->open_gets() == 1; }));
}

TEST_F(ServerLimitsTest, PeersOverTheLimitAreToldAndDropped) {
  serve();
  for (std::size_t i = 0; i < kPeersMax; ++i) client();
  EXPECT_EQ(stat("peers"), kPeersMax);
  RawClient& surplus = stranger();
  EXPECT_TRUE(is_refused(surplus, Code::busy));
  // One that goes makes room.
  clients_.front()->link->close(Status(Code::cancelled));
  ASSERT_TRUE(runs_until([&] { return stat("peers") == kPeersMax - 1; }));
  EXPECT_EQ(put(client(), 1, 1, bytes_of(100, 1)).code, Code::ok);
}

TEST_F(ServerLimitsTest, ARushOnAFullNodeIsBoundedAndTheRestIsShutOut) {
  serve();
  for (std::size_t i = 0; i < kPeersMax; ++i) client();
  constexpr std::size_t kRush = 800;
  const Rush seen = rush(kRush);
  EXPECT_EQ(seen.most, kPeersMax + kPeersRefusedMax);
  EXPECT_GE(seen.told, kPeersRefusedMax);
  EXPECT_GT(seen.shut_out, 0U);
  EXPECT_EQ(seen.told + seen.shut_out, kRush);
  EXPECT_EQ(stat("peers_accepted"), kPeersMax + seen.told);
  EXPECT_EQ(stat("peers"), kPeersMax);
  EXPECT_EQ(put(*clients_.front(), 1, 1, bytes_of(100, 1)).code, Code::ok);
}

TEST_F(ServerLimitsTest, ARushOnTheDoorIsBoundedAndTheRestIsShutOut) {
  serve();
  for (std::size_t i = 0; i < kPeersGreetingMax; ++i) stranger();
  ASSERT_TRUE(runs_until([&] { return stat("peers") == kPeersGreetingMax; }));
  constexpr std::size_t kRush = 800;
  const Rush seen = rush(kRush);
  EXPECT_EQ(seen.most, kPeersGreetingMax + kPeersRefusedMax);
  EXPECT_GE(seen.told, kPeersRefusedMax);
  EXPECT_GT(seen.shut_out, 0U);
  EXPECT_EQ(seen.told + seen.shut_out, kRush);
}

// Fails when every refusal has its lines: a disk would be full of them.
TEST_F(ServerLimitsTest, WhoKnocksInALoopDoesNotFillTheLog) {
  constexpr std::uint64_t kKnocks = 100;
  std::string logged;
  set_log_sink([&logged](LogLevel, std::string_view line) { (logged += line) += '\n'; });
  serve({.anonymous = Anonymous::no});
  for (std::uint64_t i = 0; i < kKnocks; ++i) {
    RawClient& knocker = stranger();
    knocker.hello();
    ASSERT_TRUE(runs_until([&] { return knocker.count(Type::challenge, 0) == 1; }));
    knocker.auth();
    ASSERT_TRUE(is_refused(knocker, Code::denied));
  }
  ASSERT_LT(now_ms(), kStrangerLinesMs);
  run_for(kStrangerLinesMs + 1000);
  set_log_sink({});
  const auto count = [&logged](const std::string& words) {
    std::uint64_t found = 0;
    for (std::size_t at = 0; (at = logged.find(words, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  const std::string more = std::to_string(kKnocks - kStrangerLinesMax) + " more lines about peers";
  EXPECT_EQ(count(" is not let in: "), kStrangerLinesMax) << logged;
  EXPECT_EQ(count(" is dropped: denied"), kStrangerLinesMax);
  EXPECT_EQ(count(more + " that were not let in were left out"), 1U) << logged;
  EXPECT_EQ(count(more + " that were dropped were left out"), 1U);
  EXPECT_EQ(count("\n"), 2 * kStrangerLinesMax + 2);
}

// ---- slow and silent peers

TEST_F(ServerLimitsTest, ASilentPeerIsDroppedAtTheHelloDeadline) {
  serve();
  RawClient& silent = stranger();
  const std::uint64_t began = now_ms();
  EXPECT_TRUE(is_refused(silent, Code::timeout));
  EXPECT_GE(now_ms() - began, kHelloDeadlineMs);
  EXPECT_LE(now_ms() - began, kHelloDeadlineMs + 1000);

  RawClient& half = stranger();
  half.hello();
  EXPECT_TRUE(is_refused(half, Code::timeout)) << "a HELLO alone is not enough";
  EXPECT_EQ(stat("peers"), 0U);
  EXPECT_EQ(stat("peers_stalled"), 2U);
}

TEST_F(ServerLimitsTest, APeerThatAsksForNothingMayStay) {
  serve();
  RawClient& idle = client();
  run_for(20 * kPeerStallMs);
  EXPECT_FALSE(idle.closed);
  EXPECT_EQ(put(idle, 1, 1, bytes_of(100, 1)).code, Code::ok);
}

TEST_F(ServerLimitsTest, APeerThatOwesTheBytesOfAGrantIsDropped) {
  serve();
  RawClient& peer = granted_client();
  peer.send_bytes(1, 0, 0, bytes_of(500'000, 1));
  run_for(kPeerStallMs - 1000);
  EXPECT_FALSE(peer.closed);
  // Asking other things pays nothing back.
  peer.say(Type::stat, 2);
  const std::uint64_t began = now_ms();
  EXPECT_TRUE(is_refused(peer, Code::timeout));
  EXPECT_LE(now_ms() - began, 3000U);
  EXPECT_TRUE(at_rest());
  EXPECT_EQ(store_->aborted, 1U);
}

TEST_F(ServerLimitsTest, APeerThatOwesOnlyItsCommitIsDroppedToo) {
  serve();
  RawClient& peer = granted_client();
  peer.send_bytes(1, 0, 0, bytes_of(1'000'000, 1));
  EXPECT_TRUE(is_refused(peer, Code::timeout));
  EXPECT_TRUE(at_rest());
}

TEST_F(ServerLimitsTest, APeerThatIsSlowButMovesIsKept) {
  serve();
  RawClient& peer = granted_client();
  const Body bytes = bytes_of(1'000'000, 1);
  for (std::uint32_t at = 0; at < bytes.size(); at += 100'000) {
    run_for(kPeerStallMs / 2);
    const auto from = bytes.begin() + at;
    peer.send_bytes(1, 0, at, Body(from, from + 100'000));
  }
  ASSERT_TRUE(runs_until([&] { return peer.sent == 10; }));
  peer.commit(1, 0, crcs_of(bytes));
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::put_done, 1) == 1; }));
  EXPECT_EQ(put_done(peer, 1).code, Code::ok);
}

// 64 MiB of an arena of 256: a quarter, so it owes a quarter of the pace.
TEST_F(ServerLimitsTest, WhoHoldsMuchMustMoveItWhileOthersWait) {
  serve();
  RawClient& peer = client();
  ask_put(peer, 1, {static_cast<std::uint32_t>(kBlockBytesMax)}, 500);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 1; }));
  run_for(3 * kPaceMs);
  EXPECT_FALSE(peer.closed) << "nobody waits";

  store_->is_short = true;
  const std::uint64_t step = kPaceBytesPerSecond / 4 / 2 / kDataBytesMax * kDataBytesMax;
  for (std::uint32_t at = 0; at < 12 * step; at += step) {
    peer.send_bytes(1, 0, at, Body(step));
    run_for(500);
    ASSERT_FALSE(peer.closed) << at;
  }
  const std::uint64_t began = now_ms();
  EXPECT_TRUE(is_refused(peer, Code::timeout));
  EXPECT_LE(now_ms() - began, kPaceMs + 1000);
  EXPECT_EQ(stat("peers_slow"), 1U);
  EXPECT_TRUE(at_rest());
}

TEST_F(ServerLimitsTest, WhoHoldsLittleMayBeSlowWhileOthersWait) {
  serve();
  RawClient& little = granted_client();
  store_->is_short = true;
  run_for(kPeerStallMs / 2);
  EXPECT_FALSE(little.closed) << "its memory would help nobody";
  // When many together hold much one goes, who holds most.
  RawClient& more = client();
  ask_put(more, 1, {static_cast<std::uint32_t>(kBlockBytesMax / 2)}, 600);
  EXPECT_TRUE(is_refused(more, Code::timeout, 2 * kPaceMs));
  run_for(1000);
  EXPECT_FALSE(little.closed);
  EXPECT_EQ(stat("peers_slow"), 1U);
}

TEST_F(ServerLimitsTest, APeerThatStopsInTheMiddleOfAFrameIsDropped) {
  serve();
  for (const std::size_t bytes : {std::size_t{5}, wire::kHeaderBytes, wire::kHeaderBytes + 3}) {
    RawStream& stream = open_stream();
    const Body frame =
        frame_bytes(Type::get, 1, get_body({{.offset = 0, .length = 1, .key = key_of(1)}}));
    stream.send(std::span(frame).first(bytes));
    const std::uint64_t began = now_ms();
    EXPECT_TRUE(is_refused(stream, Code::timeout)) << bytes;
    EXPECT_GE(now_ms() - began, kPeerStallMs);
    EXPECT_LE(now_ms() - began, kPeerStallMs + 3000);
  }
}

TEST_F(ServerLimitsTest, APeerThatStopsInTheMiddleOfItsDataIsDropped) {
  serve();
  RawStream& stream = open_stream();
  Body put(200);
  wire::PutWriter writer(put, Namespace{});
  ASSERT_TRUE(writer.add({.length = 1000, .traits = {}, .key = key_of(1)}));
  stream.send(Type::put, 1, writer.body());
  ASSERT_TRUE(runs_until([&] { return stream.frames().size() == 3; }));
  Body data = frame_bytes(Type::data, 1, body_of(wire::Data{.item = 0, .offset = 0}), 1000);
  data.resize(data.size() + 400);
  stream.send(data);
  EXPECT_TRUE(is_refused(stream, Code::timeout));
  EXPECT_TRUE(at_rest());
  EXPECT_EQ(store_->aborted, 1U);
}

TEST_F(ServerLimitsTest, APeerThatDoesNotReadItsBlocksIsDropped) {
  serve();
  ASSERT_EQ(put(client(), 1, 1, bytes_of(8 * kMiB, 1)).code, Code::ok);
  RawStream& stream = open_stream();
  stream.reading = false;
  const Body key = key_of(1);
  std::vector<wire::GetItem> items(
      20, {.offset = 0, .length = static_cast<std::uint32_t>(8 * kMiB), .key = key});
  stream.send(Type::get, 1, get_body(items));
  ASSERT_TRUE(runs_until([&] { return store_->open_gets() > 0; }));
  run_for(1000);
  EXPECT_LE(stat("get_bytes_pinned"), kGetBytesInFlightPerPeer);
  ASSERT_TRUE(runs_until([&] { return stat("peers_stalled") == 1; }, 2 * kPeerStallMs));
  ASSERT_TRUE(runs_until([&] { return at_rest() && stat("peers") == 1; }));
  EXPECT_EQ(stat("get_bytes_pinned"), 0U);
}

TEST_F(ServerLimitsTest, APeerThatDoesNotReadItsAnswersGetsNoMoreOfThem) {
  serve();
  RawStream& stream = open_stream();
  stream.reading = false;
  Body body(kBodyBytesMax);
  wire::MatchWriter match(body, wire::MatchHead{.space = {}});
  for (std::size_t i = 0; i < kItemsMax; ++i) ASSERT_TRUE(match.add({text_bytes("k")}));
  // Each answer has 128 KiB: half of these fill the limit.
  constexpr std::uint64_t kRequests = 2 * kReplyBytesQueuedPerPeer / (8 * kItemsMax);
  for (std::uint64_t request = 1; request <= kRequests; ++request)
    stream.send(Type::match, request, match.body());
  ASSERT_TRUE(runs_until([&] { return stat("refused_busy") > 0; }));
  run_for(100);
  EXPECT_LT(stat("match_keys"), kRequests * kItemsMax * 3 / 4);
  ASSERT_TRUE(runs_until([&] { return stat("peers_stalled") == 1 && stat("peers") == 0; },
                         2 * kPeerStallMs));
}

TEST_F(ServerLimitsTest, WhoReadsLateGetsAllItsAnswers) {
  fragment();
  serve();
  RawStream& stream = open_stream();
  Body body(kBodyBytesMax);
  wire::MatchWriter match(body, wire::MatchHead{.space = {}});
  for (std::size_t i = 0; i < kItemsMax; ++i) ASSERT_TRUE(match.add({text_bytes("k")}));
  constexpr std::uint64_t kRequests = 40;
  for (std::uint64_t request = 1; request <= kRequests; ++request)
    stream.send(Type::match, request, match.body());
  ASSERT_TRUE(runs_until([&] { return stream.received.size() > kRequests * 8 * kItemsMax; }));
  // The last one may lack its end: how a stream cuts it is the seed's choice.
  EXPECT_TRUE(runs_until([&] { return stream.frames().size() == 2 + kRequests; }));
  EXPECT_EQ(stat("refused_busy"), 0U);
}

// ---- peers that go, and what they gave up

TEST_F(ServerLimitsTest, NothingOfALostPeerStays) {
  fragment();
  serve();
  ASSERT_EQ(put(client(), 1, 1, bytes_of(4 * kMiB, 1)).code, Code::ok);
  for (int round = 0; round < 8; ++round) {
    RawClient& peer = granted_client();
    peer.send_bytes(1, 0, 0, bytes_of(700'000, 1));
    ask_get(peer, 2, 1, 0, static_cast<std::uint32_t>(4 * kMiB));
    ask_get(peer, 3, 1, 0, static_cast<std::uint32_t>(4 * kMiB));
    run_for(static_cast<std::uint64_t>(round));
    peer.link->close(Status(Code::cancelled));
    ASSERT_TRUE(runs_until([&] { return stat("peers") == 1 && at_rest(); })) << round;
  }
  EXPECT_EQ(stat("put_bytes_granted"), 0U);
  EXPECT_EQ(stat("get_bytes_pinned"), 0U);
  EXPECT_EQ(stat("requests_open"), 0U);
  EXPECT_EQ(store_->aborted, 8U);
  EXPECT_GT(stat("bytes_in"), 4 * kMiB);
}

TEST_F(ServerLimitsTest, WhatALostPeerWaitedForIsCalledBack) {
  serve();
  store_->hold_grants = store_->hold_gets = store_->hold_drops = true;
  RawClient& peer = client();
  ask_put(peer, 1, {100, 200});
  ask_get(peer, 2, 1, 0, 10);
  Body body(1000);
  wire::DropWriter drop(body, Namespace{});
  ASSERT_TRUE(drop.add({key_of(1)}));
  peer.say_body(Type::drop, 3, drop.body());
  ASSERT_TRUE(runs_until([&] { return store_->held() == 4; }));
  peer.link->close(Status(Code::cancelled));
  ASSERT_TRUE(runs_until([&] { return at_rest() && stat("peers") == 0; }));
  store_->release();  // the answer to the drop finds nobody
  run_for(100);
}

TEST_F(ServerLimitsTest, CancelledRequestsAreNotAnswered) {
  fragment();
  serve();
  RawClient& peer = granted_client();
  ASSERT_EQ(put(peer, 5, 1, bytes_of(6 * kMiB, 1)).code, Code::ok);
  ask_get(peer, 6, 1, 0, static_cast<std::uint32_t>(6 * kMiB));
  ASSERT_TRUE(runs_until([&] { return peer.got[{6, 0}].size() > kMiB; }));
  store_->hold_grants = store_->hold_gets = store_->hold_drops = true;
  ask_put(peer, 7, {100, 200}, 300);
  ask_get(peer, 8, 1, 0, 10);
  Body body(1000);
  wire::DropWriter drop(body, Namespace{});
  ASSERT_TRUE(drop.add({key_of(42)}));
  peer.say_body(Type::drop, 9, drop.body());
  ASSERT_TRUE(runs_until([&] { return store_->held() == 4; }));
  for (const std::uint64_t request : {1, 6, 7, 8, 9})
    peer.say(Type::cancel, request, wire::Cancel{});
  ASSERT_TRUE(runs_until([&] { return at_rest() && stat("requests_open") == 0; }));
  store_->release();
  peer.say(Type::stat, 10);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::stat_reply, 10) == 1; }));
  run_for(1000);
  EXPECT_LT((peer.got[{6, 0}].size()), 6 * kMiB);
  EXPECT_EQ(peer.count(Type::put_done, 1) + peer.count(Type::put_done, 7) +
                peer.count(Type::get_block, 8),
            0U);
  EXPECT_EQ(peer.count(Type::drop_reply, 9), 0U);
  EXPECT_EQ(stat("put_bytes_granted") + stat("get_bytes_pinned"), 0U);
  EXPECT_FALSE(peer.closed);
}

// ---- the end

TEST_F(ServerLimitsTest, StopLetsBegunRequestsEnd) {
  serve();
  RawClient& idle = client();
  RawClient& peer = granted_client();
  bool stopped = false;
  server_->stop(5000, [&] { stopped = true; });
  EXPECT_TRUE(is_refused(idle, Code::shutdown));
  peer.say(Type::stat, 2);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, 2) == 1; }));
  EXPECT_EQ(peer.refused(2).code, Code::shutdown);
  EXPECT_FALSE(stopped);
  const Body bytes = bytes_of(1'000'000, 1);
  peer.send_bytes(1, 0, 0, bytes);
  ASSERT_TRUE(runs_until([&] { return peer.sent == 1; }));
  peer.commit(1, 0, crcs_of(bytes));
  ASSERT_TRUE(runs_until([&] { return stopped; }, 4000));
  EXPECT_EQ(put_done(peer, 1).code, Code::ok);
  EXPECT_TRUE(is_refused(peer, Code::shutdown));
  RawClient late(people_->network(), people_->executor(), "node:9900");
  ASSERT_TRUE(runs_until([&] { return late.closed.has_value(); }));
}

TEST_F(ServerLimitsTest, StopWaitsNoLongerThanItsGrace) {
  serve();
  RawClient& peer = granted_client();
  store_->hold_gets = true;
  ask_get(peer, 2, 1, 0, 10);
  ASSERT_TRUE(runs_until([&] { return store_->held() == 1; }));
  const std::uint64_t began = now_ms();
  bool stopped = false;
  server_->stop(700, [&] { stopped = true; });
  ASSERT_TRUE(runs_until([&] { return stopped; }));
  EXPECT_GE(now_ms() - began, 700U);
  EXPECT_LE(now_ms() - began, 1200U);
  EXPECT_TRUE(at_rest());
  EXPECT_TRUE(is_refused(peer, Code::shutdown));
}

TEST_F(ServerLimitsTest, StopWithoutPeersIsQuick) {
  serve();
  bool stopped = false;
  server_->stop(5000, [&] { stopped = true; });
  EXPECT_FALSE(stopped) << "never from inside the call";
  EXPECT_TRUE(runs_until([&] { return stopped; }, 100));
}

}  // namespace
}  // namespace memkv::testing
