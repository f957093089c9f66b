// Random: where randomness comes from. It is passed in, so that a simulation replays from its seed.
#pragma once

#include <cstdint>
#include <span>

namespace memkv {

__extension__ typedef unsigned __int128 Wide;  // -Wpedantic

class Random {
 public:
  virtual ~Random() = default;
  // 64 bits nobody can guess (system) or that follow from a seed (simulation). Thread: the owner's.
  [[nodiscard]] virtual std::uint64_t next() = 0;

  // A number below `bound` (> 0), without bias worth mentioning.
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) {
    return static_cast<std::uint64_t>((static_cast<Wide>(next()) * bound) >> 64);
  }
};

// The kernel's randomness (getrandom). Thread: any.
[[nodiscard]] Random& system_random();

// SplitMix64: small, fast, replayable from its seed; for simulations and tests.
class SeededRandom final : public Random {
 public:
  explicit SeededRandom(std::uint64_t seed) : state_(seed) {}
  [[nodiscard]] std::uint64_t next() override {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }

 private:
  std::uint64_t state_;
};

}  // namespace memkv
