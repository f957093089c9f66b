#include "engine/segment_log.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "engine/index.h"

namespace memkv::engine {
namespace {

constexpr int kIndexPageTries = 3;

}  // namespace

SegmentLog::SegmentLog(Executor& executor, DeviceIo& io, const Superblock& super,
                       std::uint64_t index_flush_ms, Hooks hooks)
    : executor_(executor),
      io_(io),
      super_(super),
      index_flush_ms_(index_flush_ms),
      hooks_(std::move(hooks)),
      segments_(super.segments),
      open_(kNone) {}

void SegmentLog::adopt(std::uint32_t number, std::uint64_t generation, std::vector<Placed> blocks) {
  Segment& segment = segments_[number];
  segment.generation = generation;
  segment.closed = true;
  segment.blocks = std::move(blocks);
  closed_.push_back(number);
}

void SegmentLog::adopted() {
  for (std::uint32_t number = 0; number < segments_.size(); ++number) {
    if (!segments_[number].closed) blank_.push_back(number);
  }
}

// There is room for the pages and, in the worst case, an index page for each record: the two ends
// never meet.
bool SegmentLog::fits(const Segment& segment, std::uint32_t pages) const {
  const std::uint64_t index_pages =
      segment.index_pages + (segment.writing ? 1 : 0) + segment.pending.size() + segment.writes + 1;
  return !segment.bad && segment.next_page + pages + index_pages <= super_.segment_pages();
}

bool SegmentLog::open_next() {
  if (ready_.empty()) return false;
  const std::uint32_t before = std::exchange(open_, ready_.front());
  ready_.pop_front();
  if (before != kNone) close(before);
  hooks_.ready_taken();
  return true;
}

void SegmentLog::close(std::uint32_t number) {
  segments_[number].closed = true;
  closed_.push_back(number);
  pump(number);
}

bool SegmentLog::close_open() {
  if (open_ == kNone || segments_[open_].next_page == 1) return false;
  close(std::exchange(open_, kNone));
  return true;
}

std::optional<BlockPlace> SegmentLog::place(std::uint32_t pages) {
  if (open_ == kNone || !fits(segments_[open_], pages)) {
    if (!open_next()) return std::nullopt;
  }
  Segment& segment = segments_[open_];
  MEMKV_CHECK(fits(segment, pages), "a block that was let in fits into an empty segment");
  const BlockPlace place{open_, segment.next_page, segment.generation};
  segment.next_page += pages;
  ++segment.writes;
  return place;
}

void SegmentLog::written(const BlockPlace& place, const Record* record) {
  Segment& segment = segments_[place.segment];
  --segment.writes;
  if (record != nullptr) {
    segment.blocks.push_back({record->fingerprint, record->page});
    if (!segment.bad) add(place.segment, {*record, nullptr});
  }
  pump(place.segment);
}

void SegmentLog::tombstone(const Fingerprint& fingerprint, std::uint64_t incarnation,
                           TombstoneDone done) {
  if (homeless_.size() >= kTombstonesWaitingMax && done) {
    executor_.post([alive = std::weak_ptr<int>(alive_), done = std::move(done)]() mutable {
      if (!alive.expired()) done(false);
    });
    return;
  }
  if (homeless_.size() >= kTombstonesWaitingMax) return;
  Record record;
  record.fingerprint = fingerprint;
  record.incarnation = incarnation;
  record.kind = RecordKind::tombstone;
  homeless_.push_back({record, std::move(done)});
  house_homeless();
}

void SegmentLog::house_homeless() {
  while (!homeless_.empty()) {
    if (open_ == kNone || !fits(segments_[open_], 0)) {
      if (!open_next()) {
        hooks_.ready_taken();
        return;
      }
    }
    const std::uint32_t number = open_;
    Pending pending = std::move(homeless_.front());
    homeless_.pop_front();
    if (pending.done) segments_[number].due = true;
    add(number, std::move(pending));
    pump(number);
  }
}

void SegmentLog::give_up_waiting() {
  std::vector<TombstoneDone> waiting;
  for (Pending& pending : homeless_) {
    if (pending.done) waiting.push_back(std::move(pending.done));
  }
  homeless_.clear();
  for (TombstoneDone& done : waiting) done(false);
}

void SegmentLog::add(std::uint32_t number, Pending pending) {
  segments_[number].pending.push_back(std::move(pending));
  ++unwritten_records_;
}

void SegmentLog::flush_records() {
  for (std::uint32_t number = 0; number < segments_.size(); ++number) {
    if (segments_[number].pending.empty()) continue;
    segments_[number].due = true;
    pump(number);
  }
}

void SegmentLog::end_read(std::uint32_t segment) {
  --segments_[segment].reads;
  if (segments_[segment].reads == 0) hooks_.settled();
}

std::optional<std::uint32_t> SegmentLog::take_blank() {
  if (blank_.empty()) return std::nullopt;
  const std::uint32_t number = blank_.front();
  blank_.pop_front();
  return number;
}

std::optional<std::uint32_t> SegmentLog::oldest_closed() const {
  if (closed_.empty()) return std::nullopt;
  return closed_.front();
}

bool SegmentLog::settled(std::uint32_t number) const {
  const Segment& segment = segments_[number];
  return segment.closed && segment.writes == 0 && segment.pending.empty() && !segment.writing;
}

void SegmentLog::take_back(std::uint32_t number) {
  MEMKV_CHECK(settled(number), "only a settled segment is taken back");
  MEMKV_CHECK(!closed_.empty() && closed_.front() == number, "the oldest is taken back first");
  closed_.pop_front();
  segments_[number].blocks = {};
}

void SegmentLog::become_ready(std::uint32_t number, std::uint64_t generation) {
  Segment& segment = segments_[number];
  MEMKV_CHECK(segment.reads == 0, "a segment is used again when nobody reads it");
  executor_.cancel(segment.timer);
  segment = Segment{};
  segment.generation = generation;
  ready_.push_back(number);
  house_homeless();
}

// Writes the next index page of a segment when it is full or its records have waited long enough.
void SegmentLog::pump(std::uint32_t number) {
  Segment& segment = segments_[number];
  if (segment.writing) return;
  if (segment.bad && !segment.pending.empty()) {
    fail_pending(std::exchange(segment.pending, {}));
  }
  if (segment.pending.empty()) {
    segment.due = false;
    if (segment.writes == 0) hooks_.settled();
    return;
  }
  const bool last = segment.closed && segment.writes == 0;
  if (segment.due || last || segment.pending.size() >= kRecordsPerPage) {
    begin_index_page(number);
  } else {
    start_timer(number);
  }
}

void SegmentLog::start_timer(std::uint32_t number) {
  if (segments_[number].timer != 0) return;
  segments_[number].timer = executor_.after(index_flush_ms_ * kNsPerMs,
                                            [this, alive = std::weak_ptr<int>(alive_), number] {
                                              if (alive.expired()) return;
                                              segments_[number].timer = 0;
                                              segments_[number].due = true;
                                              pump(number);
                                            });
}

struct SegmentLog::PageWrite {
  std::uint32_t segment = 0;
  std::uint64_t offset = 0;
  std::uint32_t tombstones = 0;
  int tries_left = kIndexPageTries;
  AlignedBuffer written;
  AlignedBuffer found;
};

void SegmentLog::begin_index_page(std::uint32_t number) {
  Segment& segment = segments_[number];
  executor_.cancel(std::exchange(segment.timer, 0));
  const std::size_t count = std::min(segment.pending.size(), kRecordsPerPage);
  const auto middle = segment.pending.begin() + static_cast<std::ptrdiff_t>(count);
  segment.writing = std::make_unique<std::vector<Pending>>(
      std::move_iterator(segment.pending.begin()), std::move_iterator(middle));
  segment.pending.erase(segment.pending.begin(), middle);
  // Those left behind by a due page have their own waiters or wait for their own timer.
  segment.due = segment.due && !segment.pending.empty();

  IndexPage page;
  page.segment = number;
  page.uuid = super_.uuid;
  page.generation = segment.generation;
  page.sequence = segment.index_pages;
  page.tombstones_before = segment.tombstones;
  auto write = std::make_shared<PageWrite>();
  for (const Pending& pending : *segment.writing) {
    page.records.push_back(pending.record);
    if (pending.record.kind == RecordKind::tombstone) ++write->tombstones;
  }
  write->segment = number;
  write->offset = super_.place(number, super_.segment_pages() - 1 - segment.index_pages);
  encode(page, write->written.page());
  write_index_page(write);
}

void SegmentLog::write_index_page(const std::shared_ptr<PageWrite>& page) {
  io_.write(page->offset, {page->written.piece()}, [this, page](Result<void> written) {
    if (!written) return try_again(page);
    if (page->tombstones == 0) return index_page_done(*page);
    make_sure(page);
  });
}

// A page with a tombstone is flushed and read back before anybody is told and before the next one
// is written: if it were missing and its successor were not, recovery would have to doubt
// everything that the tombstone may have killed.
void SegmentLog::make_sure(const std::shared_ptr<PageWrite>& page) {
  io_.flush([this, page](Result<void> flushed) {
    if (!flushed) return try_again(page);
    io_.read(page->offset, {page->found.piece()}, [this, page](Result<void> read) {
      if (!read || !std::ranges::equal(page->written.all(), page->found.all())) {
        return try_again(page);
      }
      index_page_done(*page);
    });
  });
}

void SegmentLog::try_again(const std::shared_ptr<PageWrite>& page) {
  if (--page->tries_left > 0) return write_index_page(page);
  index_page_lost(page->segment);
}

void SegmentLog::index_page_done(const PageWrite& written) {
  Segment& segment = segments_[written.segment];
  const std::unique_ptr<std::vector<Pending>> page = std::move(segment.writing);
  ++segment.index_pages;
  segment.tombstones += written.tombstones;
  unwritten_records_ -= page->size();
  for (Pending& pending : *page) {
    if (pending.done) pending.done(true);
  }
  hooks_.settled();
  pump(written.segment);
}

void SegmentLog::index_page_lost(std::uint32_t number) {
  Segment& segment = segments_[number];
  const std::unique_ptr<std::vector<Pending>> page = std::move(segment.writing);
  segment.bad = true;
  if (open_ == number) {
    open_ = kNone;
    segment.closed = true;
    closed_.push_back(number);
  }
  fail_pending(std::move(*page));
  pump(number);
}

// Records that found no page. Blocks are not found after a restart, which is allowed. A tombstone
// is tried once more in a younger segment, but nobody is kept waiting for that.
void SegmentLog::fail_pending(std::vector<Pending> lost) {
  unwritten_records_ -= lost.size();
  std::vector<TombstoneDone> waiting;
  for (Pending& pending : lost) {
    if (pending.record.kind != RecordKind::tombstone) {
      ++lost_records_;
      continue;
    }
    if (pending.done) waiting.push_back(std::move(pending.done));
    if (homeless_.size() < kTombstonesWaitingMax) homeless_.push_back({pending.record, nullptr});
  }
  house_homeless();
  for (TombstoneDone& done : waiting) done(false);
}

}  // namespace memkv::engine
