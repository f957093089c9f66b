// What a server answers: the opening, blocks in and out, and everything that breaks the protocol's
// rules.
#include "server/server.h"

#include <gtest/gtest.h>

#include <sstream>

#include "support/server_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ServerTest : public ServerWorldTest {
 protected:
  static Body map_of(std::uint32_t epoch, const std::vector<std::string>& addresses) {
    Body bytes(kBodyBytesMax);
    wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = epoch});
    for (const std::string& address : addresses) {
      EXPECT_TRUE(writer.add({.node = node_id_of(address), .weight = 1, .address = address}));
    }
    const auto body = writer.body();
    return {body.begin(), body.end()};
  }
  [[nodiscard]] std::string line_of_stat(const std::string& name) const {
    std::istringstream text(server_->stats_text());
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(name + " ")) return line.substr(name.size() + 1);
    }
    return "no such line";
  }
};

// ---- the opening

TEST_F(ServerTest, SaysWhoItIs) {
  ServerOptions options;
  options.advertise = "store-7.example:9900";
  options.weight = 42;
  serve(std::move(options));
  RawClient& peer = client();
  const auto welcome = wire::decode_welcome(*peer.find(Type::welcome, 0));
  ASSERT_TRUE(welcome);
  EXPECT_EQ(welcome->node, node_id_of("store-7.example:9900"));
  EXPECT_EQ(welcome->boot, 7U);
  EXPECT_EQ(welcome->requests_max, kRequestsPerPeerMax);
  EXPECT_EQ(welcome->put_bytes_granted_max, kPutBytesGrantedPerPeer);
  EXPECT_EQ(welcome->software, "memkvd " MEMKV_VERSION);

  peer.say(Type::map, 1);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::map_reply, 1) == 1; }));
  auto map = wire::MapReplyReader::open(*peer.find(Type::map_reply, 1));
  ASSERT_TRUE(map);
  EXPECT_EQ(map->head().epoch, welcome->epoch);
  ASSERT_EQ(map->count(), 1U);
  const wire::MapNode self = *map->next();
  EXPECT_EQ(self.node, welcome->node);
  EXPECT_EQ(self.weight, 42U);
  EXPECT_EQ(self.address, "store-7.example:9900");
  EXPECT_EQ(server_->address(), "node:9900");
}

TEST_F(ServerTest, HandsOutTheMapItWasGiven) {
  serve();
  RawClient& before = client();
  EXPECT_EQ(wire::decode_welcome(*before.find(Type::welcome, 0))->epoch, 1U);
  const Body map = map_of(7, {"a:1", "b:1"});
  server_->take_map(map);
  EXPECT_EQ(line_of_stat("epoch"), "7");
  EXPECT_EQ(line_of_stat("map_nodes"), "2");
  EXPECT_EQ(wire::decode_welcome(*client().find(Type::welcome, 0))->epoch, 7U);
  before.say(Type::map, 1);
  ASSERT_TRUE(runs_until([&] { return before.count(Type::map_reply, 1) == 1; }));
  EXPECT_EQ(*before.find(Type::map_reply, 1), map);

  // Every answer of a connection that is older than the map names it, too.
  Body keys(kBodyBytesMax);
  wire::DropWriter drop(keys, Namespace{});
  const Body key = key_of(0);
  ASSERT_TRUE(drop.add({key}));
  before.say_body(Type::drop, 2, drop.body());
  ASSERT_TRUE(runs_until([&] { return before.count(Type::drop_reply, 2) == 1; }));
  EXPECT_EQ(wire::DropReplyReader::open(*before.find(Type::drop_reply, 2))->head().epoch, 7U);
}

