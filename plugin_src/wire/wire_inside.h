// Between the files of wire/ only: how layouts and rules are written down.
//
// A record is described by two functions. layout(side, record) names its fields in the order of
// docs/formats/wire.md and serves both directions, so that what is read is what is written;
// rule(record) says what the fields must hold and is asked before a record is sent and after it was
// received.
#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <string_view>

#include "wire/wire.h"

namespace memkv::wire::inside {

// What a rule says: ok, or what is wrong.
struct Verdict {
  Code code = Code::ok;
  std::string_view why;
  [[nodiscard]] bool good() const { return code == Code::ok; }
};

[[nodiscard]] inline std::unexpected<Status> refuse(std::string_view frame,
                                                    const Verdict& verdict) {
  return fail(verdict.code, std::string(frame).append(": ").append(verdict.why));
}

inline constexpr Verdict kBadForm{Code::protocol, "cut short, too long, or a zero that is none"};

// The side of a layout that writes.
class Writing {
 public:
  template <typename Record>
  using Of = const Record;

  explicit Writing(ByteWriter& out) : out_(out) {}
  template <typename Number>
    requires std::is_unsigned_v<Number>
  void number(Number value) {
    out_.number(value);
  }
  template <typename Enum>
  void one_byte(Enum value) {
    out_.u8(static_cast<std::uint8_t>(value));
  }
  void zeros(std::size_t count) { out_.zeros(count); }
  template <std::size_t kCount>
  void fixed(const std::array<std::byte, kCount>& bytes) {
    out_.raw(bytes);
  }
  void run(std::span<const std::byte> bytes) {
    out_.u16(static_cast<std::uint16_t>(bytes.size()));
    out_.raw(bytes);
  }
  void text(std::string_view text) { run(as_bytes_of(text)); }
  void crcs(std::span<const std::byte> crcs) {
    out_.u32(static_cast<std::uint32_t>(crcs.size() / sizeof(std::uint32_t)));
    out_.raw(crcs);
  }

 private:
  ByteWriter& out_;
};

// The side that reads. Runs become views into the input.
class Reading {
 public:
  template <typename Record>
  using Of = Record;

  explicit Reading(ByteReader& in) : in_(in) {}
  template <typename Number>
    requires std::is_unsigned_v<Number>
  void number(Number& value) {
    value = in_.number<Number>();
  }
  template <typename Enum>
  void one_byte(Enum& value) {
    value = static_cast<Enum>(in_.u8());
  }
  void zeros(std::size_t count) { in_.zeros(count); }
  template <std::size_t kCount>
  void fixed(std::array<std::byte, kCount>& bytes) {
    const std::span<const std::byte> place = in_.raw(kCount);
    std::ranges::copy(place, bytes.begin());
  }
  void run(std::span<const std::byte>& bytes) { bytes = in_.raw(in_.u16()); }
  void text(std::string_view& text) { text = as_text_of(in_.raw(in_.u16())); }
  void crcs(std::span<const std::byte>& crcs) {
    crcs = in_.raw(std::size_t{in_.u32()} * sizeof(std::uint32_t));
  }

 private:
  ByteReader& in_;
};

template <typename Side>
void layout(Side& side, typename Side::template Of<Namespace>& space) {
  side.fixed(space.id);
  side.number(space.generation);
}

[[nodiscard]] inline bool printable(std::string_view text, char least = ' ') {
  return std::ranges::all_of(text, [least](char c) { return c >= least && c <= '~'; });
}
[[nodiscard]] inline bool known(Code code) {
  return static_cast<std::uint8_t>(code) <= kCodeMax;
}

[[nodiscard]] inline Verdict key_rule(std::span<const std::byte> key) {
  if (key.empty()) return {Code::protocol, "a key of 0 bytes"};
  if (key.size() > kKeyBytesMax) return {Code::too_large, "a key of more than 512 bytes"};
  return {};
}
[[nodiscard]] inline Verdict length_rule(std::uint64_t length) {
  if (length == 0) return {Code::protocol, "a length of 0"};
  if (length > kBlockBytesMax) return {Code::too_large, "more than 64 MiB of a block"};
  return {};
}

}  // namespace memkv::wire::inside
