// Blocks in and out of a store: sizes, ranges, what a second put says, waits, refusals.
#include <deque>

#include "unit/engine_rig.h"

namespace memkv {
namespace {

class Sizes : public testing::TestWithParam<std::uint32_t> {};

TEST_P(Sizes, FromDramFromFlashAndAfterARestart) {
  RigOptions options;
  options.disk_bytes = GetParam() > kMiB ? 640 * kMiB : 32 * kMiB;
  options.arena_bytes = GetParam() > kMiB ? 128 * kMiB : 8 * kMiB;
  options.store.segment_bytes = GetParam() > kMiB ? 128 * kMiB : 4 * kMiB;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(GetParam(), GetParam());
  const auto incarnation = rig.put("k", bytes);
  ASSERT_TRUE(incarnation.has_value()) << incarnation.error().message();
  EXPECT_EQ(rig.get("k").value(), bytes);
  EXPECT_EQ(rig.store->stats().hits_dram, 1u);
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(rig.store->stats().recovered_blocks, 1u);
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).in_dram);
  const auto pinned = rig.pin(id_of("k"), 0, GetParam());
  ASSERT_TRUE(pinned.has_value()) << pinned.error().message();
  EXPECT_EQ(pinned->incarnation, incarnation.value());
  EXPECT_EQ(pinned->block_length, GetParam());
  EXPECT_EQ(Rig::copy_of(*pinned), bytes);
  EXPECT_EQ(rig.store->stats().hits_flash, 1u);
  rig.store->end_get(pinned->get);
  EXPECT_TRUE(rig.store->match(id_of("k"), 0).in_dram);
}

INSTANTIATE_TEST_SUITE_P(Blocks, Sizes,
                         testing::Values(1, 4095, 4096, 4097, 65535, 65536, 65537, kMiB + 3,
                                         kBlockBytesMax));

TEST(Blocks, RangesComeInWholeUnits) {
  Rig rig({.disk_bytes = 32 * kMiB, .store = {.segment_bytes = 4 * kMiB}});
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(3, 300'000);
  ASSERT_TRUE(rig.put("k", bytes).has_value());
  const auto check = [&] {
    const std::pair<std::uint32_t, std::uint32_t> ranges[] = {
        {0, 1},        {65535, 2},   {65536, 65536},    {299'999, 1},
        {262'144, 10}, {0, 300'000}, {100'000, 200'000}};
    for (const auto& [offset, length] : ranges) {
      const auto got = rig.get(id_of("k"), offset, length);
      ASSERT_TRUE(got.has_value()) << offset << " " << got.error().message();
      const std::size_t begin = offset / 65536 * 65536;
      const std::size_t end =
          std::min<std::size_t>(300'000, (offset + length + 65535) / 65536 * 65536);
      EXPECT_EQ(*got, Bytes(bytes.begin() + static_cast<long>(begin),
                            bytes.begin() + static_cast<long>(end)));
    }
  };
  check();
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  for (const auto& [offset, length] :
       {std::pair{300'000u, 1u}, {0u, 300'001u}, {5u, 0u}, {4'000'000'000u, 4'000'000'000u}}) {
    const auto got = rig.get(id_of("k"), offset, length);
    ASSERT_FALSE(got.has_value());
    EXPECT_EQ(got.error().code, Code::invalid);
    EXPECT_NE(got.error().text.find("300000"), std::string::npos) << got.error().text;
  }
  check();
  EXPECT_EQ(rig.store->stats().corrupt, 0u);
}

TEST(Blocks, ASecondPutMovesNoBytes) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 5000);
  auto first = rig.begin(id_of("k"), 5000);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(rig.begin(id_of("k"), 5000).error().code, Code::busy);
  EXPECT_EQ(rig.begin(id_of("k"), 4000).error().code, Code::busy);
  EXPECT_EQ(rig.pin(id_of("k"), 0, 1).error().code, Code::not_found);
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).present);
  EXPECT_EQ(rig.drop(id_of("k")), Code::busy);
  Rig::fill(*first, bytes);
  const auto crcs = crcs_of(bytes);
  ASSERT_TRUE(rig.store->commit_put(first->put, crcs, crcs).has_value());
  EXPECT_EQ(rig.begin(id_of("k"), 5000).error().code, Code::exists);
  EXPECT_EQ(rig.begin(id_of("k"), 5001).error().code, Code::conflict);
  EXPECT_EQ(rig.get("k").value(), bytes);
  const StoreStats stats = rig.store->stats();
  EXPECT_EQ(stats.puts_exist, 1u);
  EXPECT_EQ(stats.puts_conflict, 1u);
  EXPECT_EQ(stats.puts_busy, 2u);
}

