// The server's door: who comes in with what, what they may do inside, and how long.
#include <gtest/gtest.h>

#include <set>
#include <sstream>

#include "support/server_world.h"
#include "support/tokens.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ServerTrustTest : public ServerWorldTest {
 protected:
  void serve_trusting(Anonymous anonymous = Anonymous::no) {
    ServerOptions options;
    options.anonymous = anonymous;
    options.wall_s = [this] { return wall_s_; };
    serve(std::move(options));
  }
  void trust(const std::vector<std::pair<TenantId, TestTenant>>& tenants) {
    Body bytes(64);
    wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = ++epoch_});
    const auto made = writer.body();
    MapFile file{Body(made.begin(), made.end())};
    file.trust = trust_body(tenants);
    server_->take_map(std::move(file));
    EXPECT_EQ(stat("epoch"), epoch_);
  }
  void trust_both() {
    trust({{5, {.keys = {{TestKey(0x11), 0}}}}, {6, {.keys = {{TestKey(0x12), 0}}}}});
  }
  static TestToken of_six() { return {.tenant = 6, .key = TestKey(0x12), .id = trust_id(0x46)}; }

  Body nonce_of(RawClient& peer) {
    peer.hello();
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::challenge, 0) == 1; }));
    const auto nonce = wire::decode_challenge(*peer.find(Type::challenge, 0))->nonce;
    return {nonce.begin(), nonce.end()};
  }
  static void auth(RawClient& peer, const Body& token, const Body& proof) {
    peer.say(Type::auth, 0, wire::Auth{.token = token, .proof = proof});
  }
  RawClient& come(const TestToken& token) {
    RawClient& peer = stranger();
    const Body nonce = nonce_of(peer);
    auth(peer, token.bytes(), proof_of(token.holder, nonce, 1, "node:9900"));
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::welcome, 0) == 1; }));
    return peer;
  }
  // The sentence of its refusal.
  std::string sentence(RawClient& peer) {
    EXPECT_TRUE(is_refused(peer, Code::denied));
    EXPECT_EQ(peer.count(Type::welcome, 0), 0U);
    return peer.refused(0).text;
  }
  Code refusal_of(RawClient& peer, std::uint64_t request) {
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::refuse, request) == 1; }));
    return peer.refused(request).code;
  }
  void ask_named(RawClient& peer, Type type, std::uint64_t request, std::size_t key) {
    const Body name = key_of(key);
    Body body(kBodyBytesMax);
    if (type == Type::drop) {
      wire::DropWriter writer(body, Namespace{});
      ASSERT_TRUE(writer.add({name}));
      peer.say_body(type, request, writer.body());
    } else {
      wire::MatchWriter writer(body, wire::MatchHead{});
      ASSERT_TRUE(writer.add({name}));
      peer.say_body(type, request, writer.body());
    }
  }

  // STAT's lines about tenants and namespaces, as the peer hears them: their names.
  std::set<std::string> named_in_stat(RawClient& peer) {
    const std::uint64_t request = ++last_stat_;
    peer.say(Type::stat, request);
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::stat_reply, request) == 1; }));
    std::istringstream text{std::string(as_text_of(*peer.find(Type::stat_reply, request)))};
    std::set<std::string> names;
    for (std::string line; std::getline(text, line);) {
      const std::string name = line.substr(0, line.find(' '));
      for (const char* what : {"namespace_", "usage_", "copies_"}) {
        if (name.starts_with(what) && name != "copies_blocks" && name != "copies_waiting") {
          names.insert(name);
        }
      }
    }
    return names;
  }
  // Tenants 1, 5 and 6 have used the same two namespaces: 0 and 9, each in its hexadecimal digits.
  void use_two_namespaces() {
    RawClient& five = come({});
    RawClient& six = come(of_six());
    EXPECT_EQ(put(five, 1, 0, bytes_of(100, 1)).code, Code::ok);
    EXPECT_EQ(put(six, 1, 0, bytes_of(100, 1)).code, Code::ok);
    for (const TenantId tenant : {1, 5, 6}) {
      for (const NamespaceId& id : {NamespaceId{}, trust_id(9)}) {
        store_->usage.spaces.push_back({.tenant = tenant, .id = id, .bytes = 7});
        store_->space_copies.push_back({.tenant = tenant, .id = id, .counts = {.blocks = 1}});
      }
      store_->usage.tenants.push_back({.tenant = tenant, .bytes = 9});
    }
  }
  // The names of a tenant's lines; it has put blocks into namespace 0 alone.
  static std::set<std::string> lines_of(TenantId tenant) {
    const std::string number = std::to_string(tenant);
    const std::string zero = "_" + number + "_" + std::string(32, '0');
    std::set<std::string> names = {"usage_" + number, "usage" + zero, "copies" + zero};
    if (tenant != kDefaultTenant) names.insert("namespace" + zero);
    names.merge(lines_of_nine(tenant));
    return names;
  }
  static std::set<std::string> lines_of_nine(TenantId tenant) {
    std::string nine = "_" + std::to_string(tenant) + "_";
    for (int i = 0; i < 16; ++i) nine += "09";
    return {"usage" + nine, "copies" + nine};
  }

  std::uint64_t last_stat_ = 1000;
  std::uint64_t wall_s_ = 1'000'100;
  std::uint32_t epoch_ = 1;
};

