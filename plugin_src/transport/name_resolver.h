// NameResolver: one thread that asks for host names, because asking may take seconds and the mind
// never waits.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>

#include "base/executor.h"
#include "transport/tcp_address.h"

namespace memkv {

class NameResolver {
 public:
  using Found = std::move_only_function<void(Result<std::vector<SocketAddress>>)>;

  explicit NameResolver(Executor& executor) : executor_(executor) {}
  // Waits for the question that is being asked; the others are dropped.
  ~NameResolver();
  NameResolver(const NameResolver&) = delete;
  NameResolver& operator=(const NameResolver&) = delete;

  // Calls `found` on the mind. The thread begins with the first question. Thread: the mind.
  void ask(HostPort target, Found found);

 private:
  struct Question {
    HostPort target;
    Found found;
  };
  void serve();

  Executor& executor_;
  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<Question> questions_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace memkv
