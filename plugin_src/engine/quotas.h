// Quotas: takes blocks out of accounts that have more than they may, the longest there first, and
// of those that were hit since their turn came last time none before the others. What it takes out
// gets a tombstone, so that no restart brings it back. A slice a task, so that nobody waits for it,
// and none while the index writer is behind, so that tombstones cost no more than the pages which
// they fill.
//
// Thread: the mind.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engine/core.h"

namespace memkv::engine {

// Records of the index that may be behind while quotas are paid.
inline constexpr std::uint64_t kRecordsAheadMax = 2048;

class Quotas {
 public:
  explicit Quotas(Core& core) : core_(core) {}  // outlives this

  // Works off a slice, if anybody owes. Called when something changed.
  void pump();

 private:
  [[nodiscard]] bool held_back() const;
  void settle_first(AccountId account);

  Core& core_;
};

}  // namespace memkv::engine