TEST_F(ServerTrustTest, TenantsDoNotSeeEachOther) {
  serve_trusting(Anonymous::yes);
  trust_both();
  RawClient& five = come({});
  RawClient& six = come(of_six());
  RawClient& nobody = client();
  EXPECT_EQ(put(five, 1, 0, bytes_of(100, 1)).code, Code::ok);
  ask_get(six, 1, 0, 0, 100);
  ask_get(nobody, 1, 0, 0, 100);
  ask_get(five, 2, 0, 0, 100);
  EXPECT_EQ(wait_get_block(six, 1).code, Code::not_found);
  EXPECT_EQ(wait_get_block(nobody, 1).code, Code::not_found);
  EXPECT_EQ(wait_get_block(five, 2).code, Code::ok);
}

TEST_F(ServerTrustTest, WhateverIsWrongTheRefusalIsTheSame) {
  serve_trusting();
  trust({{5, {.keys = {{TestKey(0x11), 0}}, .revoked = {trust_id(1)}}},
         {6, {.keys = {{TestKey(0x12), 0}}}}});
  std::set<std::string> sentences;
  const auto tries = [&](const TestToken& token, const TestKey& prover,
                         std::string_view node = "node:9900") {
    RawClient& peer = stranger();
    const Body nonce = nonce_of(peer);
    auth(peer, token.bytes(), proof_of(prover, nonce, 1, node));
    sentences.insert(sentence(peer));
  };
  const TestToken good;
  tries({.magic = "MKT2"}, good.holder);
  tries({.tenant = 6}, good.holder);
  tries({.tenant = 9}, good.holder);
  tries({.key = TestKey(0x13)}, good.holder);
  tries({.id = trust_id(1)}, good.holder);
  tries({.until_s = wall_s_ - kTokenSkewS}, good.holder);
  tries({.issued_s = wall_s_ + kTokenSkewS + 1}, good.holder);
  tries(good, TestKey(0x66));
  tries(good, good.holder, "elsewhere:9900");
  RawClient& rubbish = stranger();
  (void)nonce_of(rubbish);
  auth(rubbish, text_bytes("let me in"), text_bytes("please"));
  sentences.insert(sentence(rubbish));
  RawClient& empty = stranger();
  (void)nonce_of(empty);
  empty.auth();
  sentences.insert(sentence(empty));
  EXPECT_EQ(sentences.size(), 1U);
  EXPECT_EQ(stat("peers_welcome"), 0U);
  come(good);
}

TEST_F(ServerTrustTest, AnAuthThatWasOverheardOpensNoOtherConnection) {
  serve_trusting();
  trust_both();
  const TestToken token;
  RawClient& first = stranger();
  const Body proof = proof_of(token.holder, nonce_of(first), 1, "node:9900");
  auth(first, token.bytes(), proof);
  ASSERT_TRUE(runs_until([&] { return first.count(Type::welcome, 0) == 1; }));
  RawClient& second = stranger();
  (void)nonce_of(second);
  auth(second, token.bytes(), proof);
  EXPECT_FALSE(sentence(second).empty());
}

