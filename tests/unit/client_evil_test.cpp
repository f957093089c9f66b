// Nodes that break the protocol: the client closes the link, says why, never believes a byte of it,
// and goes on with a node that behaves.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "support/client_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

constexpr std::size_t kBlockBytes = 200'000;  // three whole units and a short one
constexpr std::uint32_t kUnits = 4;

// What an evil node answers to the frame that asks.
struct Evil {
  const char* name;
  Type asks;  // which of the client's frames provokes it
  std::function<void(FakePeer&, std::uint64_t request, const Bytes& block)> answer;
};
std::ostream& operator<<(std::ostream& out, const Evil& evil) {
  return out << evil.name;
}

wire::GetBlock honest_get_block(const Bytes& crcs) {
  return {.item = 0,
          .code = Code::ok,
          .incarnation = 1,
          .block_length = kBlockBytes,
          .first_unit = 0,
          .crcs = crcs};
}

template <typename Writer, typename Head, typename Record>
void say_list(FakePeer& peer, Type type, std::uint64_t request, int count, Head head,
              Record record) {
  Bytes body(1000);
  Writer writer(body, head);
  for (int i = 0; i < count; ++i) EXPECT_TRUE(writer.add(record));
  peer.say_raw(type, request, writer.body());
}

void say_numbers(FakePeer& peer, Type type, std::uint64_t request,
                 std::initializer_list<std::uint32_t> numbers) {
  Bytes body(numbers.size() * 4);
  ByteWriter writer(body);
  for (const std::uint32_t number : numbers) writer.u32(number);
  peer.say_raw(type, request, body);
}

std::vector<Evil> evil_questions() {
  return {
      {"a match reply of too many", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_list<wire::MatchReplyWriter>(peer, Type::match_reply, request, 3,
                                          wire::MatchReplyHead{}, wire::Found{});
       }},
      {"a match reply of too few", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_list<wire::MatchReplyWriter>(peer, Type::match_reply, request, 1,
                                          wire::MatchReplyHead{}, wire::Found{});
       }},
      {"a drop reply of too many", Type::drop,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_list<wire::DropReplyWriter>(peer, Type::drop_reply, request, 3, wire::DropReplyHead{},
                                         wire::DropCode{Code::ok});
       }},
      {"a drop reply to a match", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_list<wire::DropReplyWriter>(peer, Type::drop_reply, request, 2, wire::DropReplyHead{},
                                         wire::DropCode{Code::ok});
       }},
      {"a match reply cut short", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_numbers(peer, Type::match_reply, request, {0, 0, 2, 1});
       }},
      {"a reply to nothing", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_list<wire::MatchReplyWriter>(peer, Type::match_reply, request + 1, 2,
                                          wire::MatchReplyHead{}, wire::Found{});
       }},
      {"a map nobody asked for", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_numbers(peer, Type::map_reply, request, {0, 0});
       }},
      {"a second welcome", Type::match,
       [](FakePeer& peer, std::uint64_t, const Bytes&) {
         peer.say(Type::welcome, 0, peer.node().welcome);
       }},
      {"a refusal that is a success", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         const Bytes body(4);
         peer.say_raw(Type::refuse, request, body);
       }},
      {"DATA for a match", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.send_bytes(request, 0, 0, Bytes(100));
       }},
      {"DATA for nothing", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.send_bytes(request + 1000, 0, 0, Bytes(100));
       }},
      {"a frame of the client's own", Type::match,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_numbers(peer, Type::cancel, request, {wire::kAllItems});
       }},
  };
}

