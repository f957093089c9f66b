// Quotas: takes blocks out of accounts that have more than they may, the longest there first, and
// of those that were hit since their turn came last time none before the others. What it takes out
// gets a tombstone, so that no restart brings it back. A slice a task, so that nobody waits for it.
//
// Thread: the mind.
#pragma once

#include <cstddef>

#include "engine/core.h"

namespace memkv::engine {

class Quotas {
 public:
  explicit Quotas(Core& core) : core_(core) {}  // outlives this

  // Works off a slice, if anybody owes. Called when something changed.
  void pump();

 private:
  void settle_first(AccountId account);

  Core& core_;
};

}  // namespace memkv::engine