TEST_F(ServerTrustTest, ARightThatIsNotInTheTokenIsRefusedAndNoBlockIsLookedAt) {
  serve_trusting();
  trust_both();
  RawClient& all = come({});
  ASSERT_EQ(put(all, 1, 0, bytes_of(100, 1)).code, Code::ok);
  RawClient& reader = come({.rights = kRightRead});
  RawClient& writer = come({.rights = kRightWrite});
  RawClient& dropper = come({.rights = kRightDrop});
  for (RawClient* peer : {&reader, &writer, &dropper}) {
    for (const std::size_t key : {0, 1}) {  // there, and not there: one answer
      const std::uint64_t at = 10 * key;
      ask_get(*peer, at + 1, key, 0, 100);
      ask_named(*peer, Type::match, at + 2, key);
    }
    if (peer == &reader) continue;
    for (const std::uint64_t request : {1, 2, 11, 12}) {
      EXPECT_EQ(refusal_of(*peer, request), Code::denied) << request;
    }
  }
  EXPECT_EQ(wait_get_block(reader, 1).code, Code::ok);
  EXPECT_EQ(wait_get_block(reader, 11).code, Code::not_found);
  ask_put(reader, 3, {5}, 7);
  EXPECT_EQ(refusal_of(reader, 3), Code::denied);
  ask_put(dropper, 3, {5}, 7);
  EXPECT_EQ(refusal_of(dropper, 3), Code::denied);
  EXPECT_EQ(put(writer, 3, 7, bytes_of(5, 1)).code, Code::ok);
  ask_named(writer, Type::drop, 4, 0);
  EXPECT_EQ(refusal_of(writer, 4), Code::denied);
  ask_named(dropper, Type::drop, 4, 0);
  EXPECT_TRUE(runs_until([&] { return dropper.count(Type::drop_reply, 4) == 1; }));
  writer.say(Type::stat, 5);
  EXPECT_TRUE(runs_until([&] { return writer.count(Type::stat_reply, 5) == 1; }));
}

TEST_F(ServerTrustTest, AnotherNamespaceThanTheTokensIsRefused) {
  serve_trusting();
  trust_both();
  RawClient& inside = come({.spaces = {trust_id(9), NamespaceId{}}});
  EXPECT_EQ(put(inside, 1, 0, bytes_of(100, 1)).code, Code::ok);
  RawClient& outside = come({.spaces = {trust_id(9)}});
  ask_get(outside, 1, 0, 0, 100);
  ask_put(outside, 2, {5}, 7);
  ask_named(outside, Type::match, 3, 0);
  ask_named(outside, Type::drop, 4, 0);
  for (const std::uint64_t request : {1, 2, 3, 4}) {
    EXPECT_EQ(refusal_of(outside, request), Code::denied) << request;
  }
  ask_get(inside, 2, 0, 0, 100);
  EXPECT_EQ(wait_get_block(inside, 2).code, Code::ok);
}

TEST_F(ServerTrustTest, AListTakesTheRightToReadAndEveryNamespace) {
  serve_trusting();
  trust_both();
  store_->listing.blocks.push_back({.key = key_of(0), .incarnation = 1, .length = 1});
  std::uint64_t request = 0;
  NamespaceId body{};
  body[8] = std::byte{1};  // whose bytes are those with which the LIST below begins
  for (const TestToken& token : {TestToken{.rights = kRightWrite}, TestToken{.rights = kRightDrop},
                                 TestToken{.rights = kRightWrite | kRightDrop},
                                 TestToken{.spaces = {body, NamespaceId{}}}}) {
    RawClient& peer = come(token);
    peer.say(Type::list, ++request, wire::List{.count = 1});
    EXPECT_EQ(refusal_of(peer, request), Code::denied) << request;
  }
  EXPECT_TRUE(store_->wishes.empty()) << "the store was not asked";
  RawClient& reader = come({.rights = kRightRead});
  reader.say(Type::list, 1, wire::List{.count = 1});
  EXPECT_TRUE(runs_until([&] { return reader.count(Type::list_reply, 1) == 1; }));
  ASSERT_EQ(store_->wishes.size(), 1U);
  EXPECT_EQ(store_->wishes[0].tenant, 5U);
}

