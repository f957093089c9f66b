// Rates: how fast transfers were, and therefore how long one will take.
//
// Each direction has its own rate: the bytes of finished transfers over the time each took, older
// ones counting less and less. Transfers beside one another slow each other down and are measured
// so; that is what the next one will meet. Before the first is over the estimate is made with
// kPriorBytesPerSecond and its margin is as large as itself. Thread: any.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "nixl/abi.h"

namespace memkv::nixl {

inline constexpr double kPriorBytesPerSecond = 1e9;  // what one TCP connection moves at the least
inline constexpr double kRateMemory = 7.0 / 8.0;     // what is kept of the past at each transfer

class Rates {
 public:
  struct Estimate {
    std::uint64_t duration_us = 0;
    std::uint64_t margin_us = 0;
  };

  void finished(abi::Direction direction, std::uint64_t bytes, std::uint64_t duration_ns);
  [[nodiscard]] Estimate estimate(abi::Direction direction, std::uint64_t bytes) const;

 private:
  struct Past {
    double bytes = 0;
    double seconds = 0;
    double relative_error = 1;  // of what would have been estimated
  };
  [[nodiscard]] static double seconds_for(const Past& past, std::uint64_t bytes);

  mutable std::mutex mutex_;
  std::array<Past, 2> past_;
};

}  // namespace memkv::nixl
