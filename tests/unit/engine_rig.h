// A store over a simulated device, one process and one disk, driven step by step; for the engine's
// tests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "engine/store.h"
#include "support/sim.h"

namespace memkv {

using Bytes = std::vector<std::byte>;

inline Bytes bytes_from(std::uint64_t seed, std::size_t count) {
  SeededRandom random(seed * 77 + 1);
  Bytes out(round_up(count, 8));
  for (std::size_t at = 0; at < out.size(); at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(out.data() + at, &word, 8);
  }
  out.resize(count);
  return out;
}

inline std::vector<std::uint32_t> crcs_of(const Bytes& bytes) {
  const std::uint32_t unit = unit_bytes_of(bytes.size());
  std::vector<std::uint32_t> crcs;
  for (std::size_t at = 0; at < bytes.size(); at += unit) {
    crcs.push_back(
        crc32c(std::span(bytes).subspan(at, std::min<std::size_t>(unit, bytes.size() - at))));
  }
  return crcs;
}

inline BlockId id_of(std::string_view key, TenantId tenant = kDefaultTenant,
                     std::uint32_t generation = 0) {
  BlockId id;
  id.tenant = tenant;
  id.space.id[0] = std::byte{9};
  id.space.generation = generation;
  id.key = as_bytes_of(key);
  return id;
}

struct RigOptions {
  std::uint64_t seed = 1;
  std::uint64_t disk_bytes = 16 * kMiB;
  std::uint64_t arena_bytes = 4 * kMiB;
  StoreOptions store{.segment_bytes = kMiB};
  sim::Faults faults = {};
};

class Rig {
 public:
  explicit Rig(RigOptions with = {})
      : options(with),
        world(sim::World::create(with.seed, with.faults)),
        disk(with.disk_bytes),
        random(with.seed + 1000) {}
  ~Rig() {
    if (store) crash();
  }

  // Runs the world until the callback that `start` was given was called; nothing when it never was.
  template <typename T>
  std::optional<T> wait(const std::function<void(std::move_only_function<void(T)>)>& start) {
    auto answer = std::make_shared<std::vector<T>>();
    start([answer](T value) { answer->push_back(std::move(value)); });
    EXPECT_TRUE(answer->empty()) << "a callback came from inside the call";
    world->run_until([&] { return !answer->empty(); });
    if (answer->empty()) return std::nullopt;
    return std::move(answer->front());
  }

  Status open() {
    process = world->spawn("node");
    auto opened_device = process->open_device(disk);
    EXPECT_TRUE(opened_device.has_value());
    device = std::move(*opened_device);
    if (wrap) device = wrap(std::move(device));
    arena = process->arena(options.arena_bytes);
    auto opened = wait<Result<std::unique_ptr<Store>>>([&](auto done) {
      Store::open(options.store, *device, *arena, process->executor(), random, std::move(done));
    });
    if (!opened) return {Code::timeout, "open never answered"};
    if (*opened) {
      store = std::move(**opened);
      return Code::ok;
    }
    device.reset();
    return opened->error();
  }

  Status close() {
    auto closed = wait<Result<void>>([&](auto done) { store->close(std::move(done)); });
    store.reset();
    EXPECT_EQ(device->in_flight(), 0u);
    device.reset();
    if (!closed) return {Code::timeout, "close never answered"};
    return *closed ? Status() : closed->error();
  }

  void crash() {
    process->kill();
    store.reset();
    device.reset();
  }

  // begin_put, and the memory.
  Result<Grant> begin(const BlockId& id, std::uint32_t length, BlockTraits traits = {}) {
    auto granted = wait<Result<Grant>>(
        [&](auto done) { (void)store->begin_put(id, length, traits, std::move(done)); });
    if (!granted) return fail(Code::timeout);
    return std::move(*granted);
  }

  static void fill(const Grant& grant, const Bytes& bytes) {
    std::size_t at = 0;
    for (const iovec& piece : grant.pieces) {
      ASSERT_LE(at + piece.iov_len, bytes.size());
      std::memcpy(piece.iov_base, bytes.data() + at, piece.iov_len);
      at += piece.iov_len;
    }
    ASSERT_EQ(at, bytes.size());
  }

  Result<std::uint64_t> put(const BlockId& id, const Bytes& bytes, BlockTraits traits = {}) {
    auto grant = begin(id, static_cast<std::uint32_t>(bytes.size()), traits);
    if (!grant) return fail(grant.error());
    fill(*grant, bytes);
    const auto crcs = crcs_of(bytes);
    return store->commit_put(grant->put, crcs, crcs);
  }
  Result<std::uint64_t> put(std::string_view key, const Bytes& bytes) {
    return put(id_of(key), bytes);
  }

  // begin_get, still pinned.
  Result<Pinned> pin(const BlockId& id, std::uint32_t offset, std::uint32_t length) {
    auto got = wait<Result<Pinned>>(
        [&](auto done) { (void)store->begin_get(id, offset, length, std::move(done)); });
    if (!got) return fail(Code::timeout);
    return std::move(*got);
  }

  static Bytes copy_of(const Pinned& pinned) {
    Bytes out;
    for (const iovec& piece : pinned.pieces) {
      const auto* from = static_cast<const std::byte*>(piece.iov_base);
      out.insert(out.end(), from, from + piece.iov_len);
    }
    return out;
  }

  // The covering units' bytes; their CRCs are compared on the way, as every reader does.
  Result<Bytes> get(const BlockId& id, std::uint32_t offset, std::uint32_t length) {
    auto pinned = pin(id, offset, length);
    if (!pinned) return fail(pinned.error());
    Bytes out = copy_of(*pinned);
    const std::uint32_t unit = unit_bytes_of(pinned->block_length);
    for (std::size_t i = 0; i < pinned->crcs.size(); ++i) {
      const auto part = std::span(out).subspan(i * unit);
      EXPECT_EQ(crc32c(part.first(std::min<std::size_t>(unit, part.size()))), pinned->crcs[i]);
    }
    EXPECT_EQ(pinned->first_unit, offset / unit);
    store->end_get(pinned->get);
    return out;
  }
  // The whole block, whatever its length.
  Result<Bytes> get(const BlockId& id) {
    const Found found = store->match(id, 0);
    if (!found.present) return fail(Code::not_found);
    return get(id, 0, found.length);
  }
  Result<Bytes> get(std::string_view key) { return get(id_of(key)); }

  Code drop(const BlockId& id) {
    return wait<Code>([&](auto done) { store->drop(id, std::move(done)); }).value_or(Code::timeout);
  }

  // Until nothing is dirty.
  bool rest() {
    auto clean = std::make_shared<bool>(false);
    store->when_clean([clean] { *clean = true; });
    return world->run_until([&] { return *clean; });
  }

  // Where on the disk these bytes lie; npos when they do not.
  std::size_t find_on_disk(std::span<const std::byte> needle) {
    const auto at =
        std::search(disk.bytes().begin(), disk.bytes().end(), needle.begin(), needle.end());
    return at == disk.bytes().end() ? std::string::npos
                                    : static_cast<std::size_t>(at - disk.bytes().begin());
  }

  RigOptions options;
  // Stands between the store and its device, when it is set.
  std::function<std::unique_ptr<Device>(std::unique_ptr<Device>)> wrap;
  std::unique_ptr<sim::World> world;
  sim::Disk disk;
  SeededRandom random;
  std::unique_ptr<sim::Process> process;
  std::unique_ptr<Arena> arena;
  std::unique_ptr<Device> device;
  std::unique_ptr<Store> store;
};

}  // namespace memkv
