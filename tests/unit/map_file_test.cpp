// The map file: what memkvd reads from it, and what it refuses (docs/formats/map-file.md).
#include "server/map_file.h"

#include <gtest/gtest.h>
#include <unistd.h>

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

  std::filesystem::path path_;
};

TEST_F(MapFileTest, GivesTheBodyOfItsFrame) {
  write(frame());
  const auto read = read_map_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_TRUE(*read);
  EXPECT_EQ((*read)->map, body());
  EXPECT_FALSE((*read)->trust);
}

TEST_F(MapFileTest, NoFileIsNoMap) {
  const auto read = read_map_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_FALSE(*read);
}

TEST_F(MapFileTest, EveryByteCountsAndNoneMayFollow) {
  const Body good = frame();
  for (std::size_t at = 0; at < good.size(); ++at) {
    Body bad = good;
    bad[at] ^= std::byte{1};
    write(bad);
    EXPECT_NE(refusal(), Code::ok) << "byte " << at;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    write(Body(good.begin(), good.begin() + static_cast<std::ptrdiff_t>(length)));
    EXPECT_EQ(refusal(), Code::protocol) << length << " bytes";
  }
  Body longer = good;
  longer.push_back(std::byte{0});
  write(longer);
  EXPECT_EQ(refusal(), Code::protocol);
}

TEST_F(MapFileTest, TakesItsFramesInAnyOrderEachOnce) {
  Body both = frame();
  const Body trust = trust_frame();
  both.insert(both.end(), trust.begin(), trust.end());
  Body turned = trust;
  const Body map = frame();
  turned.insert(turned.end(), map.begin(), map.end());
  for (const Body& bytes : {both, turned}) {
    write(bytes);
    const auto read = read_map_file(path_);
    ASSERT_TRUE(read && *read) << read.error().message();
    EXPECT_EQ((*read)->map, body());
    EXPECT_EQ((*read)->trust, text_bytes("trust"));
  }
  both.insert(both.end(), trust.begin(), trust.end());
  write(both);
  EXPECT_EQ(refusal(), Code::protocol);
  write(trust);
  EXPECT_EQ(refusal(), Code::protocol);
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
