#include "nixl/notices.h"

#include <new>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv::nixl {
namespace {

std::uint64_t bytes_of(const std::string& notice) {
  return sizeof(notice) + notice.size();
}

}  // namespace

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
  const std::uint64_t bytes = bytes_of(notice);
  waiting_.push_back(std::move(notice));
  bytes_ += bytes;
  while (bytes_ > kNoticeBytesMax && waiting_.size() > 1) {
    bytes_ -= bytes_of(waiting_.front());
    waiting_.pop_front();
    if (!std::exchange(forgot_, true)) {
      log(LogLevel::warning,
          "nobody fetches the notifications of MEMKV: the oldest are forgotten. Fetch them with "
          "get_new_notifs(backends=[\"MEMKV\"]), or post without a notification");
    }
  }
}

void Notices::take(const std::string& agent, abi::Notices& out) {
  const std::lock_guard lock(mutex_);
  const std::size_t before = out.size();
  try {
    while (!waiting_.empty()) {
      out.emplace_back(agent, std::string());
      bytes_ -= bytes_of(waiting_.front());
      out.back().second = std::move(waiting_.front());
      waiting_.pop_front();
    }
  } catch (const std::bad_alloc&) {
    if (out.size() == before) throw;
  }
}

}  // namespace memkv::nixl
