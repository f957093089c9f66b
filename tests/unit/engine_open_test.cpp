// Opening: what a device may hold, geometry, and every sentence that refuses.
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "engine/boot.h"
#include "unit/engine_rig.h"

namespace memkv {
namespace {

using engine::Superblock;
using engine::SuperblockState;

Superblock superblock_of(sim::Disk& disk, std::size_t copy = 0) {
  Superblock super;
  const auto page =
      std::span<const std::byte>(disk.bytes()).subspan(copy * kPageBytes).first<kPageBytes>();
  EXPECT_EQ(engine::decode_superblock(page, super), SuperblockState::valid);
  return super;
}

void write_superblock(sim::Disk& disk, std::size_t copy, const Superblock& super) {
  engine::encode(super, std::span(disk.bytes()).subspan(copy * kPageBytes).first<kPageBytes>());
}

void expect_refused(Rig& rig, std::string_view words, Code code = Code::invalid) {
  const Status status = rig.open();
  EXPECT_EQ(status.code, code) << status.message();
  EXPECT_NE(status.text.find(words), std::string::npos) << status.message();
}

TEST(Open, ABlankDeviceIsFormattedAndCountsItsBoots) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 1u);
  EXPECT_EQ(rig.store->stats().segments, 15u);
  ASSERT_TRUE(rig.close().good());
  EXPECT_EQ(superblock_of(rig.disk, 0), superblock_of(rig.disk, 1));
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 2u);
  rig.crash();
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 3u);
}

TEST(Open, SomethingElseIsLeftAlone) {
  for (const std::size_t at :
       {std::size_t{0}, std::size_t{5000}, 64 * kKiB - 1, 16 * kMiB - 64 * kKiB, 16 * kMiB - 1}) {
    Rig rig;
    rig.disk.bytes()[at] = std::byte{1};
    const Bytes before = rig.disk.bytes();
    expect_refused(rig, "holds something else");
    EXPECT_EQ(rig.disk.bytes(), before);
    rig.options.store.format = true;
    EXPECT_TRUE(rig.open().good());
  }
  Rig rig;
  rig.disk.bytes()[0] = std::byte{1};
  expect_refused(rig, "--format overwrites it");
}

TEST(Open, AFormatForgetsWhatWasThere) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 50; ++i)
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 100'000)).has_value());
  ASSERT_TRUE(rig.close().good());
  rig.options.store.format = true;
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().recovered_blocks, 0u);
  EXPECT_EQ(rig.store->stats().boot, 1u);
  ASSERT_TRUE(rig.close().good());
  rig.options.store.format = false;
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().recovered_blocks, 0u);
}

TEST(Open, EitherCopyOfTheSuperblockIsEnough) {
  for (const std::size_t broken : {0u, 1u}) {
    Rig rig;
    ASSERT_TRUE(rig.open().good());
    ASSERT_TRUE(rig.put("k", bytes_from(1, 1000)).has_value());
    ASSERT_TRUE(rig.close().good());
    rig.disk.bytes()[broken * kPageBytes + 50] ^= std::byte{1};
    ASSERT_TRUE(rig.open().good());
    EXPECT_EQ(rig.get("k").value(), bytes_from(1, 1000));
    ASSERT_TRUE(rig.close().good());
    EXPECT_EQ(superblock_of(rig.disk, 0), superblock_of(rig.disk, 1)) << "both are whole again";
  }
}

TEST(Open, TheHigherBootAndTheFirstUuidCount) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.close().good());
  Superblock super = superblock_of(rig.disk);
  super.boot = 40;
  write_superblock(rig.disk, 1, super);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 41u);
  ASSERT_TRUE(rig.close().good());
  super.uuid[3] ^= std::byte{1};
  super.boot = 90;
  write_superblock(rig.disk, 1, super);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 42u) << "a format that was cut off writes page 0 first";
}

TEST(Open, WhoWasOpenedAsOftenAsCanBeIsRefused) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.close().good());
  Superblock super = superblock_of(rig.disk);
  super.boot = kBootsMax - 1;
  for (const std::size_t copy : {0u, 1u}) write_superblock(rig.disk, copy, super);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, kBootsMax) << "the last one there is";
  ASSERT_TRUE(rig.put("k", bytes_from(1, 1000)).has_value());
  EXPECT_EQ(rig.get("k").value(), bytes_from(1, 1000));
  ASSERT_TRUE(rig.close().good());
  const Bytes before = rig.disk.bytes();
  expect_refused(rig, "was opened 16777215 times, which is all a store can: --format it");
  EXPECT_EQ(rig.disk.bytes(), before);
  rig.options.store.format = true;
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().boot, 1u);
}

TEST(Open, AnotherVersionsFormatIsRefused) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.close().good());
  for (const auto& [version, sentence] : {std::pair{3, "newer version"}, {1, "older version"}}) {
    for (std::size_t at : {std::size_t{0}, kPageBytes}) {
      auto page = std::span(rig.disk.bytes()).subspan(at).first<kPageBytes>();
      page[8] = static_cast<std::byte>(version);
      const std::uint32_t crc = crc32c(page.first(4092));
      std::memcpy(page.data() + 4092, &crc, 4);
    }
    expect_refused(rig, sentence);
  }
  rig.options.store.format = true;
  EXPECT_TRUE(rig.open().good());
}

