// Clock: where time comes from. It is passed in, so that a simulation owns it.
#pragma once

#include <cstdint>
#include <string>

namespace memkv {

inline constexpr std::uint64_t kNsPerMs = 1'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  // Nanoseconds on a clock that never goes back; its zero has no meaning. Thread: any.
  [[nodiscard]] virtual std::uint64_t now_ns() const = 0;
  // Seconds since 1970 on the wall clock, which may be stepped: for what must hold across restarts.
  // Thread: any.
  [[nodiscard]] virtual std::uint32_t unix_s() const = 0;
};

// The machine's monotonic clock. Thread: any.
[[nodiscard]] Clock& system_clock();

// Seconds since 1970 on the wall clock, which may jump: for tokens, whose times are those of other
// machines, too. Thread: any.
[[nodiscard]] std::uint64_t system_wall_s();

// The wall clock's time as "2026-11-21T04:05:06Z": for people who read logs; nothing is decided by
// it. Thread: any.
[[nodiscard]] std::string utc_time_text();

}  // namespace memkv
