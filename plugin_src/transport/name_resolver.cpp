#include "transport/name_resolver.h"

#include <utility>

#include "base/hands.h"
#include "base/wait.h"

namespace memkv {

NameResolver::~NameResolver() {
  std::deque<Question> dropped;
  {
    const std::lock_guard lock(mutex_);
    stopped_ = true;
    dropped.swap(questions_);
  }
  more_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void NameResolver::ask(HostPort target, Found found) {
  {
    const std::lock_guard lock(mutex_);
    questions_.push_back({std::move(target), std::move(found)});
  }
  more_.notify_one();
  if (!thread_.joinable()) thread_ = start_quiet_thread("memkv-names", [this] { serve(); });
}

void NameResolver::serve() {
  std::unique_lock lock(mutex_);
  while (true) {
    wait_until(more_, lock, [this] { return stopped_ || !questions_.empty(); });
    if (stopped_) return;
    Question question = std::move(questions_.front());
    questions_.pop_front();
    lock.unlock();
    executor_.post(
        [found = std::move(question.found), answer = resolve_slowly(question.target)]() mutable {
          found(std::move(answer));
        });
    lock.lock();
  }
}

}  // namespace memkv