TEST_F(ServerTest, KeepsItsMapForAnOlderOrABrokenOne) {
  serve();
  const Body map = map_of(7, {"a:1"});
  server_->take_map(map);
  server_->take_map(map_of(7, {"b:1"}));
  server_->take_map(map_of(6, {"c:1", "d:1"}));
  EXPECT_EQ(line_of_stat("maps_refused"), "0");
  Body broken = map_of(9, {"e:1"});
  broken.pop_back();
  server_->take_map(broken);
  server_->take_map(fail(Code::protocol, "no frame"));
  EXPECT_EQ(line_of_stat("maps_refused"), "2");
  EXPECT_EQ(line_of_stat("epoch"), "7");
  RawClient& peer = client();
  peer.say(Type::map, 1);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::map_reply, 1) == 1; }));
  EXPECT_EQ(*peer.find(Type::map_reply, 1), map);
}

TEST_F(ServerTest, ItsStoreGoesByTheRulesOfTheMapThatItHolds) {
  serve();
  const auto file = [](std::uint32_t epoch, std::uint64_t quota, std::uint32_t rules_epoch) {
    MapFile made(map_of(epoch, {"node:9900", "b:1", "c:1"}));
    made.rules.resize(12 + 44);
    ByteWriter out(made.rules);
    out.u32(rules_epoch);
    out.u32(1);
    out.u32(0);
    out.u64(kDefaultTenant);
    out.raw(NamespaceId{std::byte{1}});
    out.u32(6);
    out.u32(60);
    out.u64(quota);
    out.u8(1);  // admission
    out.u8(1);  // copies
    out.zeros(2);
    return made;
  };
  server_->take_map(file(7, 300, 7));
  ASSERT_EQ(store_->rules.spaces.size(), 1U);
  EXPECT_EQ(store_->rules.spaces[0].quota_bytes, 100U) << "of three nodes that are alike";
  EXPECT_EQ(store_->rules.spaces[0].drop_generation, 6U);
  EXPECT_EQ(store_->rules.spaces[0].ttl_s, 60U);
  EXPECT_EQ(line_of_stat("namespaces_settled"), "1");
  server_->take_map(file(7, 600, 7));
  server_->take_map(file(6, 600, 6));
  EXPECT_EQ(store_->rules.spaces[0].quota_bytes, 100U) << "nothing newer came";
  server_->take_map(file(9, 600, 8));
  EXPECT_EQ(line_of_stat("epoch"), "7") << "a file is taken whole or not at all";
  EXPECT_EQ(line_of_stat("maps_refused"), "1");
  MapFile half = file(9, 600, 9);
  half.trust = std::vector<std::byte>(3);
  server_->take_map(std::move(half));
  EXPECT_EQ(line_of_stat("epoch"), "7") << "its trust is broken, so its rules do not hold";
  EXPECT_EQ(store_->rules.spaces[0].quota_bytes, 100U);
  EXPECT_EQ(line_of_stat("maps_refused"), "2");
  server_->take_map(map_of(10, {"node:9900"}));
  EXPECT_TRUE(store_->rules.spaces.empty());
}

TEST_F(ServerTest, ChallengesEveryPeerWithANonceOfItsOwn) {
  serve();
  const auto first = wire::decode_challenge(*client().find(Type::challenge, 0));
  const auto second = wire::decode_challenge(*client().find(Type::challenge, 0));
  ASSERT_TRUE(first && second);
  EXPECT_NE(first->nonce, second->nonce);
}

TEST_F(ServerTest, TakesTheHighestVersionThatBothSpeak) {
  serve();
  RawClient& peer = stranger();
  peer.say(Type::hello, 0, wire::Hello{.version_min = 1, .version_max = 65535, .name = "newer"});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::challenge, 0) == 1; }));
  const auto challenge = wire::decode_challenge(*peer.find(Type::challenge, 0));
  ASSERT_TRUE(challenge) << challenge.error().message();
  EXPECT_EQ(challenge->version, 1U);
  peer.auth();
  EXPECT_TRUE(runs_until([&] { return peer.count(Type::welcome, 0) == 1; }));
}

