// MemoryQueue: who waits for arena memory, and whose turn it is.
//
// Puts and gets wait in a queue each, first come first served: a big one at the head is not
// overtaken by small ones behind it. A head that is held back by its own share (Residents) or by a
// limit of its kind does not hold back the other queue; a head that only lacks free memory does
// when it is older, so that both always get on. Blocks that move on eviction come before puts; they
// wait only while writes are under way that will free memory, else they are told to do without.
//
// Thread: the mind. `ready` may be called from inside ask() and pump().
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "engine/residents.h"

namespace memkv::engine {

class MemoryQueue {
 public:
  using Ticket = std::uint64_t;
  using Ready = std::move_only_function<void(Memory)>;
  using Kept = std::move_only_function<void(std::optional<Memory>)>;
  struct Limits {
    std::function<bool()> puts_held_back;  // no put may start now, whatever memory there is
    std::function<bool()> gets_held_back;
    std::function<bool()> memory_will_come;  // a write is under way
  };

  // `residents` outlives this.
  MemoryQueue(Residents& residents, Limits limits)
      : residents_(residents), limits_(std::move(limits)) {}

  // `share` is put or get; `pages` is at most share_pages_max(). The memory is counted under
  // `share`.
  Ticket ask(Share share, std::uint32_t pages, Ready ready);
  // `ready` does not come any more; nothing when it did.
  void cancel(Ticket ticket);
  [[nodiscard]] bool waits(Ticket ticket) const;
  // For a block that moves; counted under Share::put.
  void ask_to_keep(std::uint32_t pages, Kept ready);
  // Serves whoever can be served now.
  void pump();

  // Somebody waits for memory, and for nothing else, and could have that of this share: put or get.
  [[nodiscard]] bool wants(Share held) const;
  [[nodiscard]] std::size_t puts_waiting() const { return puts_.size(); }
  [[nodiscard]] std::size_t gets_waiting() const { return gets_.size(); }

 private:
  struct Waiter {
    Ticket ticket = 0;
    std::uint32_t pages = 0;
    Ready ready;
  };
  struct Keeper {
    std::uint32_t pages = 0;
    Kept ready;
  };

  void serve_keepers();
  bool serve_one();

  Residents& residents_;
  Limits limits_;
  std::deque<Waiter> puts_, gets_;
  std::deque<Keeper> keepers_;
  Ticket next_ticket_ = 1;
  bool pumping_ = false;
};

}  // namespace memkv::engine
