// The index against std::map, and the arena's pages against a bitmap.
#include "engine/index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "base/random.h"
#include "engine/pages.h"
#include "engine/residents.h"

namespace memkv::engine {
namespace {

struct Narrow {
  std::uint64_t high, low;  // masks
};

class IndexAgainstMap : public testing::TestWithParam<Narrow> {};

TEST_P(IndexAgainstMap, AnyOrderOfCalls) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    SeededRandom random(seed);
    Index index(100'000);
    std::map<Fingerprint, std::uint32_t> model;
    std::uint64_t bytes = 0;
    for (int step = 0; step < 25'000; ++step) {
      const Fingerprint print{random.next() & GetParam().high, random.next() & GetParam().low};
      const std::uint64_t what = random.below(10);
      if (what < 5) {
        const auto length = static_cast<std::uint32_t>(1 + random.below(1000));
        if (model.contains(print)) bytes -= model[print];
        index.insert(print, length).incarnation = length * 3;
        model[print] = length;
        bytes += length;
      } else if (what < 8) {
        if (model.contains(print)) bytes -= model[print];
        ASSERT_EQ(index.erase(print), model.erase(print) == 1) << "seed " << seed;
      } else {
        const Entry* entry = index.find(print);
        const auto known = model.find(print);
        ASSERT_EQ(entry != nullptr, known != model.end()) << "seed " << seed;
        if (entry != nullptr) {
          ASSERT_EQ(entry->length, known->second);
        }
      }
      ASSERT_EQ(index.size(), model.size());
      ASSERT_EQ(index.block_bytes(), bytes);
    }
    for (const auto& [print, length] : model) {
      const Entry* entry = index.find(print);
      ASSERT_NE(entry, nullptr) << "seed " << seed;
      ASSERT_EQ(entry->length, length);
      ASSERT_EQ(entry->incarnation, length * 3u);
      ASSERT_EQ(entry->fingerprint, print);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Prints, IndexAgainstMap,
                         testing::Values(Narrow{~0ull, ~0ull}, Narrow{0, 0x3ff}, Narrow{0xff, 0xf},
                                         Narrow{~0ull, 0x1f}));

TEST(Index, GrowsInStepsAndSaysWhenItIsFull) {
  Index index(1'000'000);
  EXPECT_EQ(index.memory_bytes(), 0u);
  SeededRandom random(1);
  std::uint64_t largest_step = 0;
  std::uint64_t before = 0;
  while (!index.full()) {
    (void)index.insert({random.next(), random.next()}, 1);
    largest_step = std::max(largest_step, index.memory_bytes() - before);
    before = index.memory_bytes();
  }
  EXPECT_EQ(index.size(), 1'000'000u);
  EXPECT_LE(largest_step, 4 * kMiB);
  EXPECT_LE(before, 1'000'000 * sizeof(Entry) * 3);
  index.clear();
  EXPECT_EQ(index.size(), 0u);
  EXPECT_EQ(index.block_bytes(), 0u);
}

TEST(Pages, EveryPageHasOneOwner) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    SeededRandom random(seed);
    std::vector<std::byte> arena(300 * kArenaPageBytes);
    Pages pages(arena);
    std::vector<bool> used(300, false);
    std::vector<Memory> blocks;
    std::uint32_t taken = 0;
    for (int step = 0; step < 3000; ++step) {
      if (random.below(2) == 0 || blocks.empty()) {
        const auto count = static_cast<std::uint32_t>(1 + random.below(40));
        const auto memory = pages.take(count);
        ASSERT_EQ(memory.has_value(), count <= 300 - taken) << "seed " << seed;
        if (!memory) continue;
        ASSERT_EQ(pages_of(*memory), count);
        for (const PageRun& run : *memory) {
          for (std::uint32_t page = run.first; page < run.first + run.count; ++page) {
            ASSERT_FALSE(used.at(page)) << "seed " << seed;
            used[page] = true;
          }
        }
        taken += count;
        blocks.push_back(*memory);
      } else {
        const std::size_t which = random.below(blocks.size());
        for (const PageRun& run : blocks[which]) {
          for (std::uint32_t page = run.first; page < run.first + run.count; ++page)
            used[page] = false;
        }
        taken -= pages_of(blocks[which]);
        pages.give_back(blocks[which]);
        blocks.erase(blocks.begin() + static_cast<long>(which));
      }
      ASSERT_EQ(pages.free(), 300 - taken);
    }
    for (const Memory& block : blocks) pages.give_back(block);
    const auto all = pages.take(300);
    ASSERT_TRUE(all.has_value());
    EXPECT_EQ(all->size(), 1u) << "neighbours grow together";
  }
}

TEST(Pages, PiecesFollowTheBytes) {
  std::vector<std::byte> arena(8 * kArenaPageBytes);
  const Pages pages(arena);
  const Memory memory{{5, 2}, {1, 1}};
  const auto pieces = pages.pieces(memory, kArenaPageBytes + 10, kArenaPageBytes + 5);
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_EQ(pieces[0].iov_base, arena.data() + 6 * kArenaPageBytes + 10);
  EXPECT_EQ(pieces[0].iov_len, kArenaPageBytes - 10);
  EXPECT_EQ(pieces[1].iov_base, arena.data() + kArenaPageBytes);
  EXPECT_EQ(pieces[1].iov_len, 15u);
  EXPECT_TRUE(pages.pieces(memory, 0, 0).empty());
}

struct ResidentsTest : testing::Test {
  std::vector<std::byte> arena = std::vector<std::byte>(16 * kArenaPageBytes);
  Pages pages{arena};
  Index index{1000};
  Residents residents{pages, index};

