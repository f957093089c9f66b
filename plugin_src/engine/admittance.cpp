#include "engine/admittance.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace memkv::engine {
namespace {

constexpr double kNsPerDay = 24.0 * 3600 * 1e9;
constexpr double kHoursPerDay = 24;

}  // namespace

bool Touches::again(const Fingerprint& print) {
  if (places_.empty()) places_.resize(kTouchesMax);
  std::uint64_t& place = places_[print.low % kTouchesMax];
  const std::uint64_t mark = print.high == 0 ? 1 : print.high;  // 0: nobody was here
  return std::exchange(place, mark) == mark;
}

WriteBudget::WriteBudget(std::uint64_t bytes_a_day)
    : bytes_per_ns_(static_cast<double>(bytes_a_day) / kNsPerDay),
      saved_max_(static_cast<double>(bytes_a_day) / kHoursPerDay),
      owed_max_(static_cast<double>(bytes_a_day)),
      saved_(saved_max_) {}

bool WriteBudget::allows(std::uint64_t now_ns, std::uint64_t written) {
  if (seen_ns_ != 0) {  // what was written before the first question was nobody's concern
    // Nobody knows in which order time passed and bytes were written, so they are set off against
    // each other before anything is cut off.
    const double earned = static_cast<double>(now_ns - seen_ns_) * bytes_per_ns_;
    const double spent = static_cast<double>(written - seen_written_);
    saved_ = std::clamp(saved_ + earned - spent, -owed_max_, saved_max_);
  }
  seen_ns_ = now_ns;
  seen_written_ = written;
  return saved_ > 0;
}

}  // namespace memkv::engine
