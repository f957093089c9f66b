// Journal: what happened last in a schedule, and what happened over a run.
#pragma once

#include <cstdint>
#include <cstdio>
#include <deque>
#include <string>

#include "base/clock.h"
#include "support/sim.h"

namespace memkv::sim {

class Journal {
 public:
  Journal(Clock& clock, bool verbose) : clock_(clock), verbose_(verbose) {}

  void add(const std::string& sentence) {
    const std::uint64_t us = clock_.now_ns() / 1000 - 1'000'000;
    char stamp[32];
    std::snprintf(stamp, sizeof stamp, "%9.3f ms  ", static_cast<double>(us) / 1000.0);
    lines_.push_back(stamp + sentence);
    if (verbose_) std::printf("%s\n", lines_.back().c_str());
    if (lines_.size() > kLines) lines_.pop_front();
  }
  [[nodiscard]] const std::deque<std::string>& lines() const { return lines_; }

 private:
  static constexpr std::size_t kLines = 40;
  Clock& clock_;
  bool verbose_;
  std::deque<std::string> lines_;
};

// Counts over all schedules of a run.
struct Totals {
  std::uint64_t schedules = 0, events = 0;
  std::uint64_t puts = 0, put_ok = 0, put_exists = 0, put_conflict = 0, put_busy = 0;
  std::uint64_t gets = 0, get_ok = 0, get_known = 0, bytes_checked = 0, matches = 0, matched = 0;
  std::uint64_t drops = 0, dropped = 0, cancelled = 0, abandoned = 0, timeouts = 0, unreachable = 0;
  std::uint64_t hits_flash = 0, corrupt = 0, foreign = 0, evicted = 0, rewritten = 0, recovered = 0;
  std::uint64_t reformats = 0, kept_over_stop = 0, maps = 0, copied = 0, settled = 0, drained = 0,
                found_older = 0;
  std::uint64_t dropped_moving = 0, put_denied = 0, generations_over = 0, expired = 0;
  std::uint64_t quota_evicted = 0, quotas_held = 0, not_admitted = 0;
  Fired fired;
};

}  // namespace memkv::sim
