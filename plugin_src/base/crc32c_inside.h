// Between the files of crc32c only: the arithmetic all implementations share, and how each CPU adds
// its own.
//
// A CRC is a polynomial over GF(2), taken modulo P. Here it is "reflected": bit 31 is the
// coefficient of x^0 and bit 0 that of x^31. Appending n bytes to a text multiplies the register by
// x^(8n); all constants come from that.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/crc32c.h"

namespace memkv::crc32c_inside {

inline constexpr std::uint32_t kPolynomial = 0x82f63b78;
inline constexpr std::uint32_t kOne = 0x80000000;

// a * b mod P, by masks: branches on bits as good as random would cost four times as much.
[[nodiscard]] constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (int bit = 31; bit >= 0; --bit) {
    product ^= b & (0U - ((a >> bit) & 1));
    b = (b >> 1) ^ (kPolynomial & (0U - (b & 1)));
  }
  return product;
}

// x^n mod P
[[nodiscard]] constexpr std::uint32_t x_power(std::uint64_t n) {
  std::uint32_t power = kOne;
  for (std::uint32_t square = kOne >> 1; n != 0; n >>= 1, square = multiply(square, square)) {
    if ((n & 1) != 0) power = multiply(power, square);
  }
  return power;
}

// For CPUs whose CRC instruction takes 8 bytes: the carry-less product of a register and
// lane_shift(n), fed to that instruction with a register of 0, is the register moved on by n bytes.
// The product of two reflected numbers is off by one x and the instruction multiplies by x^32,
// hence the 33.
[[nodiscard]] constexpr std::uint64_t lane_shift(std::size_t bytes) {
  return x_power(8 * bytes - 33);
}

struct Catalogue {
  std::array<Crc32cImplementation, 4> items{};
  std::size_t count = 0;
  void add(const Crc32cImplementation& item) { items[count++] = item; }
};

// Adds what this CPU can run, the fastest first. One of them is compiled in.
void add_x86(Catalogue& catalogue);
void add_arm(Catalogue& catalogue);

}  // namespace memkv::crc32c_inside
