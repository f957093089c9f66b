#include "base/log_pace.h"

#include <string>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"

namespace memkv {

void LogPace::log(std::uint64_t now_ns, std::string_view line,
                  std::initializer_list<LogField> fields) {
  tell(now_ns);
  {
    const std::lock_guard lock(mutex_);
    if (now_ns >= until_ns_) {
      until_ns_ = now_ns + kStrangerLinesMs * kNsPerMs;
      lines_ = 0;
    }
    if (lines_ == kStrangerLinesMax) {
      ++left_out_;
      return;
    }
    ++lines_;
  }
  memkv::log(level_, line, fields);
}

void LogPace::tell(std::uint64_t now_ns) {
  std::uint64_t left_out = 0;
  {
    const std::lock_guard lock(mutex_);
    if (now_ns < until_ns_) return;
    left_out = std::exchange(left_out_, 0);
  }
  if (left_out == 0) return;
  const std::string count = std::to_string(left_out);
  memkv::log(level_,
             count + " more lines about " + std::string(about_) + " were left out: at most " +
                 std::to_string(kStrangerLinesMax) + " are written in " +
                 std::to_string(kStrangerLinesMs / 1000) + " s",
             {{"left_out", count}});
}

}  // namespace memkv
