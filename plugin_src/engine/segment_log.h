// SegmentLog: the log of segments: hands out places for blocks, writes the index pages, keeps the
// lives of segments.
//
// A segment is blank (nothing of it counts), readied by the Reclaimer (a new generation on its
// header), *ready*, then *open* (one at a time takes blocks), then *closed*; closed ones are taken
// back by the Reclaimer, strictly the oldest first. A closed segment is *settled* when no write to
// it and no record of it is under way. What is written when, and why nothing that was dropped can
// come back, is told in docs/formats/segment.md.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "base/executor.h"
#include "engine/device_io.h"
#include "engine/format.h"

namespace memkv::engine {

// A block that was written to a segment, if the index still says so.
struct Placed {
  Fingerprint fingerprint;
  std::uint32_t page = 0;
};

// `true`: the tombstone is on the device, flushed.
using TombstoneDone = std::move_only_function<void(bool)>;

class SegmentLog {
 public:
  // What the log asks of the rest of the engine; both may be called from inside any call of the
  // log.
  struct Hooks {
    std::function<void()> ready_taken;  // a ready segment was opened: another one is wanted
    std::function<void()> settled;      // something came to rest
  };

  // All outlive this, but callbacks of the executor. `super` may change its oldest_generation only.
  SegmentLog(Executor& executor, DeviceIo& io, const Superblock& super,
             std::uint64_t index_flush_ms, Hooks hooks);

  // A segment that recovery found, in the order of generations; before anything else.
  void adopt(std::uint32_t segment, std::uint64_t generation, std::vector<Placed> blocks);

  void adopted();  // all were found; the other segments are blank

  // Room for `pages` pages, or nothing while no segment is ready. Whoever got one calls written().
  [[nodiscard]] std::optional<BlockPlace> place(std::uint32_t pages);
  // The write to `place` is over; with `record` the block is there to be found and gets its index
  // record.
  void written(const BlockPlace& place, const Record* record);
  // Kills all incarnations up to this one. With `done` somebody waits for it.
  void tombstone(const Fingerprint& fingerprint, std::uint64_t incarnation, TombstoneDone done);
  // Writes every record that waits, now.
  void flush_records();
  // No record and no tombstone is under way.
  [[nodiscard]] bool at_rest() const { return unwritten_records_ == 0 && homeless_.empty(); }
  // Records that no page on the device holds yet: a crash forgets them.
  [[nodiscard]] std::uint64_t unwritten_records() const { return unwritten_records_; }
  // Tombstones that wait for a segment to be ready.
  [[nodiscard]] bool tombstones_wait() const { return !homeless_.empty(); }
  // Blocks whose records found no page: a restart does not find them.
  [[nodiscard]] std::uint64_t lost_records() const { return lost_records_; }
  // No segment will be ready: those who wait for one are told.
  void give_up_waiting();

  // Reads keep a segment from being used again.
  void begin_read(std::uint32_t segment) { ++segments_[segment].reads; }
  void end_read(std::uint32_t segment);
  [[nodiscard]] std::uint64_t generation(std::uint32_t segment) const {
    return segments_[segment].generation;
  }

  // For the Reclaimer.
  [[nodiscard]] std::size_t ready_count() const { return ready_.size(); }
  [[nodiscard]] std::optional<std::uint32_t> take_blank();
  [[nodiscard]] std::optional<std::uint32_t> oldest_closed() const;
  [[nodiscard]] bool settled(std::uint32_t segment) const;
  [[nodiscard]] bool read_from(std::uint32_t segment) const { return segments_[segment].reads > 0; }
  [[nodiscard]] const std::vector<Placed>& blocks(std::uint32_t segment) const {
    return segments_[segment].blocks;
  }
  // The oldest closed segment is no longer the log's; become_ready() follows, perhaps much later.
  void take_back(std::uint32_t segment);
  void become_ready(std::uint32_t segment, std::uint64_t generation);
  // Closes the open segment, so that it can be taken back. False when there is none that holds
  // anything.
  bool close_open();
  // Segments that hold nothing.
  [[nodiscard]] std::size_t free_count() const { return ready_.size() + blank_.size(); }

 private:
  struct Pending {
    Record record;
    TombstoneDone done;
  };
  struct Segment {
    std::uint64_t generation = 0;
    std::uint32_t next_page = 1;    // where the next block goes
    std::uint32_t index_pages = 0;  // written
    std::uint32_t tombstones = 0;   // in the index pages written
    std::uint32_t writes = 0;       // of blocks, under way
    std::uint32_t reads = 0;
    bool closed = false;
    bool bad = false;  // takes no more index pages
    bool due = false;  // its records wait no longer
    std::vector<Pending> pending;
    std::unique_ptr<std::vector<Pending>> writing;  // the records of the index page under way
    TimerId timer = 0;
    std::vector<Placed> blocks;
  };

  struct PageWrite;

  [[nodiscard]] bool fits(const Segment& segment, std::uint32_t pages) const;
  bool open_next();
  void close(std::uint32_t number);
  void add(std::uint32_t number, Pending pending);
  void house_homeless();
  void pump(std::uint32_t number);
  void start_timer(std::uint32_t number);
  void begin_index_page(std::uint32_t number);
  void write_index_page(const std::shared_ptr<PageWrite>& page);
  void make_sure(const std::shared_ptr<PageWrite>& page);
  void try_again(const std::shared_ptr<PageWrite>& page);
  void index_page_done(const PageWrite& written);
  void index_page_lost(std::uint32_t number);
  void fail_pending(std::vector<Pending> lost);

  Executor& executor_;
  DeviceIo& io_;
  const Superblock& super_;
  std::uint64_t index_flush_ms_;
  Hooks hooks_;
  std::vector<Segment> segments_;
  std::deque<std::uint32_t> blank_;
  std::deque<std::uint32_t> ready_;
  std::deque<std::uint32_t> closed_;  // oldest generation first
  std::uint32_t open_;
  std::deque<Pending> homeless_;
  std::uint64_t unwritten_records_ = 0;
  std::uint64_t lost_records_ = 0;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace memkv::engine
