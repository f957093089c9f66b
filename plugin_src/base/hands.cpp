#include "base/hands.h"

#include <pthread.h>

#include <csignal>
#include <utility>

#include "base/wait.h"

namespace memkv {

namespace {

// No signals for this thread, nor for those it starts, as long as it lives.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

std::thread start_quiet_thread(const char* name, std::function<void()> body) {
  const SignalsBlocked blocked;  // a thread begins with the mask of who starts it
  std::thread thread(std::move(body));
  pthread_setname_np(thread.native_handle(), name);
  return thread;
}

Hands::Hands(unsigned count, std::function<void(Task)> deliver) : deliver_(std::move(deliver)) {
  threads_.reserve(count);
  for (unsigned i = 0; i < count; ++i) {
    threads_.push_back(start_quiet_thread("memkv-hand", [this] { serve(); }));
  }
}

void Hands::give(Task job, Task done) {
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    queue_.push_back({std::move(job), std::move(done)});
    wake = idle_ > 0;
  }
  if (wake) more_.notify_one();
}

void Hands::serve() {
  std::unique_lock lock(mutex_);
  const auto wanted = [this] { return stopped_ || (!queue_.empty() && !resting_); };
  while (true) {
    if (!wanted()) {
      ++idle_;
      wait_until(more_, lock, wanted);
      --idle_;
    }
    if (stopped_) return;
    Work work = std::move(queue_.front());
    queue_.pop_front();
    ++busy_;
    lock.unlock();
    work.job();
    work.job = nullptr;  // what the job held is gone before the mind hears of it
    deliver_(std::move(work.done));
    lock.lock();
    if (--busy_ == 0 && resting_) all_idle_.notify_one();
  }
}

void Hands::rest() {
  std::unique_lock lock(mutex_);
  resting_ = true;
  wait_until(all_idle_, lock, [this] { return busy_ == 0; });
}

void Hands::resume() {
  {
    const std::lock_guard lock(mutex_);
    resting_ = false;
  }
  more_.notify_all();
}

void Hands::stop() {
  std::deque<Work> never_done;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    never_done.swap(queue_);
  }
  more_.notify_all();
  for (std::thread& thread : threads_) {
    if (thread.joinable()) thread.join();
  }
}

}  // namespace memkv
