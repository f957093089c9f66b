// LogPace: lines that strangers cause. Whoever knocks in a loop would fill a disk with them, so of
// one kind at most kStrangerLinesMax are written in kStrangerLinesMs, and then one that says how
// many were left out.
//
// Thread: any. No clock of its own.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <mutex>
#include <string_view>

#include "base/log.h"

namespace memkv {

class LogPace {
 public:
  // `about` is a literal: what the lines are about, in the plural.
  LogPace(LogLevel level, std::string_view about) : level_(level), about_(about) {}

  // Writes the line, or counts it only. What was left out before is told first, when its time is
  // over.
  void log(std::uint64_t now_ns, std::string_view line,
           std::initializer_list<LogField> fields = {});
  // Tells what was left out, when its time is over: for when no line comes any more.
  void tell(std::uint64_t now_ns);

 private:
  const LogLevel level_;
  const std::string_view about_;
  std::mutex mutex_;
  std::uint64_t until_ns_ = 0;  // the time that is counted in ends
  std::uint64_t lines_ = 0;     // written in it
  std::uint64_t left_out_ = 0;  // and not told
};

}  // namespace memkv
