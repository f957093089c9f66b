#include "engine/format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/mutant.h"

namespace memkv::engine {
namespace {

using Magic = std::array<char, 8>;
constexpr Magic kSuperblockMagic = {'M', 'E', 'M', 'K', 'V', 'S', 'U', 'P'};
constexpr Magic kSegmentMagic = {'M', 'E', 'M', 'K', 'V', 'S', 'E', 'G'};
constexpr Magic kBlockMagic = {'M', 'E', 'M', 'K', 'V', 'B', 'L', 'K'};
constexpr Magic kIndexMagic = {'M', 'E', 'M', 'K', 'V', 'I', 'D', 'X'};
constexpr std::size_t kCrcAt = kPageBytes - sizeof(std::uint32_t);

ByteWriter begin(Page page, const Magic& magic) {
  std::memset(page.data(), 0, page.size());
  ByteWriter out(page.first(kCrcAt));
  out.raw(std::as_bytes(std::span(magic)));
  out.u32(kFormatVersion);
  return out;
}

void seal(Page page) {
  ByteWriter(page.subspan(kCrcAt)).u32(crc32c(page.first(kCrcAt)));
}

bool has_magic(ConstPage page, const Magic& magic) {
  return std::memcmp(page.data(), magic.data(), magic.size()) == 0;
}

bool crc_holds(ConstPage page) {
  return ByteReader(page.subspan(kCrcAt)).u32() == crc32c(page.first(kCrcAt));
}

// A reader behind magic and version, or nothing when the page is not a whole one of that kind.
std::optional<ByteReader> open_page(ConstPage page, const Magic& magic) {
  if (!has_magic(page, magic) || !crc_holds(page)) return std::nullopt;
  ByteReader in(page.first(kCrcAt));
  (void)in.u64();
  if (in.u32() != kFormatVersion) return std::nullopt;
  return in;
}

template <std::size_t N>
void read_array(ByteReader& in, std::array<std::byte, N>& to) {
  const auto bytes = in.raw(N);
  std::copy(bytes.begin(), bytes.end(), to.begin());
}

bool sane(const Superblock& super) {
  const bool segment_fits = std::has_single_bit(super.segment_bytes) &&
                            super.segment_bytes >= kSegmentBytesFloor &&
                            super.segment_bytes <= kSegmentBytesMax;
  if (!segment_fits || super.segments < kSegmentsMin || super.boot == 0) return false;
  if (super.segment_offset != std::min(kSegmentOffsetMax, super.segment_bytes)) return false;
  return super.segments <= (super.device_bytes - super.segment_offset) / super.segment_bytes &&
         super.device_bytes > super.segment_offset;
}

bool sane(const Record& record, std::uint32_t segment_pages) {
  if (record.kind == RecordKind::tombstone) {
    return record.page == 0 && record.length == 0 && record.depth == 0 && record.tenant == 0 &&
           record.space == Namespace{} && record.put_s == 0;
  }
  if (record.kind != RecordKind::block) return false;
  return record.length >= 1 && record.length <= kBlockBytesMax && record.page >= 1 &&
         record.page < segment_pages && block_pages(record.length) < segment_pages - record.page;
}

}  // namespace

Identity Identity::of(const BlockId& id) {
  return {id.tenant, id.space, std::vector<std::byte>(id.key.begin(), id.key.end())};
}

bool Identity::is(const BlockId& id) const {
  if (!mutant(Mutant::skip_tenant_compare) && tenant != id.tenant) return false;
  if (mutant(Mutant::skip_key_compare)) return true;
  return space == id.space && std::ranges::equal(key, id.key);
}

void encode(const Superblock& from, Page page) {
  ByteWriter out = begin(page, kSuperblockMagic);
  out.u32(from.segments);
  out.raw(from.uuid);
  out.u64(from.device_bytes);
  out.u64(from.segment_offset);
  out.u64(from.segment_bytes);
  out.raw(from.fingerprint_key);
  out.u64(from.boot);
  out.u64(from.oldest_generation);
  seal(page);
}

SuperblockState decode_superblock(ConstPage page, Superblock& to) {
  if (!has_magic(page, kSuperblockMagic) || !crc_holds(page)) return SuperblockState::not_ours;
  ByteReader in(page.first(kCrcAt));
  (void)in.u64();
  const std::uint32_t version = in.u32();
  if (version > kFormatVersion) return SuperblockState::newer_version;
  if (version > 0 && version < kFormatVersion) return SuperblockState::older_version;
  to.segments = in.u32();
  read_array(in, to.uuid);
  to.device_bytes = in.u64();
  to.segment_offset = in.u64();
  to.segment_bytes = in.u64();
  read_array(in, to.fingerprint_key);
  to.boot = in.u64();
  to.oldest_generation = in.u64();
  const bool good = version == kFormatVersion && sane(to);
  return good ? SuperblockState::valid : SuperblockState::not_ours;
}

void encode(const SegmentHeader& from, Page page) {
  ByteWriter out = begin(page, kSegmentMagic);
  out.u32(from.number);
  out.raw(from.uuid);
  out.u64(from.generation);
  seal(page);
}

std::optional<SegmentHeader> decode_segment_header(ConstPage page) {
  auto in = open_page(page, kSegmentMagic);
  if (!in) return std::nullopt;
  SegmentHeader header;
  header.number = in->u32();
  read_array(*in, header.uuid);
  header.generation = in->u64();
  return header;
}

void encode(const BlockMeta& meta, const Uuid& uuid, const BlockPlace& place, Page page) {
  ByteWriter out = begin(page, kBlockMagic);
  out.u32(place.segment);
  out.raw(uuid);
  out.u64(place.generation);
  out.u64(meta.incarnation);
  out.u64(meta.identity.tenant);
  out.raw(meta.identity.space.id);
  out.u32(meta.identity.space.generation);
  out.u32(place.page);
  out.u64(meta.traits.group.high);
  out.u64(meta.traits.group.low);
  out.u32(meta.traits.depth);
  out.u32(meta.traits.recompute_cost);
  out.u32(meta.length);
  out.u32(unit_bytes_of(meta.length));
  out.u32(unit_count_of(meta.length));
  out.u32(static_cast<std::uint32_t>(meta.identity.key.size()));
  out.raw(meta.identity.key);
  out.zeros(kKeyBytesMax - meta.identity.key.size());
  for (const std::uint32_t crc : meta.crcs) out.u32(crc);
  seal(page);
}

std::optional<BlockHeader> decode_block_header(ConstPage page) {
  auto in = open_page(page, kBlockMagic);
  if (!in) return std::nullopt;
  BlockHeader header;
  BlockMeta& meta = header.meta;
  header.place.segment = in->u32();
  read_array(*in, header.uuid);
  header.place.generation = in->u64();
  meta.incarnation = in->u64();
  meta.identity.tenant = in->u64();
  read_array(*in, meta.identity.space.id);
  meta.identity.space.generation = in->u32();
  header.place.page = in->u32();
  meta.traits.group.high = in->u64();
  meta.traits.group.low = in->u64();
  meta.traits.depth = in->u32();
  meta.traits.recompute_cost = in->u32();
  meta.length = in->u32();
  const std::uint32_t unit_bytes = in->u32();
  const std::uint32_t unit_count = in->u32();
  const std::uint32_t key_bytes = in->u32();
  if (meta.length == 0 || meta.length > kBlockBytesMax) return std::nullopt;
  if (unit_bytes != unit_bytes_of(meta.length)) return std::nullopt;
  if (unit_count != unit_count_of(meta.length)) return std::nullopt;
  if (key_bytes == 0 || key_bytes > kKeyBytesMax) return std::nullopt;
  const auto key = in->raw(kKeyBytesMax).first(key_bytes);
  meta.identity.key.assign(key.begin(), key.end());
  meta.crcs.resize(unit_count);
  for (std::uint32_t& crc : meta.crcs) crc = in->u32();
  return header;
}

void encode(const IndexPage& from, Page page) {
  ByteWriter out = begin(page, kIndexMagic);
  out.u32(from.segment);
  out.raw(from.uuid);
  out.u64(from.generation);
  out.u32(from.sequence);
  out.u32(static_cast<std::uint32_t>(from.records.size()));
  out.u32(from.tombstones_before);
  for (const Record& record : from.records) {
    out.u64(record.fingerprint.high);
    out.u64(record.fingerprint.low);
    out.u64(record.incarnation);
    out.u64(record.tenant);
    out.raw(record.space.id);
    out.u32(record.space.generation);
    out.u32(record.page);
    out.u32(record.length);
    out.u32(record.depth);
    out.u32(record.put_s);
    out.u32(static_cast<std::uint32_t>(record.kind));
  }
  seal(page);
}

std::optional<IndexPage> decode_index_page(ConstPage page, std::uint32_t segment_pages) {
  auto in = open_page(page, kIndexMagic);
  if (!in) return std::nullopt;
  IndexPage index;
  index.segment = in->u32();
  read_array(*in, index.uuid);
  index.generation = in->u64();
  index.sequence = in->u32();
  const std::uint32_t count = in->u32();
  index.tombstones_before = in->u32();
  if (count == 0 || count > kRecordsPerPage) return std::nullopt;
  index.records.resize(count);
  for (Record& record : index.records) {
    record.fingerprint.high = in->u64();
    record.fingerprint.low = in->u64();
    record.incarnation = in->u64();
    record.tenant = in->u64();
    read_array(*in, record.space.id);
    record.space.generation = in->u32();
    record.page = in->u32();
    record.length = in->u32();
    record.depth = in->u32();
    record.put_s = in->u32();
    record.kind = static_cast<RecordKind>(in->u32());
    if (!sane(record, segment_pages)) return std::nullopt;
  }
  return index;
}

Fingerprint fingerprint_of(const BlockId& id, const std::array<std::byte, 16>& key,
                           std::uint32_t bits) {
  std::array<std::byte, sizeof(std::uint64_t) + 16 + sizeof(std::uint32_t)> head;
  ByteWriter out(head);
  out.u64(mutant(Mutant::skip_tenant_compare) ? 0 : id.tenant);
  out.raw(id.space.id);
  out.u32(id.space.generation);
  SipHash128 hash(key);
  hash.update(head);
  hash.update(id.key);
  Fingerprint print = hash.finish();
  if (bits < 64) {
    print = {0, print.low & ((std::uint64_t{1} << bits) - 1)};
  } else if (bits < 128) {
    print.high &= (std::uint64_t{1} << (bits - 64)) - 1;
  }
  return print;
}

}  // namespace memkv::engine
