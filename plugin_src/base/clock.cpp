#include "base/clock.h"

#include <array>
#include <ctime>

namespace memkv {
namespace {

class SystemClock final : public Clock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const override {
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec);
  }
  [[nodiscard]] std::uint32_t unix_s() const override {
    return static_cast<std::uint32_t>(std::time(nullptr));
  }
};

}  // namespace

Clock& system_clock() {
  // Never destroyed: a client's thread may still ask while the process exits.
  static SystemClock* const kept = new SystemClock;
  return *kept;
}

std::uint64_t system_wall_s() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);  // time() may lag behind it, past the end of a second
  return static_cast<std::uint64_t>(now.tv_sec);
}

std::string utc_time_text() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &utc);
  return text.data();
}

}  // namespace memkv
