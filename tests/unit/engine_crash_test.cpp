// Crashes at any moment, with torn and lost writes: whatever is served afterwards is right, and
// enough of it is there.
#include <map>
#include <set>

#include "engine/format.h"
#include "unit/engine_rig.h"

namespace memkv {
namespace {

RigOptions small(std::uint64_t seed) {
  RigOptions options;
  options.seed = seed;
  options.disk_bytes = 9 * kMiB;
  options.arena_bytes = 2 * kMiB;
  options.store.segment_bytes = kMiB;
  options.faults.lose_unflushed = 300'000;
  return options;
}

// What a test knows of each key: which value was put last, which were dropped and said so.
struct Oracle {
  std::map<std::string, std::uint64_t> last;     // value number
  std::map<std::string, std::uint64_t> dropped;  // all values up to this one are dead

  void check(Rig& rig, const std::string& key, const Bytes& got, std::uint64_t seed) const {
    ASSERT_TRUE(last.contains(key)) << "seed " << seed << " " << key;
    const std::uint64_t value = last.at(key);
    ASSERT_EQ(got, bytes_from(value, got.size())) << "seed " << seed << " " << key;
    const auto dead = dropped.find(key);
    if (dead != dropped.end()) {
      ASSERT_GT(value, dead->second)
          << "seed " << seed << " " << key << " was dropped, boot " << rig.store->stats().boot;
    }
  }
};

// One life of a store: random work, then a crash in the middle of it.
void live_and_crash(Rig& rig, Oracle& oracle, std::uint64_t& next_value, std::uint64_t seed) {
  std::map<std::string, std::uint64_t> dropping;
  const std::uint64_t steps = 20 + rig.random.below(150);
  for (std::uint64_t i = 0; i < steps; ++i) {
    const std::string key = "k" + std::to_string(rig.random.below(120));
    const std::uint64_t value = next_value++;
    if (rig.random.below(8) == 0) {
      const bool known = oracle.last.contains(key);
      const std::uint64_t upto = known ? oracle.last[key] : 0;
      rig.store->drop(id_of(key), [&oracle, key, upto](Code code) {
        if (code == Code::ok) oracle.dropped[key] = upto;
      });
      if (rig.random.below(2) == 0) rig.world->run_until([] { return false; }, 20);
    } else if (rig.put(key, bytes_from(value, 1 + rig.random.below(150'000)))) {
      oracle.last[key] = value;
    }
    if (const auto got = rig.get(key)) oracle.check(rig, key, *got, seed);
  }
  for (std::uint64_t n = rig.random.below(300); n > 0; --n) rig.world->step();
  rig.crash();
}

TEST(Crash, WhateverIsServedIsRight) {
  std::uint64_t found = 0, recovered = 0, dropped = 0;
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    Rig rig(small(seed));
    Oracle oracle;
    std::uint64_t next_value = 1;
    for (int life = 0; life < 5; ++life) {
      ASSERT_TRUE(rig.open().good());
      recovered += rig.store->stats().recovered_blocks;
      for (const auto& [key, value] : oracle.last) {
        if (const auto got = rig.get(key)) {
          ++found;
          ASSERT_NO_FATAL_FAILURE(oracle.check(rig, key, *got, seed));
        }
      }
      ASSERT_NO_FATAL_FAILURE(live_and_crash(rig, oracle, next_value, seed));
    }
    dropped += oracle.dropped.size();
  }
  EXPECT_GT(found, 1000u);
  EXPECT_GT(recovered, 1000u);
  EXPECT_GT(dropped, 100u);
}

TEST(Crash, ADropThatWasAnsweredSurvives) {
  Rig rig(small(1));
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("a", bytes_from(1, 1000)).has_value());
  ASSERT_TRUE(rig.put("b", bytes_from(2, 1000)).has_value());
  ASSERT_TRUE(rig.rest());
  EXPECT_EQ(rig.drop(id_of("a")), Code::ok);
  EXPECT_EQ(rig.drop(id_of("a")), Code::not_found);
  rig.crash();
  ASSERT_TRUE(rig.open().good());
  EXPECT_FALSE(rig.store->match(id_of("a"), 0).present);
  EXPECT_EQ(rig.get("b").value(), bytes_from(2, 1000));
  ASSERT_TRUE(rig.put("a", bytes_from(3, 2000)).has_value());
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.get("a").value(), bytes_from(3, 2000)) << "it was put again after its drop";
}

// What `memkv demo` waits for before it kills a node.
TEST(Crash, WithNoByteAndNoRecordWaitingNothingIsLost) {
  RigOptions options = small(1);
  options.faults.lose_unflushed = 0;  // the process dies, not the machine
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 40; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 10'000)).has_value());
  }
  bool records_waited = false;
  ASSERT_TRUE(rig.world->run_until([&] {
    const StoreStats stats = rig.store->stats();
    records_waited = records_waited || stats.records_waiting > 0;
    return stats.dirty_bytes == 0 && stats.records_waiting == 0;
  }));
  EXPECT_TRUE(records_waited);
  rig.crash();
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(rig.get("k" + std::to_string(i)).value(), bytes_from(i, 10'000));
  }
}

// While a drop is not yet durable the block cannot be put: a crash could bring the old bytes back
// behind the new ones.
TEST(Crash, WhileItIsDroppedItCannotBePut) {
  Rig rig(small(1));
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("a", bytes_from(1, 1000)).has_value());
  ASSERT_TRUE(rig.rest());
  std::optional<Code> dropped, put;
  rig.store->drop(id_of("a"), [&](Code code) { dropped = code; });
  (void)rig.store->begin_put(id_of("a"), 1000, {},
                             [&](Result<Grant> grant) { put = grant.error().code; });
  EXPECT_TRUE(rig.world->run_until([&] { return put.has_value(); }));
  EXPECT_EQ(put, Code::busy);
  EXPECT_TRUE(rig.world->run_until([&] { return dropped.has_value(); }));
  EXPECT_TRUE(rig.put("a", bytes_from(1, 1000)).has_value());
}

// A second life of a segment: what the first left behind is not believed.
TEST(Crash, AReusedSegmentIsNotMistakenForItsFormerLife) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rig rig(small(seed));
    ASSERT_TRUE(rig.open().good());
    // The same lengths each time around, so that old headers and index pages lie exactly where new
    // ones are looked for.
    for (std::uint64_t i = 0; i < 300; ++i) {
      ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 50'000)).has_value());
    }
    rig.world->run_until([] { return false; },
                         60);  // all of that took 10 ms: let records be written
    rig.crash();
    ASSERT_TRUE(rig.open().good());
    std::uint64_t found = 0;
    for (std::uint64_t i = 0; i < 300; ++i) {
      if (const auto got = rig.get("k" + std::to_string(i))) {
        ++found;
        ASSERT_EQ(*got, bytes_from(i, 50'000));
      }
    }
    EXPECT_GT(found, 20u);
    EXPECT_LT(found, 160u) << "more than the device holds";
    EXPECT_EQ(rig.store->stats().foreign, 0u);
  }
}

struct Damage : testing::Test {
  Rig rig{small(1)};
  engine::Superblock super;

