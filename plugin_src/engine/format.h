// What lies on the device, byte for byte as docs/formats/segment.md says: encoding and decoding of
// its pages, nothing else.
//
// Decoding trusts nothing: a page is valid or it is not, and a valid page's numbers are in their
// ranges. Pure; no allocation but for keys and lists of CRCs. Thread: any.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/fingerprint.h"
#include "base/identity.h"
#include "base/limits.h"

namespace memkv::engine {

inline constexpr std::uint32_t kFormatVersion = 2;
inline constexpr std::uint64_t kSegmentBytesFloor = 64 * kKiB;
inline constexpr std::uint64_t kSegmentOffsetMax = kMiB;
inline constexpr std::size_t kBlankBytes = 64 * kKiB;  // at both ends of a device
inline constexpr std::size_t kRecordsPerPage = 56;

using Uuid = std::array<std::byte, 16>;
using Page = std::span<std::byte, kPageBytes>;
using ConstPage = std::span<const std::byte, kPageBytes>;

struct Superblock {
  std::uint32_t segments = 0;
  Uuid uuid{};
  std::uint64_t device_bytes = 0;
  std::uint64_t segment_offset = 0;
  std::uint64_t segment_bytes = 0;
  std::array<std::byte, 16> fingerprint_key{};
  std::uint64_t boot = 0;
  std::uint64_t oldest_generation = 0;
  friend bool operator==(const Superblock&, const Superblock&) = default;

  [[nodiscard]] std::uint64_t place(std::uint32_t segment, std::uint32_t page = 0) const {
    return segment_offset + segment * segment_bytes + page * kPageBytes;
  }
  [[nodiscard]] std::uint32_t segment_pages() const {
    return static_cast<std::uint32_t>(segment_bytes / kPageBytes);
  }
};

struct SegmentHeader {
  std::uint32_t number = 0;
  Uuid uuid{};
  std::uint64_t generation = 0;
  friend bool operator==(const SegmentHeader&, const SegmentHeader&) = default;
};

// The owner's copy of a BlockId.
struct Identity {
  TenantId tenant = 0;
  Namespace space;
  std::vector<std::byte> key;

  [[nodiscard]] static Identity of(const BlockId& id);
  // The whole identity agrees.
  [[nodiscard]] bool is(const BlockId& id) const;
  friend bool operator==(const Identity&, const Identity&) = default;
};

// What is known of a block besides its bytes.
struct BlockMeta {
  Identity identity;
  BlockTraits traits;
  std::uint64_t incarnation = 0;
  std::uint32_t length = 0;
  std::vector<std::uint32_t> crcs;  // the writer's, one a unit
};

struct BlockPlace {
  std::uint32_t segment = 0;
  std::uint32_t page = 0;  // of the header, in the segment
  std::uint64_t generation = 0;
  friend bool operator==(const BlockPlace&, const BlockPlace&) = default;
};

struct BlockHeader {
  Uuid uuid{};
  BlockPlace place;
  BlockMeta meta;
};

enum class RecordKind : std::uint32_t { block = 1, tombstone = 2 };

struct Record {
  Fingerprint fingerprint;
  std::uint64_t incarnation = 0;
  TenantId tenant = 0;
  Namespace space;
  std::uint32_t page = 0;
  std::uint32_t length = 0;
  std::uint32_t depth = 0;
  std::uint32_t put_s = 0;  // when it was put, by the wall clock
  RecordKind kind = RecordKind::block;
  friend bool operator==(const Record&, const Record&) = default;
};

struct IndexPage {
  std::uint32_t segment = 0;
  Uuid uuid{};
  std::uint64_t generation = 0;
  std::uint32_t sequence = 0;
  std::uint32_t tombstones_before = 0;
  std::vector<Record> records;
  friend bool operator==(const IndexPage&, const IndexPage&) = default;
};

enum class SuperblockState { valid, newer_version, older_version, not_ours };

void encode(const Superblock& from, Page page);
void encode(const SegmentHeader& from, Page page);
void encode(const BlockMeta& meta, const Uuid& uuid, const BlockPlace& place, Page page);
void encode(const IndexPage& from, Page page);

[[nodiscard]] SuperblockState decode_superblock(ConstPage page, Superblock& to);
[[nodiscard]] std::optional<SegmentHeader> decode_segment_header(ConstPage page);
[[nodiscard]] std::optional<BlockHeader> decode_block_header(ConstPage page);
// `segment_pages` bounds the places that records may name.
[[nodiscard]] std::optional<IndexPage> decode_index_page(ConstPage page,
                                                         std::uint32_t segment_pages);

// Pages of a whole block on flash: its header and its payload.
[[nodiscard]] constexpr std::uint32_t block_pages(std::uint32_t length) {
  return 1 + static_cast<std::uint32_t>((std::uint64_t{length} + kPageBytes - 1) / kPageBytes);
}
// Bytes of `units` units of a block of `length` bytes, from `first` on; the block's last unit is
// short.
[[nodiscard]] constexpr std::uint64_t bytes_of_units(std::uint32_t length, std::uint32_t first,
                                                     std::uint32_t units) {
  const std::uint64_t unit = unit_bytes_of(length);
  const std::uint64_t end = std::min<std::uint64_t>(length, (std::uint64_t{first} + units) * unit);
  return units == 0 ? 0 : end - first * unit;
}
// The largest block that fits into a segment beside its header and one index page.
[[nodiscard]] constexpr std::uint64_t block_bytes_max(std::uint64_t segment_bytes) {
  return std::min(kBlockBytesMax, segment_bytes - 3 * kPageBytes);
}

// The block's name in RAM, of `bits` bits.
[[nodiscard]] Fingerprint fingerprint_of(const BlockId& id, const std::array<std::byte, 16>& key,
                                         std::uint32_t bits);

}  // namespace memkv::engine
