// Reading and writing little-endian numbers and byte runs in a bounded buffer; the one place where
// formats meet memory.
//
// A writer past its end, or a reader past its end, goes bad and stays bad; values read after that
// are zero. The caller looks at ok() once, after the last field. No allocation, no exception.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>

namespace memkv {

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
              "formats are little-endian, as is every machine we run on");

class ByteWriter {
 public:
  explicit ByteWriter(std::span<std::byte> out) : out_(out) {}

  template <typename T>
    requires std::is_unsigned_v<T>
  void number(T value) {
    if (std::byte* place = take(sizeof value)) std::memcpy(place, &value, sizeof value);
  }
  void u8(std::uint8_t value) { number(value); }
  void u16(std::uint16_t value) { number(value); }
  void u32(std::uint32_t value) { number(value); }
  void u64(std::uint64_t value) { number(value); }
  void raw(std::span<const std::byte> bytes) {
    std::byte* place = take(bytes.size());
    if (place != nullptr && !bytes.empty()) std::memcpy(place, bytes.data(), bytes.size());
  }
  void zeros(std::size_t count) {
    std::byte* place = take(count);
    if (place != nullptr && count > 0) std::memset(place, 0, count);
  }

  [[nodiscard]] bool ok() const { return ok_; }
  [[nodiscard]] std::size_t size() const { return used_; }

 private:
  std::byte* take(std::size_t count) {
    if (!ok_ || count > out_.size() - used_) {
      ok_ = false;
      return nullptr;
    }
    std::byte* place = out_.data() + used_;
    used_ += count;
    return place;
  }

  std::span<std::byte> out_;
  std::size_t used_ = 0;
  bool ok_ = true;
};

class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> in) : in_(in) {}

  template <typename T>
    requires std::is_unsigned_v<T>
  [[nodiscard]] T number() {
    T value = 0;
    const std::span<const std::byte> place = raw(sizeof value);
    if (!place.empty()) std::memcpy(&value, place.data(), sizeof value);
    return value;
  }
  [[nodiscard]] std::uint8_t u8() { return number<std::uint8_t>(); }
  [[nodiscard]] std::uint16_t u16() { return number<std::uint16_t>(); }
  [[nodiscard]] std::uint32_t u32() { return number<std::uint32_t>(); }
  [[nodiscard]] std::uint64_t u64() { return number<std::uint64_t>(); }
  // `count` bytes that live as long as the input; empty when they are not there.
  [[nodiscard]] std::span<const std::byte> raw(std::size_t count) {
    if (!ok_ || count > in_.size() - used_) {
      ok_ = false;
      return {};
    }
    const auto place = in_.subspan(used_, count);
    used_ += count;
    return place;
  }

  // Passes over `count` bytes that must be zero; goes bad when one is not.
  void zeros(std::size_t count) {
    for (const std::byte byte : raw(count)) ok_ = ok_ && byte == std::byte{0};
  }

  [[nodiscard]] bool ok() const { return ok_; }
  // True when every byte was read and none was missing.
  [[nodiscard]] bool finished() const { return ok_ && used_ == in_.size(); }
  [[nodiscard]] std::size_t left() const { return in_.size() - used_; }

 private:
  std::span<const std::byte> in_;
  std::size_t used_ = 0;
  bool ok_ = true;
};

[[nodiscard]] inline std::span<const std::byte> as_bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
[[nodiscard]] inline std::string_view as_text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
[[nodiscard]] constexpr std::uint64_t round_up(std::uint64_t value, std::uint64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace memkv