  void fill_and_close() {
    ASSERT_TRUE(rig.open().good());
    for (std::uint64_t i = 0; i < 10; ++i) {
      ASSERT_TRUE(rig.put("old" + std::to_string(i), bytes_from(i, 1000)).has_value());
    }
    ASSERT_TRUE(rig.rest());
    ASSERT_TRUE(rig.close().good());
    ASSERT_TRUE(rig.open().good());  // the second segment
    for (std::uint64_t i = 0; i < 10; ++i) {
      ASSERT_TRUE(rig.put("new" + std::to_string(i), bytes_from(100 + i, 1000)).has_value());
      ASSERT_TRUE(rig.rest());
      if (i == 4) {
        ASSERT_EQ(rig.drop(id_of("old0")), Code::ok);
      }
    }
    ASSERT_TRUE(rig.close().good());
    const auto page = std::span<const std::byte>(rig.disk.bytes()).first<kPageBytes>();
    ASSERT_EQ(engine::decode_superblock(page, super), engine::SuperblockState::valid);
  }
  void flip(std::uint32_t segment, std::uint32_t page) {
    rig.disk.bytes()[super.place(segment, page) + 60] ^= std::byte{1};
  }
  std::uint64_t present(const std::string& prefix) {
    std::uint64_t count = 0;
    for (std::uint64_t i = 0; i < 10; ++i) {
      const auto got = rig.get(prefix + std::to_string(i));
      if (!got) continue;
      ++count;
      EXPECT_EQ(*got, bytes_from((prefix == "new" ? 100 : 0) + i, 1000));
    }
    return count;
  }
};

TEST_F(Damage, ARottenIndexPageLosesOnlyWhatItNamed) {
  ASSERT_NO_FATAL_FAILURE(fill_and_close());
  flip(1, super.segment_pages() - 3);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(present("new"), 9u);
  EXPECT_EQ(present("old"), 9u);
}

TEST_F(Damage, ALostTombstoneTakesAlongWhatItMayHaveKilled) {
  ASSERT_NO_FATAL_FAILURE(fill_and_close());
  std::uint32_t rotten = 0;
  for (std::uint32_t number = 0; number < 11; ++number) {
    const std::uint32_t page = super.segment_pages() - 1 - number;
    const auto bytes = std::span<const std::byte>(rig.disk.bytes()).subspan(super.place(1, page));
    const auto index = engine::decode_index_page(bytes.first<kPageBytes>(), super.segment_pages());
    ASSERT_TRUE(index.has_value()) << number;
    for (const auto& record : index->records) {
      if (record.kind == engine::RecordKind::tombstone) rotten = page;
    }
  }
  ASSERT_NE(rotten, 0u);
  flip(1, rotten);
  ASSERT_TRUE(rig.open().good());
  EXPECT_FALSE(rig.store->match(id_of("old0"), 0).present) << "dropped is dropped";
  EXPECT_EQ(present("old"), 0u);
  EXPECT_EQ(present("new"), 5u);
}

TEST_F(Damage, ARottenSegmentHeaderLosesItsBlocksAndNoTombstone) {
  ASSERT_NO_FATAL_FAILURE(fill_and_close());
  flip(1, 0);
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(present("new"), 0u);
  EXPECT_EQ(present("old"), 9u);
  EXPECT_FALSE(rig.store->match(id_of("old0"), 0).present);
}

TEST_F(Damage, AFewReadsThatFailOrLieDoNotShortenTheIndex) {
  ASSERT_NO_FATAL_FAILURE(fill_and_close());
  for (std::uint64_t n = 0; n < 30; ++n) {
    sim::Faults faults;
    faults.fail_read = 50'000;
    faults.misdirect_read = 50'000;
    rig.world->set_faults(faults);
    const Status opened = rig.open();
    rig.world->set_faults({});
    if (!opened.good()) {
      EXPECT_EQ(opened.code, Code::device_error) << opened.message();
      continue;
    }
    EXPECT_FALSE(rig.store->match(id_of("old0"), 0).present);
    EXPECT_EQ(rig.store->stats().recovered_blocks, 19u);
    ASSERT_TRUE(rig.close().good());
  }
}

}  // namespace
}  // namespace memkv
