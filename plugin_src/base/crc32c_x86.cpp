// CRC32C on x86-64: the CRC instruction on three lanes, and 64-byte folding where the CPU has it.
#include "base/crc32c_inside.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>

namespace memkv::crc32c_inside {

namespace {

#define MEMKV_CRC_LANES __attribute__((target("sse4.2,pclmul")))
#define MEMKV_CRC_FOLDS __attribute__((target("sse4.2,pclmul,vpclmulqdq,avx512f")))

inline std::uint64_t load64(const std::byte* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

// One lane, for whatever is too short for more. Takes and returns the register, not the CRC.
MEMKV_CRC_LANES inline std::uint32_t one_lane(const std::byte* at, std::size_t left,
                                              std::uint32_t reg) {
  std::uint64_t wide = reg;
  for (; left >= 8; at += 8, left -= 8) wide = _mm_crc32_u64(wide, load64(at));
  reg = static_cast<std::uint32_t>(wide);
  for (; left > 0; ++at, --left) reg = _mm_crc32_u8(reg, std::to_integer<std::uint8_t>(*at));
  return reg;
}

MEMKV_CRC_LANES inline __m128i product(std::uint64_t reg, std::uint64_t factor) {
  return _mm_clmulepi64_si128(_mm_cvtsi64_si128(static_cast<long long>(reg)),
                              _mm_cvtsi64_si128(static_cast<long long>(factor)), 0);
}

// Three neighbouring lanes of kLane bytes side by side: the instruction takes one word a cycle but
// three cycles for it.
template <std::size_t kLane>
MEMKV_CRC_LANES inline std::uint32_t three_lanes(const std::byte* at, std::uint32_t reg) {
  std::uint64_t a = reg;
  std::uint64_t b = 0;
  std::uint64_t c = 0;
  for (std::size_t i = 0; i < kLane; i += 8) {
    a = _mm_crc32_u64(a, load64(at + i));
    b = _mm_crc32_u64(b, load64(at + i + kLane));
    c = _mm_crc32_u64(c, load64(at + i + 2 * kLane));
  }
  constexpr std::uint64_t kShiftA = lane_shift(2 * kLane);
  constexpr std::uint64_t kShiftB = lane_shift(kLane);
  const __m128i moved = _mm_xor_si128(product(a, kShiftA), product(b, kShiftB));
  const auto bits = static_cast<std::uint64_t>(_mm_cvtsi128_si64(moved));
  return static_cast<std::uint32_t>(_mm_crc32_u64(0, bits) ^ c);
}

MEMKV_CRC_LANES std::uint32_t lanes(const std::byte* at, std::size_t left, std::uint32_t reg) {
  constexpr std::size_t kLong = 4096;
  constexpr std::size_t kShort = 256;
  for (; left >= 3 * kLong; at += 3 * kLong, left -= 3 * kLong) reg = three_lanes<kLong>(at, reg);
  for (; left >= 3 * kShort; at += 3 * kShort, left -= 3 * kShort) {
    reg = three_lanes<kShort>(at, reg);
  }
  return one_lane(at, left, reg);
}

MEMKV_CRC_LANES std::uint32_t crc32c_lanes(std::span<const std::byte> bytes, std::uint32_t seed) {
  return ~lanes(bytes.data(), bytes.size(), ~seed);
}

// Multiplies each 16 bytes of `text` by x^(8 * kBytes), modulo P but not reduced: the factors for
// the first and the last eight bytes (the first are 64 bits further up), less the one x that a
// reflected product is off.
template <std::size_t kBytes>
MEMKV_CRC_FOLDS inline __m512i fold(__m512i text) {
  constexpr auto kFirst = static_cast<long long>(std::uint64_t{x_power(8 * kBytes + 63)} << 32);
  constexpr auto kLast = static_cast<long long>(std::uint64_t{x_power(8 * kBytes - 1)} << 32);
  const __m512i factors =
      _mm512_set_epi64(kLast, kFirst, kLast, kFirst, kLast, kFirst, kLast, kFirst);
  return _mm512_xor_si512(_mm512_clmulepi64_epi128(text, factors, 0x00),
                          _mm512_clmulepi64_epi128(text, factors, 0x11));
}

// The register after the 64 bytes of `text`.
MEMKV_CRC_FOLDS inline std::uint32_t reduce(__m512i text) {
  std::uint64_t wide[8];
  _mm512_storeu_si512(wide, text);
  std::uint64_t reg = 0;
  for (const std::uint64_t word : wide) reg = _mm_crc32_u64(reg, word);
  return static_cast<std::uint32_t>(reg);
}

MEMKV_CRC_FOLDS std::uint32_t crc32c_folds(std::span<const std::byte> bytes, std::uint32_t seed) {
  constexpr std::size_t kWord = 64;
  constexpr std::size_t kStep = 4 * kWord;
  const std::byte* at = bytes.data();
  std::size_t left = bytes.size();
  std::uint32_t reg = ~seed;
  if (left < 2 * kStep) return ~lanes(at, left, reg);

  const std::size_t ragged = (0 - reinterpret_cast<std::uintptr_t>(at)) % kWord;
  reg = one_lane(at, ragged, reg);
  at += ragged;
  left -= ragged;

  __m512i a = _mm512_loadu_si512(at);
  __m512i b = _mm512_loadu_si512(at + kWord);
  __m512i c = _mm512_loadu_si512(at + 2 * kWord);
  __m512i d = _mm512_loadu_si512(at + 3 * kWord);
  a = _mm512_xor_si512(a, _mm512_zextsi128_si512(_mm_cvtsi32_si128(static_cast<int>(reg))));
  for (at += kStep, left -= kStep; left >= kStep; at += kStep, left -= kStep) {
    a = _mm512_xor_si512(fold<kStep>(a), _mm512_loadu_si512(at));
    b = _mm512_xor_si512(fold<kStep>(b), _mm512_loadu_si512(at + kWord));
    c = _mm512_xor_si512(fold<kStep>(c), _mm512_loadu_si512(at + 2 * kWord));
    d = _mm512_xor_si512(fold<kStep>(d), _mm512_loadu_si512(at + 3 * kWord));
  }
  b = _mm512_xor_si512(b, fold<kWord>(a));
  c = _mm512_xor_si512(c, fold<kWord>(b));
  d = _mm512_xor_si512(d, fold<kWord>(c));
  for (; left >= kWord; at += kWord, left -= kWord) {
    d = _mm512_xor_si512(fold<kWord>(d), _mm512_loadu_si512(at));
  }
  return ~one_lane(at, left, reduce(d));
}

}  // namespace

void add_x86(Catalogue& catalogue) {
  __builtin_cpu_init();
  const bool lanes_run = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
  const bool folds_run =
      lanes_run && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq");
  if (folds_run) catalogue.add({"x86 vpclmulqdq, 4 x 64 bytes", &crc32c_folds});
  if (lanes_run) catalogue.add({"x86 sse4.2, 3 lanes", &crc32c_lanes});
}

}  // namespace memkv::crc32c_inside

#endif
