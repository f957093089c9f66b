// wait_until(): a condition variable's wait() for a condition, also with the libstdc++ of gcc 11.
//
// std::condition_variable::wait() is a symbol that is new in gcc 12 (GLIBCXX_3.4.30): what calls it
// does not load on RHEL 9, its rebuilds and Amazon Linux 2023. The wait with a time needs nothing
// newer than their libc has, and in a loop an hour is as good as forever.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

namespace memkv {

template <typename Condition>
void wait_until(std::condition_variable& changed, std::unique_lock<std::mutex>& lock,
                Condition condition) {
  while (!changed.wait_for(lock, std::chrono::hours(1), condition)) {
  }
}

}  // namespace memkv