TEST(Blocks, WhatDidNotArriveWholeIsNeverVisible) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 100'000);
  const auto crcs = crcs_of(bytes);
  auto wrong = crcs;
  wrong[1] ^= 1;
  auto grant = rig.begin(id_of("k"), 100'000);
  EXPECT_EQ(rig.store->commit_put(grant->put, wrong, crcs).error().code, Code::corrupt);
  EXPECT_EQ(rig.store->commit_put(grant->put, crcs, crcs).error().code, Code::invalid);
  grant = rig.begin(id_of("k"), 100'000);
  ASSERT_TRUE(grant.has_value());
  EXPECT_EQ(rig.store->commit_put(grant->put, std::span(crcs).first(1), std::span(crcs).first(1))
                .error()
                .code,
            Code::invalid);
  grant = rig.begin(id_of("k"), 100'000);
  ASSERT_TRUE(grant.has_value());
  rig.store->abort_put(grant->put);
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).present);
  EXPECT_TRUE(rig.put("k", bytes).has_value());
  EXPECT_EQ(rig.store->stats().puts_aborted, 1u);
  EXPECT_EQ(rig.store->stats().puts_rejected, 2u);
}

// The bytes changed in DRAM between the commit and the write to flash: they do not go there.
// Holds writes until it is let go.
class HeldDevice final : public Device {
 public:
  explicit HeldDevice(std::unique_ptr<Device> device) : device_(std::move(device)) {}
  void hold() { held_ = true; }
  void let_go() {
    held_ = false;
    for (auto& write : std::exchange(writes_, {})) write();
  }
  [[nodiscard]] std::size_t writes_held() const { return writes_.size(); }

  std::uint64_t capacity_bytes() const override { return device_->capacity_bytes(); }
  std::string name() const override { return device_->name(); }
  void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    device_->read(offset, std::move(pieces), std::move(done));
  }
  void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    auto write = [this, offset, pieces = std::move(pieces), done = std::move(done)]() mutable {
      device_->write(offset, std::move(pieces), std::move(done));
    };
    if (!held_) return write();
    writes_.emplace_back(std::move(write));
  }
  void flush(DeviceDone done) override { device_->flush(std::move(done)); }
  std::size_t in_flight() const override { return device_->in_flight(); }

 private:
  std::unique_ptr<Device> device_;
  bool held_ = false;
  std::vector<std::move_only_function<void()>> writes_;
};

