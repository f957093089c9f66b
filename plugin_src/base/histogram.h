// Histogram: how long things took, counted in buckets whose bounds double. No memory beyond itself
// and no locks: counting is one addition. Thread: its owner's.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

namespace memkv {

class Histogram {
 public:
  static constexpr std::uint64_t kFirstBoundUs = 16;
  static constexpr std::size_t kBounds = 21;  // the last is 16.8 s

  using Buckets = std::array<std::uint64_t, kBounds + 1>;

  Histogram() = default;
  // What somebody else counted.
  Histogram(const Buckets& buckets, std::uint64_t sum_ns) : buckets_(buckets), sum_ns_(sum_ns) {}

  void count(std::uint64_t took_ns) {
    ++buckets_[bucket_of(took_ns)];
    sum_ns_ += took_ns;
  }
  void add(const Histogram& more) {
    for (std::size_t i = 0; i < buckets_.size(); ++i) buckets_[i] += more.buckets_[i];
    sum_ns_ += more.sum_ns_;
  }

  [[nodiscard]] static constexpr std::size_t bucket_of(std::uint64_t took_ns) {
    const std::uint64_t steps = (std::max<std::uint64_t>(took_ns, 1) - 1) / (kFirstBoundUs * 1000);
    return std::min<std::size_t>(static_cast<std::size_t>(std::bit_width(steps)), kBounds);
  }

  // What bucket `i` holds took at most so long, and longer than what the one before it holds. The
  // bucket behind the last bound holds the rest.
  [[nodiscard]] static constexpr std::uint64_t bound_us(std::size_t i) {
    return kFirstBoundUs << i;
  }
  [[nodiscard]] const Buckets& buckets() const { return buckets_; }
  [[nodiscard]] std::uint64_t sum_us() const { return sum_ns_ / 1000; }

  // As STAT says it: `sum=` microseconds, for each bound how many, `more=` for the rest.
  [[nodiscard]] std::string text() const {
    std::string text = "sum=" + std::to_string(sum_us());
    for (std::size_t i = 0; i < kBounds; ++i) {
      text += " " + std::to_string(bound_us(i)) + "=" + std::to_string(buckets_[i]);
    }
    return text + " more=" + std::to_string(buckets_.back());
  }

 private:
  Buckets buckets_{};
  std::uint64_t sum_ns_ = 0;
};

}  // namespace memkv