TEST_F(ServerTest, RefusesAnotherVersion) {
  serve();
  RawClient& peer = stranger();
  Body hello = body_of(wire::Hello{.name = "from tomorrow"});
  hello[0] = hello[2] = std::byte{2};
  peer.say_body(Type::hello, 0, hello);
  EXPECT_TRUE(is_refused(peer, Code::unsupported));
  EXPECT_NE(peer.refused(0).text.find("this side speaks 1"), std::string::npos)
      << peer.refused(0).text;
}

TEST_F(ServerTest, RefusesATransportItDoesNotSpeak) {
  serve();
  RawClient& peer = stranger();
  peer.say(Type::hello, 0, wire::Hello{.transports = 8, .name = "far"});
  EXPECT_TRUE(is_refused(peer, Code::unsupported));
}

TEST_F(ServerTest, RefusesTokensItDoesNotKnow) {
  serve();
  RawClient& peer = stranger();
  peer.hello();
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::challenge, 0) == 1; }));
  peer.auth(text_bytes("let me in"));
  EXPECT_TRUE(is_refused(peer, Code::denied));
  EXPECT_EQ(peer.count(Type::welcome, 0), 0U);
}

TEST_F(ServerTest, TheTenantComesFromTheToken) {
  Body seen_nonce;
  ServerOptions options;
  options.authenticate = [&](const Claim& claim) -> Result<Pass> {
    seen_nonce.assign(claim.nonce.begin(), claim.nonce.end());
    return Pass{.tenant = claim.token.size()};
  };
  serve(std::move(options));
  RawClient& one = client(text_bytes("1"));
  RawClient& two = client(text_bytes("22"));
  const auto challenge = wire::decode_challenge(*two.find(Type::challenge, 0)).value();
  EXPECT_TRUE(std::ranges::equal(seen_nonce, challenge.nonce));
  EXPECT_EQ(put(one, 1, 5, bytes_of(100, 1)).code, Code::ok);
  ask_get(two, 1, 5, 0, 100);
  EXPECT_EQ(wait_get_block(two, 1).code, Code::not_found);
  ask_get(one, 2, 5, 0, 100);
  EXPECT_EQ(wait_get_block(one, 2).code, Code::ok);
}

TEST_F(ServerTest, NothingIsLegalBeforeWelcome) {
  serve();
  RawClient& early = stranger();
  early.say(Type::stat, 1);
  EXPECT_TRUE(is_refused(early, Code::protocol));
  RawClient& impatient = stranger();
  impatient.hello();
  impatient.say(Type::map, 1);
  EXPECT_TRUE(is_refused(impatient, Code::protocol));
  RawClient& pushy = stranger();
  pushy.send_bytes(1, 0, 0, bytes_of(10, 1));
  EXPECT_TRUE(is_refused(pushy, Code::protocol));
}

TEST_F(ServerTest, NothingButRequestsIsLegalAfterWelcome) {
  serve();
  RawClient& again = client();
  again.hello();
  EXPECT_TRUE(is_refused(again, Code::protocol));
  RawClient& reversed = client();
  reversed.say(Type::grant, 1, wire::Grant{.item = 0});
  EXPECT_TRUE(is_refused(reversed, Code::protocol));
  RawClient& nameless = client();
  nameless.say(Type::stat, 0);
  EXPECT_TRUE(is_refused(nameless, Code::protocol));
  RawClient& padded = client();
  padded.say_body(Type::map, 1, bytes_of(4, 1));
  EXPECT_TRUE(is_refused(padded, Code::protocol));
}

// ---- frames that are none

TEST_F(ServerTest, RefusesWhatIsNoFrame) {
  serve();
  RawStream& http = raw_stream();
  http.send(text_bytes("GET / HTTP/1.1\r\nHost: node:9900\r\nUser-Agent: browser\r\n\r\n"));
  EXPECT_TRUE(is_refused(http, Code::protocol));

  RawStream& flipped = raw_stream();
  Body hello = frame_bytes(Type::hello, 0, body_of(wire::Hello{.name = "x"}));
  hello.back() ^= std::byte{1};
  flipped.send(hello);
  EXPECT_TRUE(is_refused(flipped, Code::protocol));
  EXPECT_EQ(stat("peers_broke_protocol"), 2U);
  EXPECT_EQ(stat("peers"), 0U);
}

