// Hands: the threads that do an event loop's jobs. They sleep while there is nothing to do and
// never spin.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "base/executor.h"

namespace memkv {

class Hands {
 public:
  // Starts `count` threads. A finished job's `done` is given to `deliver`, on the hand's thread.
  Hands(unsigned count, std::function<void(Task)> deliver);
  ~Hands() { stop(); }
  Hands(const Hands&) = delete;
  Hands& operator=(const Hands&) = delete;

  // Jobs are begun in the order they came. Thread: any.
  void give(Task job, Task done);

  // Waits for the jobs that are being done; no other is begun until resume(). Thread: the mind.
  void rest();
  void resume();

  // Waits for the jobs that are being done and destroys the others; what is given later is
  // destroyed at once.
  void stop();

  [[nodiscard]] unsigned count() const { return static_cast<unsigned>(threads_.size()); }

 private:
  struct Work {
    Task job;
    Task done;
  };
  void serve();

  std::function<void(Task)> deliver_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::condition_variable all_idle_;
  std::deque<Work> queue_;
  std::size_t idle_ = 0;  // hands that sleep
  std::size_t busy_ = 0;  // hands inside a job
  bool resting_ = false;
  bool stopped_ = false;
  std::vector<std::thread> threads_;
};

// A thread named `name` that takes no signals: those are for the threads of whoever loaded us.
// Throws std::system_error when there can be none; the caller's own signals are as they were.
[[nodiscard]] std::thread start_quiet_thread(const char* name, std::function<void()> body);

}  // namespace memkv
