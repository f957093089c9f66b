// Writer: brings dirty blocks to flash, in the order they came.
//
// Each gets a place in the log and is written with its header in one operation; then it is clean.
// One whose bytes were compared with the writer's CRCs more than kVerifiedMsMax ago, whatever it
// waited for since, is verified once more before it is written, and taken out when that fails. One
// whose write fails is tried in one other place, then it is lost. A block that left the index on
// its way leaves nothing behind that could be found.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "engine/core.h"

namespace memkv::engine {

// Four of the largest usual blocks: some are written while others are made ready.
inline constexpr std::uint64_t kWriteBytesInFlight = 64 * kMiB;  // or a single block, if larger

class Writer {
 public:
  explicit Writer(Core& core) : core_(core) {}  // outlives this

  // `slot` is dirty, and its entry points to it. Its bytes were compared with the writer's CRCs no
  // earlier than at `verified_ns`, or nobody knows when (0).
  void enqueue(std::uint32_t slot, std::uint64_t verified_ns);
  // Goes on with those that wait for a segment, and takes more. Called when something changed.
  void pump();
  // No segment will be ready: those who wait for one are lost.
  void give_up_waiting();

  // Blocks that wait for a segment.
  [[nodiscard]] bool starving() const { return !stalled_.empty(); }
  [[nodiscard]] bool at_rest() const { return queue_.empty() && in_flight_ == 0; }
  // Writes that the device has now.
  [[nodiscard]] std::size_t writing() const { return writing_; }

 private:
  struct Waiting {
    std::uint32_t slot = 0;
    std::uint64_t verified_ns = 0;
  };
  struct Write {
    std::uint32_t slot = 0;
    std::uint64_t verified_ns = 0;
    std::uint32_t tries_left = 2;
    BlockPlace place;
    AlignedBuffer header;
  };
  using WritePtr = std::shared_ptr<Write>;

  [[nodiscard]] bool is_verified(const Write& write) const;
  void verify(WritePtr write);
  void submit(WritePtr write);
  // False when no segment has room now.
  [[nodiscard]] bool try_submit(const WritePtr& write);
  void written(WritePtr write, bool good);
  void publish_place(const Write& write);
  void lose(const Write& write);
  void end(const Write& write);
  // The block is still the one its index entry means.
  [[nodiscard]] bool wanted(std::uint32_t slot) { return !core_.residents.at(slot).dead; }

  Core& core_;
  std::deque<Waiting> queue_;
  std::deque<WritePtr> stalled_;
  std::size_t in_flight_ = 0;  // being verified, stalled or being written
  std::uint64_t bytes_in_flight_ = 0;
  std::size_t writing_ = 0;
};

}  // namespace memkv::engine
