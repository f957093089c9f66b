// The real arena: its size, its place, and what does not fit.
#include "base/arena.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "base/limits.h"

namespace memkv {
namespace {

TEST(Arena, IsRoundedUpAlignedAndZero) {
  for (const std::size_t asked : {std::size_t{0}, std::size_t{1}, std::size_t{64 * 1024},
                                  std::size_t{64 * 1024 + 1}, std::size_t{5 * 1024 * 1024 + 1}}) {
    const auto arena = map_arena(asked);
    ASSERT_TRUE(arena) << arena.error().message();
    const auto memory = (*arena)->memory();
    EXPECT_GE(memory.size(), std::max<std::size_t>(asked, 1));
    EXPECT_LT(memory.size(), asked + 2 * 1024 * 1024 + 1);
    EXPECT_EQ(memory.size() % kArenaPageBytes, 0U);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.data()) % kArenaPageBytes, 0U);
    EXPECT_TRUE(
        std::all_of(memory.begin(), memory.end(), [](std::byte b) { return b == std::byte{}; }));
    std::memset(memory.data(), 0x5a, memory.size());
    EXPECT_EQ(memory.back(), std::byte{0x5a});
    EXPECT_FALSE((*arena)->kind().empty());
  }
}

TEST(Arena, DoesNotMoveAndIsNotShared) {
  const auto a = map_arena(kArenaPageBytes);
  const auto b = map_arena(kArenaPageBytes);
  ASSERT_TRUE(a && b);
  EXPECT_EQ((*a)->memory().data(), (*a)->memory().data());
  (*a)->memory()[0] = std::byte{1};
  EXPECT_EQ((*b)->memory()[0], std::byte{});
}

TEST(Arena, TooMuchIsRefusedWithASentence) {
  for (const std::size_t asked : {std::size_t{1} << 46, SIZE_MAX, SIZE_MAX / 2 + 1, SIZE_MAX / 4}) {
    const auto arena = map_arena(asked);
    ASSERT_FALSE(arena);
    EXPECT_EQ(arena.error().code, Code::no_space);
    EXPECT_NE(arena.error().text.find("give the DRAM tier less"), std::string::npos)
        << arena.error().text;
  }
}

}  // namespace
}  // namespace memkv
