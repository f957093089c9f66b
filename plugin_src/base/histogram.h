// Histogram: how long things took, counted in buckets whose bounds double. No memory beyond itself
// and no locks: counting is one addition. Thread: its owner's.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace memkv {

class Histogram {
 public:
  static constexpr std::uint64_t kFirstBoundUs = 16;
  static constexpr std::size_t kBounds = 21;  // the last is 16.8 s

  void count(std::uint64_t took_ns) {
    const std::uint64_t steps = (std::max<std::uint64_t>(took_ns, 1) - 1) / (kFirstBoundUs * 1000);
    ++buckets_[std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(steps)), kBounds)];
    sum_ns_ += took_ns;
  }

  // What bucket `i` holds took at most so long, and longer than what the one before it holds. The
  // bucket behind the last bound holds the rest.
  [[nodiscard]] static constexpr std::uint64_t bound_us(std::size_t i) {
    return kFirstBoundUs << i;
  }
  [[nodiscard]] const std::array<std::uint64_t, kBounds + 1>& buckets() const { return buckets_; }
  [[nodiscard]] std::uint64_t sum_us() const { return sum_ns_ / 1000; }

 private:
  std::array<std::uint64_t, kBounds + 1> buckets_{};
  std::uint64_t sum_ns_ = 0;
};

}  // namespace memkv
