#include "base/fingerprint.h"

#include <bit>
#include <cstring>

#include "base/bytes.h"

namespace memkv {

namespace {

std::uint64_t load64(const std::byte* bytes) {
  std::uint64_t word;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

}  // namespace

inline void SipHash128::State::rounds(int count) {
  for (int i = 0; i < count; ++i) {
    v0 += v1;
    v1 = std::rotl(v1, 13) ^ v0;
    v0 = std::rotl(v0, 32);
    v2 += v3;
    v3 = std::rotl(v3, 16) ^ v2;
    v0 += v3;
    v3 = std::rotl(v3, 21) ^ v0;
    v2 += v1;
    v1 = std::rotl(v1, 17) ^ v2;
    v2 = std::rotl(v2, 32);
  }
}

inline void SipHash128::State::absorb(std::uint64_t word) {
  v3 ^= word;
  rounds(2);
  v0 ^= word;
}

SipHash128::SipHash128(const std::array<std::byte, 16>& key) {
  const std::uint64_t k0 = load64(key.data());
  const std::uint64_t k1 = load64(key.data() + 8);
  state_ = {k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d ^ 0xee,  // 0xee: 128-bit output
            k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573};
}

void SipHash128::update(std::span<const std::byte> bytes) {
  std::size_t at = 0;
  for (; at < bytes.size() && total_ % 8 != 0; ++at) {
    pending_ |= std::to_integer<std::uint64_t>(bytes[at]) << (8 * (total_ % 8));
    if (++total_ % 8 == 0) {
      state_.absorb(pending_);
      pending_ = 0;
    }
  }
  State state = state_;
  for (; bytes.size() - at >= 8; at += 8, total_ += 8) state.absorb(load64(bytes.data() + at));
  state_ = state;
  for (; at < bytes.size(); ++at, ++total_) {
    pending_ |= std::to_integer<std::uint64_t>(bytes[at]) << (8 * (total_ % 8));
  }
}

Fingerprint SipHash128::finish() const {
  State state = state_;
  state.absorb(pending_ | (total_ << 56));
  state.v2 ^= 0xee;
  state.rounds(4);
  const std::uint64_t high = state.v0 ^ state.v1 ^ state.v2 ^ state.v3;
  state.v1 ^= 0xdd;
  state.rounds(4);
  return {high, state.v0 ^ state.v1 ^ state.v2 ^ state.v3};
}

Fingerprint group_fingerprint(std::span<const std::byte, 16> ns, std::span<const std::byte> group) {
  SipHash128 hash(kPublishedKey);
  hash.update(ns);
  hash.update(group);
  return hash.finish();
}

std::uint64_t node_id_of(std::string_view address) {
  SipHash128 hash(kPublishedKey);
  hash.update(as_bytes_of(address));
  return hash.finish().high;
}

}  // namespace memkv
