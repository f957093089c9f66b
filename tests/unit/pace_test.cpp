// Whom a node takes for slow with the memory that it holds (pace.h).
#include "server/pace.h"

#include <gtest/gtest.h>

namespace memkv {
namespace {

constexpr std::uint64_t kArena = 256 * kMiB;
constexpr std::uint64_t kLooks = kPaceMs / kLookMs;  // until somebody is judged

TEST(PaceTest, WhoHoldsAQuarterMovesAQuarterOfThePace) {
  const std::uint64_t due = kPaceBytesPerSecond / 4 * kPaceMs / 1000;
  Pace good, bad;
  for (std::uint64_t i = 0; i <= kLooks; ++i) {
    good.look(kArena / 4, due * i / kLooks, kArena);
    bad.look(kArena / 4, due * i / kLooks / 2, kArena);
  }
  EXPECT_EQ(good.slow_bytes(), 0U);
  EXPECT_EQ(bad.slow_bytes(), kArena / 4);
}

TEST(PaceTest, WhatWasJustGrantedIsNotBlamed) {
  Pace pace;
  for (std::uint64_t i = 0; i < kLooks; ++i) pace.look(kMiB, 0, kArena);
  pace.look(128 * kMiB, 0, kArena);
  EXPECT_EQ(pace.slow_bytes(), kMiB);
}

// One hot block that 200 engines are sent at once, over one link that carries the pace.
TEST(PaceTest, AllTogetherOweNoMoreThanThePace) {
  constexpr std::uint64_t kPeers = 200, kHeld = 64 * kMiB;
  const std::uint64_t each = kPaceBytesPerSecond * kPaceMs / 1000 / kPeers;
  Pace pace;
  for (std::uint64_t i = 0; i <= kLooks; ++i) {
    pace.look(kHeld, each * i / kLooks, kPeers * kHeld);
  }
  EXPECT_EQ(pace.slow_bytes(), 0U);
}

TEST(PaceTest, WhoIsNotWaitedForBeginsAnew) {
  Pace pace;
  for (std::uint64_t i = 0; i <= kLooks; ++i) pace.look(kArena / 2, 0, kArena);
  EXPECT_GT(pace.slow_bytes(), 0U);
  pace.forget();
  EXPECT_EQ(pace.slow_bytes(), 0U);
  pace.look(kArena / 2, 0, kArena);
  EXPECT_EQ(pace.slow_bytes(), 0U);
}

}  // namespace
}  // namespace memkv
