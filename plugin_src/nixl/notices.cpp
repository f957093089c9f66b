#include "nixl/notices.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv::nixl {

std::string notice_of(const std::string& text, std::span<const Code> codes) {
  std::string out;
  out.reserve(text.size() + 1 + codes.size());
  out += text;
  out += ':';
  for (const Code code : codes) out += static_cast<char>(code);
  return out;
}

void Notices::add(std::string notice) {
  const std::lock_guard lock(mutex_);
  bytes_ += notice.size();
  waiting_.push_back(std::move(notice));
  while (bytes_ > kNoticeBytesMax && waiting_.size() > 1) {
    bytes_ -= waiting_.front().size();
    waiting_.pop_front();
    if (!std::exchange(forgot_, true)) {
      log(LogLevel::warning,
          "nobody fetches the notifications of MEMKV: the oldest are forgotten. Fetch them with "
          "get_new_notifs(backends=[\"MEMKV\"]), or post without a notification");
    }
  }
}

std::deque<std::string> Notices::take() {
  const std::lock_guard lock(mutex_);
  bytes_ = 0;
  return std::exchange(waiting_, {});
}

}  // namespace memkv::nixl
