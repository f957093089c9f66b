// Devices that fail, flash that rots, fingerprints that collide: a clear status, and the block can
// be put again.
#include <map>

#include "base/mutant.h"
#include "unit/engine_rig.h"

namespace memkv {
namespace {

constexpr std::size_t kLength = 200'000;

// A store with one block that is on flash only.
struct OnFlash : testing::Test {
  Rig rig{RigOptions{}};
  Bytes bytes = bytes_from(1, kLength);
  std::uint64_t incarnation = 0;

  void SetUp() override {
    ASSERT_TRUE(rig.open().good());
    incarnation = rig.put("k", bytes).value();
    ASSERT_TRUE(rig.close().good());
    ASSERT_TRUE(rig.open().good());
  }
  void TearDown() override { set_mutant(Mutant::none); }

  // Where the block's unit begins on the disk; its header lies one page before unit 0.
  std::size_t unit_at(std::size_t unit) {
    const std::size_t at = rig.find_on_disk(std::span(bytes).subspan(unit * 65536, 64));
    EXPECT_NE(at, std::string::npos);
    return at;
  }
  void expect_put_again_works() {
    EXPECT_FALSE(rig.store->match(id_of("k"), 0).present);
    EXPECT_EQ(rig.get(id_of("k"), 0, 1).error().code, Code::not_found);
    ASSERT_TRUE(rig.put("k", bytes).has_value());
    EXPECT_EQ(rig.get("k").value(), bytes);
    ASSERT_TRUE(rig.close().good());
    ASSERT_TRUE(rig.open().good());
    EXPECT_EQ(rig.get("k").value(), bytes) << "the newer incarnation wins";
  }
};

TEST_F(OnFlash, ARottenUnitIsCorruptAndTheBlockIsTakenOut) {
  rig.disk.bytes()[unit_at(1) + 100] ^= std::byte{1};
  EXPECT_EQ(rig.get(id_of("k"), 0, 10).value().size(), 65536u) << "another unit is whole";
  EXPECT_EQ(rig.get(id_of("k"), 65536, 10).error().code, Code::corrupt);
  EXPECT_EQ(rig.store->stats().corrupt, 1u);
  expect_put_again_works();
}

TEST_F(OnFlash, ARottenUnitSpoilsTheWholeBlock) {
  rig.disk.bytes()[unit_at(3)] ^= std::byte{0x80};
  EXPECT_EQ(rig.get("k").error().code, Code::corrupt);
  expect_put_again_works();
}

TEST_F(OnFlash, ARottenHeaderIsCorrupt) {
  rig.disk.bytes()[unit_at(0) - kPageBytes + 3000] ^= std::byte{1};
  EXPECT_EQ(rig.get(id_of("k"), 65536, 10).error().code, Code::corrupt);
  expect_put_again_works();
}

// A header that is whole, but of an earlier life of the place.
TEST_F(OnFlash, AHeaderOfAnotherGenerationIsCorrupt) {
  const std::size_t at = unit_at(0) - kPageBytes;
  const auto page = std::span(rig.disk.bytes()).subspan(at).first<kPageBytes>();
  page[32] ^= std::byte{1};
  const std::uint32_t crc = crc32c(page.first(4092));
  std::memcpy(page.data() + 4092, &crc, 4);
  EXPECT_EQ(rig.get("k").error().code, Code::corrupt);
  expect_put_again_works();
}

TEST_F(OnFlash, MutantThatIgnoresGenerationsBelievesIt) {
  const auto page =
      std::span(rig.disk.bytes()).subspan(unit_at(0) - kPageBytes).first<kPageBytes>();
  page[32] ^= std::byte{1};
  const std::uint32_t crc = crc32c(page.first(4092));
  std::memcpy(page.data() + 4092, &crc, 4);
  set_mutant(Mutant::ignore_generation);
  EXPECT_TRUE(rig.get("k").has_value());
}

TEST_F(OnFlash, MutantThatSkipsCrcsServesRot) {
  rig.disk.bytes()[unit_at(1) + 100] ^= std::byte{1};
  set_mutant(Mutant::skip_crc_on_read);
  const auto pinned = rig.pin(id_of("k"), 0, kLength);
  ASSERT_TRUE(pinned.has_value());
  EXPECT_NE(Rig::copy_of(*pinned), bytes);
  rig.store->end_get(pinned->get);
}

TEST_F(OnFlash, OneFailedReadIsAnErrorTheSecondInARowTakesItOut) {
  sim::Faults faults;
  faults.fail_read = 1'000'000;
  for (int round = 0; round < 3; ++round) {
    rig.world->set_faults(faults);
    EXPECT_EQ(rig.get(id_of("k"), 0, 10).error().code, Code::device_error);
    rig.world->set_faults({});
    EXPECT_TRUE(rig.get(id_of("k"), 0, 10).has_value()) << "the count starts anew";
  }
  rig.world->set_faults(faults);
  EXPECT_EQ(rig.get(id_of("k"), 0, 10).error().code, Code::device_error);
  EXPECT_EQ(rig.get(id_of("k"), 0, kLength).error().code, Code::device_error);
  EXPECT_EQ(rig.store->stats().device_errors, 5u);
  rig.world->set_faults({});
  expect_put_again_works();
}

TEST_F(OnFlash, AReportOfWhatIsRightChangesNothing) {
  rig.store->report(id_of("k"), incarnation);
  rig.store->report(id_of("k"), incarnation + 1);
  rig.store->report(id_of("absent"), incarnation);
  rig.store->report(id_of(""), incarnation);
  rig.world->run_until([] { return false; }, 100);
  EXPECT_EQ(rig.get("k").value(), bytes);
}

TEST_F(OnFlash, AReportFindsRotOnFlash) {
  rig.disk.bytes()[unit_at(2)] ^= std::byte{1};
  rig.store->report(id_of("k"), incarnation - 1);
  rig.world->run_until([] { return false; }, 100);
  EXPECT_TRUE(rig.store->match(id_of("k"), 0).present) << "another incarnation was meant";
  rig.store->report(id_of("k"), incarnation);
  rig.world->run_until([] { return false; }, 100);
  expect_put_again_works();
}

TEST_F(OnFlash, AReportFindsRotInDramAndKeepsTheFlashCopy) {
  const auto pinned = rig.pin(id_of("k"), 0, kLength);
  ASSERT_TRUE(pinned.has_value());
  static_cast<std::byte*>(pinned->pieces[0].iov_base)[5] ^= std::byte{1};
  rig.store->end_get(pinned->get);
  rig.store->report(id_of("k"), incarnation);
  rig.world->run_until([] { return false; }, 100);
  EXPECT_TRUE(rig.store->match(id_of("k"), 0).present);
  EXPECT_EQ(rig.store->stats().corrupt, 1u);
  EXPECT_EQ(rig.get("k").value(), bytes);
}

TEST(Fault, MutantThatPublishesEarlyServesWhatDidNotArrive) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 100);
  const Bytes other = bytes_from(2, 100);
  const auto grant = rig.begin(id_of("k"), 100);
  Rig::fill(*grant, other);
  set_mutant(Mutant::publish_early);
  EXPECT_TRUE(rig.store->commit_put(grant->put, crcs_of(other), crcs_of(bytes)).has_value());
  set_mutant(Mutant::none);
  EXPECT_EQ(rig.get("k").value(), other);
}