TEST_F(ServerTest, RefusesBodiesOverTheLimit) {
  serve();
  RawStream& stranger = raw_stream();
  stranger.send(frame_bytes(Type::hello, 0, Body(kBodyBytesBeforeHello + 1)));
  EXPECT_TRUE(is_refused(stranger, Code::too_large));
}

// A PUT of one block, with a key of any length.
Body put_body_with_key(std::size_t key_bytes) {
  Body body(64 + key_bytes);
  ByteWriter writer(body);
  writer.zeros(20);  // namespace
  writer.u32(1);
  writer.u32(100);   // length
  writer.zeros(28);  // the traits
  writer.u16(static_cast<std::uint16_t>(key_bytes));
  writer.raw(Body(key_bytes, std::byte{'k'}));
  body.resize(writer.size());
  return body;
}

TEST_F(ServerTest, RefusesKeysOf0And513Bytes) {
  serve();
  RawClient& empty = client();
  empty.say_body(Type::put, 1, put_body_with_key(0));
  EXPECT_TRUE(is_refused(empty, Code::protocol));
  RawClient& longest = client();
  longest.say_body(Type::put, 1, put_body_with_key(512));
  EXPECT_TRUE(runs_until([&] { return longest.count(Type::grant, 1) == 1; }));
  RawClient& longer = client();
  longer.say_body(Type::put, 1, put_body_with_key(513));
  EXPECT_TRUE(is_refused(longer, Code::too_large));
  RawClient& cut = client();
  Body body = put_body_with_key(10);
  body.pop_back();
  cut.say_body(Type::put, 1, body);
  EXPECT_TRUE(is_refused(cut, Code::protocol));
}

// ---- blocks in

TEST_F(ServerTest, BlocksComeBackAsTheyWerePut) {
  fragment();
  serve();
  RawClient& peer = client();
  std::uint64_t request = 0;
  for (const std::size_t length :
       {std::size_t{1}, std::size_t{65536}, std::size_t{65537}, 3 * kMiB + 17}) {
    const Body bytes = bytes_of(length, length);
    const wire::PutDone done = put(peer, ++request, length, bytes);
    EXPECT_EQ(done.code, Code::ok);
    EXPECT_NE(done.incarnation, 0U);
    ask_get(peer, ++request, length, 0, static_cast<std::uint32_t>(length));
    const wire::GetBlock block = wait_get_block(peer, request);
    EXPECT_EQ(block.code, Code::ok);
    EXPECT_EQ(block.block_length, length);
    EXPECT_EQ(block.incarnation, done.incarnation);
    ASSERT_TRUE(runs_until([&] { return peer.got[{request, 0}].size() == length; }));
    EXPECT_EQ((peer.got[{request, 0}]), bytes);
  }
  EXPECT_TRUE(peer.in_order);
  ASSERT_TRUE(runs_until([&] { return at_rest(); }));
  EXPECT_EQ(stat("put_bytes_granted"), 0U);
  EXPECT_EQ(stat("get_bytes_pinned"), 0U);
  EXPECT_EQ(stat("requests_open"), 0U);
}

