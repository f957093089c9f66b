// Timers: what an event loop shall run later, in the order of deadlines; equal deadlines in the
// order they were set.
#pragma once

#include <cstdint>
#include <map>
#include <unordered_map>
#include <utility>

#include "base/executor.h"

namespace memkv {

class Timers {
 public:
  [[nodiscard]] TimerId add(std::uint64_t deadline_ns, Task task) {
    const TimerId id = ++last_;
    deadlines_.emplace(id, deadline_ns);
    queue_.emplace(std::pair(deadline_ns, id), std::move(task));
    return id;
  }

  // The timer's task, or nothing when it ran already.
  Task take(TimerId id) {
    const auto found = deadlines_.find(id);
    if (found == deadlines_.end()) return {};
    Task task = std::move(queue_.extract(std::pair(found->second, id)).mapped());
    deadlines_.erase(found);
    return task;
  }

  // The first task that is due at `now_ns` and was set before `bound`; nothing when there is none.
  Task take_due(std::uint64_t now_ns, TimerId bound) {
    for (const auto& [when, task] : queue_) {
      if (when.first > now_ns) break;
      if (when.second < bound) return take(when.second);
    }
    return {};
  }

  // The id the next timer will have: tasks of one turn leave what they set themselves to the next.
  [[nodiscard]] TimerId next_id() const { return last_ + 1; }
  [[nodiscard]] bool empty() const { return queue_.empty(); }
  [[nodiscard]] std::uint64_t first_deadline_ns() const { return queue_.begin()->first.first; }

 private:
  std::map<std::pair<std::uint64_t, TimerId>, Task> queue_;
  std::unordered_map<TimerId, std::uint64_t> deadlines_;
  TimerId last_ = 0;
};

}  // namespace memkv