std::vector<Evil> evil_gets() {
  const auto broken = [](const char* name, std::function<void(wire::GetBlock&, Bytes&)> breaks) {
    return Evil{name, Type::get,
                [breaks](FakePeer& peer, std::uint64_t request, const Bytes& block) {
                  Bytes crcs = packed_crcs(block, 0, kUnits - 1);
                  wire::GetBlock said = honest_get_block(crcs);
                  breaks(said, crcs);
                  peer.say(Type::get_block, request, said);
                  peer.send_bytes(request, said.item, 0, block);
                }};
  };
  const auto data = [](const char* name, std::uint32_t item, std::uint32_t offset,
                       std::size_t bytes) {
    return Evil{name, Type::get, [=](FakePeer& peer, std::uint64_t request, const Bytes& block) {
                  const Bytes crcs = packed_crcs(block, 0, kUnits - 1);
                  peer.say(Type::get_block, request, honest_get_block(crcs));
                  peer.send_bytes(request, item, offset, Bytes(bytes));
                }};
  };
  return {
      broken("an item never asked for", [](wire::GetBlock& said, Bytes&) { said.item = 2; }),
      broken("too few CRCs",
             [](wire::GetBlock& said, Bytes& crcs) {
               said.crcs = std::span(crcs).first(4 * (kUnits - 1));
             }),
      broken("too many CRCs",
             [](wire::GetBlock& said, Bytes& crcs) {
               crcs.resize(4 * (kUnits + 1));
               said.crcs = crcs;
               said.block_length = (kUnits + 1) * kUnitBytesMin;
             }),
      broken("another first unit",
             [](wire::GetBlock& said, Bytes& crcs) {
               said.first_unit = 1;
               said.crcs = std::span(crcs).first(4 * (kUnits - 1));
             }),
      broken("a block shorter than the range",
             [](wire::GetBlock& said, Bytes&) { said.block_length = kBlockBytes - 1; }),
      data("DATA that begins too late", 0, 1, 100),
      data("DATA for the other item", 1, 0, 100),
      data("DATA for an item never asked for", 7, 0, 100),
      data("more DATA than units", 0, 0, kBlockBytes + 1),
      {"DATA before its GET_BLOCK", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes& block) {
         peer.send_bytes(request, 0, 0, block);
       }},
      {"DATA again", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes& block) {
         peer.say(Type::get_block, request, honest_get_block(packed_crcs(block, 0, kUnits - 1)));
         peer.send_bytes(request, 0, 0, Bytes(block.begin(), block.begin() + 100));
         peer.send_bytes(request, 0, 0, block);
       }},
      {"a second GET_BLOCK", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes& block) {
         const Bytes crcs = packed_crcs(block, 0, kUnits - 1);
         peer.say(Type::get_block, request, honest_get_block(crcs));
         peer.say(Type::get_block, request, honest_get_block(crcs));
       }},
      {"a GET_BLOCK after its not_found", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes& block) {
         peer.say(Type::get_block, request, wire::GetBlock{.item = 1, .code = Code::not_found});
         const Bytes crcs = packed_crcs(block, 0, kUnits - 1);
         wire::GetBlock again = honest_get_block(crcs);
         again.item = 1;
         peer.say(Type::get_block, request, again);
       }},
      {"a GRANT for a get", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::grant, request, wire::Grant{.item = 0});
       }},
      {"an empty GET_BLOCK", Type::get,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say_raw(Type::get_block, request, {});
       }},
  };
}

std::vector<Evil> evil_puts() {
  const auto done = [](Code code, std::uint32_t item) {
    return wire::PutDone{.item = item, .code = code, .incarnation = code == Code::ok ? 1u : 0u};
  };
  return {
      {"a GRANT out of range", Type::put,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::grant, request, wire::Grant{.item = 2});
       }},
      {"two GRANTs", Type::put,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::grant, request, wire::Grant{.item = 1});
         peer.say(Type::grant, request, wire::Grant{.item = 1});
       }},
      {"a GRANT after exists", Type::put,
       [done](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::put_done, request, done(Code::exists, 1));
         peer.say(Type::grant, request, wire::Grant{.item = 1});
       }},
      {"ok before a GRANT", Type::put,
       [done](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::put_done, request, done(Code::ok, 1));
       }},
      {"ok before the COMMIT", Type::put,
       [done](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::grant, request, wire::Grant{.item = 1});
         peer.say(Type::put_done, request, done(Code::ok, 1));
       }},
      {"PUT_DONE out of range", Type::put,
       [done](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::put_done, request, done(Code::busy, 2));
       }},
      {"PUT_DONE twice", Type::put,
       [done](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.say(Type::put_done, request, done(Code::busy, 1));
         peer.say(Type::put_done, request, done(Code::busy, 1));
       }},
      {"DATA for a put", Type::put,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         peer.send_bytes(request, 0, 0, Bytes(100));
       }},
      {"a GRANT with a tail", Type::put,
       [](FakePeer& peer, std::uint64_t request, const Bytes&) {
         say_numbers(peer, Type::grant, request, {0, 0});
       }},
  };
}

std::vector<Evil> all_evils() {
  std::vector<Evil> evils = evil_questions();
  for (const auto& more : {evil_gets(), evil_puts()}) {
    evils.insert(evils.end(), more.begin(), more.end());
  }
  return evils;
}

class ClientEvilTest : public ClientWorldTest {
 protected:
  // Two items of the kind that the evil node waits for; the second one is never answered honestly.
  std::unique_ptr<Request> ask(Type type, std::vector<Named>& blocks) {
    std::vector<PutBlock> puts;
    std::vector<GetBlock> gets;
    std::vector<NamedBlock> names;
    for (auto& [key, bytes] : blocks) {
      puts.push_back({.key = key_bytes(key), .group = {}, .bytes = bytes});
      gets.push_back({.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes});
      names.push_back({.key = key_bytes(key), .group = {}});
    }
    switch (type) {
      case Type::put:
        return client_->put(space_, puts);
      case Type::get:
        return client_->get(space_, gets);
      case Type::match:
        return client_->match(space_, names);
      default:
        return client_->drop(space_, names);
    }
  }
};

