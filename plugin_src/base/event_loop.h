// EventLoop: the Executor of a real process: one thread that waits in epoll, and its hands.
//
// With `hands` = 0 the mind does the hands' jobs itself, in the order they came, each in a turn of
// its own: on few cores that is faster than waking another thread. It never spins.
#pragma once

#include <functional>
#include <memory>

#include "base/executor.h"
#include "base/result.h"

namespace memkv {

class EventLoop : public Executor {
 public:
  // Statuses: internal (the kernel gave no epoll or eventfd).
  [[nodiscard]] static Result<std::unique_ptr<EventLoop>> create(unsigned hands);
  ~EventLoop() override = default;  // joins the hands; tasks that were not run are destroyed

  // Runs tasks until stop() was called; no hand is inside a job when it returns. Thread: becomes
  // the mind.
  virtual void run() = 0;
  // run() returns after the task it is in. Thread: any.
  virtual void stop() = 0;
  // True on the mind's thread while run() runs, and for every thread before it.
  [[nodiscard]] virtual bool on_mind() const = 0;

  // Calls `ready(events)` on the mind whenever epoll reports one of `events` (EPOLLIN, EPOLLOUT;
  // level triggered, or EPOLLET / EPOLLONESHOT as asked). One watch a descriptor; watch() again
  // changes the events. Thread: the mind. Statuses: internal.
  virtual Result<void> watch(int fd, unsigned events, std::function<void(unsigned)> ready) = 0;
  // No call comes any more, not even one of this turn. The descriptor stays open. Thread: the mind.
  virtual void unwatch(int fd) = 0;
};

}  // namespace memkv
