#include "nixl/rates.h"

#include <algorithm>
#include <cmath>

namespace memkv::nixl {
namespace {

constexpr double kNsPerSecond = 1e9;
constexpr double kUsPerSecond = 1e6;

}  // namespace

double Rates::seconds_for(const Past& past, std::uint64_t bytes) {
  const double rate = past.seconds > 0 ? past.bytes / past.seconds : kPriorBytesPerSecond;
  return static_cast<double>(bytes) / rate;
}

void Rates::finished(abi::Direction direction, std::uint64_t bytes, std::uint64_t duration_ns) {
  if (bytes == 0) return;
  const double seconds =
      static_cast<double>(std::max<std::uint64_t>(duration_ns, 1)) / kNsPerSecond;
  const std::lock_guard lock(mutex_);
  Past& past = past_[static_cast<std::size_t>(direction)];
  const double error = std::min(1.0, std::abs(seconds_for(past, bytes) - seconds) / seconds);
  past.relative_error += (error - past.relative_error) * (1 - kRateMemory);
  past.bytes = past.bytes * kRateMemory + static_cast<double>(bytes);
  past.seconds = past.seconds * kRateMemory + seconds;
}

Rates::Estimate Rates::estimate(abi::Direction direction, std::uint64_t bytes) const {
  const std::lock_guard lock(mutex_);
  const Past& past = past_[static_cast<std::size_t>(direction)];
  const double us = std::ceil(seconds_for(past, bytes) * kUsPerSecond);
  return {.duration_us = static_cast<std::uint64_t>(us),
          .margin_us = static_cast<std::uint64_t>(std::ceil(us * past.relative_error))};
}

}  // namespace memkv::nixl