TEST(Fault, CollidingFingerprintsAreForeignAndNeverServed) {
  for (const bool restart : {false, true}) {
    RigOptions options;
    options.store.fingerprint_bits = 5;
    Rig rig(options);
    ASSERT_TRUE(rig.open().good());
    std::uint64_t found = 0;
    for (std::uint64_t i = 0; i < 300; ++i) {
      const std::string key = "k" + std::to_string(i % 60);
      const std::size_t length = 3000;
      const auto put = rig.put(key, bytes_from(i % 60, length));
      ASSERT_TRUE(put || put.error().code == Code::exists) << put.error().message();
      if (restart && i % 20 == 0) {
        ASSERT_TRUE(rig.close().good());
        ASSERT_TRUE(rig.open().good());
      }
      for (std::uint64_t j = 0; j < 60; j += 7) {
        const auto got = rig.get(id_of("k" + std::to_string(j)), 0, 3000);
        if (got) {
          ++found;
          ASSERT_EQ(*got, bytes_from(j, length));
        } else {
          ASSERT_EQ(got.error().code, Code::not_found);
        }
      }
      const auto past_the_end = rig.get(id_of(key), 2999, 2);
      ASSERT_TRUE(past_the_end.error().code == Code::invalid ||
                  past_the_end.error().code == Code::not_found);
    }
    EXPECT_GT(found, 10u);
    EXPECT_GT(rig.store->stats().foreign, 0u);
    EXPECT_EQ(rig.store->stats().corrupt, 0u);
    EXPECT_LE(rig.store->stats().blocks, 32u);
  }
}

