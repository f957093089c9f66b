#include "base/crc32c.h"

#include <array>
#include <cstring>

#include "base/crc32c_inside.h"

namespace memkv {

namespace {

using crc32c_inside::Catalogue;
using crc32c_inside::kOne;
using crc32c_inside::kPolynomial;
using crc32c_inside::multiply;

using SlicingTable = std::array<std::array<std::uint32_t, 256>, 8>;

// Row r, entry b: what byte b does to the register when r more bytes follow it.
constexpr SlicingTable make_slicing_table() {
  SlicingTable table{};
  for (std::uint32_t byte = 0; byte < 256; ++byte) {
    std::uint32_t crc = byte;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    table[0][byte] = crc;
  }
  for (std::size_t row = 1; row < 8; ++row) {
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const std::uint32_t before = table[row - 1][byte];
      table[row][byte] = (before >> 8) ^ table[0][before & 0xff];
    }
  }
  return table;
}
constexpr SlicingTable kSlicing = make_slicing_table();

// Entry k is x^(8 * 2^k): the register moved on by 2^k bytes.
constexpr std::array<std::uint32_t, 64> make_byte_powers() {
  std::array<std::uint32_t, 64> powers{};
  powers[0] = crc32c_inside::x_power(8);
  for (std::size_t k = 1; k < powers.size(); ++k) {
    powers[k] = multiply(powers[k - 1], powers[k - 1]);
  }
  return powers;
}
constexpr std::array<std::uint32_t, 64> kBytePowers = make_byte_powers();

const Catalogue& catalogue() {
  static const Catalogue found = [] {
    Catalogue list;
#if defined(__x86_64__)
    crc32c_inside::add_x86(list);
#elif defined(__aarch64__)
    crc32c_inside::add_arm(list);
#endif
    list.add({"portable", &crc32c_portable});
    return list;
  }();
  return found;
}

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
  static Crc32cImplementation::Function* const fastest = catalogue().items[0].function;
  return fastest(bytes, seed);
}

std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b, std::uint64_t len_b) {
  for (std::size_t k = 0; len_b != 0; ++k, len_b >>= 1) {
    if ((len_b & 1) != 0) crc_a = multiply(crc_a, kBytePowers[k]);
  }
  return crc_a ^ crc_b;
}

std::uint32_t crc32c_portable(std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  for (; left >= 8; at += 8, left -= 8) {
    std::uint64_t word;
    std::memcpy(&word, at, sizeof word);
    word ^= crc;
    crc = 0;
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i) crc ^= kSlicing[7 - i][(word >> (8 * i)) & 0xff];
  }
  for (; left > 0; ++at, --left) {
    crc = (crc >> 8) ^ kSlicing[0][(crc ^ std::to_integer<std::uint32_t>(*at)) & 0xff];
  }
  return ~crc;
}

std::span<const Crc32cImplementation> crc32c_implementations() {
  return std::span(catalogue().items).first(catalogue().count);
}

}  // namespace memkv
