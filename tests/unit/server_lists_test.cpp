// LIST and MARK as a server answers them.
#include <gtest/gtest.h>

#include "support/server_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ServerListsTest : public ServerWorldTest {};

TEST_F(ServerListsTest, AListIsTheTenantsAndWhatTheStoreSays) {
  serve();
  RawClient& peer = client();
  store_->listing.next = 77;
  store_->listing.blocks.push_back({.space = {},
                                    .key = key_of(5),
                                    .incarnation = 9,
                                    .length = 1000,
                                    .traits = {.group = {.high = 1, .low = 2}},
                                    .reads = 3,
                                    .mark = 4});
  peer.say(
      Type::list, 2,
      wire::List{
          .cursor = 5, .count = 10, .reads_min = 3, .mark_not = 8, .copies_min = 2, .dram = 1});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::list_reply, 2) == 1; }));
  auto reply = wire::ListReplyReader::open(*peer.find(Type::list_reply, 2));
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->head().next, 77U);
  ASSERT_EQ(reply->count(), 1U);
  const wire::Listed one = *reply->next();
  EXPECT_EQ(one.incarnation, 9U);
  EXPECT_EQ(one.length, 1000U);
  EXPECT_EQ(one.traits.group, (Fingerprint{.high = 1, .low = 2}));
  EXPECT_EQ(one.reads, 3);
  EXPECT_EQ(one.mark, 4);
  ASSERT_EQ(store_->wishes.size(), 1U);
  EXPECT_EQ(store_->wishes[0].tenant, kDefaultTenant);
  EXPECT_EQ(store_->wishes[0].cursor, 5U);
  EXPECT_EQ(store_->wishes[0].count, 10U);
  EXPECT_EQ(store_->wishes[0].reads_min, 3);
  EXPECT_EQ(store_->wishes[0].mark_not, 8);
  EXPECT_EQ(store_->wishes[0].copies_min, 2);
  EXPECT_TRUE(store_->wishes[0].in_dram);
}

TEST_F(ServerListsTest, TheLongestListFitsIntoAFrame) {
  serve();
  RawClient& peer = client();
  for (std::uint32_t i = 0; i < kListMax; ++i) {
    store_->listing.blocks.push_back(
        {.space = {}, .key = Body(kKeyBytesMax, std::byte{1}), .incarnation = i, .length = 1});
  }
  peer.say(Type::list, 2, wire::List{.count = kListMax});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::list_reply, 2) == 1; }));
  EXPECT_EQ(wire::ListReplyReader::open(*peer.find(Type::list_reply, 2))->count(), kListMax);
}

TEST_F(ServerListsTest, FewListsAtATimeAndACancelledOneSaysNothing) {
  serve();
  RawClient& peer = client();
  store_->hold_lists = true;
  for (std::uint64_t request = 1; request <= kListsPerPeerMax + 1; ++request) {
    peer.say(Type::list, request, wire::List{.count = 1});
  }
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::refuse, kListsPerPeerMax + 1) == 1; }));
  const auto refused = wire::decode_refuse(*peer.find(Type::refuse, kListsPerPeerMax + 1));
  EXPECT_EQ(refused->code, Code::busy);
  peer.say(Type::cancel, 1, wire::Cancel{});
  peer.say(Type::stat, 100);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::stat_reply, 100) == 1; }));
  store_->release();
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::list_reply, kListsPerPeerMax) == 1; }));
  EXPECT_EQ(peer.count(Type::list_reply, 1), 0U);
  peer.say(Type::list, 1, wire::List{.count = 1});  // its number is free
  EXPECT_TRUE(runs_until([&] { return peer.count(Type::list_reply, 1) == 1; }));
}

TEST_F(ServerListsTest, AMarkIsOfOneIncarnationAndAnswersSayIt) {
  serve();
  RawClient& peer = client();
  const auto done = put(peer, 1, 7, bytes_of(1000, 1));
  ASSERT_EQ(done.code, Code::ok);
  const Body key = key_of(7);
  std::uint64_t request = 1;
  const auto mark = [&](std::uint8_t what, std::uint64_t incarnation) {
    peer.say(Type::mark, ++request,
             wire::Mark{.space = {}, .mark = what, .incarnation = incarnation, .key = key});
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::mark_reply, request) == 1; }));
    return wire::decode_mark_reply(*peer.find(Type::mark_reply, request))->code;
  };
  const auto copied = [&] {
    Body body(wire::kSmallBodyMax);
    wire::MatchWriter match(body, wire::MatchHead{.space = {}});
    EXPECT_TRUE(match.add({key}));
    peer.say_body(Type::match, ++request, match.body());
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::match_reply, request) == 1; }));
    return wire::MatchReplyReader::open(*peer.find(Type::match_reply, request))->next()->copied;
  };
  EXPECT_EQ(mark(1, done.incarnation + 1), Code::not_found);
  EXPECT_EQ(copied(), 0);
  EXPECT_EQ(mark(1, done.incarnation), Code::ok);
  EXPECT_EQ(copied(), 1);
  EXPECT_EQ(mark(2, done.incarnation), Code::ok);
  EXPECT_EQ(copied(), 0);
}

}  // namespace
}  // namespace memkv::testing