TEST(Fault, MutantsOfIdentityServeAnothersBytes) {
  RigOptions options;
  options.store.fingerprint_bits = 1;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, 100)).has_value());
  int wrong = 0;
  set_mutant(Mutant::skip_key_compare);
  for (int i = 0; i < 20; ++i)
    wrong += rig.get(id_of("other" + std::to_string(i)), 0, 1).has_value();
  set_mutant(Mutant::none);
  EXPECT_GT(wrong, 0);

  Rig tenants;
  set_mutant(Mutant::skip_tenant_compare);
  ASSERT_TRUE(tenants.open().good());
  ASSERT_TRUE(tenants.put(id_of("k", 1), bytes_from(1, 100)).has_value());
  EXPECT_TRUE(tenants.get(id_of("k", 2), 0, 1).has_value());
  set_mutant(Mutant::none);
}

TEST(Fault, ADeviceThatTakesNothingLosesBlocksAndNeverHangs) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("before", bytes_from(1, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  sim::Faults faults;
  faults.fail_write = 1'000'000;
  rig.world->set_faults(faults);
  EXPECT_EQ(rig.drop(id_of("before")), Code::device_error);
  for (std::uint64_t i = 0; i < 100; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, kLength)).has_value());
  }
  ASSERT_TRUE(rig.rest());
  EXPECT_GT(rig.store->stats().lost_blocks, 90u);
  EXPECT_GT(rig.store->stats().device_errors, 5u);
  rig.world->set_faults({});
  rig.world->run_until([] { return false; }, 500);
  ASSERT_TRUE(rig.put("after", bytes_from(7, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.get("after").value(), bytes_from(7, kLength));
}

// A device with a place that takes no writes.
class BadPlace final : public Device {
 public:
  BadPlace(std::unique_ptr<Device> device, std::uint64_t offset, const bool& on)
      : device_(std::move(device)), offset_(offset), on_(on) {}
  std::uint64_t capacity_bytes() const override { return device_->capacity_bytes(); }
  std::string name() const override { return device_->name(); }
  void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    device_->read(offset, std::move(pieces), std::move(done));
  }
  void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    if (!on_ || offset != offset_) {
      return device_->write(offset, std::move(pieces), std::move(done));
    }
    device_->flush([done = std::move(done)](Result<void>) mutable {
      done(fail(Code::device_error, "this place is bad"));
    });
  }
  void flush(DeviceDone done) override { device_->flush(std::move(done)); }
  std::size_t in_flight() const override { return device_->in_flight(); }

 private:
  std::unique_ptr<Device> device_;
  std::uint64_t offset_;
  const bool& on_;
};

constexpr std::uint64_t kFirstSegment = kMiB;

