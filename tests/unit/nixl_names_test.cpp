// How descriptors name blocks, held to tests/golden/object_key.json.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/random.h"
#include "nixl/blake2b.h"
#include "nixl/object_name.h"
#include "support/json.h"

namespace memkv::nixl {
namespace {

using test::Json;

class NixlNamesTest : public ::testing::Test {
 protected:
  NixlNamesTest() : golden_(Json::read_file("tests/golden/object_key.json")) {}

  static std::string bytes_of(const Json& digits) {
    std::string out;
    for (std::size_t i = 0; i < digits.text().size(); i += 2) {
      out += static_cast<char>(Json::digits(digits.text().substr(i, 2), 16));
    }
    return out;
  }
  static std::string digits_of(std::span<const std::byte> bytes) {
    std::string out;
    for (const std::byte byte : bytes) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      out += kDigits[static_cast<unsigned>(byte) >> 4];
      out += kDigits[static_cast<unsigned>(byte) & 15];
    }
    return out;
  }
  static Dialect dialect_of(const Json& word) {
    const auto* const found = std::ranges::find(kDialectWords, word.text());
    EXPECT_NE(found, kDialectWords.end());
    return static_cast<Dialect>(found - kDialectWords.begin());
  }

  Json golden_;
};

TEST_F(NixlNamesTest, KeysOfEveryDialect) {
  ASSERT_GT(golden_["keys"].size(), 20u);
  for (const Json& row : golden_["keys"].items()) {
    const auto name = name_of(dialect_of(row[0]), row[1].number(), bytes_of(row[2]));
    const std::string key = bytes_of(row[3]);
    if (key.empty()) {
      ASSERT_FALSE(name.has_value()) << row[0].text() << " " << row[2].text();
      EXPECT_FALSE(name.error().text.empty());
    } else {
      ASSERT_TRUE(name.has_value()) << name.error().text;
      EXPECT_EQ(name->key, key);
    }
  }
}

TEST_F(NixlNamesTest, RecordsAreWrittenAndRead) {
  ASSERT_GT(golden_["records"].size(), 3u);
  for (const Json& row : golden_["records"].items()) {
    const ObjectName name{.key = bytes_of(row[0]),
                          .group = bytes_of(row[1]),
                          .depth = static_cast<std::uint32_t>(row[2].number()),
                          .recompute_cost = static_cast<std::uint32_t>(row[3].number())};
    EXPECT_EQ(record_of(name), bytes_of(row[4]));
    const auto read = name_of(Dialect::full, 1, bytes_of(row[4]));
    ASSERT_TRUE(read.has_value()) << read.error().text;
    EXPECT_EQ(*read, name);
  }
}

TEST_F(NixlNamesTest, WrongRecordsAreRefused) {
  ASSERT_GT(golden_["refused records"].size(), 10u);
  for (const Json& record : golden_["refused records"].items()) {
    const auto name = name_of(Dialect::full, 1, bytes_of(record));
    ASSERT_FALSE(name.has_value()) << record.text();
    EXPECT_NE(name.error().text.find("key_dialect full"), std::string::npos);
  }
}

TEST_F(NixlNamesTest, NoCutOfARecordIsARecord) {
  const std::string record = record_of({.key = "hello", .group = "chain", .depth = 1});
  for (std::size_t length = 0; length < record.size(); ++length) {
    EXPECT_FALSE(name_of(Dialect::full, 1, record.substr(0, length)).has_value()) << length;
  }
}

// What a reader accepts, a writer writes so: a name has one record.
TEST_F(NixlNamesTest, ADamagedRecordIsRefusedOrIsThatOfAnotherName) {
  const std::string good = record_of({.key = "hello", .group = "chain", .depth = 1});
  SeededRandom random(1);
  std::size_t accepted = 0;
  for (int round = 0; round < 50'000; ++round) {
    std::string record = good;
    for (std::uint64_t i = 0; i <= random.below(3); ++i) {
      record[random.below(record.size())] = static_cast<char>(random.next());
    }
    if (random.below(4) == 0) record.resize(random.below(2 * good.size()));
    const auto name = name_of(Dialect::full, 1, record);
    if (!name) continue;
    EXPECT_EQ(record_of(*name), record);
    accepted += 1;
  }
  EXPECT_GT(accepted, 1000u);
  EXPECT_LT(accepted, 45'000u);
}

TEST_F(NixlNamesTest, DigestsAreThoseOfTheReference) {
  ASSERT_GT(golden_["digests"].size(), 30u);
  for (const Json& row : golden_["digests"].items()) {
    std::vector<std::byte> bytes(row[1].number());
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 251);
    EXPECT_EQ(digits_of(blake2b_128(bytes, row[0].text())), row[2].text())
        << row[0].text() << " over " << bytes.size();
  }
}

TEST_F(NixlNamesTest, SpacesAreThoseOfThePage) {
  ASSERT_GT(golden_["spaces"].size(), 15u);
  for (const Json& row : golden_["spaces"].items()) {
    const auto space = space_of(row[0].text(), dialect_of(row[1]));
    ASSERT_TRUE(space.has_value()) << space.error().text;
    EXPECT_EQ(digits_of(space->id), row[2].text()) << row[0].text() << ", " << row[1].text();
    EXPECT_EQ(space->generation, 0u);
  }
}

TEST_F(NixlNamesTest, WrongSpacesAreRefused) {
  for (const std::string name : {"", "hex:", "hex:00", "hex:000102030405060708090a0b0c0d0e0g",
                                 "hex:000102030405060708090a0b0c0d0e0f00"}) {
    EXPECT_FALSE(space_of(name, Dialect::raw).has_value()) << name;
  }
}

TEST_F(NixlNamesTest, SlotsThatAreWrittenOverAreRefused) {
  for (const char* slot : {"obj_0_abcd", "obj_12345_0000"}) {
    const auto name = name_of(Dialect::obj, 1, slot);
    ASSERT_FALSE(name.has_value()) << slot;
    EXPECT_EQ(name.error().code, Code::invalid);
    EXPECT_NE(name.error().text.find("nixl_pool_size: 0"), std::string::npos);
    EXPECT_TRUE(name_of(Dialect::raw, 1, slot).has_value());
  }
  for (const char* other :
       {"obj__abcd", "obj_1_abc", "obj_1_abcde", "obj_1_abcg", "obj_1", "obj_"}) {
    EXPECT_TRUE(name_of(Dialect::obj, 1, other).has_value()) << other;
  }
}

}  // namespace
}  // namespace memkv::nixl
