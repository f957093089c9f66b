#include "engine/reclaimer.h"

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "engine/boot.h"

namespace memkv::engine {
namespace {

constexpr int kHeaderTries = 3;
constexpr std::size_t kKeepsInFlight = 8;

}  // namespace

bool Reclaimer::wanted() const {
  return core_.log.ready_count() == 0 || index_pressed_();
}

void Reclaimer::kick() {
  if (state_ == State::draining) return drain();
  if (state_ != State::idle || !wanted()) return;
  if (core_.executor.clock().now_ns() < retry_at_ns_) {
    // It failed a moment ago, and a timer is set; whoever came since does not wait for that.
    return turn_away();
  }
  start();
}

void Reclaimer::start() {
  taking_back_ = core_.log.ready_count() > 0;  // then the index is full, and a blank one is no help
  if (!taking_back_) {
    if (const auto blank = next_blank()) {
      segment_ = *blank;
      state_ = State::readying;
      return ready_header(kHeaderTries);
    }
    taking_back_ = true;
  }
  const bool hungry = writer_.starving() || core_.log.tombstones_wait() || index_pressed_();
  auto oldest = core_.log.oldest_closed();
  if (!oldest) {
    if (!hungry) return;
    if (!core_.log.close_open()) return give_up();
    oldest = core_.log.oldest_closed();
  }
  if (!core_.log.settled(*oldest)) return;  // the log nudges when it is
  segment_ = *oldest;
  state_ = State::keeping;
  choose_survivors();
  keep_next();
}

std::optional<std::uint32_t> Reclaimer::next_blank() {
  if (const auto blank = core_.log.take_blank()) return blank;
  if (set_aside_.empty() || set_aside_.front().until_ns > core_.executor.clock().now_ns()) {
    return std::nullopt;
  }
  const std::uint32_t segment = set_aside_.front().segment;
  set_aside_.pop_front();
  return segment;
}

void Reclaimer::choose_survivors() {
  struct Candidate {
    Placed placed;
    bool in_quota;  // these come first, and have more room
    std::uint32_t depth;
    std::uint64_t bytes;
  };
  std::vector<Candidate> candidates;
  const Accounts& accounts = core_.index.accounts();
  const std::uint64_t now_ns = core_.executor.clock().now_ns();
  for (const Placed& placed : core_.log.blocks(segment_)) {
    const Entry* entry = core_.entry_at(placed.fingerprint, segment_, placed.page);
    if (entry == nullptr || !entry->wanted(now_ns)) continue;
    if (accounts.is_over(entry->account) || core_.outlived(*entry)) continue;
    candidates.push_back({placed, accounts.within_quota(entry->account), entry->depth,
                          block_pages(entry->length) * kPageBytes});
  }
  std::ranges::stable_sort(candidates, {}, [](const Candidate& candidate) {
    return std::pair(!candidate.in_quota, candidate.depth);
  });
  const std::uint64_t percent = core_.super.segment_bytes / 100;
  const std::uint64_t room = percent * core_.options.rewrite_percent;
  const std::uint64_t room_in_quota = std::max(room, percent * kKeptPercentMax);
  std::uint64_t used = 0;
  survivors_.clear();
  next_survivor_ = 0;
  for (const Candidate& candidate : candidates) {
    if (used + candidate.bytes > (candidate.in_quota ? room_in_quota : room)) continue;
    used += candidate.bytes;
    survivors_.push_back(candidate.placed);
  }
}

void Reclaimer::keep_next() {
  while (keeping_ < kKeepsInFlight && next_survivor_ < survivors_.size()) {
    ++keeping_;
    keep(survivors_[next_survivor_++]);
  }
  if (keeping_ > 0 || state_ != State::keeping) return;
  state_ = State::readying;
  ready_header(kHeaderTries);
}

void Reclaimer::kept() {
  --keeping_;
  core_.post([this] {
    if (state_ == State::keeping) keep_next();
  });
}

// Brings a survivor into DRAM, if it is not there, and from there to the tail.
void Reclaimer::keep(const Placed& placed) {
  Entry* entry = core_.entry_at(placed.fingerprint, segment_, placed.page);
  if (entry == nullptr) return kept();
  auto on_load = [this, placed](Code code, std::uint32_t slot) { loaded(placed, code, slot); };
  if (entry->resident != kNone) {
    if (core_.residents.at(entry->resident).state == ResidentState::loading) {
      return reader_.join(entry->resident, on_load);
    }
    move_to_tail(*entry);
    return kept();
  }
  memory_.ask_to_keep(arena_pages(entry->length),
                      [this, placed, on_load](std::optional<Memory> memory) {
                        if (!memory) return kept();
                        Entry* still = core_.entry_at(placed.fingerprint, segment_, placed.page);
                        if (still != nullptr && still->resident == kNone) {
                          return reader_.load(*still, Share::put, std::move(*memory), on_load);
                        }
                        core_.residents.give_back(Share::put, *memory);
                        if (still == nullptr) return kept();
                        keep(placed);
                      });
}

void Reclaimer::loaded(const Placed& placed, Code code, std::uint32_t slot) {
  if (code == Code::ok) {
    Entry* entry = core_.entry_at(placed.fingerprint, segment_, placed.page);
    if (entry != nullptr && entry->resident == slot) move_to_tail(*entry);
    core_.residents.unuse(slot);
  }
  kept();
}

void Reclaimer::move_to_tail(Entry& entry) {
  ++core_.stats.rewritten_blocks;
  core_.stats.rewritten_bytes += entry.length;
  entry.segment = kNone;
  entry.hit = false;
  const std::uint32_t slot = entry.resident;
  core_.residents.become(slot, ResidentState::dirty);
  writer_.enqueue(slot, 0);
}

struct Reclaimer::Attempt {
  AlignedBuffer written;
  AlignedBuffer found;
  int tries_left = 0;
};

// Writes the header of the new generation, flushes, reads it back and compares.
void Reclaimer::ready_header(int tries_left) {
  generation_ = core_.next_generation++;
  auto attempt = std::make_shared<Attempt>();
  attempt->tries_left = tries_left;
  encode(SegmentHeader{segment_, core_.super.uuid, generation_}, attempt->written.page());
  core_.io.write(core_.super.place(segment_), {attempt->written.piece()},
                 [this, attempt](Result<void> written) {
                   if (!written) return header_failed(attempt->tries_left);
                   core_.io.flush([this, attempt](Result<void> flushed) {
                     if (!flushed) return header_failed(attempt->tries_left);
                     read_back(attempt);
                   });
                 });
}

void Reclaimer::read_back(const std::shared_ptr<Attempt>& attempt) {
  core_.io.read(core_.super.place(segment_), {attempt->found.piece()},
                [this, attempt](Result<void> read) {
                  if (!read || !std::ranges::equal(attempt->written.all(), attempt->found.all())) {
                    return header_failed(attempt->tries_left);
                  }
                  headers_failed_in_row_ = 0;
                  if (taking_back_) evict_rest();
                  state_ = State::draining;
                  drain();
                });
}

void Reclaimer::header_failed(int tries_left) {
  if (tries_left > 1) return ready_header(tries_left - 1);
  if (taking_back_) return retire();
  set_aside();
}

// The old header cannot be overwritten: the superblock says that its generation is dead.
void Reclaimer::retire() {
  Superblock next = core_.super;
  next.oldest_generation = core_.log.generation(segment_) + 1;
  write_superblock(core_.io, next, core_.guarded([this, next](Result<void> written) {
    if (!written) return give_up();
    log(LogLevel::warning, "segment " + std::to_string(segment_) + " of " +
                               core_.io.device().name() + " takes no new header and is set aside");
    core_.super.oldest_generation = next.oldest_generation;
    evict_rest();
    set_aside();
  }));
}

// One bad place is no reason to wait; two in a row are a device that fails.
void Reclaimer::set_aside() {
  set_aside_.push_back({segment_, core_.executor.clock().now_ns() + kSetAsideMs * kNsPerMs});
  if (++headers_failed_in_row_ > 1) {
    headers_failed_in_row_ = 0;
    return give_up();
  }
  state_ = State::idle;
  core_.nudge();
}

void Reclaimer::evict_rest() {
  for (const Placed& placed : core_.log.blocks(segment_)) {
    const Entry* entry = core_.entry_at(placed.fingerprint, segment_, placed.page);
    if (entry == nullptr) continue;
    ++core_.stats.evicted_blocks;
    core_.stats.evicted_bytes += entry->length;
    core_.forget(placed.fingerprint);
  }
  core_.log.take_back(segment_);
}

void Reclaimer::drain() {
  if (core_.log.read_from(segment_)) return;  // the log nudges at the last read's end
  state_ = State::idle;
  core_.log.become_ready(segment_, generation_);
  core_.nudge();
}

void Reclaimer::give_up() {
  state_ = State::idle;
  retry_at_ns_ = core_.executor.clock().now_ns() + kReclaimRetryMs * kNsPerMs;
  (void)core_.executor.after(kReclaimRetryMs * kNsPerMs, core_.guarded([this] { core_.nudge(); }));
  turn_away();
  core_.nudge();
}

// Nobody waits for a segment that will not come. When there is one, the index was what failed.
void Reclaimer::turn_away() {
  if (core_.log.ready_count() > 0) return;
  writer_.give_up_waiting();
  core_.log.give_up_waiting();
}

}  // namespace memkv::engine
