#include "client/operation.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/limits.h"

namespace memkv {

bool Completion::wait(std::uint64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  if (finishing_ == std::this_thread::get_id()) return true;
  const auto patience = std::chrono::milliseconds(std::min(timeout_ms, kTimeoutMsMax));
  return over_.wait_for(lock, patience, [this] { return settled_; });
}

void Completion::reach() {
  const std::lock_guard lock(mutex_);
  reached_ = true;
  over_.notify_all();
}

bool Completion::wait_reached(std::uint64_t timeout_ms) {
  std::unique_lock lock(mutex_);
  const auto patience = std::chrono::milliseconds(std::min(timeout_ms, kTimeoutMsMax));
  return over_.wait_for(lock, patience, [this] { return reached_ || settled_; });
}

void Completion::complete(Finished finished) {
  {
    const std::lock_guard lock(mutex_);
    finishing_ = std::this_thread::get_id();
  }
  done_.store(true, std::memory_order_release);
  if (finished) finished();
  finished = {};  // what it captured goes before a waiter may tear down what that refers to
  const std::lock_guard lock(mutex_);
  finishing_ = {};
  settled_ = true;
  over_.notify_all();
}

}  // namespace memkv
