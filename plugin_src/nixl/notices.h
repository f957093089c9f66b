// Notices: the notifications that wait for getNotifs.
//
// Whoever does not fetch them keeps at most kNoticeBytesMax, their own bookkeeping included: then
// the oldest are forgotten, and the log says so once. Thread: any.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "nixl/abi.h"

namespace memkv::nixl {

// The text of a transfer's notification: what the caller gave, a colon, a byte per block.
[[nodiscard]] std::string notice_of(const std::string& text, std::span<const Code> codes);

class Notices {
 public:
  void add(std::string notice);
  // All that wait, the oldest first, to the end of `out`, as `agent`'s. Those that there is no
  // memory for wait on; throws only when none could be taken.
  void take(const std::string& agent, abi::Notices& out);

 private:
  std::mutex mutex_;
  std::deque<std::string> waiting_;
  std::uint64_t bytes_ = 0;
  bool forgot_ = false;
};

}  // namespace memkv::nixl