TEST(Open, ADeviceThatShrankIsRefusedAndOneThatGrewIsNot) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, 1000)).has_value());
  ASSERT_TRUE(rig.close().good());
  rig.disk.bytes().resize(20 * kMiB);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().segments, 15u);
  EXPECT_EQ(rig.get("k").value(), bytes_from(1, 1000));
  ASSERT_TRUE(rig.close().good());
  rig.disk.bytes().resize(15 * kMiB);
  expect_refused(rig, "was formatted with 16 MiB and has only 15 MiB now");
}

TEST(Open, TooSmallIsSaidWithTheSmallestThatWorks) {
  Rig tiny({.disk_bytes = 5 * kMiB - kPageBytes});
  expect_refused(tiny, "at least 5242880 bytes (5 MiB)");
  Rig enough({.disk_bytes = 5 * kMiB});
  EXPECT_TRUE(enough.open().good());
  EXPECT_EQ(enough.store->stats().segments, kSegmentsMin);

  RigOptions options{.disk_bytes = kDeviceBytesMin - kPageBytes, .arena_bytes = kArenaBytesMin};
  options.store.segment_bytes = 0;
  Rig real(options);
  expect_refused(real, "at least " + std::to_string(kDeviceBytesMin));
  real.disk.bytes().resize(kDeviceBytesMin);
  ASSERT_TRUE(real.open().good());
  EXPECT_EQ(real.store->stats().segment_bytes, kSegmentBytesMin);
  EXPECT_EQ(real.store->stats().segments, kSegmentsMin);

  Rig page({.disk_bytes = kPageBytes});
  expect_refused(page, "too small");
}

TEST(Open, TooLittleDramIsSaid) {
  RigOptions options;
  options.arena_bytes = 3 * kArenaPageBytes;
  Rig rig(options);
  expect_refused(rig, "DRAM of 196608 bytes is too little");
  options.arena_bytes = kArenaBytesMin - kArenaPageBytes;
  options.store.segment_bytes = 0;
  Rig real(options);
  expect_refused(real, "at least " + std::to_string(kArenaBytesMin));
}

TEST(Open, ASegmentSizeThatCannotBeIsSaid) {
  for (const std::uint64_t bytes : {32 * kKiB, 100'000 * 1ul, 2 * kGiB}) {
    Rig rig;
    rig.options.store.segment_bytes = bytes;
    expect_refused(rig, "power of two");
  }
}

TEST(Open, TheSmallestSegmentsWork) {
  RigOptions options{.disk_bytes = kMiB, .arena_bytes = kMiB};
  options.store.segment_bytes = 64 * kKiB;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(rig.put(key, bytes_from(i, 1 + rig.random.below(13 * kPageBytes))).has_value());
    const auto got = rig.get(key);
    ASSERT_TRUE(got.has_value());
    ASSERT_EQ(*got, bytes_from(i, got->size()));
  }
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  const auto got = rig.get("k299");
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(*got, bytes_from(299, got->size()));
}

TEST(Open, WhatTakesLongSaysHowFarItIs) {
  std::vector<std::string> lines;
  set_log_sink([&lines](LogLevel, std::string_view line) {
    if (line.find(" is recovered: ") != std::string_view::npos) lines.emplace_back(line);
  });
  RigOptions options{.disk_bytes = 64 * kMiB, .arena_bytes = kMiB};
  options.store.segment_bytes = 64 * kKiB;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(1, 8 * kPageBytes)).has_value());
  }
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.close().good());
  EXPECT_TRUE(lines.empty()) << "it was fast";
  rig.world->set_faults({.slow_disk = 1'000'000});
  const std::uint64_t began = rig.world->clock().now_ns();
  const Status opened = rig.open();
  const std::uint64_t took_ms = (rig.world->clock().now_ns() - began) / kNsPerMs;
  set_log_sink({});
  ASSERT_TRUE(opened.good());
  EXPECT_LE(lines.size(), took_ms / kRecoveryTellMs);
  ASSERT_GE(lines.size(), 2u) << took_ms;
  EXPECT_NE(lines.back().find("blocks so far"), std::string::npos);
  EXPECT_EQ(lines.back().find(", 0 blocks"), std::string::npos) << lines.back();
}

TEST(Open, ADeadDeviceIsAnError) {
  sim::Faults faults;
  faults.fail_read = 1'000'000;
  Rig unreadable({.faults = faults});
  EXPECT_EQ(unreadable.open().code, Code::device_error);
  faults = {};
  faults.fail_write = 1'000'000;
  Rig unwritable({.faults = faults});
  EXPECT_EQ(unwritable.open().code, Code::device_error);
}

}  // namespace
}  // namespace memkv