TEST_F(ServerTest, ManyBlocksOfOneRequestInterleave) {
  fragment();
  serve();
  RawClient& peer = client();
  constexpr std::uint32_t kBlocks = 100;
  constexpr std::uint32_t kBytes = 3000;
  ask_put(peer, 1, std::vector<std::uint32_t>(kBlocks, kBytes));
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == kBlocks; }));
  for (std::uint32_t half = 0; half < 2; ++half) {
    for (std::uint32_t i = kBlocks; i-- > 0;) {
      const Body bytes = bytes_of(kBytes, i);
      const auto from = bytes.begin() + half * kBytes / 2;
      peer.send_bytes(1, i, half * kBytes / 2, Body(from, from + kBytes / 2));
    }
  }
  ASSERT_TRUE(runs_until([&] { return peer.sent == 2 * kBlocks; }));
  for (std::uint32_t i = 0; i < kBlocks; ++i) peer.commit(1, i, crcs_of(bytes_of(kBytes, i)));
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::put_done, 1) == kBlocks; }));
  for (std::uint32_t i = 0; i < kBlocks; ++i) EXPECT_EQ(put_done(peer, 1, i).code, Code::ok);

  std::vector<Body> keys;
  for (std::uint32_t i = 0; i < kBlocks; ++i) keys.push_back(key_of(i));
  std::vector<wire::GetItem> items;
  for (const Body& key : keys) items.push_back({.offset = 0, .length = kBytes, .key = key});
  peer.say_body(Type::get, 2, get_body(items));
  ASSERT_TRUE(runs_until([&] {
    return std::ranges::count_if(
               peer.got, [](const auto& got) { return got.second.size() == kBytes; }) == kBlocks;
  }));
  for (std::uint32_t i = 0; i < kBlocks; ++i) EXPECT_EQ((peer.got[{2, i}]), bytes_of(kBytes, i));
}

TEST_F(ServerTest, AnswersAtOnceWhatNeedsNoBytes) {
  serve();
  RawClient& peer = client();
  ASSERT_EQ(put(peer, 1, 1, bytes_of(500, 1)).code, Code::ok);
  EXPECT_EQ(put(peer, 2, 1, bytes_of(500, 1)).code, Code::exists);
  EXPECT_EQ(put(peer, 3, 1, bytes_of(501, 1)).code, Code::conflict);
  EXPECT_EQ(peer.count(Type::grant, 2) + peer.count(Type::grant, 3), 0U);
  EXPECT_EQ(put_done(peer, 2).incarnation, 0U);
}

TEST_F(ServerTest, WrongCrcsAreCorruptAndTheBlockMayBePutAgain) {
  serve();
  RawClient& peer = client();
  const Body bytes = bytes_of(200'000, 1);
  ask_put(peer, 1, {200'000});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 1; }));
  peer.send_bytes(1, 0, 0, bytes);
  ASSERT_TRUE(runs_until([&] { return peer.sent == 1; }));
  auto crcs = crcs_of(bytes);
  crcs.back() ^= 1;
  peer.commit(1, 0, crcs);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::put_done, 1) == 1; }));
  EXPECT_EQ(put_done(peer, 1).code, Code::corrupt);
  EXPECT_EQ(store_->blocks(), 0U);
  EXPECT_TRUE(at_rest());
  EXPECT_EQ(put(peer, 2, 0, bytes).code, Code::ok);
}

TEST_F(ServerTest, AWrongNumberOfCrcsIsInvalidAndTheConnectionGoesOn) {
  serve();
  RawClient& peer = client();
  const Body bytes = bytes_of(100, 1);
  ask_put(peer, 1, {100});
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 1; }));
  peer.send_bytes(1, 0, 0, bytes);
  ASSERT_TRUE(runs_until([&] { return peer.sent == 1; }));
  peer.commit(1, 0, std::vector<std::uint32_t>(2, 0));
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::put_done, 1) == 1; }));
  EXPECT_EQ(put_done(peer, 1).code, Code::invalid);
  EXPECT_TRUE(at_rest());
  EXPECT_EQ(put(peer, 2, 0, bytes).code, Code::ok);
}

// Asks for one block of 1000 bytes and has its grant.
#define GRANTED(peer)            \
  RawClient& peer = client();    \
  ask_put(peer, 1, {1000}, 900); \
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::grant, 1) == 1; }))