  std::uint32_t add(std::uint64_t name, std::uint32_t count, ResidentState state) {
    auto memory = residents.take(Share::put, count);
    BlockMeta meta;
    meta.length = static_cast<std::uint32_t>(count * kArenaPageBytes);
    const std::uint32_t slot = residents.add({0, name}, meta, Share::put, *memory, state);
    index.insert({0, name}, meta.length).resident = slot;
    return slot;
  }
};

TEST_F(ResidentsTest, TheOldestUnusedMakesRoom) {
  for (std::uint64_t name = 0; name < 4; ++name) {
    residents.unuse(add(name, 4, ResidentState::clean));
  }
  residents.touch(index.find({0, 0})->resident);
  residents.use(index.find({0, 1})->resident);
  const auto memory = residents.take(Share::get, 8);
  ASSERT_TRUE(memory.has_value());
  EXPECT_NE(index.find({0, 0})->resident, kNone) << "it was touched";
  EXPECT_NE(index.find({0, 1})->resident, kNone) << "it is in use";
  EXPECT_EQ(index.find({0, 2})->resident, kNone);
  EXPECT_EQ(index.find({0, 3})->resident, kNone);
  EXPECT_FALSE(residents.take(Share::get, 5).has_value());
  EXPECT_NE(index.find({0, 0})->resident, kNone) << "nothing goes for what cannot be met anyway";
}

TEST_F(ResidentsTest, NeitherSideTakesMoreThanItsShare) {
  EXPECT_EQ(residents.share_pages_max(), 12u);
  const std::uint32_t slot = add(1, 10, ResidentState::dirty);
  EXPECT_TRUE(residents.within_share(Share::put, 2));
  EXPECT_FALSE(residents.within_share(Share::put, 3));
  EXPECT_TRUE(residents.within_share(Share::get, 12));
  EXPECT_EQ(residents.dirty_bytes(), 10 * kArenaPageBytes);
  residents.become(slot, ResidentState::clean);
  EXPECT_TRUE(residents.within_share(Share::put, 12));
  EXPECT_FALSE(residents.within_share(Share::get, 3)) << "a clean block in use is a reader's";
  residents.unuse(slot);
  EXPECT_TRUE(residents.within_share(Share::get, 12));
  EXPECT_EQ(residents.dirty_bytes(), 0u);
}

TEST_F(ResidentsTest, ADeadOneGoesWithItsLastUser) {
  const std::uint32_t slot = add(1, 10, ResidentState::dirty);
  index.erase({0, 1});
  residents.kill(slot);
  EXPECT_EQ(pages.free(), 6u);
  residents.unuse(slot);
  EXPECT_EQ(pages.free(), 16u);
  EXPECT_EQ(residents.count(), 0u);
  EXPECT_EQ(residents.dirty_bytes(), 0u);
  EXPECT_EQ(add(2, 1, ResidentState::dirty), slot) << "its slot is used again";
}

}  // namespace
}  // namespace memkv::engine