TEST_F(ServerTrustTest, AMarkTakesTheRightToWriteAndTheNamespace) {
  serve_trusting();
  trust_both();
  RawClient& owner = come({});
  const wire::PutDone done = put(owner, 1, 0, bytes_of(100, 1));
  ASSERT_EQ(done.code, Code::ok);
  const Body key = key_of(0), absent = key_of(1);
  const auto mark = [&](RawClient& peer, std::uint64_t request, const Body& name) {
    peer.say(Type::mark, request,
             wire::Mark{.space = {}, .mark = 7, .incarnation = done.incarnation, .key = name});
  };
  const auto code_of = [&](RawClient& peer, std::uint64_t request) {
    EXPECT_TRUE(runs_until([&] { return peer.count(Type::mark_reply, request) == 1; }));
    return wire::decode_mark_reply(*peer.find(Type::mark_reply, request))->code;
  };
  for (const TestToken& token : {TestToken{.rights = kRightRead}, TestToken{.rights = kRightDrop},
                                 TestToken{.spaces = {trust_id(9)}}}) {
    RawClient& peer = come(token);
    mark(peer, 1, key);
    mark(peer, 2, absent);  // one answer
    EXPECT_EQ(refusal_of(peer, 1), Code::denied);
    EXPECT_EQ(refusal_of(peer, 2), Code::denied);
  }
  const BlockId block{.tenant = 5, .space = {}, .key = key};
  RawClient& six = come(of_six());
  mark(six, 1, key);
  EXPECT_EQ(code_of(six, 1), Code::not_found) << "another tenant's";
  EXPECT_EQ(store_->match(block, 0).mark, 0);
  RawClient& writer = come({.rights = kRightWrite, .spaces = {NamespaceId{}}});
  mark(writer, 1, key);
  mark(writer, 2, absent);
  EXPECT_EQ(code_of(writer, 1), Code::ok);
  EXPECT_EQ(code_of(writer, 2), Code::not_found);
  EXPECT_EQ(store_->match(block, 0).mark, 7);
}

TEST_F(ServerTrustTest, StatTellsATenantOfItsOwnNamespacesOnly) {
  serve_trusting(Anonymous::yes);
  trust({{0, {.keys = {{TestKey(0x10), 0}}}},
         {5, {.keys = {{TestKey(0x11), 0}}}},
         {6, {.keys = {{TestKey(0x12), 0}}}}});
  use_two_namespaces();
  EXPECT_EQ(named_in_stat(come({})), lines_of(5));
  EXPECT_EQ(named_in_stat(come(of_six())), lines_of(6));
  EXPECT_EQ(named_in_stat(come({.spaces = {trust_id(9)}})), lines_of_nine(5));
  EXPECT_TRUE(named_in_stat(come({.spaces = {trust_id(8)}})).empty());
  EXPECT_EQ(named_in_stat(client()), lines_of(kDefaultTenant)) << "who has no token";
  std::set<std::string> everything = {"namespace_other"};
  for (const TenantId tenant : {1, 5, 6}) everything.merge(lines_of(tenant));
  EXPECT_EQ(named_in_stat(come({.tenant = kAgentTenant, .key = TestKey(0x10)})), everything);
}

TEST_F(ServerTrustTest, StatTellsAllWhereNoTenantHasAKey) {
  serve_trusting(Anonymous::until_tenants);
  trust({{0, {.keys = {{TestKey(0x11), 0}}}}});  // the agent's own
  RawClient& nobody = client();
  store_->usage.tenants.push_back({.tenant = 7, .bytes = 9});
  EXPECT_EQ(named_in_stat(nobody), (std::set<std::string>{"namespace_other", "usage_7"}));
}

TEST_F(ServerTrustTest, WhenTheTokensTimeIsOverSoIsTheConnection) {
  serve_trusting();
  trust_both();
  const TestToken token;
  RawClient& asks = come(token);
  RawClient& rests = come(token);
  wall_s_ = token.until_s + kTokenSkewS - 1;
  ask_get(asks, 1, 0, 0, 100);
  EXPECT_EQ(wait_get_block(asks, 1).code, Code::not_found);
  wall_s_ += 1;
  asks.say(Type::stat, 2);
  EXPECT_TRUE(is_refused(asks, Code::denied));
  EXPECT_EQ(asks.count(Type::stat_reply, 2), 0U);
  EXPECT_TRUE(is_refused(rests, Code::denied, 2000));
}

