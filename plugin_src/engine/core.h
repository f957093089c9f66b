// Core: what the parts of the engine share, and the few steps that touch all of it.
//
// The parts (Reader, Writer, Reclaimer, Puts, Gets) never call each other's callbacks across a
// task: whoever changes something that another part may wait for (memory, a segment, rest) calls
// nudge(), and every part looks at it in one later task, progress().
//
// Thread: the mind.
#pragma once

#include <functional>
#include <memory>

#include "base/executor.h"
#include "engine/device_io.h"
#include "engine/format.h"
#include "engine/index.h"
#include "engine/pages.h"
#include "engine/residents.h"
#include "engine/segment_log.h"
#include "engine/store.h"

namespace memkv::engine {

struct Core {
  Core(const StoreOptions& with, const Superblock& superblock, Index entries, Device& device,
       Arena& arena, Executor& runs_on);

  // Every part looks at what changed, in a later task; many nudges are one.
  void nudge();
  // `task` in a later task, if the store still lives then.
  void post(Task task);
  // `function`, which does nothing when the store is gone.
  template <typename F>
  [[nodiscard]] auto guarded(F function) {
    return [watch = std::weak_ptr<int>(alive),
            function = std::move(function)]<typename... A>(A&&... arguments) mutable {
      if (!watch.expired()) function(std::forward<A>(arguments)...);
    };
  }

  [[nodiscard]] Fingerprint print_of(const BlockId& id) const {
    return fingerprint_of(id, super.fingerprint_key, options.fingerprint_bits);
  }
  // The entry of this very incarnation, or nullptr.
  [[nodiscard]] Entry* entry_of(const Fingerprint& print, std::uint64_t incarnation);
  // The same, when it still lies at this place.
  [[nodiscard]] Entry* entry_at(const Fingerprint& print, std::uint32_t segment,
                                std::uint32_t page);
  // The entry of `id`, whose fingerprint is `print`, or nullptr: also when by the rules there is no
  // such block any more. One that outlived its TTL is taken out, and one that came before its
  // namespace had rules, and shares an account for that, counts for the namespace from now on.
  [[nodiscard]] Entry* living(const BlockId& id, const Fingerprint& print);
  // By the rules of its account the block is too old, or nobody knows how old it is.
  [[nodiscard]] bool outlived(const Entry& entry) const {
    return outlived(entry, index.accounts().ttl_s(entry.account));
  }
  [[nodiscard]] bool outlived(const Entry& entry, std::uint32_t ttl_s) const;
  // Counts a block that is to be taken out by the rules.
  void gone(const Entry& entry, Gone why);
  // The block leaves index and DRAM; readers keep their bytes.
  void forget(const Fingerprint& print);
  // The same, and a restart is not to bring it back; nobody waits for that.
  void take_out(const Fingerprint& print);

  const StoreOptions options;
  Executor& executor;
  StoreStats stats;
  Superblock super;
  DeviceIo io;
  Pages pages;
  Index index;
  Residents residents;
  SegmentLog log;
  std::uint64_t next_incarnation;
  std::uint64_t next_generation;
  std::function<void()> progress;  // set by the store
  std::shared_ptr<int> alive = std::make_shared<int>(0);

 private:
  bool nudged_ = false;
};

}  // namespace memkv::engine
