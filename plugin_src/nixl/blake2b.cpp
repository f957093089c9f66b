#include "nixl/blake2b.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

namespace memkv::nixl {
namespace {

constexpr std::size_t kChunkBytes = 128;
constexpr std::size_t kDigestBytes = 16;
constexpr std::size_t kPersonBytes = 16;

constexpr std::array<std::uint64_t, 8> kStart = {
    0x6a09e667f3bcc908, 0xbb67ae8584caa73b, 0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1,
    0x510e527fade682d1, 0x9b05688c2b3e6c1f, 0x1f83d9abfb41bd6b, 0x5be0cd19137e2179};

// Which words of the message go into which step of a round; rounds 10 and 11 are 0 and 1 again.
constexpr std::array<std::array<std::uint8_t, 16>, 10> kOrder = {{
    {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
    {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
    {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
    {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
    {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
    {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
    {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
    {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
    {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
    {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
}};
// The four words of the state that each of a round's eight steps mixes: columns, then diagonals.
constexpr std::array<std::array<std::uint8_t, 4>, 8> kSteps = {{{0, 4, 8, 12},
                                                                {1, 5, 9, 13},
                                                                {2, 6, 10, 14},
                                                                {3, 7, 11, 15},
                                                                {0, 5, 10, 15},
                                                                {1, 6, 11, 12},
                                                                {2, 7, 8, 13},
                                                                {3, 4, 9, 14}}};

using Hash = std::array<std::uint64_t, 8>;
using Chunk = std::array<std::uint64_t, 16>;

void compress(Hash& hash, const Chunk& chunk, std::uint64_t bytes_so_far, bool last) {
  std::array<std::uint64_t, 16> v{};
  std::ranges::copy(hash, v.begin());
  std::ranges::copy(kStart, v.begin() + 8);
  v[12] ^= bytes_so_far;
  if (last) v[14] = ~v[14];
  for (std::size_t round = 0; round < 12; ++round) {
    const auto& order = kOrder[round % kOrder.size()];
    for (std::size_t step = 0; step < kSteps.size(); ++step) {
      const auto [a, b, c, d] = kSteps[step];
      v[a] += v[b] + chunk[order[2 * step]];
      v[d] = std::rotr(v[d] ^ v[a], 32);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 24);
      v[a] += v[b] + chunk[order[2 * step + 1]];
      v[d] = std::rotr(v[d] ^ v[a], 16);
      v[c] += v[d];
      v[b] = std::rotr(v[b] ^ v[c], 63);
    }
  }
  for (std::size_t i = 0; i < hash.size(); ++i) hash[i] ^= v[i] ^ v[i + 8];
}

}  // namespace

std::array<std::byte, 16> blake2b_128(std::span<const std::byte> bytes, std::string_view person) {
  static_assert(std::endian::native == std::endian::little);
  Hash hash = kStart;
  hash[0] ^= 0x01010000 ^ kDigestBytes;  // no key, fanout 1, depth 1
  std::array<std::uint64_t, 2> personal{};
  std::memcpy(personal.data(), person.data(), std::min(person.size(), kPersonBytes));
  hash[6] ^= personal[0];
  hash[7] ^= personal[1];

  std::size_t done = 0;
  for (bool last = false; !last;) {
    const std::size_t count = std::min(bytes.size() - done, kChunkBytes);
    Chunk chunk{};
    if (count > 0) std::memcpy(chunk.data(), bytes.data() + done, count);
    done += count;
    last = done == bytes.size();
    compress(hash, chunk, done, last);
  }
  std::array<std::byte, kDigestBytes> digest{};
  std::memcpy(digest.data(), hash.data(), digest.size());
  return digest;
}

}  // namespace memkv::nixl
