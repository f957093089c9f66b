// Two links that talk to each other over the simulated network, in steps of any size.
#include <gtest/gtest.h>

#include "base/crc32c.h"
#include "unit/link_rig.h"

namespace memkv {
namespace {

TEST(UnitCrcs, AreTheSameHoweverTheBytesAreFed) {
  SeededRandom random(1);
  for (const std::size_t length : {1UL, 63UL, 64UL, 65UL, 1000UL, 4096UL}) {
    auto bytes = random_bytes(length, random);
    for (int round = 0; round < 20; ++round) {
      UnitCrcs crcs(64, length);
      for (const iovec& piece : random_pieces(bytes, 10, random)) {
        EXPECT_EQ(crcs.complete(),
                  static_cast<std::byte*>(piece.iov_base) == bytes.data() + length);
        crcs.feed({static_cast<std::byte*>(piece.iov_base), piece.iov_len});
      }
      EXPECT_TRUE(crcs.complete());
      crcs.feed(bytes);  // past the end: ignored
      ASSERT_EQ(crcs.crcs().size(), (length + 63) / 64);
      for (std::size_t unit = 0; unit < crcs.crcs().size(); ++unit) {
        const auto part = std::span(bytes).subspan(64 * unit, std::min(64UL, length - 64 * unit));
        EXPECT_EQ(crcs.crcs()[unit], crc32c(part));
      }
    }
  }
}

// One side of a conversation: random frames and shipments, and what must arrive of them.
struct Talk {
  std::vector<Frame> frames;
  std::map<Recorder::Name, std::vector<std::byte>> payloads;
  std::map<Recorder::Name, std::unique_ptr<UnitCrcs>> crcs;
  std::vector<std::uint64_t> sent;  // requests, in the order their `sent` was called
  std::size_t shipped_bytes = 0;

  void say_something(Link& link, Recorder& other, Random& random) {
    if (random.below(3) > 0) {
      const std::size_t sizes[] = {0, 20, 3000, 20'000, 100'000};
      const auto body = random_bytes(random.below(sizes[random.below(5)] + 1), random);
      const std::uint64_t request = 1 + random.below(1'000'000);
      frames.push_back({wire::Type::stat_reply, request, body});
      link.send(wire::Type::stat_reply, request, body);
      return;
    }
    const std::size_t sizes[] = {1, 5000, 70'000, 700'000};
    const std::size_t bytes = 1 + random.below(sizes[random.below(4)]);
    const Recorder::Name name = {1 + payloads.size(), random.below(7)};
    std::vector<std::byte>& memory = payloads[name] = random_bytes(bytes, random);
    auto& unit_crcs = crcs[name] = std::make_unique<UnitCrcs>(unit_bytes_of(bytes), bytes);
    other.expect(name.first, name.second, bytes);
    shipped_bytes += bytes;
    link.ship({.request = name.first,
               .item = name.second,
               .offset = 0,
               .pieces = random_pieces(memory, 30, random),
               .crcs = unit_crcs.get(),
               .sent = [this, request = name.first] { sent.push_back(request); }});
  }

  void check(const Recorder& got) const {
    EXPECT_EQ(got.frames, frames);
    EXPECT_EQ(sent.size(), payloads.size());
    EXPECT_TRUE(std::is_sorted(sent.begin(), sent.end())) << "shipments leave in their order";
    for (const auto& [name, bytes] : payloads) {
      const Landed& landed = *got.blocks.at(name);
      EXPECT_TRUE(landed.memory == bytes);
      EXPECT_EQ(landed.bytes, bytes.size());
      const auto truth = crcs_of(bytes, unit_bytes_of(bytes.size()));
      EXPECT_TRUE(std::ranges::equal(landed.crcs.crcs(), truth));
      EXPECT_TRUE(std::ranges::equal(crcs.at(name)->crcs(), truth));
      EXPECT_TRUE(landed.crcs.complete() && crcs.at(name)->complete());
    }
  }
};

TEST(Link, MovesFramesAndPayloadsWholeInBothDirections) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Links links(seed, seed % 4 == 0 ? 0 : 1'000'000);
    Talk left;
    Talk right;
    for (int i = 0; i < 30; ++i) {
      left.say_something(*links.left.link, links.right, links.random);
      right.say_something(*links.right.link, links.left, links.random);
      for (std::uint64_t n = links.random.below(40); n > 0; --n) links.world->step();
    }
    EXPECT_TRUE(links.run_until([&] {
      return links.right.frames.size() == left.frames.size() &&
             links.left.frames.size() == right.frames.size() &&
             links.right.landed_bytes == left.shipped_bytes &&
             links.left.landed_bytes == right.shipped_bytes &&
             left.sent.size() == left.payloads.size() && right.sent.size() == right.payloads.size();
    }));
    left.check(links.right);
    right.check(links.left);
    EXPECT_EQ(links.left.link->bytes_queued(), 0U);
    EXPECT_EQ(links.left.link->bytes_out(), links.right.link->bytes_in());
    EXPECT_EQ(links.right.link->bytes_out(), links.left.link->bytes_in());
    EXPECT_FALSE(links.left.closed || links.right.closed);
  }
}

