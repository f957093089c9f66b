// The pages of docs/formats/segment.md, byte for byte, and every way in which one can be wrong.
#include "engine/format.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "engine/device_io.h"

namespace memkv::engine {
namespace {

Uuid uuid_of(unsigned first) {
  Uuid uuid;
  for (std::size_t i = 0; i < uuid.size(); ++i) uuid[i] = static_cast<std::byte>(first + i);
  return uuid;
}

// The page that a table of docs/formats/segment.md describes, written without the encoder.
class GoldenPage {
 public:
  explicit GoldenPage(std::string_view magic) {
    put(0, as_bytes_of(magic));
    u32(8, 2);
  }
  void put(std::size_t at, std::span<const std::byte> bytes) {
    std::memcpy(buffer_.all().data() + at, bytes.data(), bytes.size());
  }
  void u32(std::size_t at, std::uint32_t value) { put(at, std::as_bytes(std::span(&value, 1))); }
  void u64(std::size_t at, std::uint64_t value) { put(at, std::as_bytes(std::span(&value, 1))); }
  Page seal() {
    u32(4092, crc32c(buffer_.all().first(4092)));
    return buffer_.page();
  }

 private:
  AlignedBuffer buffer_;
};

bool same(ConstPage a, ConstPage b) {
  return std::memcmp(a.data(), b.data(), a.size()) == 0;
}

Superblock superblock() {
  Superblock super;
  super.segments = 20;
  super.uuid = uuid_of(1);
  super.device_bytes = 21 * kGiB;
  super.segment_offset = kMiB;
  super.segment_bytes = kGiB;
  super.fingerprint_key = uuid_of(100);
  super.boot = 7;
  super.oldest_generation = 0x0000000300000002;
  return super;
}

TEST(Format, Superblock) {
  GoldenPage golden("MEMKVSUP");
  golden.u32(12, 20);
  golden.put(16, uuid_of(1));
  golden.u64(32, 21 * kGiB);
  golden.u64(40, kMiB);
  golden.u64(48, kGiB);
  golden.put(56, uuid_of(100));
  golden.u64(72, 7);
  golden.u64(80, 0x0000000300000002);
  AlignedBuffer page;
  encode(superblock(), page.page());
  EXPECT_TRUE(same(page.page(), golden.seal()));
  Superblock back;
  EXPECT_EQ(decode_superblock(page.page(), back), SuperblockState::valid);
  EXPECT_EQ(back, superblock());
}

TEST(Format, ASuperblockThatCannotBeIsNotOurs) {
  const auto state_of = [](const std::function<void(Superblock&)>& change) {
    Superblock super = superblock();
    change(super);
    AlignedBuffer page;
    encode(super, page.page());
    Superblock back;
    return decode_superblock(page.page(), back);
  };
  EXPECT_EQ(state_of([](Superblock& s) { s.segments = 3; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.segments = 21; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.segment_bytes = kGiB - 1; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.segment_bytes = 2 * kGiB; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.segment_bytes = 0; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.segment_offset = 0; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.device_bytes = 5; }), SuperblockState::not_ours);
  EXPECT_EQ(state_of([](Superblock& s) { s.boot = 0; }), SuperblockState::not_ours);
}

TEST(Format, SegmentHeader) {
  GoldenPage golden("MEMKVSEG");
  golden.u32(12, 19);
  golden.put(16, uuid_of(1));
  golden.u64(32, 0x0000000700000003);
  const SegmentHeader header{19, uuid_of(1), 0x0000000700000003};
  AlignedBuffer page;
  encode(header, page.page());
  EXPECT_TRUE(same(page.page(), golden.seal()));
  EXPECT_EQ(decode_segment_header(page.page()), header);
}

BlockMeta block_meta() {
  BlockMeta meta;
  meta.identity.tenant = 77;
  meta.identity.space = {uuid_of(50), 3};
  meta.identity.key = {std::byte{'k'}, std::byte{0}, std::byte{'y'}};
  meta.traits = {{11, 12}, 13, 14};
  meta.incarnation = (std::uint64_t{7} << 40) | 9;
  meta.length = 150'000;
  meta.crcs = {21, 22, 23};
  return meta;
}

GoldenPage golden_block() {
  GoldenPage golden("MEMKVBLK");
  golden.u32(12, 5);
  golden.put(16, uuid_of(1));
  golden.u64(32, 6);
  golden.u64(40, (std::uint64_t{7} << 40) | 9);
  golden.u64(48, 77);
  golden.put(56, uuid_of(50));
  golden.u32(72, 3);
  golden.u32(76, 4);
  golden.u64(80, 11);
  golden.u64(88, 12);
  golden.u32(96, 13);
  golden.u32(100, 14);
  golden.u32(104, 150'000);
  golden.u32(108, 65536);
  golden.u32(112, 3);
  golden.u32(116, 3);
  golden.put(120, block_meta().identity.key);
  golden.u32(632, 21);
  golden.u32(636, 22);
  golden.u32(640, 23);
  return golden;
}

TEST(Format, BlockHeader) {
  AlignedBuffer page;
  encode(block_meta(), uuid_of(1), {5, 4, 6}, page.page());
  GoldenPage golden = golden_block();
  EXPECT_TRUE(same(page.page(), golden.seal()));
  const auto back = decode_block_header(page.page());
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->uuid, uuid_of(1));
  EXPECT_EQ(back->place, (BlockPlace{5, 4, 6}));
  EXPECT_EQ(back->meta.identity, block_meta().identity);
  EXPECT_EQ(back->meta.traits.group, (Fingerprint{11, 12}));
  EXPECT_EQ(back->meta.traits.depth, 13u);
  EXPECT_EQ(back->meta.traits.recompute_cost, 14u);
  EXPECT_EQ(back->meta.incarnation, block_meta().incarnation);
  EXPECT_EQ(back->meta.length, 150'000u);
  EXPECT_EQ(back->meta.crcs, block_meta().crcs);
}

TEST(Format, ABlockHeaderThatCannotBeIsNone) {
  const std::pair<std::size_t, std::uint32_t> wrong[] = {
      {8, 1},       {104, 0},      {104, kBlockBytesMax + 1},
      {104, 65536}, {108, 131072}, {108, 0},
      {112, 2},     {112, 513},    {116, 0},
      {116, 513},   {116, ~0u},
  };
  for (const auto& [at, value] : wrong) {
    GoldenPage golden = golden_block();
    golden.u32(at, value);
    EXPECT_FALSE(decode_block_header(golden.seal()).has_value()) << at << " " << value;
  }
}

TEST(Format, TheLongestKeyAndTheMostUnits) {
  BlockMeta meta = block_meta();
  meta.identity.key.assign(kKeyBytesMax, std::byte{7});
  meta.length = kBlockBytesMax;
  meta.crcs.assign(kUnitsMax, 9);
  AlignedBuffer page;
  encode(meta, uuid_of(1), {5, 4, 6}, page.page());
  const auto back = decode_block_header(page.page());
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(back->meta.identity.key, meta.identity.key);
  EXPECT_EQ(back->meta.crcs, meta.crcs);
}

IndexPage index_page() {
  const Record block{.fingerprint = {1, 2},
                     .incarnation = 3,
                     .tenant = 11,
                     .space = {uuid_of(12), 13},
                     .page = 5,
                     .length = 6000,
                     .depth = 7,
                     .put_s = 14};
  const Record tombstone{
      .fingerprint = {8, 9}, .incarnation = 10, .space = {}, .kind = RecordKind::tombstone};
  return {2, uuid_of(1), 8, 4, 1, {block, tombstone}};
}

GoldenPage golden_index() {
  GoldenPage golden("MEMKVIDX");
  golden.u32(12, 2);
  golden.put(16, uuid_of(1));
  golden.u64(32, 8);
  golden.u32(40, 4);
  golden.u32(44, 2);
  golden.u32(48, 1);
  golden.u64(52, 1);
  golden.u64(60, 2);
  golden.u64(68, 3);
  golden.u64(76, 11);
  golden.put(84, uuid_of(12));
  golden.u32(100, 13);
  golden.u32(104, 5);
  golden.u32(108, 6000);
  golden.u32(112, 7);
  golden.u32(116, 14);
  golden.u32(120, 1);
  golden.u64(124, 8);
  golden.u64(132, 9);
  golden.u64(140, 10);
  golden.u32(192, 2);
  return golden;
}

TEST(Format, IndexPage) {
  AlignedBuffer page;
  encode(index_page(), page.page());
  GoldenPage golden = golden_index();
  EXPECT_TRUE(same(page.page(), golden.seal()));
  EXPECT_EQ(decode_index_page(page.page(), 256), index_page());
}

TEST(Format, AnIndexPageThatCannotBeIsNone) {
  const std::pair<std::size_t, std::uint32_t> wrong[] = {
      {8, 1},   {44, 0},    {44, 57}, {104, 0}, {104, 256}, {104, 254},            // page
      {108, 0}, {108, ~0u}, {120, 0}, {120, 3},                                    // length, kind
      {148, 1}, {156, 1},   {172, 1}, {176, 1}, {180, 1},   {184, 1},   {188, 1},  // of a tombstone
  };
  for (const auto& [at, value] : wrong) {
    GoldenPage golden = golden_index();
    golden.u32(at, value);
    EXPECT_FALSE(decode_index_page(golden.seal(), 256).has_value()) << at << " " << value;
  }
}

TEST(Format, AFullIndexPage) {
  IndexPage full = index_page();
  full.records.assign(kRecordsPerPage, full.records.front());
  AlignedBuffer page;
  encode(full, page.page());
  EXPECT_EQ(decode_index_page(page.page(), 256), full);
}

// Any bit, anywhere in any of the pages: it is no page any more.
TEST(Format, EveryFlippedBitIsSeen) {
  AlignedBuffer pages[4];
  encode(superblock(), pages[0].page());
  encode(SegmentHeader{19, uuid_of(1), 3}, pages[1].page());
  encode(block_meta(), uuid_of(1), {5, 4, 6}, pages[2].page());
  encode(index_page(), pages[3].page());
  for (std::size_t bit = 0; bit < kPageBytes * 8; ++bit) {
    for (AlignedBuffer& page : pages)
      page.all()[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    Superblock super;
    ASSERT_EQ(decode_superblock(pages[0].page(), super), SuperblockState::not_ours) << bit;
    ASSERT_FALSE(decode_segment_header(pages[1].page()).has_value()) << bit;
    ASSERT_FALSE(decode_block_header(pages[2].page()).has_value()) << bit;
    ASSERT_FALSE(decode_index_page(pages[3].page(), 256).has_value()) << bit;
    for (AlignedBuffer& page : pages)
      page.all()[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }
}

TEST(Format, AnotherVersionsSuperblockIsKnownAsSuch) {
  GoldenPage golden("MEMKVSUP");
  golden.u32(8, 3);
  Superblock super;
  EXPECT_EQ(decode_superblock(golden.seal(), super), SuperblockState::newer_version);
  golden.u32(8, 1);
  EXPECT_EQ(decode_superblock(golden.seal(), super), SuperblockState::older_version);
}

TEST(Format, IdentityAndFingerprintCoverEveryField) {
  const std::byte key[] = {std::byte{1}, std::byte{2}};
  BlockId id{1, {uuid_of(3), 4}, key};
  const Identity identity = Identity::of(id);
  const auto print = fingerprint_of(id, uuid_of(9), 128);
  EXPECT_TRUE(identity.is(id));
  std::vector<BlockId> others(4, id);
  others[0].tenant = 2;
  others[1].space.id[15] = std::byte{0};
  others[2].space.generation = 5;
  others[3].key = std::span(key).first(1);
  for (const BlockId& other : others) {
    EXPECT_FALSE(identity.is(other));
    EXPECT_NE(fingerprint_of(other, uuid_of(9), 128), print);
  }
  EXPECT_NE(fingerprint_of(id, uuid_of(8), 128), print);
  EXPECT_LT(fingerprint_of(id, uuid_of(9), 8).low, 256u);
  EXPECT_EQ(fingerprint_of(id, uuid_of(9), 8).high, 0u);
  EXPECT_LT(fingerprint_of(id, uuid_of(9), 65).high, 2u);
}

TEST(Format, SizesOfBlocks) {
  EXPECT_EQ(block_pages(1), 2u);
  EXPECT_EQ(block_pages(4096), 2u);
  EXPECT_EQ(block_pages(4097), 3u);
  EXPECT_EQ(block_bytes_max(kGiB), kBlockBytesMax);
  EXPECT_EQ(block_bytes_max(64 * kKiB), 13 * kPageBytes);
  EXPECT_EQ(bytes_of_units(150'000, 0, 3), 150'000u);
  EXPECT_EQ(bytes_of_units(150'000, 2, 1), 150'000u - 131'072u);
  EXPECT_EQ(bytes_of_units(150'000, 1, 0), 0u);
}

}  // namespace
}  // namespace memkv::engine
