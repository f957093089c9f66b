// The identity of a block: what must agree, whole, before a byte of it may be used.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/fingerprint.h"
#include "base/limits.h"

namespace memkv {

using NamespaceId = std::array<std::byte, 16>;
using TenantId = std::uint64_t;
inline constexpr TenantId kDefaultTenant = 1;
inline constexpr TenantId kAgentTenant = 0;  // of a node's own agent, who has no blocks

// One meaning of bytes: its fingerprint and how often it was dropped. Blocks of an older drop
// generation never match again.
struct Namespace {
  NamespaceId id{};
  std::uint32_t generation = 0;
  friend bool operator==(const Namespace&, const Namespace&) = default;
};

// Refers to a key that somebody else owns. 1 to kKeyBytesMax bytes.
struct BlockId {
  TenantId tenant = kDefaultTenant;
  Namespace space;
  std::span<const std::byte> key;
};

// What a writer may say about a block besides its bytes.
struct BlockTraits {
  Fingerprint group{};      // where it is placed: group_fingerprint() of its group, or of its key
  std::uint32_t depth = 0;  // its place in the prefix chain; the deeper goes first among equals
  std::uint32_t recompute_cost = 0;  // microseconds a GPU saves by a hit; 0 is unknown
  std::uint32_t age_s = 0;  // how long ago it was put first, where it is moved; for its TTL
};

// The CRC units of a block of `length` bytes: each has its own CRC32C and only whole units are
// read. The last is short.
[[nodiscard]] constexpr std::uint32_t unit_bytes_of(std::uint64_t length) {
  std::uint64_t unit = kUnitBytesMin;
  while (unit * kUnitsMax < length) unit *= 2;
  return static_cast<std::uint32_t>(unit);
}
[[nodiscard]] constexpr std::uint32_t unit_count_of(std::uint64_t length) {
  const std::uint64_t unit = unit_bytes_of(length);
  return static_cast<std::uint32_t>((length + unit - 1) / unit);
}

}  // namespace memkv