TEST_F(ServerTest, BytesThatDoNotFitTheGrantBreakTheProtocol) {
  serve();
  {
    GRANTED(hole);
    hole.send_bytes(1, 0, 10, bytes_of(10, 1));
    EXPECT_TRUE(is_refused(hole, Code::protocol));
  }
  ASSERT_TRUE(runs_until([&] { return at_rest(); }));
  {
    GRANTED(past);
    past.send_bytes(1, 0, 0, bytes_of(1001, 1));
    EXPECT_TRUE(is_refused(past, Code::protocol));
  }
  {
    GRANTED(twice);
    twice.send_bytes(1, 0, 0, bytes_of(600, 1));
    twice.send_bytes(1, 0, 0, bytes_of(100, 1));
    EXPECT_TRUE(is_refused(twice, Code::protocol));
  }
  {
    GRANTED(early);
    early.send_bytes(1, 0, 0, bytes_of(999, 1));
    ASSERT_TRUE(runs_until([&] { return early.sent == 1; }));
    early.commit(1, 0, crcs_of(bytes_of(999, 1)));
    EXPECT_TRUE(is_refused(early, Code::protocol));
  }
  {
    GRANTED(elsewhere);
    elsewhere.send_bytes(1, 1, 0, bytes_of(10, 1));
    EXPECT_TRUE(is_refused(elsewhere, Code::protocol));
  }
  EXPECT_TRUE(at_rest());
  EXPECT_EQ(store_->blocks(), 0U);
}

TEST_F(ServerTest, BytesWithoutAGrantBreakTheProtocol) {
  serve();
  store_->hold_grants = true;
  RawClient& impatient = client();
  ask_put(impatient, 1, {1000});
  ASSERT_TRUE(runs_until([&] { return store_->held() == 1; }));
  impatient.send_bytes(1, 0, 0, bytes_of(1000, 1));
  EXPECT_TRUE(is_refused(impatient, Code::protocol));
  EXPECT_TRUE(at_rest()) << "what waited at the store was called back";

  RawClient& hasty = client();
  ask_put(hasty, 1, {1000});
  hasty.commit(1, 0, std::vector<std::uint32_t>(1, 0));
  EXPECT_TRUE(is_refused(hasty, Code::protocol));
}

TEST_F(ServerTest, LateFramesOfWhatIsOverAreThrownAway) {
  serve();
  RawClient& peer = client();
  ASSERT_EQ(put(peer, 1, 1, bytes_of(500, 1)).code, Code::ok);
  peer.send_bytes(1, 0, 0, bytes_of(300'000, 2));
  peer.commit(1, 0, std::vector<std::uint32_t>(1, 0));
  peer.say(Type::cancel, 1, wire::Cancel{});
  peer.say(Type::cancel, 77, wire::Cancel{.item = 3});
  peer.say(Type::stat, 2);
  ASSERT_TRUE(runs_until([&] { return peer.sent == 2 && peer.count(Type::stat_reply, 2) == 1; }));
  EXPECT_FALSE(peer.closed);
  EXPECT_EQ(peer.count(Type::put_done, 1), 1U);
}

// ---- blocks out

TEST_F(ServerTest, ARangeBringsTheUnitsThatCoverIt) {
  serve();
  RawClient& peer = client();
  const Body bytes = bytes_of(5 * 65536 + 100, 3);
  ASSERT_EQ(put(peer, 1, 1, bytes).code, Code::ok);
  ask_get(peer, 2, 1, 65536 + 7, 65536);
  const wire::GetBlock block = wait_get_block(peer, 2);
  EXPECT_EQ(block.first_unit, 1U);
  ASSERT_EQ(block.crcs.size(), 2 * sizeof(std::uint32_t));
  std::vector<std::uint32_t> crcs(2);
  wire::load_crcs(block.crcs, crcs);
  ASSERT_TRUE(runs_until([&] { return peer.got[{2, 0}].size() == 2 * 65536; }));
  EXPECT_EQ((peer.first_offset[{2, 0}]), 65536U);
  EXPECT_TRUE(std::ranges::equal(peer.got[{2, 0}], std::span(bytes).subspan(65536, 2 * 65536)));
  EXPECT_EQ(crcs, crcs_of(std::span(bytes).subspan(65536, 2 * 65536)));
}

TEST_F(ServerTest, ARangeOutsideTellsTheLength) {
  serve();
  RawClient& peer = client();
  ASSERT_EQ(put(peer, 1, 1, bytes_of(1000, 1)).code, Code::ok);
  ask_get(peer, 2, 1, 1, 1000);
  const wire::GetBlock outside = wait_get_block(peer, 2);
  EXPECT_EQ(outside.code, Code::invalid);
  EXPECT_EQ(outside.block_length, 1000U);
  ask_get(peer, 3, 99, 0, 1);
  EXPECT_EQ(wait_get_block(peer, 3).code, Code::not_found);
}

// ---- many keys

TEST_F(ServerTest, LongListsAreWorkedOffInSlices) {
  serve();
  RawClient& peer = client();
  ASSERT_EQ(put(peer, 1, 7, bytes_of(1000, 1)).code, Code::ok);
  std::uint64_t event = 0;
  std::size_t in_a_task = 0;
  std::size_t most = 0;
  store_->on_match = [&] {
    in_a_task = world_->events() == event ? in_a_task + 1 : 1;
    event = world_->events();
    most = std::max(most, in_a_task);
  };
  Body body(kBodyBytesMax);
  wire::MatchWriter match(body, wire::MatchHead{.space = {}});
  for (std::size_t i = 0; i < 5000; ++i) ASSERT_TRUE(match.add({key_of(i)}));
  peer.say_body(Type::match, 2, match.body());
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::match_reply, 2) == 1; }));
  auto found = wire::MatchReplyReader::open(*peer.find(Type::match_reply, 2));
  ASSERT_TRUE(found);
  ASSERT_EQ(found->count(), 5000U);
  for (std::size_t i = 0; i < 5000; ++i) {
    const wire::Found one = *found->next();
    EXPECT_EQ(one.where, i == 7 ? wire::Where::dram : wire::Where::absent);
    EXPECT_EQ(one.length, i == 7 ? 1000U : 0U);
  }
  EXPECT_EQ(most, kMatchKeysPerSlice);
}

