#include "sim/plan.h"

#include <algorithm>
#include <array>
#include <string>

#include "base/bytes.h"

namespace memkv::sim {
namespace {

// Half of the time no such fault at all; else up to `most`, small chances as likely as large ones.
std::uint32_t draw_chance(Random& random, std::uint32_t most) {
  if (random.below(2) == 0) return 0;
  return static_cast<std::uint32_t>(1 + (most >> random.below(6)) * (1 + random.below(4)) / 4);
}

// A sixth of the schedules has no faults: what is wrong there is wrong everywhere.
Faults draw_faults(Random& random, bool bad_disk) {
  Faults faults;
  faults.short_steps = static_cast<std::uint32_t>(random.below(900'000));
  if (random.below(6) == 0) return faults;
  faults.cut_connection = draw_chance(random, 4'000);
  faults.flip_network = draw_chance(random, 8'000);
  faults.stall_network = draw_chance(random, 8'000);
  faults.refuse_connect = draw_chance(random, 200'000);
  faults.hang_connect = draw_chance(random, 100'000);
  faults.fail_read = draw_chance(random, bad_disk ? 200'000 : 40'000);
  faults.fail_write = draw_chance(random, bad_disk ? 200'000 : 40'000);
  faults.torn_write = draw_chance(random, bad_disk ? 200'000 : 40'000);
  faults.slow_disk = draw_chance(random, 40'000);
  faults.misdirect_read = draw_chance(random, 40'000);
  faults.lose_unflushed = draw_chance(random, 600'000);
  if (random.below(2) == 0) return faults;  // else the disk lies for good, too
  faults.flip_read = draw_chance(random, 40'000);
  faults.misdirect_write = draw_chance(random, 60'000);
  return faults;
}

// Places that take no write, headers and first index pages of segments among them; the superblocks
// are spared.
void draw_bad_pages(Plan& plan, Random& random) {
  const std::uint64_t pages = plan.disk_bytes / kPageBytes;
  const std::uint64_t segment_pages = plan.segment_bytes / kPageBytes;
  for (std::uint64_t left = 1 + random.below(3); left > 0; --left) {
    const std::uint64_t segment = 1 + random.below(pages / segment_pages - 1);
    const std::uint64_t kind = random.below(4);
    const std::uint64_t first = segment * segment_pages;
    plan.bad_pages.push_back(kind < 2    ? first
                             : kind == 2 ? first + segment_pages - 1
                                         : first + random.below(segment_pages));
  }
}

// Everybody at a few keys that come and go, in a node with hardly any memory: what happens between
// two parts of one request.
void crowd(Plan& plan, Random& random) {
  plan.keys = static_cast<unsigned>(1 + random.below(3));
  plan.drops = 30;
  plan.clients = 4;
  plan.lanes = 4;
  plan.think_us = 100;
  plan.arena_bytes = kArenaPageBytes * (4 + random.below(3));
}

}  // namespace

Plan draw_plan(std::uint64_t seed, std::uint64_t number) {
  SeededRandom mixed(seed);
  SeededRandom random(mixed.next() + number * 0x9e3779b97f4a7c15ULL);
  Plan plan;
  plan.seed = random.next();
  plan.bad_disk = random.below(4) == 0;
  plan.faults = draw_faults(random, plan.bad_disk);
  plan.segment_bytes = (64 * kKiB) << std::min(random.below(3), random.below(3));
  plan.disk_bytes = plan.segment_bytes * (5 + random.below(6)) + kPageBytes * random.below(16);
  plan.arena_bytes = kArenaPageBytes * (4 + (random.below(3) == 0 ? 0 : random.below(20)));
  plan.fingerprint_bits =
      random.below(3) == 0 ? static_cast<std::uint32_t>(8 + random.below(5)) : 128;
  plan.index_flush_ms = random.below(3) == 0 ? 50 : 1 + random.below(10);
  plan.rewrite_percent = static_cast<std::uint32_t>(random.below(40));
  plan.block_bytes_max = static_cast<std::uint32_t>(
      random.below(2) == 0 ? 12 * kKiB : std::min<std::uint64_t>(200 * kKiB, plan.segment_bytes));
  plan.clients = static_cast<unsigned>(2 + random.below(2));
  plan.lanes = static_cast<unsigned>(1 + random.below(4));
  plan.requests = static_cast<unsigned>(100 + random.below(400));
  plan.think_us = 100 << random.below(7);
  plan.keys = kKeys;
  plan.drops = random.below(4) == 0 ? 30 : 12;
  plan.chaos_requests = random.below(6) == 0 ? 0 : 8u << random.below(4);
  if (random.below(5) == 0) crowd(plan, random);
  if (random.below(6) == 0) draw_bad_pages(plan, random);
  plan.moves = number % 4 >= 2;
  plan.copies = number % 2 == 1;
  if (plan.published() && random.below(2) == 0)
    plan.ttl_s = static_cast<std::uint32_t>(1 + random.below(2));
  return plan;
}

std::vector<std::byte> key_bytes(unsigned number) {
  static constexpr std::array<std::size_t, 5> kLengths = {1, 5, 20, 64, kKeyBytesMax};
  const std::size_t length = number < kKeys ? kLengths[number % kLengths.size()] : 12;
  std::vector<std::byte> key(length, std::byte{'k'});
  key[0] = static_cast<std::byte>('A' + number % 128);
  if (length > 1) key[length - 1] = static_cast<std::byte>(number / 128);
  return key;
}

std::string address_of(unsigned node) {
  return "node" + std::to_string(node) + ":9900";
}

Namespace space_of(unsigned number) {
  Namespace space;
  space.id.fill(static_cast<std::byte>(number < 2 ? 7 : 8));
  space.generation = number == 1 ? 1 : 0;
  return space;
}

std::vector<std::byte> token_of(unsigned tenant) {
  const std::string text = "token of tenant " + std::to_string(tenant);
  const auto bytes = as_bytes_of(text);
  return {bytes.begin(), bytes.end()};
}

std::uint32_t draw_length(Random& random, std::uint32_t most) {
  static constexpr std::array<std::uint32_t, 12> kEdges = {
      1, 2, 4095, 4096, 4097, 8192, 65535, 65536, 65537, 131071, 131073, 200 * 1024};
  const std::uint64_t kind = random.below(10);
  std::uint64_t length = 1 + random.below(6000);
  if (kind < 4) length = kEdges[random.below(kEdges.size())];
  if (kind == 4) length = 1 + random.below(200 * kKiB);
  return length <= most ? static_cast<std::uint32_t>(length)
                        : static_cast<std::uint32_t>(1 + random.below(most));
}

}  // namespace memkv::sim
