// A link against a peer that breaks the rules, or stops at any byte.
#include <gtest/gtest.h>

#include <array>

#include "base/crc32c.h"
#include "unit/link_rig.h"

namespace memkv {
namespace {

// Speaks bytes, not frames.
struct RawPeer {
  explicit RawPeer(std::unique_ptr<Stream> raw) : stream(std::move(raw)) { read(); }

  void write(std::span<const std::byte> bytes) {
    out.insert(out.end(), bytes.begin(), bytes.end());
    push();
  }
  void push() {
    while (written < out.size()) {
      const iovec piece{out.data() + written, out.size() - written};
      const IoStep step = stream->write_some({&piece, 1});
      if (step.code == Code::busy) return stream->when_writable([this] { push(); });
      if (step.code != Code::ok) return;
      written += step.bytes;
    }
    if (close_after) stream->close();
  }
  void read() {
    while (true) {
      std::array<std::byte, 4096> room;
      const iovec piece{room.data(), room.size()};
      const IoStep step = stream->read_some({&piece, 1});
      if (step.code == Code::busy) return stream->when_readable([this] { read(); });
      if (step.code != Code::ok) {
        ended = true;
        return;
      }
      in.insert(in.end(), room.begin(), room.begin() + static_cast<long>(step.bytes));
    }
  }