// The old header cannot be overwritten, so that the old life would be believed at the next start,
// dropped blocks and all.
TEST(Fault, ASegmentThatTakesNoHeaderIsSetAside) {
  bool bad = false;
  Rig rig({.disk_bytes = 6 * kMiB});
  rig.wrap = [&](std::unique_ptr<Device> device) {
    return std::make_unique<BadPlace>(std::move(device), kFirstSegment, bad);
  };
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("first", bytes_from(1, kLength)).has_value());
  ASSERT_TRUE(rig.put("dropped", bytes_from(2, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  ASSERT_EQ(rig.drop(id_of("dropped")), Code::ok);
  bad = true;
  for (std::uint64_t i = 0; i < 60; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(rig.put(key, bytes_from(i, kLength)).has_value());
    ASSERT_TRUE(rig.rest());
    ASSERT_EQ(rig.get(key).value(), bytes_from(i, kLength));
  }
  EXPECT_FALSE(rig.store->match(id_of("first"), 0).present);
  EXPECT_EQ(rig.store->stats().lost_blocks, 0u);
  ASSERT_TRUE(rig.close().good());
  bad = false;
  ASSERT_TRUE(rig.open().good());
  EXPECT_FALSE(rig.store->match(id_of("first"), 0).present);
  EXPECT_FALSE(rig.store->match(id_of("dropped"), 0).present);
  EXPECT_EQ(rig.get("k59").value(), bytes_from(59, kLength));
}

// Found by the simulation: a blank segment like that was tried again and again, and nothing else.
TEST(Fault, ABlankSegmentThatTakesNoHeaderIsPassedBy) {
  Rig rig({.disk_bytes = 6 * kMiB});
  rig.disk.bad_pages().insert(kFirstSegment / kPageBytes);
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 60; ++i) {
    const std::string key = "k" + std::to_string(i);
    ASSERT_TRUE(rig.put(key, bytes_from(i, kLength)).has_value());
    ASSERT_TRUE(rig.rest());
    ASSERT_EQ(rig.get(key).value_or(Bytes{}), bytes_from(i, kLength));
  }
  EXPECT_EQ(rig.store->stats().lost_blocks, 0u);
}

// Found by the simulation: each segment that took no header while the device failed was given up
// until the next start, in the end all of them.
TEST(Fault, ADeviceThatFailedForAMomentGetsItsSegmentsBack) {
  Rig rig({.disk_bytes = 6 * kMiB});
  ASSERT_TRUE(rig.open().good());
  std::uint64_t next = 0;
  const auto put_some = [&](std::uint64_t pause_ms) {
    for (int i = 0; i < 60; ++i, ++next) {
      ASSERT_TRUE(rig.put("k" + std::to_string(next), bytes_from(next, kLength)).has_value());
      ASSERT_TRUE(rig.rest());
      rig.world->run_until([] { return false; }, pause_ms);
    }
  };
  put_some(0);  // no segment is blank any more
  ASSERT_EQ(rig.store->stats().lost_blocks, 0u);
  for (std::uint64_t page = kFirstSegment; page < 6 * kMiB; page += kMiB) {
    rig.disk.bad_pages().insert(page / kPageBytes);
  }
  put_some(100);
  EXPECT_GT(rig.store->stats().lost_blocks, 0u);
  rig.disk.bad_pages().clear();
  rig.world->run_until([] { return false; }, 3000);
  const std::uint64_t lost = rig.store->stats().lost_blocks;
  put_some(0);
  EXPECT_EQ(rig.store->stats().lost_blocks, lost);
  const std::string last = "k" + std::to_string(next - 1);
  EXPECT_EQ(rig.get(last).value_or(Bytes{}), bytes_from(next - 1, kLength));
}

// The first index page cannot be written: the segment's blocks live until the restart, and those of
// others after it.
TEST(Fault, ASegmentThatTakesNoIndexPageIsLeft) {
  bool bad = true;
  Rig rig;
  rig.wrap = [&](std::unique_ptr<Device> device) {
    return std::make_unique<BadPlace>(std::move(device), kFirstSegment + kMiB - kPageBytes, bad);
  };
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("first", bytes_from(1, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  ASSERT_TRUE(rig.put("second", bytes_from(2, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  EXPECT_EQ(rig.get("first").value(), bytes_from(1, kLength));
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_FALSE(rig.store->match(id_of("first"), 0).present);
  EXPECT_EQ(rig.get("second").value(), bytes_from(2, kLength));
}

TEST(Fault, ADropWhoseTombstoneFindsNoPlaceIsAnErrorAndIsTriedAgain) {
  bool bad = true;
  Rig rig;
  rig.wrap = [&](std::unique_ptr<Device> device) {
    return std::make_unique<BadPlace>(std::move(device), kFirstSegment + kMiB - 2 * kPageBytes,
                                      bad);
  };
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, kLength)).has_value());
  ASSERT_TRUE(rig.rest());
  EXPECT_EQ(rig.drop(id_of("k")), Code::device_error);
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).present);
  ASSERT_TRUE(rig.rest());
  rig.crash();
  ASSERT_TRUE(rig.open().good());
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).present) << "it went to the next segment";
}