class ClientEvilAnswerTest : public ClientEvilTest, public ::testing::WithParamInterface<Evil> {};

TEST_P(ClientEvilAnswerTest, ClosesTheLinkAndIsNotBelieved) {
  const Evil& evil = GetParam();
  add_node();
  open_client();
  const Bytes block = pattern(kBlockBytes, 1);
  plant(0, "good", block);
  fake(0).intercept = [&](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != evil.asks) return false;
    evil.answer(peer, header.request, block);
    return true;
  };
  // A put is longer than the pipe takes, so that no answer can come after its last byte.
  const std::size_t bytes = evil.asks == Type::put ? 4 * kMiB : kBlockBytes;
  std::vector<Named> asked = {{"a", Bytes(bytes)}, {"b", Bytes(bytes)}};
  const auto request = ask(evil.asks, asked);
  const std::uint64_t begin = now_ms();
  const auto codes = finish(*request);
  ASSERT_EQ(codes.size(), 2u);
  EXPECT_EQ(std::ranges::count(codes, Code::unreachable) > 0, true);
  for (const Code code : codes) EXPECT_NE(code, Code::ok);
  EXPECT_LT(now_ms() - begin, kTimeoutMsDefault) << "it was the deadline that ended it";
  EXPECT_TRUE(client_->health()[0].breaker_open);
  EXPECT_NE(client_->health()[0].last_error.find("protocol"), std::string::npos)
      << client_->health()[0].last_error;
  ASSERT_TRUE(run_until([&] { return fake(0).ends.size() == 1; }));

  fake(0).intercept = nullptr;
  ASSERT_TRUE(run_until([&] { return client_->health()[0].connected; }, 10'000));
  Bytes read(kBlockBytes);
  EXPECT_EQ(get_one("good", read), Code::ok);
  EXPECT_TRUE(read == block);
}

INSTANTIATE_TEST_SUITE_P(Evils, ClientEvilAnswerTest, ::testing::ValuesIn(all_evils()),
                         [](const auto& tested) {
                           std::string name = tested.param.name;
                           std::ranges::replace_if(
                               name, [](char c) { return std::isalnum(c) == 0; }, '_');
                           return name;
                         });

TEST_F(ClientEvilTest, RepliesToWhatIsOverAreIgnored) {
  add_node();
  open_client();
  plant(0, "k", pattern(100, 1));
  std::uint64_t first = 0;
  fake(0).intercept = [&](FakePeer&, const wire::Header& header, std::span<const std::byte>) {
    if (header.type == Type::get && first == 0) first = header.request;
    return false;
  };
  Bytes bytes(100);
  EXPECT_EQ(get_one("k", bytes), Code::ok);
  fake(0).peer()->say(Type::get_block, first, wire::GetBlock{.code = Code::not_found});
  fake(0).peer()->say(Type::grant, first, wire::Grant{});
  fake(0).peer()->send_bytes(first, 0, 0, Bytes(500));
  run_for(100);
  EXPECT_EQ(get_one("k", bytes), Code::ok);
  EXPECT_EQ(fake(0).connections, 1);
}

TEST_F(ClientEvilTest, AnEarlyNoRecallsTheBytesOfAPut) {
  add_node();
  open_client();
  fake(0).intercept = [](FakePeer& peer, const wire::Header& header, std::span<const std::byte>) {
    if (header.type != Type::put) return false;
    peer.say(Type::grant, header.request, wire::Grant{});
    peer.say(Type::put_done, header.request, wire::PutDone{.code = Code::device_error});
    return true;
  };
  EXPECT_EQ(put({{"k", pattern(4 * kMiB, 1)}}), all(1, Code::device_error));
  fake(0).intercept = nullptr;
  EXPECT_EQ(put({{"k", pattern(4 * kMiB, 1)}}), all(1, Code::ok));
  EXPECT_EQ(fake(0).connections, 1);
}

TEST_F(ClientEvilTest, AGreetingOutOfOrderIsNoGreeting) {
  add_node();
  Bytes bytes(10);
  const std::function<void(FakePeer&)> wrong[] = {
      [](FakePeer& peer) { peer.say(Type::welcome, 0, peer.node().welcome); },
      [](FakePeer& peer) { peer.say(Type::challenge, 5, wire::Challenge{}); },
      [](FakePeer& peer) { peer.say(Type::grant, 0, wire::Grant{}); },
      [](FakePeer& peer) { peer.send_bytes(1, 0, 0, Bytes(10)); },
      [](FakePeer& peer) { say_numbers(peer, Type::challenge, 0, {9}); },
      [](FakePeer& peer) { peer.say_raw(Type::challenge, 0, Bytes(kBodyBytesBeforeHello + 1)); },
  };
  for (const auto& greeting : wrong) {
    fake(0).intercept = [&](FakePeer& peer, const wire::Header& header,
                            std::span<const std::byte>) {
      if (header.type != Type::hello) return false;
      greeting(peer);
      return true;
    };
    open_client();
    EXPECT_EQ(get_one("k", bytes), Code::unreachable);
    EXPECT_TRUE(client_->health()[0].breaker_open);
    EXPECT_EQ(fake(0).seen(Type::get), 0);
    close_client();
  }
}

// Whatever a node says, in whatever order: every request ends, and ok means the right bytes.
class Madman {
 public:
  explicit Madman(std::uint64_t seed) : random_(seed) {}

  bool answer(FakePeer& peer, const wire::Header& header, std::span<const std::byte> body) {
    if (header.type == Type::hello || header.type == Type::auth) return false;
    if (random_.below(3) == 0) peer.answer(header, body);
    for (std::uint64_t i = random_.below(4); i > 0; --i) {
      if (!peer.gone()) say_something(peer, header);
    }
    return random_.below(4) != 0;
  }

 private:
  void say_something(FakePeer& peer, const wire::Header& header) {
    const auto item = static_cast<std::uint32_t>(random_.below(3));
    const std::uint64_t request = header.request - random_.below(2);
    const auto code = static_cast<Code>(random_.below(kCodeMax + 1));
    switch (random_.below(7)) {
      case 0:
        return peer.say(Type::grant, request, wire::Grant{.item = item});
      case 1:
        return peer.say(Type::put_done, request, wire::PutDone{.item = item, .code = code});
      case 2: {
        const Bytes crcs = pattern(4 * (1 + random_.below(4)), random_.next());
        wire::GetBlock said = honest_get_block(crcs);
        said.item = item;
        said.block_length = static_cast<std::uint32_t>(1 + random_.below(300'000));
        return peer.say(Type::get_block, request, said);
      }
      case 3: {
        const auto offset = static_cast<std::uint32_t>(random_.below(2) * random_.below(70'000));
        return peer.send_bytes(request, item, offset,
                               pattern(1 + random_.below(kBlockBytes), random_.next()));
      }
      case 4:
        return peer.say(Type::refuse, random_.below(4) == 0 ? 0 : request,
                        wire::Refuse{.code = code, .text = "mad"});
      case 5: {
        const auto type = static_cast<Type>(1 + random_.below(wire::kTypeMax));
        if (type == Type::data) return;
        return peer.say_raw(type, request, pattern(random_.below(60), random_.next()));
      }
      default:
        return say_list<wire::MatchReplyWriter>(peer, Type::match_reply, request,
                                                static_cast<int>(1 + random_.below(3)),
                                                wire::MatchReplyHead{}, wire::Found{});
    }
  }

  SeededRandom random_;
};

TEST_F(ClientEvilTest, AMadNodeNeitherHangsNorFoolsTheClient) {
  int served = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    end_world();
    begin_world(seed);
    add_node();
    open_client(1000);
    Madman madman(seed);
    fake(0).intercept = [&](FakePeer& peer, const wire::Header& header,
                            std::span<const std::byte> body) {
      return madman.answer(peer, header, body);
    };
    plant(0, "a", pattern(kBlockBytes, 1));
    plant(0, "b", pattern(kBlockBytes, 2));
    for (int round = 0; round < 12; ++round) {
      const Type types[] = {Type::get, Type::put, Type::match};
      const Type type = types[random_->below(3)];
      const bool get = type == Type::get;
      std::vector<Named> asked = {{get ? "a" : "c", Bytes(kBlockBytes)},
                                  {get ? "b" : "d", Bytes(kBlockBytes)}};
      const auto request = ask(type, asked);
      if (random_->below(4) == 0) {
        run_for(random_->below(3));
        request->cancel();
      }
      const auto codes = finish(*request);
      ASSERT_EQ(codes.size(), 2u);
      for (std::size_t i = 0; get && i < 2; ++i) {
        if (codes[i] != Code::ok) continue;
        served += 1;
        ASSERT_EQ(asked[i].second, pattern(kBlockBytes, i + 1));
      }
      run_for(random_->below(300));
    }
  }
  EXPECT_GT(served, 20);
}

}  // namespace
}  // namespace memkv::testing
