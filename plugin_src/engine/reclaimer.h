// Reclaimer: keeps one segment ready ahead of the log, and makes room when the log or the index is
// full.
//
// A blank segment is readied first; when there is none the oldest closed one is taken back: its
// blocks that were wanted since they were written move to the tail, the shallower in the prefix
// chain first, within the rewrite budget, which is larger for those that are within a quota of
// theirs (the others of a device should not push them out); its header gets the new generation,
// read back and compared; only then the rest leaves the index, and when nobody reads there any
// more, the segment is ready.
//
// It never waits for what may not come: a block that finds no memory to move through is dropped. A
// segment that takes no header is set aside for kSetAsideMs, and another one is readied in its
// place; when that fails too, those who wait for one are told so, and it is tried again after
// kReclaimRetryMs. So neither a bad place nor a moment without the device costs a segment for good.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "engine/core.h"
#include "engine/memory_queue.h"
#include "engine/reader.h"
#include "engine/writer.h"

namespace memkv::engine {

inline constexpr std::uint64_t kReclaimRetryMs = 100;
inline constexpr std::uint64_t kSetAsideMs = 2000;

class Reclaimer {
 public:
  // All outlive this. `index_pressed`: a put waits because the index is full.
  Reclaimer(Core& core, Reader& reader, Writer& writer, MemoryQueue& memory,
            std::function<bool()> index_pressed)
      : core_(core),
        reader_(reader),
        writer_(writer),
        memory_(memory),
        index_pressed_(std::move(index_pressed)) {}

  // Starts or goes on, if there is anything to do. Called when something changed.
  void kick();
  [[nodiscard]] bool at_rest() const { return state_ == State::idle; }

 private:
  enum class State : std::uint8_t { idle, keeping, readying, draining };
  struct Attempt;

  [[nodiscard]] bool wanted() const;
  void start();
  void choose_survivors();
  void keep_next();
  void keep(const Placed& placed);
  void loaded(const Placed& placed, Code code, std::uint32_t slot);
  void move_to_tail(Entry& entry);
  void kept();
  void ready_header(int tries_left);
  void read_back(const std::shared_ptr<Attempt>& attempt);
  void header_failed(int tries_left);
  void retire();
  void set_aside();
  [[nodiscard]] std::optional<std::uint32_t> next_blank();
  void evict_rest();
  void drain();
  void give_up();
  void turn_away();

  Core& core_;
  Reader& reader_;
  Writer& writer_;
  MemoryQueue& memory_;
  std::function<bool()> index_pressed_;
  State state_ = State::idle;
  std::uint32_t segment_ = kNone;
  bool taking_back_ = false;  // the segment is a closed one, not blank
  std::uint64_t generation_ = 0;
  std::vector<Placed> survivors_;
  std::size_t next_survivor_ = 0;
  std::size_t keeping_ = 0;
  std::uint64_t retry_at_ns_ = 0;
  struct SetAside {
    std::uint32_t segment;
    std::uint64_t until_ns;
  };
  std::deque<SetAside> set_aside_;  // of no living generation, as a blank one is
  unsigned headers_failed_in_row_ = 0;
};

}  // namespace memkv::engine
