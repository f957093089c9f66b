// Fingerprint: 128 bits that stand for a text, by SipHash-2-4 with 128-bit output.
//
// Keyed with a secret, it names blocks in RAM (nobody outside can make two identities collide).
// Keyed with zeros, it decides placement, where every machine must get the same number
// (docs/formats/placement.md). It never proves identity: whoever serves bytes compares the whole
// identity as well.
//
// The output's 16 bytes are two little-endian numbers, first `high`, then `low`. No allocation, no
// failure. Thread: any; one SipHash128 belongs to one thread at a time.
#pragma once

#include <array>
#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace memkv {

struct Fingerprint {
  std::uint64_t high = 0;
  std::uint64_t low = 0;
  friend bool operator==(const Fingerprint&, const Fingerprint&) = default;
  friend auto operator<=>(const Fingerprint&, const Fingerprint&) = default;
};

// Hashes the bytes of all update() calls as one text: where the cuts fall makes no difference, so
// that whoever hashes several fields must give them fixed lengths or put the lengths in.
class SipHash128 {
 public:
  explicit SipHash128(const std::array<std::byte, 16>& key);

  void update(std::span<const std::byte> bytes);
  // The fingerprint of everything so far; more may be added afterwards.
  [[nodiscard]] Fingerprint finish() const;

 private:
  struct State {
    std::uint64_t v0, v1, v2, v3;
    void rounds(int count);
    void absorb(std::uint64_t word);
  };

  State state_;
  std::uint64_t pending_ = 0;  // the bytes after the last whole word, first byte lowest
  std::uint64_t total_ = 0;    // bytes so far; the lowest three bits say how many are pending
};

// The published key of zeros: the same fingerprint everywhere, no protection against chosen texts.
inline constexpr std::array<std::byte, 16> kPublishedKey{};

// The group's fingerprint for placement: the namespace's 16 bytes, then the group's bytes, under
// kPublishedKey.
[[nodiscard]] Fingerprint group_fingerprint(std::span<const std::byte, 16> ns,
                                            std::span<const std::byte> group);

// The id of the node whose address stands in the map as this text, byte for byte, under
// kPublishedKey.
[[nodiscard]] std::uint64_t node_id_of(std::string_view address);

}  // namespace memkv
