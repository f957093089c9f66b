// The map file: what memkvd reads from it, and what it refuses (docs/formats/map-file.md).
#include "server/map_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "support/raw_client.h"
#include "wire/wire.h"

namespace memkv::testing {
namespace {

class MapFileTest : public ::testing::Test {
 protected:
  MapFileTest()
      : path_(std::filesystem::temp_directory_path() /
              ("memkv-map-file-" + std::to_string(::getpid()))) {}
  ~MapFileTest() override { std::filesystem::remove_all(path_); }

  void write(const Body& bytes) {
    std::ofstream file(path_, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  [[nodiscard]] Code refusal() {
    const auto read = read_map_file(path_);
    if (read) return Code::ok;
    EXPECT_NE(read.error().text.find(path_.string()), std::string::npos) << read.error().text;
    return read.error().code;
  }
  static Body body() {
    Body bytes(64);
    wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = 5});
    EXPECT_TRUE(writer.add({.node = 1, .weight = 2, .address = "a:1"}));
    const auto made = writer.body();
    return {made.begin(), made.end()};
  }
  static constexpr auto kRules = static_cast<wire::Type>(40);

  // Two namespaces and a tenant.
  static Body rules(std::uint32_t epoch = 5, std::uint8_t admission = 3, std::uint8_t copies = 2) {
    Body bytes(12 + 2 * 44 + 16);
    ByteWriter out(bytes);
    out.u32(epoch);
    out.u32(2);
    out.u32(1);
    for (std::uint8_t i = 1; i <= 2; ++i) {
      out.u64(7);
      out.raw(NamespaceId{std::byte{i}});
      out.u32(10 + i);
      out.u32(20 + i);
      out.u64(i == 1 ? 1001 : 0);
      out.u8(i == 1 ? 1 : admission);
      out.u8(i == 1 ? 1 : copies);
      out.zeros(2);
    }
    out.u64(7);
    out.u64(5);
    EXPECT_TRUE(out.ok() && out.size() == bytes.size());
    return bytes;
  }
  static Body frame(wire::Type type = wire::Type::map_reply) { return frame_of(type, body()); }
  static Body trust_frame() { return frame_of(static_cast<wire::Type>(41), text_bytes("trust")); }
  static Body frame_of(wire::Type type, const Body& inside) {
    Body bytes(wire::kHeaderBytes);
    wire::encode_header({.type = type,
                         .request = 1,
                         .body_bytes = static_cast<std::uint32_t>(inside.size()),
                         .body_crc = crc32c(inside)},
                        std::span<std::byte, wire::kHeaderBytes>(bytes));
    bytes.insert(bytes.end(), inside.begin(), inside.end());
    return bytes;
  }

  static Body joined(Body a, const Body& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }

