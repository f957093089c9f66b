// The simulated world itself: what a simulation proves hangs on it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <optional>

#include "base/limits.h"
#include "support/sim.h"

namespace memkv {
namespace {

using sim::Disk;
using sim::Faults;
using sim::Process;
using sim::World;

std::vector<std::byte> pattern(std::size_t bytes, std::uint64_t seed) {
  SeededRandom random(seed);
  std::vector<std::byte> out(bytes);
  for (std::byte& one : out) one = static_cast<std::byte>(random.next());
  return out;
}

// Sends all its bytes, then closes when it was told to.
struct Sender {
  std::unique_ptr<Stream> stream;
  std::vector<std::byte> bytes;
  std::size_t sent = 0;
  std::optional<Code> ended;

  void go() {
    while (sent < bytes.size()) {
      const iovec piece{bytes.data() + sent, bytes.size() - sent};
      const IoStep step = stream->write_some({&piece, 1});
      if (step.code == Code::busy) {
        stream->when_writable([this] { go(); });
        return;
      }
      if (step.code != Code::ok) {
        ended = step.code;
        return;
      }
      sent += step.bytes;
    }
    ended = Code::ok;
  }
};

// Takes what comes until the end.
struct Receiver {
  std::unique_ptr<Stream> stream;
  std::vector<std::byte> bytes;
  std::optional<Code> ended;

  void go() {
    std::byte room[5000];
    while (true) {
      const iovec pieces[2] = {{room, 700}, {room + 700, sizeof room - 700}};
      const IoStep step = stream->read_some(pieces);
      if (step.code == Code::busy) {
        stream->when_readable([this] { go(); });
        return;
      }
      if (step.code != Code::ok) {
        ended = step.code;
        return;
      }
      bytes.insert(bytes.end(), room, room + step.bytes);
    }
  }
};

// Two processes with one connection between them.
struct Pair {
  explicit Pair(std::uint64_t seed, Faults faults = {}) : world(World::create(seed, faults)) {
    a = world->spawn("a");
    b = world->spawn("b");
    auto listening = b->network().listen(
        "b:0", [this](std::unique_ptr<Stream> stream) { receiver.stream = std::move(stream); });
    EXPECT_TRUE(listening);
    listener = std::move(*listening);
    a->network().connect(listener->address(), 1000 * kNsPerMs, [this](auto stream) {
      if (stream) sender.stream = std::move(*stream);
    });
    EXPECT_TRUE(world->run_until([&] { return sender.stream && receiver.stream; }));
  }

  std::unique_ptr<World> world;
  std::unique_ptr<Process> a, b;
  std::unique_ptr<Listener> listener;
  Sender sender;
  Receiver receiver;
};

TEST(SimNetwork, CarriesEveryByteInOrderWithoutFaults) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Pair pair(seed);
    pair.sender.bytes = pattern(700'000, seed);
    pair.sender.go();
    pair.receiver.go();
    ASSERT_TRUE(pair.world->run_until([&] { return pair.sender.ended.has_value(); }));
    pair.sender.stream.reset();  // a clean end: everything still arrives
    ASSERT_TRUE(pair.world->run_until([&] { return pair.receiver.ended.has_value(); }));
    EXPECT_EQ(pair.sender.ended, Code::ok);
    EXPECT_EQ(pair.receiver.ended, Code::unreachable);
    EXPECT_EQ(pair.receiver.bytes, pair.sender.bytes);
  }
}

TEST(SimNetwork, IsBounded) {
  Pair pair(3);
  pair.sender.bytes = pattern(4'000'000, 3);
  pair.sender.go();
  EXPECT_FALSE(pair.world->run_until([&] { return pair.sender.ended.has_value(); }, 1000));
  EXPECT_LE(pair.sender.sent, 256 * 1024u);
}

TEST(SimNetwork, CutLosesTheRestAndBothEndsHear) {
  unsigned cut = 0;
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    Pair pair(seed, {.cut_connection = 10'000});
    pair.sender.bytes = pattern(700'000, seed);
    pair.sender.go();
    pair.receiver.go();
    pair.world->run_until([&] { return pair.receiver.ended.has_value(); }, 5000);
    if (!pair.world->fired().contains("cut_connection")) continue;
    ++cut;
    ASSERT_TRUE(pair.receiver.ended.has_value());
    EXPECT_TRUE(pair.world->run_until([&] { return pair.sender.ended.has_value(); }, 5000));
    const auto& got = pair.receiver.bytes;
    ASSERT_LE(got.size(), pair.sender.bytes.size());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), pair.sender.bytes.begin()));
  }
  EXPECT_GT(cut, 10u);
}

