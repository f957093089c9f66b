// CRC32C (Castagnoli, RFC 3720): the checksum of every block, frame and page.
//
// The fastest implementation this CPU has is found once, at the first call, and used from then on.
// All give the same number for the same bytes. Any length, any alignment; no allocation, no
// failure. Thread: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace memkv {

// The CRC of the bytes; with `seed` the CRC of what stands before them: crc32c(b, crc32c(a)) is the
// CRC of a then b.
[[nodiscard]] std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0);

// The CRC of a then b from the CRCs of both and the length of b, without their bytes: tens of
// nanoseconds for each bit that is set in the length.
[[nodiscard]] std::uint32_t crc32c_combine(std::uint32_t crc_a, std::uint32_t crc_b,
                                           std::uint64_t len_b);

// The same as crc32c(), with nothing but portable C++: what the others are held against.
[[nodiscard]] std::uint32_t crc32c_portable(std::span<const std::byte> bytes,
                                            std::uint32_t seed = 0);

struct Crc32cImplementation {
  using Function = std::uint32_t(std::span<const std::byte> bytes, std::uint32_t seed);
  std::string_view name;
  Function* function = nullptr;
};

// Every implementation that runs on this CPU, the fastest first (it is what crc32c() uses),
// crc32c_portable last.
[[nodiscard]] std::span<const Crc32cImplementation> crc32c_implementations();

}  // namespace memkv
