// CRC32C on ARM64: the CRC instruction, on three lanes where the CPU multiplies without carries as
// well.
#include "base/crc32c_inside.h"

#if defined(__aarch64__)

#include <arm_acle.h>
#include <arm_neon.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include <cstring>

namespace memkv::crc32c_inside {

namespace {

#define MEMKV_CRC_ONE __attribute__((target("arch=armv8-a+crc")))
#define MEMKV_CRC_LANES __attribute__((target("arch=armv8-a+crc+crypto")))

inline std::uint64_t load64(const std::byte* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

// One lane, for whatever is too short for more. Takes and returns the register, not the CRC.
MEMKV_CRC_ONE inline std::uint32_t one_lane(const std::byte* at, std::size_t left,
                                            std::uint32_t reg) {
  for (; left >= 8; at += 8, left -= 8) reg = __crc32cd(reg, load64(at));
  for (; left > 0; ++at, --left) reg = __crc32cb(reg, std::to_integer<std::uint8_t>(*at));
  return reg;
}

MEMKV_CRC_LANES inline std::uint64_t product(std::uint32_t reg, std::uint64_t factor) {
  const poly128_t bits = vmull_p64(static_cast<poly64_t>(reg), static_cast<poly64_t>(factor));
  return static_cast<std::uint64_t>(bits);
}

// Three neighbouring lanes of kLane bytes side by side: the instruction takes one word a cycle but
// two or three for it.
template <std::size_t kLane>
MEMKV_CRC_LANES inline std::uint32_t three_lanes(const std::byte* at, std::uint32_t reg) {
  std::uint32_t a = reg;
  std::uint32_t b = 0;
  std::uint32_t c = 0;
  for (std::size_t i = 0; i < kLane; i += 8) {
    a = __crc32cd(a, load64(at + i));
    b = __crc32cd(b, load64(at + i + kLane));
    c = __crc32cd(c, load64(at + i + 2 * kLane));
  }
  constexpr std::uint64_t kShiftA = lane_shift(2 * kLane);
  constexpr std::uint64_t kShiftB = lane_shift(kLane);
  return __crc32cd(0, product(a, kShiftA) ^ product(b, kShiftB)) ^ c;
}

MEMKV_CRC_ONE std::uint32_t crc32c_one_lane(std::span<const std::byte> bytes, std::uint32_t seed) {
  return ~one_lane(bytes.data(), bytes.size(), ~seed);
}

MEMKV_CRC_LANES std::uint32_t crc32c_lanes(std::span<const std::byte> bytes, std::uint32_t seed) {
  constexpr std::size_t kLong = 4096;
  constexpr std::size_t kShort = 256;
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint32_t reg = ~seed;
  for (; left >= 3 * kLong; at += 3 * kLong, left -= 3 * kLong) reg = three_lanes<kLong>(at, reg);
  for (; left >= 3 * kShort; at += 3 * kShort, left -= 3 * kShort) {
    reg = three_lanes<kShort>(at, reg);
  }
  return ~one_lane(at, left, reg);
}

}  // namespace

void add_arm(Catalogue& catalogue) {
  const unsigned long has = getauxval(AT_HWCAP);
  if ((has & HWCAP_CRC32) == 0) return;
  if ((has & HWCAP_PMULL) != 0) catalogue.add({"arm64 crc32, 3 lanes", &crc32c_lanes});
  catalogue.add({"arm64 crc32, 1 lane", &crc32c_one_lane});
}

}  // namespace memkv::crc32c_inside

#endif