TEST(SimNetwork, FlipsAreWhatTheyAreCounted) {
  Pair pair(5, {.flip_network = 20'000});
  pair.sender.bytes = pattern(700'000, 5);
  pair.sender.go();
  pair.receiver.go();
  ASSERT_TRUE(pair.world->run_until([&] { return pair.sender.ended.has_value(); }));
  pair.sender.stream.reset();
  ASSERT_TRUE(pair.world->run_until([&] { return pair.receiver.ended.has_value(); }));
  ASSERT_EQ(pair.receiver.bytes.size(), pair.sender.bytes.size());
  std::uint64_t flipped = 0;
  for (std::size_t i = 0; i < pair.receiver.bytes.size(); ++i) {
    if (pair.receiver.bytes[i] != pair.sender.bytes[i]) ++flipped;
  }
  EXPECT_GT(flipped, 0u);
  EXPECT_EQ(flipped, pair.world->fired().at("flip_network"));
}

TEST(SimNetwork, PartitionHangsBothOldAndNewUntilHealed) {
  Pair pair(6);
  pair.sender.bytes = pattern(50'000, 6);
  pair.world->partition("a", "b", true);
  pair.sender.go();
  pair.receiver.go();
  std::optional<Code> connected;
  pair.a->network().connect(pair.listener->address(), 30 * kNsPerMs, [&](auto stream) {
    connected = stream ? Code::ok : stream.error().code;
  });
  pair.world->run_until([] { return false; }, 500);
  EXPECT_EQ(connected, Code::timeout);
  EXPECT_TRUE(pair.receiver.bytes.empty());
  EXPECT_FALSE(pair.receiver.ended.has_value());
  pair.world->partition("b", "a", false);
  EXPECT_TRUE(pair.world->run_until([&] { return pair.receiver.bytes.size() == 50'000; }));
}

TEST(SimNetwork, RefusesWhatNobodyListensOn) {
  auto world = World::create(7);
  auto a = world->spawn("a");
  std::optional<Code> strange, nobody;
  a->network().connect("nonsense", kNsPerMs, [&](auto s) { strange = s.error().code; });
  a->network().connect("b:1", 100 * kNsPerMs, [&](auto s) { nobody = s.error().code; });
  EXPECT_FALSE(strange || nobody) << "answers come from a later task";
  world->run_until([&] { return strange && nobody; });
  EXPECT_EQ(strange, Code::invalid);
  EXPECT_EQ(nobody, Code::unreachable);
  auto first = a->network().listen("a:5", [](auto) {});
  EXPECT_TRUE(first);
  EXPECT_EQ(a->network().listen("a:5", [](auto) {}).error().code, Code::unreachable);
  first->reset();
  EXPECT_TRUE(a->network().listen("a:5", [](auto) {}));
}

TEST(SimProcess, PostsKeepTheirOrderAndTimersTheirTime) {
  auto world = World::create(8);
  auto a = world->spawn("a");
  std::vector<int> order;
  for (int i = 0; i < 50; ++i) a->executor().post([&order, i] { order.push_back(i); });
  const std::uint64_t start = world->clock().now_ns();
  std::uint64_t rang = 0;
  bool cancelled_rang = false;
  (void)a->executor().after(5 * kNsPerMs, [&] { rang = world->clock().now_ns(); });
  const TimerId gone = a->executor().after(kNsPerMs, [&] { cancelled_rang = true; });
  a->executor().cancel(gone);
  a->executor().cancel(gone);
  a->executor().cancel(0);
  world->run_until([&] { return rang != 0; });
  ASSERT_EQ(order.size(), 50u);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  EXPECT_GE(rang, start + 5 * kNsPerMs);
  EXPECT_FALSE(cancelled_rang);
}

TEST(SimProcess, KillDestroysWhatWasQueuedAndTellsThePeer) {
  Pair pair(9);
  pair.receiver.go();
  const auto owned = std::make_shared<int>(1);
  bool ran = false;
  pair.a->executor().post([&ran, owned] { ran = true; });
  (void)pair.a->executor().after(kNsPerMs, [&ran, owned] { ran = true; });
  pair.a->executor().offload([&ran, owned] { ran = true; }, [owned] {});
  pair.sender.stream->when_readable([&ran, owned] { ran = true; });
  EXPECT_EQ(owned.use_count(), 6);
  pair.a->kill();
  EXPECT_EQ(owned.use_count(), 1);
  EXPECT_FALSE(pair.a->alive());
  pair.a->executor().post([&ran] { ran = true; });
  EXPECT_TRUE(pair.world->run_until([&] { return pair.receiver.ended.has_value(); }, 5000));
  EXPECT_FALSE(ran);
  std::byte one{};
  const iovec piece{&one, 1};
  EXPECT_EQ(pair.sender.stream->write_some({&piece, 1}).code, Code::unreachable);
}

TEST(SimProcess, ATaskMayKillItsOwnProcess) {
  auto world = World::create(10);
  auto a = world->spawn("a");
  const auto owned = std::make_shared<int>(1);
  long seen_inside = 0;
  a->executor().post([&] {
    a->kill();
    seen_inside = owned.use_count();
  });
  a->executor().post([owned] { FAIL() << "the process is dead"; });
  while (world->step()) {
  }
  EXPECT_EQ(seen_inside, 2) << "destroyed only when the task is over";
  EXPECT_EQ(owned.use_count(), 1);
}

struct Memory {
  explicit Memory(Process& process, std::size_t bytes) : arena(process.arena(bytes)) {}
  std::span<std::byte> bytes() { return arena->memory(); }
  std::vector<iovec> pieces(std::size_t count) { return {{bytes().data(), count}}; }
  std::unique_ptr<Arena> arena;
};

TEST(SimDevice, ReadsWhatWasWritten) {
  auto world = World::create(11);
  auto a = world->spawn("a");
  Disk disk(kMiB);
  auto device = a->open_device(disk);
  ASSERT_TRUE(device);
  EXPECT_EQ(a->open_device(disk).error().code, Code::busy);
  Memory out(*a, 65536), in(*a, 65536);
  int done = 0;
  (*device)->write(8192, out.pieces(65536), [&](Result<void> r) { done += r ? 1 : 100; });
  EXPECT_EQ((*device)->in_flight(), 1u);
  world->run_until([&] { return done == 1; });
  (*device)->read(8192, in.pieces(65536), [&](Result<void> r) { done += r ? 1 : 100; });
  world->run_until([&] { return done == 2; });
  EXPECT_EQ(done, 2);
  EXPECT_EQ(std::memcmp(in.bytes().data(), out.bytes().data(), 65536), 0);
  (*device)->read(kMiB - 4096, in.pieces(8192), [&](Result<void> r) { done += r ? 100 : 1; });
  world->run_until([&] { return done == 3; });
  EXPECT_EQ(done, 3) << "outside is a device_error";
}

// How many of 16 pages of a write are on the disk when its process is killed right away.
unsigned pages_after_kill(std::uint64_t seed, Faults faults, bool finished, bool flushed) {
  auto world = World::create(seed, faults);
  auto a = world->spawn("a");
  Disk disk(65536);
  auto device = *a->open_device(disk);
  Memory out(*a, 65536);
  bool done = false;
  device->write(0, out.pieces(65536), [&](Result<void>) { done = true; });
  if (finished) world->run_until([&] { return done; });
  if (flushed) {
    done = false;
    device->flush([&](Result<void>) { done = true; });
    world->run_until([&] { return done; });
  }
  a->kill();
  EXPECT_EQ(done, finished);
  unsigned kept = 0;
  for (std::size_t at = 0; at < 65536; at += kPageBytes) {
    const bool whole =
        std::memcmp(disk.bytes().data() + at, out.bytes().data() + at, kPageBytes) == 0;
    if (whole) {
      ++kept;
    } else {
      EXPECT_EQ(disk.bytes()[at], std::byte{0}) << "a page is torn only as a whole";
    }
  }
  auto b = world->spawn("a");
  EXPECT_TRUE(b->open_device(disk)) << "a dead process lets go of its disk";
  return kept;
}

TEST(SimDevice, ACrashTearsUnfinishedWritesPageByPage) {
  unsigned kept = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) kept += pages_after_kill(seed, {}, false, false);
  EXPECT_GT(kept, 200u);
  EXPECT_LT(kept, 600u);
}

TEST(SimDevice, ACrashKeepsFinishedWrites) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    EXPECT_EQ(pages_after_kill(seed, {}, true, false), 16u);
  }
}

TEST(SimDevice, PowerLossMayLoseWhatWasNotFlushed) {
  const Faults faults{.lose_unflushed = 500'000};
  unsigned kept = 0;
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    kept += pages_after_kill(seed, faults, true, false);
    EXPECT_EQ(pages_after_kill(seed, faults, true, true), 16u);
  }
  EXPECT_GT(kept, 200u);
  EXPECT_LT(kept, 600u);
}

TEST(SimDevice, EveryFaultFires) {
  for (const char* fault : {"fail_read", "fail_write", "torn_write", "flip_read", "misdirect_read",
                            "misdirect_write"}) {
    Faults faults;
    const std::string name = fault;
    if (name == "fail_read") faults.fail_read = 1'000'000;
    if (name == "fail_write") faults.fail_write = 1'000'000;
    if (name == "torn_write") faults.torn_write = 1'000'000;
    if (name == "flip_read") faults.flip_read = 1'000'000;
    if (name == "misdirect_read") faults.misdirect_read = 1'000'000;
    if (name == "misdirect_write") faults.misdirect_write = 1'000'000;
    auto world = World::create(12, faults);
    auto a = world->spawn("a");
    Disk disk(16 * kMiB);
    auto device = *a->open_device(disk);
    Memory out(*a, 65536), in(*a, 65536);
    std::optional<Code> wrote, read;
    device->write(65536, out.pieces(65536),
                  [&](Result<void> r) { wrote = r ? Code::ok : r.error().code; });
    world->run_until([&] { return wrote.has_value(); });
    device->read(65536, in.pieces(65536),
                 [&](Result<void> r) { read = r ? Code::ok : r.error().code; });
    world->run_until([&] { return read.has_value(); });
    EXPECT_EQ(world->fired().at(name), 1u);
    const bool fails = name.starts_with("fail") || name == "torn_write";
    EXPECT_EQ(name.ends_with("read") ? *read : *wrote, fails ? Code::device_error : Code::ok);
    EXPECT_NE(std::memcmp(in.bytes().data(), out.bytes().data(), 65536), 0) << name;
  }
}

// A little of everything; the same seed must give the same run.
std::pair<std::uint64_t, std::uint64_t> busy_run(std::uint64_t seed) {
  Pair pair(seed, {.cut_connection = 500,
                   .flip_network = 5000,
                   .stall_network = 5000,
                   .torn_write = 200'000,
                   .slow_disk = 200'000});
  Disk disk(kMiB);
  auto device = *pair.b->open_device(disk);
  Memory memory(*pair.b, 65536);
  int done = 0;
  for (int i = 0; i < 10; ++i) {
    device->write(static_cast<std::uint64_t>(i) * 65536, memory.pieces(65536),
                  [&](Result<void>) { ++done; });
    pair.b->executor().offload([] {}, [&] { ++done; });
  }
  pair.sender.bytes = pattern(300'000, seed);
  pair.sender.go();
  pair.receiver.go();
  pair.world->run_until([&] { return pair.sender.ended.has_value() && done == 20; }, 5000);
  pair.b->kill();
  while (pair.world->step()) {
  }
  return {pair.world->events(), pair.world->trace()};
}

TEST(SimWorld, TheSameSeedGivesTheSameRun) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) EXPECT_EQ(busy_run(seed), busy_run(seed));
  EXPECT_NE(busy_run(1).second, busy_run(2).second);
}

}  // namespace
}  // namespace memkv
