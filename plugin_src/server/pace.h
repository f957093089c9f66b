// Pace: does a peer move the memory that it holds, while others wait for some?
//
// What is granted to a peer is free again when its bytes have come, what is pinned for it when they
// have left: as fast as the peer likes. Whoever holds a part of the arena must move the same part
// of kPaceBytesPerSecond. So the memory of a small arena comes back within seconds, and all of a
// node's peers together owe no more than kPaceBytesPerSecond, however many there are: a node that
// has much to do does not take its peers for slow.
//
// Time is counted in looks: while the node itself stands still, nobody is judged. Thread: the mind.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/limits.h"

namespace memkv {

inline constexpr std::uint64_t kLookMs = 500;  // from one look at every peer to the next

class Pace {
 public:
  // `held`: bytes that wait for this peer alone; `moved`: such bytes, ever; `all`: those of the
  // arena, or what all peers hold where that is more.
  void look(std::uint64_t held, std::uint64_t moved, std::uint64_t all) {
    if (looks_ == 0 || held == 0) {
      begin(held, moved);
      return;
    }
    held_min_ = std::min(held_min_, held);
    const std::uint64_t ms = looks_ * kLookMs;
    ++looks_;
    if (ms < kPaceMs) return;
    const std::uint64_t due = held_min_ / kPageBytes * kPaceBytesPerSecond / 1000 * ms /
                              std::max(all / kPageBytes, std::uint64_t{1});
    if (moved - moved_ >= std::min(due, held_min_)) {
      begin(held, moved);
    } else {
      slow_bytes_ = held_min_;  // what came later may well move yet
    }
  }
  // Nobody waits who could have it.
  void forget() { *this = Pace(); }
  // What it holds and is too slow with; 0: it is not.
  [[nodiscard]] std::uint64_t slow_bytes() const { return slow_bytes_; }

 private:
  void begin(std::uint64_t held, std::uint64_t moved) {
    *this = Pace();
    if (held == 0) return;
    looks_ = 1;
    held_min_ = held;
    moved_ = moved;
  }

  std::uint64_t looks_ = 0;     // since it is judged
  std::uint64_t held_min_ = 0;  // all the while
  std::uint64_t moved_ = 0;     // when that began
  std::uint64_t slow_bytes_ = 0;
};

}  // namespace memkv
