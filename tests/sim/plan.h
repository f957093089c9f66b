// Plan: what one schedule is made of, drawn from its seed before anything runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/identity.h"
#include "support/sim.h"

namespace memkv::sim {

inline constexpr unsigned kNodes = 3;
inline constexpr unsigned kTenants = 2;
inline constexpr unsigned kSpaces = 3;   // of them, two differ in nothing but the drop generation
inline constexpr unsigned kTwofold = 2;  // the space that a rule wants on two nodes, if any
inline constexpr unsigned kKeys = 14;

struct Plan {
  std::uint64_t seed = 0;
  Faults faults;
  bool bad_disk = false;                 // it fails often, and now and then altogether
  std::vector<std::uint64_t> bad_pages;  // of every disk
  std::uint64_t disk_bytes = 0;
  std::uint64_t segment_bytes = 0;
  std::uint64_t arena_bytes = 0;
  std::uint32_t fingerprint_bits = 128;
  std::uint64_t index_flush_ms = 0;
  std::uint32_t rewrite_percent = 0;
  std::uint32_t block_bytes_max = 0;
  unsigned clients = 0;
  unsigned lanes = 0;           // requests a client has under way at a time
  unsigned requests = 0;        // of all clients together
  std::uint64_t think_us = 0;   // between two requests of a lane, at most
  unsigned keys = 0;            // of kKeys, that are used
  unsigned drops = 0;           // of a hundred requests
  bool moves = false;           // nodes come, go, drain, and have other shares all the time
  bool copies = false;          // movers copy blocks to a second node, and drain nodes
  std::uint32_t ttl_s = 0;      // of namespace 7; 0: none
  unsigned chaos_requests = 0;  // between two crashes or partitions, on average; 0: none

  // There is a map, and with it there are rules.
  [[nodiscard]] bool published() const { return moves || copies; }
  // Fingerprints this narrow collide, so a node may take one key for another where that only costs
  // a hit.
  [[nodiscard]] bool collides() const { return fingerprint_bits < 64; }
};

// The plan of schedule `number` of a run that was started with `seed`.
[[nodiscard]] Plan draw_plan(std::uint64_t seed, std::uint64_t number);

// The bytes of key `number` (< kKeys, or more: those of the last phase): of 1 to 512 bytes.
[[nodiscard]] std::vector<std::byte> key_bytes(unsigned number);
[[nodiscard]] std::string address_of(unsigned node);
[[nodiscard]] Namespace space_of(unsigned number);
[[nodiscard]] std::vector<std::byte> token_of(unsigned tenant);
[[nodiscard]] constexpr std::uint64_t tenant_of(unsigned tenant) {
  return tenant + 10;
}
// A length with the edges of pages and units among the likely ones.
[[nodiscard]] std::uint32_t draw_length(Random& random, std::uint32_t most);

}  // namespace memkv::sim
