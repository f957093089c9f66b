// What the frames of many records refuse, and how their writers fill a body to its last byte.
#include <gtest/gtest.h>

#include <array>
#include <bit>
#include <cstring>
#include <string>
#include <vector>

#include "support/wire_golden.h"
#include "wire/wire.h"

namespace memkv::wire {
namespace {

using test::Bytes;

Bytes run_of(std::size_t count) {
  return Bytes(count, std::byte{'k'});
}

template <typename T>
Code code_of(const Result<T>& result) {
  if (result) return Code::ok;
  EXPECT_FALSE(result.error().text.empty());
  return result.error().code;
}

// A body of this head, this count and these records, whatever they are.
template <typename Reader>
Code opened(std::size_t head_bytes, std::uint32_t count, const Bytes& records) {
  Bytes body(head_bytes);
  const auto raw = std::bit_cast<std::array<std::byte, 4>>(count);
  body.insert(body.end(), raw.begin(), raw.end());
  body.insert(body.end(), records.begin(), records.end());
  return code_of(Reader::open(body));
}

template <typename Number>
void append(Bytes& bytes, Number number) {
  // Byte by byte: gcc 12 with ThreadSanitizer sees an overflow in a range insert that is none.
  for (const std::byte byte : std::bit_cast<std::array<std::byte, sizeof number>>(number)) {
    bytes.push_back(byte);
  }
}
void append_run(Bytes& bytes, std::size_t count, char value = 'k') {
  append(bytes, static_cast<std::uint16_t>(count));
  bytes.insert(bytes.end(), count, static_cast<std::byte>(value));
}
Bytes key_record(std::size_t key) {
  Bytes bytes;
  append_run(bytes, key);
  return bytes;
}
Bytes put_record(std::uint32_t length, std::size_t key) {
  Bytes bytes;
  append(bytes, length);
  bytes.resize(32, std::byte{0xff});  // the traits: anything goes
  append_run(bytes, key);
  return bytes;
}
Bytes get_record(std::uint32_t offset, std::uint32_t length, std::size_t key) {
  Bytes bytes;
  append(bytes, offset);
  append(bytes, length);
  append_run(bytes, key);
  return bytes;
}
Bytes repeated(const Bytes& record, std::size_t times) {
  Bytes bytes;
  for (std::size_t i = 0; i < times; ++i) bytes.insert(bytes.end(), record.begin(), record.end());
  return bytes;
}

constexpr std::size_t kSpaceBytes = 20;

// Whether a writer of a roomy body takes the record.
template <typename Head, typename Record>
bool taken(const Record& record) {
  std::array<std::byte, kSmallBodyMax> body;
  ListWriter<Head, Record> writer(body, Head{});
  const bool added = writer.add(record);
  EXPECT_EQ(writer.count(), added ? 1 : 0);
  return added;
}

TEST(WireList, KeysHaveOneToFiveHundredTwelveBytes) {
  const auto key_of = [](std::size_t size) {
    const std::vector<Code> codes{opened<MatchReader>(kSpaceBytes + 4, 1, key_record(size)),
                                  opened<DropReader>(kSpaceBytes, 1, key_record(size)),
                                  opened<PutReader>(kSpaceBytes, 1, put_record(1, size)),
                                  opened<GetReader>(kSpaceBytes, 1, get_record(0, 1, size))};
    const Bytes key = run_of(size);
    for (const Code code : codes) EXPECT_EQ(code, codes[0]);
    for (const bool took : {taken<MatchHead>(Key{key}), taken<Namespace>(Key{key}),
                            taken<Namespace>(PutItem{.length = 1, .traits = {}, .key = key}),
                            taken<Namespace>(GetItem{.length = 1, .key = key})}) {
      EXPECT_EQ(took, codes[0] == Code::ok);
    }
    return codes[0];
  };
  EXPECT_EQ(key_of(0), Code::protocol);
  EXPECT_EQ(key_of(1), Code::ok);
  EXPECT_EQ(key_of(kKeyBytesMax), Code::ok);
  EXPECT_EQ(key_of(kKeyBytesMax + 1), Code::too_large);
}

TEST(WireList, BlocksHaveOneByteToSixtyFourMiB) {
  const Bytes key = run_of(1);
  const auto put = [&key](std::uint32_t length) {
    const Code code = opened<PutReader>(kSpaceBytes, 1, put_record(length, 1));
    EXPECT_EQ(taken<Namespace>(PutItem{.length = length, .traits = {}, .key = key}),
              code == Code::ok);
    return code;
  };
  EXPECT_EQ(put(0), Code::protocol);
  EXPECT_EQ(put(1), Code::ok);
  EXPECT_EQ(put(kBlockBytesMax), Code::ok);
  EXPECT_EQ(put(kBlockBytesMax + 1), Code::too_large);
  EXPECT_EQ(put(0xffffffff), Code::too_large);
}

TEST(WireList, RangesEndWithinSixtyFourMiB) {
  const Bytes key = run_of(1);
  const auto get = [&key](std::uint32_t offset, std::uint32_t length) {
    const Code code = opened<GetReader>(kSpaceBytes, 1, get_record(offset, length, 1));
    EXPECT_EQ(taken<Namespace>(GetItem{offset, length, key}), code == Code::ok);
    return code;
  };
  EXPECT_EQ(get(0, 0), Code::protocol);
  EXPECT_EQ(get(5, 0), Code::protocol);
  EXPECT_EQ(get(0, kBlockBytesMax), Code::ok);
  EXPECT_EQ(get(kBlockBytesMax - 1, 1), Code::ok);
  EXPECT_EQ(get(kBlockBytesMax, 1), Code::too_large);
  EXPECT_EQ(get(1, kBlockBytesMax), Code::too_large);
  EXPECT_EQ(get(0xffffffff, 0xffffffff), Code::too_large);  // the sum does not wrap
  EXPECT_EQ(get(0xffffffff, 2), Code::too_large);
}

TEST(WireList, WhereABlockIsAgreesWithItsLength) {
  const auto found = [](std::uint8_t where, std::uint32_t length, std::uint8_t copied = 0,
                        std::uint8_t zero = 0) {
    Bytes record{std::byte{where}, std::byte{copied}, std::byte{zero}, std::byte{0}};
    append(record, length);
    const Code code = opened<MatchReplyReader>(8, 1, record);
    if (zero == 0) {
      EXPECT_EQ(taken<MatchReplyHead>(Found{static_cast<Where>(where), copied, length}),
                code == Code::ok);
    }
    return code;
  };
  EXPECT_EQ(found(0, 0), Code::ok);
  EXPECT_EQ(found(0, 1), Code::protocol);
  for (const std::uint8_t where : {1, 2}) {
    EXPECT_EQ(found(where, 0), Code::protocol);
    EXPECT_EQ(found(where, 1), Code::ok);
    EXPECT_EQ(found(where, kBlockBytesMax), Code::ok);
    EXPECT_EQ(found(where, kBlockBytesMax + 1), Code::too_large);
    EXPECT_EQ(found(where, 1, 1), Code::ok);
    EXPECT_EQ(found(where, 1, 2), Code::protocol);
    EXPECT_EQ(found(where, 1, 0, 1), Code::protocol);
  }
  EXPECT_EQ(found(0, 0, 1), Code::protocol);
  EXPECT_EQ(found(3, 1), Code::protocol);
  EXPECT_EQ(found(255, 0), Code::protocol);
}

TEST(WireList, ListedBlocksHaveALengthAndAKey) {
  const auto listed = [](std::uint32_t length, std::size_t key, std::uint8_t zero = 0) {
    Bytes record(28);
    append(record, length);
    record.resize(62);
    append(record, std::uint16_t{zero});
    append_run(record, key, 'k');
    const Code code = opened<ListReplyReader>(12, 1, record);
    const Bytes name(key);
    if (zero == 0) {
      EXPECT_EQ(taken<ListReplyHead>(Listed{.length = length, .key = name}), code == Code::ok);
    }
    return code;
  };
  EXPECT_EQ(listed(1, 1), Code::ok);
  EXPECT_EQ(listed(kBlockBytesMax, kKeyBytesMax), Code::ok);
  EXPECT_EQ(listed(0, 1), Code::protocol);
  EXPECT_EQ(listed(kBlockBytesMax + 1, 1), Code::too_large);
  EXPECT_EQ(listed(1, 0), Code::protocol);
  EXPECT_EQ(listed(1, kKeyBytesMax + 1), Code::too_large);
  EXPECT_EQ(listed(1, 1, 1), Code::protocol);
}

TEST(WireList, CodesAreKnown) {
  for (unsigned number = 0; number < 256; ++number) {
    const auto byte = static_cast<std::byte>(number);
    const Code expected = number <= kCodeMax ? Code::ok : Code::protocol;
    EXPECT_EQ(opened<DropReplyReader>(4, 1, {byte}), expected) << number;
    EXPECT_EQ(taken<DropReplyHead>(DropCode{static_cast<Code>(number)}), expected == Code::ok);
  }
}

TEST(WireList, AddressesAreShortAndPrintable) {
  const auto map = [](std::size_t size, char value) {
    Bytes record;
    append(record, std::uint64_t{1});
    append(record, std::uint32_t{1});
    record.resize(24);
    append(record, std::uint64_t{1});
    record.push_back(std::byte{1});
    append_run(record, size, value);
    const Code code = opened<MapReplyReader>(4, 1, record);
    const std::string address(size, value);
    EXPECT_EQ(taken<MapHead>(MapNode{1, 1, {}, 1, 1, address}), code == Code::ok);
    return code;
  };
  EXPECT_EQ(map(0, 'a'), Code::protocol);
  EXPECT_EQ(map(1, 'a'), Code::ok);
  EXPECT_EQ(map(kAddressBytesMax, 'a'), Code::ok);
  EXPECT_EQ(map(kAddressBytesMax + 1, 'a'), Code::too_large);
  for (const char bad : {' ', '\n', '\0', '\x7f', '\xe4'}) EXPECT_EQ(map(3, bad), Code::protocol);
}

// Opens a list of `count` equal records and of one more than the limit, and writes both.
template <typename Head, typename Record>
void expect_count_limit(std::size_t head_bytes, std::uint32_t limit, const Record& record,
                        const Bytes& raw) {
  using Reader = ListReader<Head, Record>;
  EXPECT_EQ(opened<Reader>(head_bytes, limit, repeated(raw, limit)), Code::ok);
  EXPECT_EQ(opened<Reader>(head_bytes, limit + 1, repeated(raw, limit + 1)), Code::too_large);
  EXPECT_EQ(opened<Reader>(head_bytes, 0xffffffff, raw), Code::too_large);
  EXPECT_EQ(opened<Reader>(head_bytes, 2, raw), Code::protocol);
  EXPECT_EQ(opened<Reader>(head_bytes, 1, repeated(raw, 2)), Code::protocol);

  Bytes body(kBodyBytesMax);
  ListWriter<Head, Record> writer(body, Head{});
  for (std::uint32_t i = 0; i < limit; ++i) ASSERT_TRUE(writer.add(record)) << i;
  const std::size_t full = writer.body().size();
  EXPECT_FALSE(writer.add(record));
  EXPECT_EQ(writer.count(), limit);
  EXPECT_EQ(writer.body().size(), full);
  Result<Reader> reader = Reader::open(writer.body());
  ASSERT_TRUE(reader);
  for (std::uint32_t i = 0; i < limit; ++i) ASSERT_TRUE(reader->next());
  EXPECT_FALSE(reader->next());
  EXPECT_FALSE(reader->next());
}

TEST(WireList, CountsHaveLimits) {
  const Bytes key = run_of(1);
  expect_count_limit<MatchHead, Key>(kSpaceBytes + 4, kItemsMax, {key}, key_record(1));
  expect_count_limit<Namespace, Key>(kSpaceBytes, kItemsMax, {key}, key_record(1));
  expect_count_limit<Namespace, PutItem>(
      kSpaceBytes, kBatchMax, PutItem{.length = 1, .traits = {}, .key = key}, put_record(1, 1));
  expect_count_limit<Namespace, GetItem>(kSpaceBytes, kBatchMax, {0, 1, key}, get_record(0, 1, 1));
  expect_count_limit<MatchReplyHead, Found>(8, kItemsMax, {}, Bytes(8));
  expect_count_limit<DropReplyHead, DropCode>(4, kItemsMax, {}, Bytes(1));
  Bytes node(33);
  append_run(node, 1);
  expect_count_limit<MapHead, MapNode>(4, kNodesMax, {0, 0, {}, 0, 0, "k"}, node);
}

TEST(WireList, OnlyAMapMayBeEmpty) {
  EXPECT_EQ(opened<MatchReader>(kSpaceBytes + 4, 0, {}), Code::protocol);
  EXPECT_EQ(opened<DropReader>(kSpaceBytes, 0, {}), Code::protocol);
  EXPECT_EQ(opened<PutReader>(kSpaceBytes, 0, {}), Code::protocol);
  EXPECT_EQ(opened<GetReader>(kSpaceBytes, 0, {}), Code::protocol);
  EXPECT_EQ(opened<MatchReplyReader>(8, 0, {}), Code::protocol);
  EXPECT_EQ(opened<DropReplyReader>(4, 0, {}), Code::protocol);
  EXPECT_EQ(opened<MapReplyReader>(4, 0, {}), Code::ok);

  std::array<std::byte, 64> body;
  EXPECT_TRUE(MatchWriter(body, {}).body().empty());
  EXPECT_TRUE(PutWriter(body, {}).body().empty());
  EXPECT_TRUE(DropReplyWriter(body, {}).body().empty());
  EXPECT_EQ(MapReplyWriter(body, {}).body().size(), 8);
}

TEST(WireList, AWriterFillsABodyToItsLastByteAndNoFurther) {
  const Bytes key = run_of(10);
  constexpr std::size_t kHead = kSpaceBytes + 4;
  constexpr std::size_t kRecord = 12;
  for (std::size_t room = 0; room <= kHead + 2 * kRecord; ++room) {
    Bytes memory(room + 1, std::byte{0xee});  // one byte more, to see that it stays
    DropWriter writer{std::span(memory).first(room), Namespace{}};
    const std::size_t fits = room < kHead ? 0 : (room - kHead) / kRecord;
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(writer.add({key}), i < fits) << room;
    EXPECT_EQ(writer.count(), fits);
    EXPECT_EQ(writer.body().size(), fits == 0 ? 0 : kHead + fits * kRecord);
    EXPECT_EQ(memory[room], std::byte{0xee});
  }
}

TEST(WireList, ARecordThatDoesNotFitLeavesTheBodyAsItWas) {
  const Bytes small = run_of(1);
  const Bytes large = run_of(kKeyBytesMax);
  const Bytes wrong = run_of(kKeyBytesMax + 1);
  Bytes memory(kSpaceBytes + 4 + 4 * 3);
  DropWriter writer(memory, Namespace{});
  EXPECT_TRUE(writer.add({small}));
  EXPECT_FALSE(writer.add({large}));
  EXPECT_FALSE(writer.add({wrong}));
  EXPECT_FALSE(writer.add({}));
  EXPECT_EQ(writer.count(), 1);
  EXPECT_EQ(DropReader::open(writer.body())->count(), 1);
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(writer.add({small}));  // and goes on after body()
  EXPECT_EQ(DropReader::open(writer.body())->count(), 4);
  EXPECT_EQ(writer.body().size(), memory.size());
}

TEST(WireList, ABodyIsNeverLargerThanAFrameMayBe) {
  Bytes memory(2 * kBodyBytesMax);
  const Bytes key = run_of(kKeyBytesMax);
  MatchWriter writer(memory, MatchHead{});
  while (writer.add({key})) {
  }
  constexpr std::size_t kHead = kSpaceBytes + 8;
  EXPECT_EQ(writer.count(), (kBodyBytesMax - kHead) / (2 + kKeyBytesMax));
  EXPECT_LE(writer.body().size(), kBodyBytesMax);
  EXPECT_TRUE(MatchReader::open(writer.body()));

  const std::uint32_t too_many = writer.count() + 1;
  EXPECT_EQ(
      opened<MatchReader>(kSpaceBytes + 4, too_many, repeated(key_record(kKeyBytesMax), too_many)),
      Code::too_large);
}

TEST(WireList, ABodyMayBeAsLargeAsAFrame) {
  constexpr std::size_t kHead = kSpaceBytes + 8;
  constexpr std::size_t kRecord = 2 + kKeyBytesMax;
  constexpr std::size_t kFull = (kBodyBytesMax - kHead) / kRecord - 1;
  constexpr std::size_t kLeft = kBodyBytesMax - kHead - kFull * kRecord;
  static_assert(kLeft > kRecord && kLeft < 2 * kRecord);
  const Bytes large = run_of(kKeyBytesMax);
  const Bytes rest = run_of(kLeft / 2 - 2);
  const Bytes last = run_of(kLeft - kLeft / 2 - 2);
  Bytes memory(kBodyBytesMax);
  MatchWriter writer(memory, MatchHead{});
  for (std::size_t i = 0; i < kFull; ++i) ASSERT_TRUE(writer.add({large}));
  ASSERT_TRUE(writer.add({rest}));
  ASSERT_TRUE(writer.add({last}));
  EXPECT_EQ(writer.body().size(), kBodyBytesMax);
  EXPECT_TRUE(MatchReader::open(writer.body()));
}

}  // namespace
}  // namespace memkv::wire