TEST(Link, SmallFramesOvertakePayloads) {
  Links links(1);
  std::vector<std::byte> block(4 * kMiB);
  for (std::uint64_t request = 1; request <= 4; ++request) {
    links.right.expect(request, 0, block.size());
    links.left.link->ship({.request = request, .pieces = {{block.data(), block.size()}}});
  }
  ASSERT_TRUE(links.run_until([&] { return links.right.datas > 0; }));
  EXPECT_GT(links.left.link->bytes_queued(), 15 * kMiB);
  links.left.link->send(wire::Type::stat, 9, {});
  ASSERT_TRUE(links.run_until([&] { return !links.right.frames.empty(); }));
  EXPECT_LT(links.right.landed_bytes, 4 * kMiB);
}

TEST(Link, SentMaySendAndShip) {
  Links links(2);
  SeededRandom random(2);
  std::vector<std::byte> first = random_bytes(300'000, random);
  std::vector<std::byte> second = random_bytes(300'000, random);
  links.right.expect(1, 0, first.size());
  links.right.expect(2, 0, second.size());
  bool commit_came_last = false;
  links.right.when_frame = [&] { commit_came_last = links.right.landed_bytes >= first.size(); };
  links.left.link->ship({.request = 1, .pieces = {{first.data(), first.size()}}, .sent = [&] {
                           links.left.link->send(wire::Type::stat, 1, {});
                           links.left.link->ship(
                               {.request = 2, .pieces = {{second.data(), second.size()}}});
                         }});
  ASSERT_TRUE(links.run_until([&] { return links.right.landed_bytes == 600'000; }));
  EXPECT_TRUE(commit_came_last);
  EXPECT_TRUE(links.right.block(2, 0).memory == second);
}

TEST(Link, PayloadsNobodyWantsAreThrownAway) {
  Links links(3);
  std::vector<std::byte> block(700'000);
  std::vector<std::byte> wanted(5000, std::byte{7});
  links.right.expect(2, 0, wanted.size());
  links.left.link->ship({.request = 1, .pieces = {{block.data(), block.size()}}});
  links.left.link->ship({.request = 2, .pieces = {{wanted.data(), wanted.size()}}});
  ASSERT_TRUE(links.run_until([&] { return links.right.landed_bytes == wanted.size(); }));
  EXPECT_EQ(links.right.datas, 4);
  EXPECT_TRUE(links.right.block(2, 0).memory == wanted);
}

TEST(Link, KnowsWhenBytesMoved) {
  Links links(4);
  const std::uint64_t begin_ns = links.left.link->last_out_ns();
  EXPECT_EQ(links.left.link->bytes_out(), 0U);
  links.a->executor().post([] {});
  bool later = false;
  (void)links.a->executor().after(50 * kNsPerMs, [&] {
    links.left.link->send(wire::Type::stat, 1, {});
    later = true;
  });
  ASSERT_TRUE(links.run_until([&] { return later && !links.right.frames.empty(); }));
  EXPECT_GE(links.left.link->last_out_ns(), begin_ns + 50 * kNsPerMs);
  EXPECT_GE(links.right.link->last_in_ns(), begin_ns + 50 * kNsPerMs);
  EXPECT_EQ(links.left.link->bytes_out(), wire::kHeaderBytes);
  EXPECT_EQ(links.right.link->bytes_in(), wire::kHeaderBytes);
}

// A reader that is left asleep until a payload is there still sees that its peer moves bytes.
TEST(Link, APeerThatMovesTooFewBytesToWakeAReaderIsNotSilent) {
  int asleep = 0;
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    Ends ends(seed, 0);
    Recorder right;
    right.link = Link::start(std::move(ends.stream_b), ends.b->executor(), right, kBodyBytesMax);
    std::array<std::byte, wire::kHeaderBytes + wire::kDataBodyBytes> head{};
    const auto body = std::span(head).subspan<wire::kHeaderBytes>();
    ASSERT_EQ(wire::encode(wire::Data{.item = 0, .offset = 0}, body), wire::kDataBodyBytes);
    wire::encode_header({.type = wire::Type::data,
                         .request = 1,
                         .body_bytes = wire::kDataBodyBytes,
                         .payload_bytes = kDataBytesMax,
                         .body_crc = crc32c(body)},
                        std::span(head).first<wire::kHeaderBytes>());
    const iovec piece{head.data(), head.size()};
    ASSERT_EQ(ends.stream_a->write_some({&piece, 1}).bytes, head.size());
    ASSERT_TRUE(ends.run_until([&] { return right.datas == 1; }));
    ends.run_out();
    const std::uint64_t read = right.link->bytes_in();
    const std::uint64_t before_ns = right.link->last_in_ns();
    EXPECT_EQ(right.link->last_in_ns(), before_ns) << "nothing came";
    const iovec one{head.data(), 1};
    ASSERT_EQ(ends.stream_a->write_some({&one, 1}).bytes, 1U);
    ends.run_out();
    EXPECT_GT(right.link->last_in_ns(), before_ns);
    if (right.link->bytes_in() == read) ++asleep;
  }
  EXPECT_GT(asleep, 0);
}

// ---- recall

// Recalls one of three shipments at a random moment; its memory is gone from `quiet` on, so that a
// hand that still read it would be seen by the sanitizer, and its bytes by the others' contents.
TEST(Link, ARecalledShipmentLeavesTheOthersWhole) {
  int recalled_before_sent = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Links links(seed);
    std::map<std::uint64_t, std::vector<std::byte>> memory;
    std::map<std::uint64_t, std::unique_ptr<UnitCrcs>> crcs;
    std::map<std::uint64_t, int> sent;
    for (std::uint64_t request = 1; request <= 3; ++request) {
      memory[request] = random_bytes(1 + links.random.below(600'000), links.random);
      const std::size_t bytes = memory[request].size();
      crcs[request] = std::make_unique<UnitCrcs>(unit_bytes_of(bytes), bytes);
      links.right.expect(request, 5, bytes);
      links.left.link->ship({.request = request,
                             .item = 5,
                             .pieces = random_pieces(memory[request], 12, links.random),
                             .crcs = crcs[request].get(),
                             .sent = [&sent, request] { ++sent[request]; }});
    }
    for (std::uint64_t n = links.random.below(120); n > 0; --n) links.world->step();
    const std::uint64_t victim = 1 + links.random.below(3);
    const std::map<std::uint64_t, int> sent_before = sent;
    const std::vector<std::byte> truth = memory[victim];
    bool quiet = false;
    bool inside = true;
    const std::uint32_t item = links.random.below(2) == 0 ? 5 : wire::kAllItems;
    links.left.link->recall(victim, item, [&] {
      EXPECT_FALSE(inside) << "quiet comes from a later task";
      quiet = true;
      memory.erase(victim);
      crcs.erase(victim);
    });
    inside = false;
    links.left.link->send(wire::Type::stat, 9, {});
    ASSERT_TRUE(links.run_until([&] {
      return quiet && links.left.link->bytes_queued() == 0 && !links.right.frames.empty();
    }));
    links.run_out();
    EXPECT_FALSE(links.right.closed);
    for (const auto& [request, bytes] : memory) {
      EXPECT_TRUE(links.right.block(request, 5).memory == bytes);
      EXPECT_EQ(sent[request], 1);
    }
    const Landed& got = links.right.block(victim, 5);
    if (!sent_before.contains(victim)) {
      ++recalled_before_sent;
      EXPECT_FALSE(sent.contains(victim)) << "sent is not called after a recall";
    }
    // What did arrive are the first bytes of the truth, then zeros to the end of the frame.
    const auto end = std::mismatch(truth.begin(), truth.end(), got.memory.begin()).second;
    EXPECT_TRUE(std::all_of(end, got.memory.end(), [](std::byte b) { return b == std::byte{}; }));
  }
  EXPECT_GT(recalled_before_sent, 100);
}

TEST(Link, ARecalledLandingIsLeftAlone) {
  int recalled_in_the_middle = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Links links(seed);
    std::map<std::uint64_t, std::vector<std::byte>> memory;
    for (std::uint64_t request = 1; request <= 3; ++request) {
      memory[request] = random_bytes(1 + links.random.below(400'000), links.random);
      links.right.expect(request, 0, memory[request].size());
      links.left.link->ship(
          {.request = request, .pieces = random_pieces(memory[request], 5, links.random)});
    }
    const std::uint64_t victim = 1 + links.random.below(3);
    for (std::uint64_t n = links.random.below(250); n > 0; --n) links.world->step();
    const std::size_t landed = links.right.block(victim, 0).bytes;
    if (landed < memory[victim].size() && links.right.datas >= static_cast<int>(victim)) {
      ++recalled_in_the_middle;
    }
    bool quiet = false;
    // A frame that begins from now on finds no room; the memory is gone from `quiet` on.
    auto given_up = links.right.blocks.extract({victim, 0});
    links.right.link->recall(victim, 0, [&] {
      quiet = true;
      given_up = {};
    });
    links.left.link->send(wire::Type::stat, 9, {});
    ASSERT_TRUE(links.run_until([&] { return quiet && links.left.link->bytes_queued() == 0; }));
    links.run_out();
    EXPECT_FALSE(links.right.closed);
    EXPECT_EQ(links.right.frames.size(), 1U);
    for (const auto& [request, bytes] : memory) {
      if (request == victim) continue;
      EXPECT_TRUE(links.right.block(request, 0).memory == bytes);
      EXPECT_EQ(links.right.block(request, 0).bytes, bytes.size());
    }
  }
  EXPECT_GT(recalled_in_the_middle, 30);
}

TEST(Link, ARecallOfNothingIsQuietToo) {
  Links links(5);
  int quiet = 0;
  links.left.link->recall(77, wire::kAllItems, [&] { ++quiet; });
  EXPECT_EQ(quiet, 0);
  ASSERT_TRUE(links.run_until([&] { return quiet == 1; }));
}

TEST(Link, ARecallOfOneItemKeepsTheOthersOfItsRequest) {
  Links links(6);
  std::vector<std::byte> block(100'000, std::byte{9});
  for (std::uint32_t item = 0; item < 3; ++item) {
    links.right.expect(1, item, block.size());
    links.left.link->ship({.request = 1, .item = item, .pieces = {{block.data(), block.size()}}});
  }
  links.left.link->recall(1, 1, [] {});
  ASSERT_TRUE(links.run_until([&] { return links.right.landed_bytes == 200'000; }));
  links.run_out();
  EXPECT_EQ(links.right.block(1, 1).bytes, 0U);
  EXPECT_EQ(links.left.link->bytes_queued(), 0U);
}

// ---- close

TEST(Link, CloseTellsBothSidesOnce) {
  Links links(7);
  links.left.link->close(Status(Code::cancelled, "enough"));
  EXPECT_FALSE(links.left.closed) << "on_closed comes from a task of its own";
  ASSERT_TRUE(links.run_until([&] { return links.left.closed && links.right.closed; }));
  links.run_out();
  EXPECT_EQ(links.left.closed->code, Code::cancelled);
  EXPECT_EQ(links.left.closed->text, "enough");
  EXPECT_EQ(links.right.closed->code, Code::unreachable);
  EXPECT_NE(links.right.closed->text.find("the connection ended"), std::string::npos);
}

TEST(Link, AfterCloseNothingHappensButQuiet) {
  Links links(8);
  std::vector<std::byte> block(1000);
  int quiet = 0;
  bool sent = false;
  links.left.link->close(Code::cancelled);
  links.left.link->close(Code::internal);
  links.left.link->send(wire::Type::stat, 1, {});
  links.left.link->ship(
      {.request = 1, .pieces = {{block.data(), block.size()}}, .sent = [&] { sent = true; }});
  links.left.link->recall(1, wire::kAllItems, [&] { ++quiet; });
  links.run_out();
  EXPECT_EQ(links.left.closed->code, Code::cancelled);
  EXPECT_EQ(quiet, 1);
  EXPECT_FALSE(sent);
  EXPECT_TRUE(links.right.frames.empty());
}

TEST(Link, AFarewellIsSentFirst) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Links links(seed, 0);
    links.left.link->send(wire::Type::stat, 1, {});
    links.left.link->send(wire::Type::stat, 2, {});
    links.left.link->close(Code::shutdown, true);
    ASSERT_TRUE(links.run_until([&] { return links.left.closed && links.right.closed; }));
    EXPECT_EQ(links.right.frames.size(), 2U);
  }
}

// At any moment of a busy conversation, with memory that is freed in on_closed.
TEST(Link, ClosesAtAnyMoment) {
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    Links links(seed);
    std::vector<std::byte> out = random_bytes(600'000, links.random);
    UnitCrcs crcs(kUnitBytesMin, out.size());
    links.right.expect(1, 0, out.size());
    links.left.link->ship(
        {.request = 1, .pieces = random_pieces(out, 9, links.random), .crcs = &crcs});
    links.left.when_closed = [&] { out = {}; };
    links.right.when_closed = [&] { links.right.blocks.clear(); };
    for (std::uint64_t n = links.random.below(120); n > 0; --n) links.world->step();
    bool quiet = false;
    if (links.random.below(2) == 0) {
      links.left.link->recall(1, wire::kAllItems, [&] { quiet = true; });
    } else {
      quiet = true;
    }
    Recorder& side = links.random.below(2) == 0 ? links.left : links.right;
    side.link->close(Code::cancelled, links.random.below(2) == 0);
    ASSERT_TRUE(links.run_until([&] { return links.left.closed && links.right.closed; }));
    EXPECT_TRUE(quiet);
    links.run_out();
  }
}

TEST(Link, MayBeClosedInsideEveryCall) {
  for (const char* where : {"frame", "data", "landed", "sent", "quiet"}) {
    for (const bool farewell : {false, true}) {
      SCOPED_TRACE(where);
      Links links(9);
      std::vector<std::byte> block(300'000);
      links.right.expect(1, 0, block.size());
      links.right.expect(2, 0, block.size());
      int calls_after = 0;
      const auto close_right = [&] {
        ++calls_after;
        if (links.right.link) links.right.link->close(Code::cancelled, farewell);
      };
      const std::string_view name = where;
      if (name == "frame") links.right.when_frame = close_right;
      if (name == "data") links.right.when_data = close_right;
      if (name == "landed") links.right.when_landed = close_right;
      if (name == "sent") {
        links.left.expect(3, 0, block.size());
        for (int i = 0; i < 2; ++i) {
          links.right.link->ship(
              {.request = 3, .pieces = {{block.data(), 1000}}, .sent = [&] { close_right(); }});
        }
      }
      if (name == "quiet") links.right.link->recall(1, wire::kAllItems, close_right);
      for (std::uint64_t request = 1; request <= 2; ++request) {
        links.left.link->send(wire::Type::stat, request, {});
        links.left.link->send(wire::Type::stat, request, {});
        links.left.link->ship({.request = request, .pieces = {{block.data(), block.size()}}});
      }
      ASSERT_TRUE(links.run_until([&] { return links.left.closed && links.right.closed; }));
      links.run_out();
      EXPECT_EQ(calls_after, 1) << "nothing is called after close()";
      EXPECT_EQ(links.right.closed->code, Code::cancelled);
    }
  }
}

// The process dies: what was queued is destroyed unrun, and then the links are.
TEST(Link, DiesWithItsProcess) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    Links links(seed);
    std::vector<std::byte> block(600'000);
    links.right.expect(1, 0, block.size());
    links.left.link->ship({.request = 1, .pieces = {{block.data(), block.size()}}});
    for (std::uint64_t n = links.random.below(120); n > 0; --n) links.world->step();
    links.a->kill();
    links.left.link.reset();
    block = {};
    ASSERT_TRUE(links.run_until([&] { return links.right.closed.has_value(); }));
    EXPECT_FALSE(links.left.closed);
  }
}

}  // namespace
}  // namespace memkv