TEST_F(ServerTest, DropsAnswerInTheOrderOfTheirKeys) {
  serve();
  RawClient& peer = client();
  ASSERT_EQ(put(peer, 1, 3, bytes_of(10, 1)).code, Code::ok);
  ASSERT_EQ(put(peer, 2, 2999, bytes_of(10, 1)).code, Code::ok);
  Body body(kBodyBytesMax);
  wire::DropWriter drop(body, Namespace{});
  for (std::size_t i = 0; i < 3000; ++i) ASSERT_TRUE(drop.add({key_of(i)}));
  peer.say_body(Type::drop, 3, drop.body());
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::drop_reply, 3) == 1; }));
  auto dropped = wire::DropReplyReader::open(*peer.find(Type::drop_reply, 3));
  ASSERT_TRUE(dropped);
  ASSERT_EQ(dropped->count(), 3000U);
  for (std::size_t i = 0; i < 3000; ++i) {
    EXPECT_EQ(dropped->next()->code, i == 3 || i == 2999 ? Code::ok : Code::not_found);
  }
  EXPECT_EQ(store_->blocks(), 0U);
}

TEST_F(ServerTest, ReportsReachTheStoreButNotMoreThanItCanCheck) {
  serve();
  RawClient& peer = client();
  const Body key = key_of(1);
  for (std::uint64_t i = 0; i < 200; ++i) {
    peer.say(Type::report, 1, wire::Report{.space = {}, .incarnation = i, .key = key});
  }
  peer.say(Type::stat, 2);
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::stat_reply, 2) == 1; }));
  ASSERT_EQ(store_->reports.size(), kReportsPerPeerPerSecond);
  EXPECT_EQ(store_->reports[3], (std::pair<TenantId, std::uint64_t>{kDefaultTenant, 3}));
  EXPECT_EQ(stat("reports_ignored"), 200 - kReportsPerPeerPerSecond);
}

}  // namespace
}  // namespace memkv::testing
