// Executor: one mind and its hands.
//
// The mind is one thread that runs tasks one after another; everything a part of the store
// remembers belongs to its mind and needs no lock. Hands are stateless helpers: a job given to a
// hand touches only the memory it was handed, never waits for a peer, and is over in the time it
// takes to move about 256 KiB. In the simulation mind and hands are one thread and the seed decides
// the order.
#pragma once

#include <cstdint>
#include <functional>

#include "base/clock.h"

namespace memkv {

using Task = std::move_only_function<void()>;
using TimerId = std::uint64_t;  // 0 is no timer

class Executor {
 public:
  virtual ~Executor() = default;

  // Runs `task` on the mind, after what was posted before. Thread: any.
  virtual void post(Task task) = 0;

  // Runs `task` on the mind when `delay_ns` have passed. Thread: the mind.
  [[nodiscard]] virtual TimerId after(std::uint64_t delay_ns, Task task) = 0;

  // The task of `timer` will not run; nothing happens when it already did, or for 0. Thread: the
  // mind.
  virtual void cancel(TimerId timer) = 0;

  // Runs `job` on a hand, then `done` on the mind. Thread: the mind.
  virtual void offload(Task job, Task done) = 0;

  // How many jobs can really run at the same time; at least 1.
  [[nodiscard]] virtual unsigned hands() const = 0;

  [[nodiscard]] virtual Clock& clock() = 0;
};

}  // namespace memkv