TEST_F(ServerTrustTest, ANewMapTakesTrustBackFromOpenConnections) {
  serve_trusting();
  trust_both();
  RawClient& revoked = come({});
  RawClient& kept = come({.id = trust_id(0x45)});
  RawClient& six = come(of_six());
  trust({{5, {.keys = {{TestKey(0x11), 0}}, .revoked = {trust_id(0x44)}}},
         {6, {.keys = {{TestKey(0x12), wall_s_ + 10}, {TestKey(0x14), 0}}}}});
  EXPECT_TRUE(is_refused(revoked, Code::denied));
  kept.say(Type::stat, 1);
  six.say(Type::stat, 1);
  EXPECT_TRUE(runs_until(
      [&] { return kept.count(Type::stat_reply, 1) == 1 && six.count(Type::stat_reply, 1) == 1; }));
  wall_s_ += 10;  // the end of the former key
  EXPECT_TRUE(is_refused(six, Code::denied, 2000));
  EXPECT_FALSE(kept.closed.has_value());
}

TEST_F(ServerTrustTest, StrangersComeInUntilThereAreTenants) {
  serve_trusting(Anonymous::until_tenants);
  RawClient& before = client();
  trust({{0, {.keys = {{TestKey(0x11), 0}}}}});  // the agent's own
  RawClient& still = client();
  trust_both();
  EXPECT_TRUE(is_refused(before, Code::denied));
  EXPECT_TRUE(is_refused(still, Code::denied));
  RawClient& late = stranger();
  (void)nonce_of(late);
  EXPECT_EQ(wire::decode_challenge(*late.find(Type::challenge, 0))->auth & wire::kAuthOpen, 0U);
  late.auth();
  EXPECT_FALSE(sentence(late).empty());
}

TEST_F(ServerTrustTest, AnOlderMapGivesNoTrustBack) {
  serve_trusting();
  trust_both();
  epoch_ = 10;
  trust({{5, {.keys = {{TestKey(0x11), 0}}, .revoked = {trust_id(0x44)}}}});
  Body bytes(64);
  wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = 10});
  const auto made = writer.body();
  MapFile old{Body(made.begin(), made.end())};
  old.trust = trust_body({{5, {.keys = {{TestKey(0x11), 0}}}}});
  server_->take_map(std::move(old));
  RawClient& peer = stranger();
  const TestToken token;
  const Body nonce = nonce_of(peer);
  auth(peer, token.bytes(), proof_of(token.holder, nonce, 1, "node:9900"));
  EXPECT_FALSE(sentence(peer).empty());
}

TEST_F(ServerTrustTest, AMapWhoseTrustIsBrokenChangesNothing) {
  serve_trusting();
  trust_both();
  Body bytes(64);
  wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = 50});
  const auto made = writer.body();
  MapFile broken{Body(made.begin(), made.end())};
  broken.trust = Body(3);
  server_->take_map(std::move(broken));
  EXPECT_EQ(stat("maps_refused"), 1U);
  EXPECT_EQ(stat("epoch"), epoch_);
  come({});
}

TEST_F(ServerTrustTest, ACrowdAtTheDoorIsBoundedAndDisturbsNobodyInside) {
  serve_trusting();
  trust_both();
  RawClient& inside = come({});
  std::vector<RawClient*> crowd;
  // One more than there may be; which of them comes last, the network decides.
  for (std::size_t i = 0; i <= kPeersGreetingMax; ++i) crowd.push_back(&stranger());
  EXPECT_EQ(put(inside, 1, 0, bytes_of(100, 1)).code, Code::ok);
  std::multiset<Code> heard;
  for (RawClient* one : crowd) {
    ASSERT_TRUE(runs_until([&] { return one->closed.has_value(); }, 3000));
    heard.insert(one->refused(0).code);
  }
  EXPECT_EQ(heard.count(Code::busy), 1U);
  EXPECT_EQ(heard.count(Code::timeout), kPeersGreetingMax);
  come({});
}

}  // namespace
}  // namespace memkv::testing
