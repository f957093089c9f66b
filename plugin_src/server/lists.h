// Lists: every LIST and MARK of one peer. A LIST goes through the index and reads headers from
// flash; few are answered at a time. Thread: the mind.
#pragma once

#include <set>
#include <span>

#include "server/session.h"

namespace memkv {

class Lists {
 public:
  explicit Lists(Session& session) : session_(session) {}

  // A LIST or MARK came. Statuses: protocol, too_large (its body's form).
  [[nodiscard]] Result<void> begin_list(std::uint64_t request, std::span<const std::byte> body);
  [[nodiscard]] Result<void> answer_mark(std::uint64_t request, std::span<const std::byte> body);
  // A request was cancelled.
  void forget(std::uint64_t request) { waiting_.erase(request); }
  void forget_all() { waiting_.clear(); }

  [[nodiscard]] bool has(std::uint64_t request) const { return waiting_.contains(request); }
  [[nodiscard]] std::size_t requests() const { return waiting_.size(); }

 private:
  void send_listed(std::uint64_t request, const Listing& listing);

  Session& session_;
  std::set<std::uint64_t> waiting_;
  std::size_t under_way_ = 0;  // the store's, also of requests that were cancelled
};

}  // namespace memkv
