// The log wraps: what is evicted, what moves on, what never comes back.
#include <map>
#include <set>

#include "unit/engine_rig.h"

namespace memkv {
namespace {

RigOptions small() {
  RigOptions options;
  options.disk_bytes = 8 * kMiB + kMiB;  // 8 segments and a bit
  options.arena_bytes = 2 * kMiB;
  options.store.segment_bytes = kMiB;
  return options;
}

TEST(Evict, TheLogWrapsAndWhatIsServedIsRight) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    RigOptions options = small();
    options.seed = seed;
    Rig rig(options);
    ASSERT_TRUE(rig.open().good());
    std::map<std::string, std::uint64_t> put;
    std::uint64_t found = 0;
    for (std::uint64_t i = 0; i < 600; ++i) {
      const std::string key = "k" + std::to_string(rig.random.below(300));
      const std::size_t length = 1 + rig.random.below(200'000);
      const auto done = rig.put(key, bytes_from(i, length));
      if (done) {
        put[key] = i;
      } else {
        ASSERT_TRUE(done.error().code == Code::exists || done.error().code == Code::conflict)
            << done.error().message();
      }
      const std::string wanted = "k" + std::to_string(rig.random.below(300));
      const auto got = rig.get(wanted);
      if (got) {
        ++found;
        ASSERT_TRUE(put.contains(wanted));
        ASSERT_EQ(*got, bytes_from(put[wanted], got->size())) << "seed " << seed;
      } else {
        ASSERT_EQ(got.error().code, Code::not_found);
      }
      if (rig.random.below(20) == 0) {
        const Code dropped = rig.drop(id_of(wanted));
        ASSERT_TRUE(dropped == Code::ok || dropped == Code::not_found);
        ASSERT_FALSE(rig.store->match(id_of(wanted), 0).present);
      }
    }
    const StoreStats stats = rig.store->stats();
    EXPECT_GT(stats.evicted_blocks, 50u);
    EXPECT_GT(stats.device_bytes_written, 3 * options.disk_bytes);
    EXPECT_GT(found, 50u);
    EXPECT_EQ(stats.corrupt + stats.foreign + stats.lost_blocks + stats.device_errors, 0u);
    ASSERT_TRUE(rig.rest());
    rig.world->run_until([] { return false; }, 100);  // until the next segment is ready, too
    const std::uint64_t blocks = rig.store->stats().blocks;
    ASSERT_TRUE(rig.close().good());
    ASSERT_TRUE(rig.open().good());
    EXPECT_EQ(rig.store->stats().blocks, blocks) << "a clean stop loses nothing";
    for (const auto& [key, value] : put) {
      const auto got = rig.get(key);
      if (got) {
        ASSERT_EQ(*got, bytes_from(value, got->size()));
      }
    }
    EXPECT_EQ(rig.store->stats().corrupt, 0u);
  }
}

// Eight blocks fill a segment; those that were wanted live on, as far as the budget goes, the
// shallow ones first.
TEST(Evict, WhatWasHitMovesToTheTail) {
  RigOptions options = small();
  options.store.rewrite_percent = 25;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  const std::size_t length = 110'000;
  const auto id = [](const std::string& key) { return id_of(key); };
  std::vector<std::string> keys;
  for (std::uint32_t i = 0; i < 8; ++i) {
    keys.push_back("first" + std::to_string(i));
    BlockTraits traits;
    traits.depth = 8 - i;
    ASSERT_TRUE(rig.put(id(keys.back()), bytes_from(i, length), traits).has_value());
  }
  ASSERT_TRUE(rig.rest());
  for (const int hit : {0, 3, 5, 7})
    ASSERT_TRUE(rig.store->match(id(keys[static_cast<std::size_t>(hit)]), 0).present);
  for (std::uint64_t i = 0; rig.store->stats().rewritten_blocks == 0; ++i) {
    ASSERT_LT(i, 200u);
    ASSERT_TRUE(rig.put("filler" + std::to_string(i), bytes_from(100 + i, length)).has_value());
  }
  ASSERT_TRUE(rig.rest());
  rig.world->run_until([] { return false; }, 100);
  EXPECT_EQ(rig.store->stats().rewritten_blocks, 2u);
  // Of the four that were hit, the two with the least depth fit into a quarter of a segment.
  for (std::size_t i = 0; i < 8; ++i) {
    const bool kept = i == 5 || i == 7;
    EXPECT_EQ(rig.store->match(id(keys[i]), 0).present, kept) << i;
    if (kept) {
      EXPECT_EQ(rig.get(keys[i]).value(), bytes_from(i, length));
    }
  }
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.get(keys[7]).value(), bytes_from(7, length)) << "also from its new place";
}

