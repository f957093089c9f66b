// Residents: the blocks that are in DRAM, whole, and who may have how much of the arena.
//
// A resident is *loading* (coming from flash), *dirty* (only here) or *clean* (also on flash).
// While anybody uses it, its bytes stay where they are; a clean one that nobody uses is cache, and
// of the tenant that has most of the cache the one unused for longest makes room. One whose block
// left the index is *dead*: nobody finds it, and it goes with its last user.
//
// Of the arena, what puts need (arriving and dirty) takes at most three quarters, and so does what
// gets need (loading, ranges, clean blocks in use), so that neither can shut out the other; cache
// is what is left.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "engine/format.h"
#include "engine/index.h"
#include "engine/pages.h"

namespace memkv::engine {

enum class ResidentState : std::uint8_t { loading, dirty, clean };
enum class Share : std::uint8_t { put, get, cache };

struct Resident {
  Fingerprint fingerprint;
  BlockMeta meta;
  Memory memory;
  std::uint32_t pages = 0;  // 0: the slot is empty
  std::uint32_t uses = 0;
  ResidentState state = ResidentState::clean;
  bool dead = false;
  Share share = Share::cache;                  // under which its pages are counted
  std::uint32_t older = kNone, newer = kNone;  // in its tenant's list of the cache
};

class Residents {
 public:
  // All outlive this. Cache that makes room is taken out of its index entry.
  Residents(Pages& pages, Index& index) : pages_(pages), index_(index) {}

  // The largest block that can ever get memory.
  [[nodiscard]] std::uint32_t share_pages_max() const { return pages_.total() / 4 * 3; }
  // True when `share` may have that many pages more, as soon as they are free.
  [[nodiscard]] bool within_share(Share share, std::uint32_t count) const;
  // Pages for `share` (put or get), from free memory or from cache; nothing when neither has
  // enough. Does not look at the share's limit.
  [[nodiscard]] std::optional<Memory> take(Share share, std::uint32_t count);
  // Gives back what take() gave, when it did not become a resident.
  void give_back(Share share, const Memory& memory);

  // Makes a resident out of memory that take() gave, with one use for the caller. `state` is
  // loading (memory for a get or a put) or dirty (for a put).
  [[nodiscard]] std::uint32_t add(const Fingerprint& fingerprint, BlockMeta meta, Share taken_for,
                                  Memory memory, ResidentState state);
  [[nodiscard]] Resident& at(std::uint32_t slot) { return slots_[slot]; }
  void use(std::uint32_t slot);
  void unuse(std::uint32_t slot);
  void become(std::uint32_t slot, ResidentState state);
  void kill(std::uint32_t slot);
  // It was wanted: it goes last.
  void touch(std::uint32_t slot);

  [[nodiscard]] std::uint64_t count() const { return count_; }
  [[nodiscard]] std::uint64_t dirty_bytes() const { return dirty_bytes_; }

 private:
  void settle(std::uint32_t slot);
  void link(std::uint32_t slot);
  void unlink(std::uint32_t slot);
  void release(std::uint32_t slot);
  // One tenant's cache, in the order of its use.
  struct Cached {
    std::uint32_t oldest = kNone, newest = kNone;
    std::uint64_t pages = 0;
  };
  [[nodiscard]] bool evict_one();
  [[nodiscard]] std::uint64_t& pages_in(Share share) {
    return used_[static_cast<std::size_t>(share)];
  }

  Pages& pages_;
  Index& index_;
  std::deque<Resident> slots_;  // a deque, so that a Resident& lives through add()
  std::vector<std::uint32_t> empty_;
  std::map<TenantId, Cached> cached_;  // of those that have any
  std::array<std::uint64_t, 3> used_{};
  std::uint64_t count_ = 0;
  std::uint64_t dirty_bytes_ = 0;
};

}  // namespace memkv::engine