// A block whose write fails is written in another place.
TEST(Fault, AFailedWriteIsTriedInAnotherPlace) {
  bool bad = true;
  Rig rig;
  rig.wrap = [&](std::unique_ptr<Device> device) {
    return std::make_unique<BadPlace>(std::move(device), kFirstSegment + kPageBytes, bad);
  };
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, kLength)).has_value());
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.get("k").value(), bytes_from(1, kLength));
}

TEST(Fault, CloseSaysWhatItCouldNotWrite) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, kLength)).has_value());
  sim::Faults faults;
  faults.fail_write = 1'000'000;
  rig.world->set_faults(faults);
  EXPECT_EQ(rig.close().code, Code::device_error);
}

// Everything fails now and then; the bytes stay right, and the store stays useful, over many lives.
TEST(Fault, ADeviceThatFailsNowAndThen) {
  std::uint64_t found = 0;
  std::uint64_t errors = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    RigOptions options;
    options.seed = seed;
    options.disk_bytes = 9 * kMiB;
    options.arena_bytes = 2 * kMiB;
    Rig rig(options);
    ASSERT_TRUE(rig.open().good());
    std::map<std::string, std::uint64_t> last;
    for (int life = 0; life < 3; ++life) {
      sim::Faults faults;
      faults.fail_read = 10'000;
      faults.fail_write = 10'000;
      faults.torn_write = 10'000;
      faults.flip_read = 3'000;
      faults.misdirect_read = 3'000;
      faults.misdirect_write = 1'000;
      faults.slow_disk = 5'000;
      faults.lose_unflushed = 100'000;
      rig.world->set_faults(faults);
      for (std::uint64_t i = 0; i < 120; ++i) {
        const std::string key = "k" + std::to_string(rig.random.below(100));
        const std::uint64_t value = seed * 10'000 + static_cast<std::uint64_t>(life) * 1000 + i;
        if (rig.put(key, bytes_from(value, 1 + rig.random.below(150'000)))) last[key] = value;
        const std::string wanted = "k" + std::to_string(rig.random.below(100));
        if (const auto got = rig.get(wanted)) {
          ++found;
          ASSERT_EQ(*got, bytes_from(last.at(wanted), got->size())) << "seed " << seed;
        } else {
          ASSERT_NE(got.error().code, Code::timeout) << "seed " << seed;
          ASSERT_NE(got.error().code, Code::internal);
        }
      }
      ASSERT_TRUE(rig.rest()) << "seed " << seed;
      errors += rig.store->stats().device_errors;
      if (rig.random.below(2) == 0) {
        rig.crash();
      } else {
        const Status closed = rig.close();
        ASSERT_TRUE(closed.good() || closed.code == Code::device_error) << closed.message();
      }
      rig.world->set_faults({});
      const Status opened = rig.open();
      ASSERT_TRUE(opened.good()) << "seed " << seed << " " << opened.message();
    }
  }
  EXPECT_GT(found, 5000u);
  EXPECT_GT(errors, 100u);
}

}  // namespace
}  // namespace memkv
