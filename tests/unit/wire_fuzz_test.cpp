// The wire under cuts, flips and 200,000 random mutations of its golden frames.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <vector>

#include "base/random.h"
#include "fuzz/wire_round_trip.h"
#include "support/wire_golden.h"

namespace memkv::wire {
namespace {

using test::Bytes;
using test::GoldenFrame;

constexpr std::uint64_t kSeed = 20260701;
constexpr int kMutations = 200'000;

// Whether the body decodes as the frame it stands in.
bool accepted(Type type, std::span<const std::byte> body) {
  switch (type) {
    case Type::hello:
      return decode_hello(body).has_value();
    case Type::challenge:
      return decode_challenge(body).has_value();
    case Type::auth:
      return decode_auth(body).has_value();
    case Type::welcome:
      return decode_welcome(body).has_value();
    case Type::refuse:
      return decode_refuse(body).has_value();
    case Type::match:
      return MatchReader::open(body).has_value();
    case Type::match_reply:
      return MatchReplyReader::open(body).has_value();
    case Type::put:
      return PutReader::open(body).has_value();
    case Type::grant:
      return decode_grant(body).has_value();
    case Type::commit:
      return decode_commit(body).has_value();
    case Type::put_done:
      return decode_put_done(body).has_value();
    case Type::get:
      return GetReader::open(body).has_value();
    case Type::get_block:
      return decode_get_block(body).has_value();
    case Type::data:
      return decode_data(body).has_value();
    case Type::cancel:
      return decode_cancel(body).has_value();
    case Type::drop:
      return DropReader::open(body).has_value();
    case Type::drop_reply:
      return DropReplyReader::open(body).has_value();
    case Type::map_reply:
      return MapReplyReader::open(body).has_value();
    case Type::report:
      return decode_report(body).has_value();
    case Type::list:
      return decode_list(body).has_value();
    case Type::list_reply:
      return ListReplyReader::open(body).has_value();
    case Type::mark:
      return decode_mark(body).has_value();
    case Type::mark_reply:
      return decode_mark_reply(body).has_value();
    case Type::stat:
    case Type::stat_reply:
    case Type::map:
      break;  // no fields
  }
  return false;
}

std::vector<GoldenFrame> golden_frames_with_fields() {
  std::vector<GoldenFrame> frames;
  for (const std::string_view name : test::kGoldenFrames) {
    GoldenFrame frame = test::golden_frame(name);
    const Type type = frame.header.type;
    if (type != Type::stat && type != Type::stat_reply && type != Type::map) {
      frames.push_back(std::move(frame));
    }
  }
  return frames;
}

// A copy in memory of exactly its size, so that the sanitizer sees every byte read past it.
Bytes exactly(std::span<const std::byte> bytes) {
  return {bytes.begin(), bytes.end()};
}

TEST(WireFuzz, EveryCutOfEveryBodyIsRefused) {
  for (const GoldenFrame& frame : golden_frames_with_fields()) {
    const Type type = frame.header.type;
    ASSERT_TRUE(accepted(type, frame.body)) << type_name(type);
    for (std::size_t size = 0; size < frame.body.size(); ++size) {
      EXPECT_FALSE(accepted(type, exactly(frame.body.first(size)))) << type_name(type) << size;
    }
    Bytes longer = exactly(frame.body);
    longer.push_back(std::byte{0});
    EXPECT_FALSE(accepted(type, longer)) << type_name(type);
  }
}

TEST(WireFuzz, EveryFlippedBitOfAHeaderIsRefused) {
  for (const std::string_view name : test::kGoldenFrames) {
    const GoldenFrame frame = test::golden_frame(name);
    std::array<std::byte, kHeaderBytes> header;
    std::ranges::copy(frame.header_bytes, header.begin());
    for (std::size_t bit = 0; bit < 8 * kHeaderBytes; ++bit) {
      header[bit / 8] ^= std::byte{1} << (bit % 8);
      EXPECT_FALSE(decode_header(header)) << name << " bit " << bit;
      header[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    EXPECT_TRUE(decode_header(header)) << name;
  }
}

TEST(WireFuzz, EveryFlippedBitOfABodyIsRefused) {
  for (const std::string_view name : test::kGoldenFrames) {
    const GoldenFrame frame = test::golden_frame(name);
    Bytes body = exactly(frame.body);
    for (std::size_t bit = 0; bit < 8 * body.size(); ++bit) {
      body[bit / 8] ^= std::byte{1} << (bit % 8);
      EXPECT_FALSE(check_body(frame.header, body)) << name << " bit " << bit;
      body[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    EXPECT_TRUE(check_body(frame.header, body)) << name;
  }
}

// Changes the bytes in one of the ways that confuse decoders.
void mutate(Bytes& bytes, const std::vector<Bytes>& corpus, SeededRandom& random) {
  constexpr std::array<std::uint32_t, 10> kInteresting = {
      0, 1, 0x7f, 0xff, 0x200, 0x201, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff};
  const std::size_t at = bytes.empty() ? 0 : random.below(bytes.size());
  switch (random.below(7)) {
    case 0:
      if (!bytes.empty()) bytes[at] ^= std::byte{1} << random.below(8);
      return;
    case 1:
      if (!bytes.empty()) bytes[at] = static_cast<std::byte>(random.next());
      return;
    case 2: {
      const std::uint32_t number = kInteresting[random.below(kInteresting.size())];
      const std::size_t size = std::min<std::size_t>(1 + random.below(4), bytes.size() - at);
      if (size > 0) std::memcpy(bytes.data() + at, &number, size);
      return;
    }
    case 3:
      bytes.resize(at);
      return;
    case 4:
      bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(at), 1 + random.below(8),
                   static_cast<std::byte>(random.next()));
      return;
    case 5:
      bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                  bytes.begin() + static_cast<std::ptrdiff_t>(std::min(at + 4, bytes.size())));
      return;
    default: {
      const Bytes& other = corpus[random.below(corpus.size())];
      bytes.resize(at);
      bytes.insert(bytes.end(),
                   other.begin() + static_cast<std::ptrdiff_t>(std::min(at, other.size())),
                   other.end());
    }
  }
}

TEST(WireFuzz, RandomMutationsAreRefusedOrComeBackAsTheyWere) {
  std::printf("seed %llu\n", static_cast<unsigned long long>(kSeed));
  RecordProperty("seed", std::to_string(kSeed));
  SeededRandom random(kSeed);
  std::vector<Bytes> corpus;
  for (const GoldenFrame& frame : golden_frames_with_fields()) {
    corpus.push_back(exactly(frame.body));
    corpus.push_back(exactly(frame.header_bytes));
  }
  for (const Bytes& bytes : corpus) EXPECT_GE(fuzz::round_trip(bytes), 1);
  int refused = 0, taken = 0;
  for (int i = 0; i < kMutations; ++i) {
    Bytes bytes = corpus[random.below(corpus.size())];
    for (std::uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      mutate(bytes, corpus, random);
    }
    ++(fuzz::round_trip(exactly(bytes)) > 0 ? taken : refused);
  }
  EXPECT_GT(taken, kMutations / 50) << "the mutations are too wild to get past the first check";
  EXPECT_GT(refused, kMutations / 10) << "the mutations change nothing that is checked";
}

}  // namespace
}  // namespace memkv::wire