TEST(Evict, AHeldBlockIsKeptUntilItsHoldEnds) {
  for (const bool expired : {false, true}) {
    Rig rig(small());
    ASSERT_TRUE(rig.open().good());
    ASSERT_TRUE(rig.put("held", bytes_from(1, 50'000)).has_value());
    ASSERT_TRUE(rig.rest());
    // Once around, so that the mark of the first hit is gone and only the hold speaks.
    ASSERT_TRUE(rig.store->match(id_of("held"), expired ? 1 : 100'000).present);
    std::uint64_t i = 0;
    const auto fill_until = [&](std::uint64_t rewritten) {
      for (std::uint64_t n = 0; n < 400 && rig.store->stats().rewritten_blocks < rewritten;
           ++n, ++i) {
        ASSERT_TRUE(rig.put("filler" + std::to_string(i), bytes_from(i, 100'000)).has_value());
      }
    };
    fill_until(1);
    ASSERT_EQ(rig.store->stats().rewritten_blocks, 1u);
    fill_until(2);
    EXPECT_EQ(rig.store->stats().rewritten_blocks, expired ? 1u : 2u);
    rig.world->run_until([] { return false; }, 100);
    EXPECT_EQ(rig.store->match(id_of("held"), 0).present, !expired);
  }
}

TEST(Evict, AFullIndexMakesRoomByTheOldestSegment) {
  RigOptions options = small();
  options.store.index_entries_max = 40;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 300; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 5000)).has_value()) << i;
    ASSERT_LE(rig.store->stats().blocks, 40u);
  }
  EXPECT_EQ(rig.get("k299").value(), bytes_from(299, 5000));
  EXPECT_GT(rig.store->stats().evicted_blocks, 200u);
}

TEST(Evict, ARestartWithASmallerIndexKeepsTheNewest) {
  Rig rig(small());
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 60; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 60'000)).has_value());
  }
  ASSERT_TRUE(rig.close().good());
  rig.options.store.index_entries_max = 30;
  ASSERT_TRUE(rig.open().good());
  EXPECT_LE(rig.store->stats().blocks, 30u);
  EXPECT_GE(rig.store->stats().blocks, 10u);
  EXPECT_EQ(rig.get("k59").value(), bytes_from(59, 60'000));
  EXPECT_FALSE(rig.store->match(id_of("k0"), 0).present);
}

// A block that was evicted and put again must not be found in its first life after a crash.
TEST(Evict, AnEvictedIncarnationNeverComesBack) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RigOptions options = small();
    options.seed = seed;
    Rig rig(options);
    ASSERT_TRUE(rig.open().good());
    std::map<std::string, std::uint64_t> newest;
    const std::uint64_t rounds = 150 + rig.random.below(100);
    for (std::uint64_t i = 0; i < rounds; ++i) {
      const std::string key = "k" + std::to_string(i % 90);
      if (rig.put(key, bytes_from(i, 100'000))) newest[key] = i;
    }
    for (std::uint64_t n = rig.random.below(200); n > 0; --n) rig.world->step();
    rig.crash();
    ASSERT_TRUE(rig.open().good());
    std::uint64_t found = 0;
    for (const auto& [key, value] : newest) {
      const auto got = rig.get(key);
      if (!got) continue;
      ++found;
      ASSERT_EQ(*got, bytes_from(value, 100'000)) << "seed " << seed << " " << key;
    }
    EXPECT_GT(found, 10u) << "seed " << seed;
  }
}

// Reads that are under way when their segment is taken back end as they would have, or as misses.
TEST(Evict, ReadsKeepTheirSegment) {
  RigOptions options = small();
  options.arena_bytes = 8 * kArenaPageBytes;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  int right = 0, missed = 0;
  for (std::uint64_t i = 0; i < 400; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 60'000)).has_value());
    for (std::uint64_t back = 110; back < 130 && back < i; back += 4) {
      (void)rig.store->begin_get(id_of("k" + std::to_string(i - back)), 0, 60'000,
                                 [&, of = i - back](Result<Pinned> got) {
                                   if (!got) {
                                     EXPECT_EQ(got.error().code, Code::not_found);
                                     ++missed;
                                     return;
                                   }
                                   EXPECT_EQ(Rig::copy_of(*got), bytes_from(of, 60'000));
                                   ++right;
                                   rig.store->end_get(got->get);
                                 });
    }
  }
  EXPECT_TRUE(rig.rest());
  EXPECT_GT(right, 50);
  EXPECT_GT(missed, 50);
  EXPECT_EQ(rig.store->stats().corrupt, 0u);
}

}  // namespace
}  // namespace memkv