  std::filesystem::path path_;
};

TEST_F(MapFileTest, GivesTheBodyOfItsFrame) {
  write(frame());
  const auto read = read_map_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_TRUE(*read);
  EXPECT_EQ((*read)->map, body());
  EXPECT_FALSE((*read)->trust);
  EXPECT_TRUE((*read)->rules.empty());
}

TEST_F(MapFileTest, GivesTheBodyOfEachFrame) {
  write(joined(frame(), frame_of(kRules, rules())));
  const auto read = read_map_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_TRUE(*read);
  EXPECT_EQ((*read)->map, body());
  EXPECT_EQ((*read)->rules, rules());
}

TEST_F(MapFileTest, NoFrameComesTwiceAndNoneIsEmpty) {
  const Body other = frame_of(kRules, rules());
  for (const Body& wrong : {other, joined(frame(), frame()), joined(joined(frame(), other), other),
                            joined(frame(), frame_of(kRules, Body{})),
                            joined(frame(), frame_of(static_cast<wire::Type>(39), rules())),
                            joined(frame(), frame(wire::Type::stat_reply))}) {
    write(wrong);
    EXPECT_EQ(refusal(), Code::protocol);
  }
}

TEST_F(MapFileTest, AConnectionKnowsNoFrameOfFiles) {
  const Body rules_frame = frame_of(kRules, rules());
  const auto header = std::span(rules_frame).first<wire::kHeaderBytes>();
  EXPECT_EQ(wire::decode_header(header).error().code, Code::protocol);
}

TEST_F(MapFileTest, RulesAreReadForThisNodesPortion) {
  const auto read = decode_rules(rules(), 5, {.weight = 3, .weights = 10});
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_EQ(read->spaces.size(), 2U);
  const SpaceRule& first = read->spaces[0];
  EXPECT_EQ(first.tenant, 7U);
  EXPECT_EQ(first.id, NamespaceId{std::byte{1}});
  EXPECT_EQ(first.drop_generation, 11U);
  EXPECT_EQ(first.ttl_s, 21U);
  EXPECT_EQ(first.quota_bytes, 300U);
  EXPECT_EQ(first.admission, Admission::all);
  EXPECT_EQ(first.copies, 1);
  EXPECT_EQ(read->spaces[1].quota_bytes, 0U);
  EXPECT_EQ(read->spaces[1].admission, Admission::budget);
  EXPECT_EQ(read->spaces[1].copies, 2);
  ASSERT_EQ(read->tenants.size(), 1U);
  EXPECT_EQ(read->tenants[0].quota_bytes, 1U) << "a share is never nothing";
}

TEST_F(MapFileTest, SharesOfTheLargestQuotaDoNotOverflow) {
  Body bytes = rules();
  ByteWriter(std::span(bytes).subspan(12 + 32)).u64(~0ULL);
  const auto read = decode_rules(bytes, 5, {.weight = 1'000'000, .weights = 1'024'000'000});
  ASSERT_TRUE(read);
  EXPECT_EQ(read->spaces[0].quota_bytes, ~0ULL / 1024);
}

TEST_F(MapFileTest, RulesThatCannotBeAreRefused) {
  const auto code_of = [](const Body& bytes) {
    const auto read = decode_rules(bytes, 5, {});
    return read ? Code::ok : read.error().code;
  };
  EXPECT_EQ(code_of(rules()), Code::ok);
  EXPECT_EQ(code_of({}), Code::ok) << "a file without the frame settles nothing";
  EXPECT_EQ(code_of(rules(4)), Code::protocol) << "another epoch";
  EXPECT_EQ(code_of(rules(5, 0)), Code::protocol) << "an admission that is none";
  EXPECT_EQ(code_of(rules(5, 4)), Code::protocol);
  EXPECT_EQ(code_of(rules(5, 3, 0)), Code::protocol) << "blocks on no node";
  EXPECT_EQ(code_of(rules(5, 3, 3)), Code::protocol);
  for (std::size_t length = 1; length < rules().size(); ++length) {
    const Body whole = rules();
    EXPECT_EQ(code_of(Body(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length))),
              Code::protocol);
  }
  Body swapped = rules();
  std::swap_ranges(swapped.begin() + 12, swapped.begin() + 56, swapped.begin() + 56);
  EXPECT_EQ(code_of(swapped), Code::protocol) << "not in order";
  Body twice = rules();
  std::copy(twice.begin() + 12, twice.begin() + 56, twice.begin() + 56);
  EXPECT_EQ(code_of(twice), Code::protocol);
  Body many = rules();
  ByteWriter(std::span(many).subspan(4)).u32(kNamespacesMax + 1);
  EXPECT_EQ(code_of(many), Code::too_large);
}

TEST_F(MapFileTest, AStoreIsOpenedByTheRulesOfTheFileThatIsThere) {
  EXPECT_TRUE(rules_before_the_map("").spaces.empty());
  EXPECT_TRUE(rules_before_the_map(path_).spaces.empty()) << "no file";
  write(joined(frame(), frame_of(kRules, rules(4))));
  EXPECT_TRUE(rules_before_the_map(path_).spaces.empty()) << "whoever takes the map says so";
  write(joined(frame(), frame_of(kRules, rules())));
  const StoreRules found = rules_before_the_map(path_);
  ASSERT_EQ(found.spaces.size(), 2U);
  EXPECT_EQ(found.spaces[0].quota_bytes, 1001U) << "the pool's";
  ASSERT_EQ(found.tenants.size(), 1U);
}

TEST_F(MapFileTest, APortionIsTheNodesWeightAmongAll) {
  Body bytes(256);
  wire::MapReplyWriter writer(bytes, wire::MapHead{.epoch = 5});
  ASSERT_TRUE(writer.add({.node = 1, .weight = 20, .address = "a:1"}));
  ASSERT_TRUE(writer.add({.node = 2, .weight = 0, .address = "b:1"}));
  ASSERT_TRUE(writer.add({.node = 3, .weight = 30, .address = "c:1"}));
  const auto portion = [&](std::uint64_t node) {
    const auto found = portion_of(writer.body(), node, 50);
    return found ? std::pair(found->weight, found->weights)
                 : std::pair<std::uint64_t, std::uint64_t>();
  };
  EXPECT_EQ(portion(1), std::pair(20UL, 50UL));
  EXPECT_EQ(portion(2), std::pair(50UL, 100UL)) << "it drains, and keeps what it has";
  EXPECT_EQ(portion(9), std::pair(50UL, 100UL)) << "not in the map";
}

TEST_F(MapFileTest, NoFileIsNoMap) {
  const auto read = read_map_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_FALSE(*read);
}

TEST_F(MapFileTest, EveryByteCountsAndNoneMayFollow) {
  const Body two = joined(frame(), frame_of(kRules, rules()));
  const Body good = joined(two, trust_frame());
  for (std::size_t at = 0; at < good.size(); ++at) {
    Body bad = good;
    bad[at] ^= std::byte{1};
    write(bad);
    EXPECT_NE(refusal(), Code::ok) << "byte " << at;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    if (length == frame().size() || length == two.size()) continue;  // a file of fewer frames
    write(Body(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)));
    EXPECT_EQ(refusal(), Code::protocol) << length << " bytes";
  }
  Body longer = good;
  longer.push_back(std::byte{0});
  write(longer);
  EXPECT_EQ(refusal(), Code::protocol);
}

TEST_F(MapFileTest, TakesItsFramesInAnyOrderEachOnce) {
  const Body map = frame();
  const Body settled = frame_of(kRules, rules());
  const Body trust = trust_frame();
  const Body all = joined(joined(map, settled), trust);
  for (const Body& bytes :
       {all, joined(joined(trust, map), settled), joined(joined(settled, trust), map),
        joined(joined(trust, settled), map)}) {
    write(bytes);
    const auto read = read_map_file(path_);
    ASSERT_TRUE(read && *read) << read.error().message();
    EXPECT_EQ((*read)->map, body());
    EXPECT_EQ((*read)->rules, rules());
    EXPECT_EQ((*read)->trust, text_bytes("trust"));
  }
  for (const Body& wrong : {joined(all, map), joined(all, settled), joined(all, trust), trust,
                            settled, joined(trust, settled)}) {
    write(wrong);
    EXPECT_EQ(refusal(), Code::protocol);
  }
}

// What is legal in the file is not on a connection.
TEST_F(MapFileTest, NoConnectionTakesAFrameOfTrust) {
  const Body trust = trust_frame();
  const auto header = wire::decode_header(std::span(trust).first<wire::kHeaderBytes>());
  ASSERT_FALSE(header);
  EXPECT_EQ(header.error().code, Code::protocol);
}

TEST_F(MapFileTest, AnotherFrameIsNoMap) {
  write(frame(wire::Type::stat_reply));
  EXPECT_EQ(refusal(), Code::protocol);
}

TEST_F(MapFileTest, AFileThatCannotBeReadIsNamed) {
  std::filesystem::create_directory(path_);
  EXPECT_NE(refusal(), Code::ok);
}

}  // namespace
}  // namespace memkv::testing