// A rig whose device holds writes, and a block of which a bit changes in DRAM once it is committed.
struct HeldRig : Rig {
  HeldRig() : Rig({.arena_bytes = 16 * kMiB}) {
    wrap = [this](std::unique_ptr<Device> real) {
      auto wrapped = std::make_unique<HeldDevice>(std::move(real));
      held = wrapped.get();
      return wrapped;
    };
    EXPECT_TRUE(open().good());
  }
  // One block is written, so that a segment is open; then as many as the device takes are held, and
  // the next one waits.
  void fill_device() {
    EXPECT_TRUE(put("first", bytes_from(1, 10)).has_value());
    EXPECT_TRUE(rest());
    held->hold();
    for (std::uint32_t i = 0; i < kDeviceQueueDepth; ++i) {
      EXPECT_TRUE(put("before" + std::to_string(i), bytes_from(i, 10)).has_value());
    }
    EXPECT_TRUE(world->run_until([&] { return held->writes_held() >= kDeviceQueueDepth; }));
  }
  void put_and_spoil(std::uint64_t commit_after_ms = 0) {
    const auto crcs = crcs_of(bytes);
    const auto grant = begin(id_of("k"), static_cast<std::uint32_t>(bytes.size()));
    fill(*grant, bytes);
    pass(commit_after_ms);
    EXPECT_TRUE(store->commit_put(grant->put, crcs, crcs).has_value());
    static_cast<std::byte*>(grant->pieces[0].iov_base)[70'000] ^= std::byte{4};
  }
  void pass(std::uint64_t ms) {
    EXPECT_FALSE(world->run_until([] { return false; }, ms));
  }
  void let_go() {
    held->let_go();
    EXPECT_TRUE(rest());
  }
  void expect_taken_out() {
    EXPECT_EQ(store->stats().corrupt, 1u);
    EXPECT_FALSE(store->match(id_of("k"), 0).present);
    EXPECT_EQ(find_on_disk(std::span(bytes).first(64)), std::string::npos);
  }

  HeldDevice* held = nullptr;
  const Bytes bytes = bytes_from(1, 100'000);
};

TEST(Blocks, VerifiedAgainWhenItWaitedForTheDevice) {
  HeldRig rig;
  rig.fill_device();
  rig.put_and_spoil();
  rig.pass(kVerifiedMsMax + 100);
  rig.let_go();
  rig.expect_taken_out();
}

TEST(Blocks, VerifiedAgainWhenItWaitedForASegment) {
  HeldRig rig;
  rig.held->hold();  // also the headers of further segments
  for (std::uint64_t i = 0; i < 6; ++i) {
    ASSERT_TRUE(rig.put("large" + std::to_string(i), bytes_from(100 + i, 900'000)).has_value());
  }
  rig.put_and_spoil();
  rig.pass(kVerifiedMsMax + 100);
  rig.let_go();
  rig.expect_taken_out();
}

TEST(Blocks, VerifiedAgainWhenItsWriterTookLongToCommit) {
  HeldRig rig;
  rig.put_and_spoil(kVerifiedMsMax + 100);
  EXPECT_TRUE(rig.rest());
  rig.expect_taken_out();
}

// What was compared with the writer's CRCs a moment ago is not compared again; the reader finds it.
TEST(Blocks, WhatChangesOnItsWayToFlashIsAMiss) {
  HeldRig rig;
  rig.fill_device();
  rig.put_and_spoil();
  rig.pass(kVerifiedMsMax / 2);
  rig.let_go();
  EXPECT_EQ(rig.store->stats().corrupt, 0u);
  EXPECT_NE(rig.find_on_disk(std::span(rig.bytes).first(64)), std::string::npos);
  rig.crash();
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.store->match(id_of("k"), 0).present);
  EXPECT_EQ(rig.get("k").error().code, Code::corrupt);
  EXPECT_FALSE(rig.store->match(id_of("k"), 0).present);
  EXPECT_EQ(rig.store->stats().corrupt, 1u);
}

TEST(Blocks, EveryRefusalHasItsCode) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const std::string long_key(kKeyBytesMax + 1, 'k');
  const std::string longest(kKeyBytesMax, 'k');
  EXPECT_EQ(rig.begin(id_of(""), 10).error().code, Code::invalid);
  EXPECT_NE(rig.begin(id_of(long_key), 10).error().text.find("513"), std::string::npos);
  EXPECT_EQ(rig.begin(id_of("k"), 0).error().code, Code::invalid);
  EXPECT_EQ(rig.begin(id_of("k"), kBlockBytesMax + 1).error().code, Code::invalid);
  const Status large = rig.begin(id_of("k"), kMiB).error();
  EXPECT_EQ(large.code, Code::no_space);
  EXPECT_NE(large.text.find(std::to_string(kMiB - 3 * kPageBytes)), std::string::npos)
      << large.text;
  EXPECT_EQ(rig.pin(id_of(""), 0, 1).error().code, Code::invalid);
  EXPECT_EQ(rig.pin(id_of(long_key), 0, 1).error().code, Code::invalid);
  EXPECT_EQ(rig.pin(id_of("absent"), 0, 1).error().code, Code::not_found);
  EXPECT_EQ(rig.drop(id_of("absent")), Code::not_found);
  EXPECT_EQ(rig.drop(id_of("")), Code::not_found);
  EXPECT_FALSE(rig.store->match(id_of(long_key), 0).present);
  EXPECT_TRUE(rig.put(longest, bytes_from(1, kMiB - 3 * kPageBytes)).has_value());
  EXPECT_EQ(rig.get(longest).value(), bytes_from(1, kMiB - 3 * kPageBytes));
  EXPECT_EQ(rig.store->stats().puts_rejected, 5u);
}

TEST(Blocks, TenantNamespaceAndDropGenerationKeepBlocksApart) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  BlockId other_space = id_of("k");
  other_space.space.id[5] = std::byte{1};
  const BlockId ids[] = {id_of("k"), id_of("k", 2), id_of("k", 1, 1), other_space};
  for (std::uint64_t i = 0; i < 4; ++i) {
    EXPECT_FALSE(rig.store->match(ids[i], 0).present);
    ASSERT_TRUE(rig.put(ids[i], bytes_from(i, 1000)).has_value());
  }
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(rig.get(ids[i]).value(), bytes_from(i, 1000));
}

TEST(Blocks, AnAbortedPutAndAnEndedGetAreSilent) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const PutId put = rig.store->begin_put(id_of("a"), 1000, {}, [](auto) { FAIL(); });
  rig.store->abort_put(put);
  const PutId refused = rig.store->begin_put(id_of(""), 1000, {}, [](auto) { FAIL(); });
  rig.store->abort_put(refused);
  ASSERT_TRUE(rig.put("k", bytes_from(1, 200'000)).has_value());
  rig.store->end_get(rig.store->begin_get(id_of("k"), 0, 10, [](auto) { FAIL(); }));
  rig.store->end_get(rig.store->begin_get(id_of("absent"), 0, 10, [](auto) { FAIL(); }));
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  for (const std::uint32_t length : {10u, 300'000u, 200'000u}) {
    const GetId get = rig.store->begin_get(id_of("k"), 0, length, [](auto) { FAIL(); });
    rig.world->step();
    rig.store->end_get(get);
    rig.world->run_until([] { return false; }, 1000);
  }
  EXPECT_EQ(rig.get("k").value(), bytes_from(1, 200'000));
}

TEST(Blocks, PutsWaitInTheirOrderForMemory) {
  RigOptions options;
  options.arena_bytes = 16 * kArenaPageBytes;  // 12 of them for puts
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  std::deque<Grant> granted;
  std::vector<int> order;
  const auto begin = [&](int which, std::uint32_t pages) {
    (void)rig.store->begin_put(id_of("k" + std::to_string(which)),
                               static_cast<std::uint32_t>(pages * kArenaPageBytes), {},
                               [&granted, &order, which](Result<Grant> grant) {
                                 ASSERT_TRUE(grant.has_value());
                                 order.push_back(which);
                                 granted.push_back(std::move(*grant));
                               });
  };
  begin(0, 6);
  begin(1, 6);
  begin(2, 10);
  begin(3, 1);  // there is none, and it does not overtake the big one
  rig.world->run_until([] { return false; }, 100);
  EXPECT_EQ(order, (std::vector<int>{0, 1}));
  EXPECT_EQ(rig.store->stats().puts_waiting, 2u);
  rig.store->abort_put(granted[0].put);
  rig.world->run_until([] { return false; }, 100);
  EXPECT_EQ(order, (std::vector<int>{0, 1}));
  rig.store->abort_put(granted[1].put);
  rig.world->run_until([] { return false; }, 100);
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2, 3}));
}

TEST(Blocks, PinnedBytesStayWhileBlocksComeAndGo) {
  RigOptions options;
  options.arena_bytes = 16 * kArenaPageBytes;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 100'000);
  ASSERT_TRUE(rig.put("k", bytes).has_value());
  const auto pinned = rig.pin(id_of("k"), 0, 100'000);
  ASSERT_TRUE(pinned.has_value());
  EXPECT_EQ(rig.drop(id_of("k")), Code::ok);
  for (std::uint64_t i = 0; i < 200; ++i) {
    ASSERT_TRUE(rig.put("other" + std::to_string(i), bytes_from(i, 150'000)).has_value());
  }
  EXPECT_EQ(Rig::copy_of(*pinned), bytes);
  EXPECT_EQ(std::vector(pinned->crcs.begin(), pinned->crcs.end()), crcs_of(bytes));
  rig.store->end_get(pinned->get);
}

TEST(Blocks, ManyReadersShareOneLoad) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 200'000);
  ASSERT_TRUE(rig.put("k", bytes).has_value());
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  const std::uint64_t before = rig.store->stats().device_bytes_read;
  int good = 0;
  for (int i = 0; i < 20; ++i) {
    (void)rig.store->begin_get(id_of("k"), 0, 200'000, [&](Result<Pinned> got) {
      ASSERT_TRUE(got.has_value());
      EXPECT_EQ(Rig::copy_of(*got), bytes);
      ++good;
    });
  }
  EXPECT_TRUE(rig.world->run_until([&] { return good == 20; }));
  EXPECT_EQ(rig.store->stats().device_bytes_read - before,
            round_up(200'000, kPageBytes) + kPageBytes);
}

TEST(Blocks, GetsWaitForMemoryAndAreAllServed) {
  RigOptions options;
  options.arena_bytes = 8 * kArenaPageBytes;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 30; ++i) {
    ASSERT_TRUE(rig.put("k" + std::to_string(i), bytes_from(i, 200'000)).has_value());
  }
  ASSERT_TRUE(rig.rest());
  int good = 0;
  std::uint64_t waited = 0;
  for (std::uint64_t i = 0; i < 30; ++i) {
    (void)rig.store->begin_get(
        id_of("k" + std::to_string(i)), 70'000, 60'000 + 2'000 * static_cast<std::uint32_t>(i),
        [&, i](Result<Pinned> got) {
          ASSERT_TRUE(got.has_value()) << got.error().message();
          const Bytes whole = bytes_from(i, 200'000);
          const Bytes part = Rig::copy_of(*got);
          EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 65536));
          ++good;
          rig.process->executor().post([&, get = got->get] { rig.store->end_get(get); });
        });
    waited = std::max(waited, rig.store->stats().gets_waiting);
  }
  EXPECT_TRUE(rig.world->run_until([&] { return good == 30; }));
  EXPECT_GT(waited, 0u);
}

TEST(Blocks, TheStoreMayGoWhileEverythingIsUnderWay) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Rig rig({.seed = seed});
    ASSERT_TRUE(rig.open().good());
    for (std::uint64_t i = 0; i < 20; ++i)
      (void)rig.put("k" + std::to_string(i), bytes_from(i, 90'000));
    for (std::uint64_t i = 0; i < 20; ++i) {
      (void)rig.store->begin_get(id_of("k" + std::to_string(i)), 0, 9, [](auto) {});
      (void)rig.store->begin_put(id_of("new" + std::to_string(i)), 90'000, {}, [](auto) {});
      rig.store->drop(id_of("k" + std::to_string(i)), [](auto) {});
    }
    for (std::uint64_t i = 0; i < seed * 3; ++i) rig.world->step();
    rig.store.reset();
    rig.world->run_until([] { return false; }, 1000);
    rig.process->kill();
    rig.device.reset();
  }
}

TEST(Blocks, AClosedStoreRefuses) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, 1000)).has_value());
  auto grant = rig.begin(id_of("late"), 1000);
  bool closed = false;
  rig.store->close([&](Result<void> result) { closed = result.has_value(); });
  EXPECT_EQ(rig.begin(id_of("a"), 1000).error().code, Code::shutdown);
  EXPECT_EQ(rig.pin(id_of("k"), 0, 1).error().code, Code::shutdown);
  EXPECT_EQ(rig.drop(id_of("k")), Code::shutdown);
  const auto crcs = crcs_of(bytes_from(1, 1000));
  EXPECT_EQ(rig.store->commit_put(grant->put, crcs, crcs).error().code, Code::shutdown);
  EXPECT_TRUE(rig.world->run_until([&] { return closed; }));
  EXPECT_EQ(rig.device->in_flight(), 0u);
}

TEST(Blocks, WaitingPutsAreToldThatTheStoreCloses) {
  RigOptions options;
  options.arena_bytes = 4 * kArenaPageBytes;
  Rig rig(options);
  ASSERT_TRUE(rig.open().good());
  auto first = rig.begin(id_of("a"), 3 * kArenaPageBytes);
  ASSERT_TRUE(first.has_value());
  std::optional<Code> second;
  (void)rig.store->begin_put(id_of("b"), 1000, {},
                             [&](Result<Grant> grant) { second = grant.error().code; });
  EXPECT_TRUE(rig.close().good());
  EXPECT_EQ(second, Code::shutdown);
}

}  // namespace
}  // namespace memkv