  std::unique_ptr<Stream> stream;
  std::vector<std::byte> out;
  std::vector<std::byte> in;
  std::size_t written = 0;
  bool close_after = false;
  bool ended = false;
};

struct RawAndLink : Ends {
  explicit RawAndLink(std::uint64_t seed, std::uint32_t body_bytes_max = kBodyBytesMax)
      : Ends(seed, 500'000), raw(std::move(stream_a)) {
    right.link = Link::start(std::move(stream_b), b->executor(), right, body_bytes_max);
  }
  RawPeer raw;
  Recorder right;
};

using Bytes = std::vector<std::byte>;

Bytes frame(wire::Header header, std::span<const std::byte> body,
            std::span<const std::byte> payload = {}) {
  header.body_bytes = static_cast<std::uint32_t>(body.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  header.body_crc = crc32c(body);
  Bytes out(wire::kHeaderBytes);
  wire::encode_header(header, std::span(out).first<wire::kHeaderBytes>());
  out.insert(out.end(), body.begin(), body.end());
  out.insert(out.end(), payload.begin(), payload.end());
  return out;
}

Bytes stat_frame(std::size_t body_bytes) {
  return frame({.type = wire::Type::stat_reply, .request = 1}, Bytes(body_bytes, std::byte{3}));
}

Bytes data_frame(std::uint32_t offset, std::span<const std::byte> payload) {
  std::array<std::byte, wire::kDataBodyBytes> body;
  EXPECT_EQ(wire::encode(wire::Data{.item = 0, .offset = offset}, body), body.size());
  return frame({.type = wire::Type::data, .request = 1}, body, payload);
}

// A header with its CRC made right again after `spoil`: only the spoiled rule is broken.
Bytes spoiled(Bytes bytes, std::size_t at, std::uint32_t value, std::size_t size) {
  std::memcpy(bytes.data() + at, &value, size);
  const std::uint32_t crc = crc32c(std::span(bytes).first(wire::kHeaderBytes - 4));
  std::memcpy(bytes.data() + wire::kHeaderBytes - 4, &crc, 4);
  return bytes;
}

struct Crime {
  const char* name;
  Bytes bytes;
  Code code;
};

std::vector<Crime> crimes() {
  const Bytes stat = stat_frame(10);
  const Bytes data = data_frame(0, Bytes(100));
  Bytes bad_crc = stat;
  bad_crc[8] ^= std::byte{1};
  Bytes bad_body = stat;
  bad_body.back() ^= std::byte{1};
  Bytes bad_data_body = data;
  bad_data_body[wire::kHeaderBytes] ^= std::byte{1};
  const Bytes long_data_body = frame({.type = wire::Type::data, .request = 1}, Bytes(9), Bytes(1));
  const Bytes http(64, std::byte{'G'});
  return {
      {"something else", http, Code::protocol},
      {"header CRC", bad_crc, Code::protocol},
      {"magic", spoiled(stat, 0, 0x12345678, 4), Code::protocol},
      {"type 0", spoiled(stat, 4, 0, 1), Code::protocol},
      {"unknown type", spoiled(stat, 4, wire::kTypeMax + 1, 1), Code::protocol},
      {"a zero that is none", spoiled(stat, 5, 1, 1), Code::protocol},
      {"a body over the format's limit", spoiled(stat, 16, kBodyBytesMax + 1, 4), Code::too_large},
      {"a body of 4 GiB", spoiled(stat, 16, 0xffffffff, 4), Code::too_large},
      {"a payload where none belongs", spoiled(stat, 20, 1, 4), Code::protocol},
      {"DATA without payload", spoiled(data, 20, 0, 4), Code::protocol},
      {"a payload over the limit", spoiled(data, 20, kDataBytesMax + 1, 4), Code::too_large},
      {"body CRC", bad_body, Code::protocol},
      {"DATA's body CRC", bad_data_body, Code::protocol},
      {"DATA's body too long", long_data_body, Code::protocol},
  };
}

TEST(LinkRefuses, WhatBreaksTheFormAndSaysWhy) {
  for (const Crime& crime : crimes()) {
    SCOPED_TRACE(crime.name);
    RawAndLink pair(1);
    pair.right.expect(1, 0, 100);
    pair.raw.write(stat_frame(5));  // what came before stays good
    pair.raw.write(crime.bytes);
    ASSERT_TRUE(pair.run_until([&] { return pair.right.closed && pair.raw.ended; }));
    EXPECT_EQ(pair.right.closed->code, crime.code) << pair.right.closed->text;
    EXPECT_FALSE(pair.right.closed->text.empty());
    EXPECT_EQ(pair.right.frames.size(), 1U);
    EXPECT_EQ(pair.right.landed_bytes, 0U);
    // The peer hears it: REFUSE for the whole connection, with the same code and a sentence.
    ASSERT_GE(pair.raw.in.size(), wire::kHeaderBytes);
    const std::span<const std::byte> heard(pair.raw.in);
    const auto header = wire::decode_header(heard.first<wire::kHeaderBytes>());
    ASSERT_TRUE(header);
    EXPECT_EQ(header->type, wire::Type::refuse);
    EXPECT_EQ(header->request, 0U);
    const auto refuse = wire::decode_refuse(heard.subspan(wire::kHeaderBytes));
    ASSERT_TRUE(refuse) << refuse.error().message();
    EXPECT_EQ(refuse->code, crime.code);
    EXPECT_FALSE(refuse->text.empty());
  }
}

TEST(LinkRefuses, BodiesOverTheLimitUntilItIsRaised) {
  RawAndLink small(1, kBodyBytesBeforeHello);
  small.raw.write(stat_frame(kBodyBytesBeforeHello));
  small.raw.write(stat_frame(kBodyBytesBeforeHello + 1));
  ASSERT_TRUE(small.run_until([&] { return small.right.closed.has_value(); }));
  EXPECT_EQ(small.right.closed->code, Code::too_large);
  EXPECT_NE(small.right.closed->text.find("4097"), std::string::npos) << small.right.closed->text;
  EXPECT_EQ(small.right.frames.size(), 1U);

  RawAndLink large(2, kBodyBytesBeforeHello);
  large.right.when_frame = [&] { large.right.link->raise_body_limit(kBodyBytesMax); };
  large.raw.write(stat_frame(1));
  large.raw.write(stat_frame(kBodyBytesMax));
  ASSERT_TRUE(large.run_until([&] { return large.right.frames.size() == 2; }));
  EXPECT_EQ(large.right.frames[1].body, Bytes(kBodyBytesMax, std::byte{3}));
}

TEST(LinkRefuses, ALargeBodyWithAWrongCrc) {
  RawAndLink pair(3);
  Bytes bytes = stat_frame(300'000);
  bytes[200'000] ^= std::byte{1};
  pair.raw.write(bytes);
  ASSERT_TRUE(pair.run_until([&] { return pair.right.closed.has_value(); }));
  EXPECT_EQ(pair.right.closed->code, Code::protocol);
  EXPECT_TRUE(pair.right.frames.empty());
}

// The stream ends after each byte of a small conversation in turn.
TEST(LinkRefuses, NothingThatIsNotWhole) {
  const Bytes payload(40, std::byte{8});
  Bytes all = stat_frame(10);
  const std::size_t first_frame = all.size();
  const Bytes data = data_frame(0, payload);
  all.insert(all.end(), data.begin(), data.end());
  const std::size_t with_data = all.size();
  const Bytes last = stat_frame(0);
  all.insert(all.end(), last.begin(), last.end());
  for (std::size_t end = 0; end <= all.size(); ++end) {
    SCOPED_TRACE("ends after " + std::to_string(end));
    RawAndLink pair(end);
    pair.right.expect(1, 0, payload.size());
    pair.raw.close_after = true;
    pair.raw.write(std::span(all).first(end));
    ASSERT_TRUE(pair.run_until([&] { return pair.right.closed.has_value(); }));
    EXPECT_EQ(pair.right.closed->code, Code::unreachable);
    const std::size_t frames = (end >= first_frame ? 1U : 0U) + (end == all.size() ? 1U : 0U);
    EXPECT_EQ(pair.right.frames.size(), frames);
    EXPECT_EQ(pair.right.landed_bytes, end >= with_data ? payload.size() : 0U);
    const bool whole = end == 0 || end == first_frame || end == with_data || end == all.size();
    const bool inside = pair.right.closed->text.find("inside a frame") != std::string::npos;
    EXPECT_EQ(inside, !whole) << pair.right.closed->text;
  }
}

// Any bytes at all: no crash, no frame out of nothing, an end.
TEST(LinkRefuses, Noise) {
  for (std::uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    RawAndLink pair(seed);
    Bytes bytes = data_frame(0, random_bytes(3000, pair.random));
    const Bytes more = stat_frame(20'000);
    bytes.insert(bytes.end(), more.begin(), more.end());
    const std::size_t victim = pair.random.below(bytes.size());
    bytes[victim] ^= static_cast<std::byte>(1 + pair.random.below(255));
    pair.right.expect(1, 0, 3000);
    pair.raw.close_after = true;
    pair.raw.write(bytes);
    ASSERT_TRUE(pair.run_until([&] { return pair.right.closed.has_value(); }));
    const std::size_t head = wire::kHeaderBytes + wire::kDataBodyBytes;
    const bool in_payload = victim >= head && victim < head + 3000;
    EXPECT_EQ(pair.right.frames.size(), in_payload ? 1U : 0U);
    EXPECT_EQ(pair.right.landed_bytes, victim < head ? 0U : 3000U);
  }
}

}  // namespace
}  // namespace memkv
