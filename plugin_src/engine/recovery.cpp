#include "engine/recovery.h"

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/mutant.h"
#include "engine/boot.h"

namespace memkv::engine {
namespace {

constexpr std::uint32_t kHeadersInFlight = 32;
constexpr std::size_t kSegmentsInFlight = 16;
constexpr std::uint32_t kChunkPages = 16;
constexpr int kLooks = 3;

// What the index pages of one segment say.
struct Scan {
  std::uint32_t segment = 0;
  std::uint64_t generation = 0;
  bool tombstones_only = false;  // its header is damaged
  std::vector<IndexPage> pages;  // in order; some may be missing
  std::uint32_t next = 0;        // the next index page to look at
  bool hole = false;             // an index page was not valid, and none behind it was seen yet
  int looks_left = kLooks;
  bool finished = false;
};

struct Recovery : std::enable_shared_from_this<Recovery> {
  Recovery(DeviceIo& device, const Superblock& superblock, std::uint64_t index_entries_max,
           const StoreRules& rules, std::move_only_function<void(Result<Recovered>)> tell)
      : io(device), super(superblock), done(std::move(tell)), result{Index(index_entries_max), {}} {
    result.index.accounts().apply(Rules(rules));
  }

  DeviceIo& io;
  const Superblock super;
  std::move_only_function<void(Result<Recovered>)> done;
  Recovered result;
  std::uint32_t next_header = 0;
  std::uint32_t headers_in_flight = 0;
  std::vector<std::shared_ptr<Scan>>
      found;  // segments with a life, sorted by it before they are scanned
  std::size_t next_scan = 0;
  std::deque<std::shared_ptr<Scan>> scanning;  // applied from the front
  std::size_t first_emptied = 0;  // of result.closed: before it, all is gone from the index
  std::uint32_t headers_done = 0;
  std::size_t applied = 0;  // of `found`
  std::uint64_t told_ns = 0;
  Status failure;

  void start() {
    told_ns = io.clock().now_ns();
    read_headers();
  }

  // Whoever waits for a large device hears that it goes on.
  void tell(std::size_t count, std::size_t all, const char* what) {
    const std::uint64_t now = io.clock().now_ns();
    if (now - told_ns < kRecoveryTellMs * kNsPerMs) return;
    told_ns = now;
    log(LogLevel::info, io.device().name() + " is recovered: " + std::to_string(count) + " of " +
                            std::to_string(all) + what + ", " +
                            std::to_string(result.index.size()) + " blocks so far");
  }

  void failed(const Status& status) {
    if (failure.code == Code::ok) failure = status;
  }
  void finish_failed() {
    if (done) std::exchange(done, nullptr)(fail(failure));
  }

  // ---- 1. the headers

  void read_headers() {
    while (next_header < super.segments && headers_in_flight < kHeadersInFlight &&
           failure.code == Code::ok) {
      ++headers_in_flight;
      look_at_header(next_header++, kLooks);
    }
    if (headers_in_flight > 0) return;
    if (failure.code != Code::ok) return finish_failed();
    std::ranges::sort(found, {}, [](const auto& scan) { return scan->generation; });
    scan_more();
  }

  void look_at_header(std::uint32_t segment, int looks_left) {
    auto page = std::make_shared<AlignedBuffer>();
    read_stubbornly(io, super.place(segment), page,
                    [self = shared_from_this(), segment, looks_left, page](Result<void> read) {
                      if (!read) return self->header_done(read.error());
                      const auto header = decode_segment_header(page->page());
                      if (header && header->uuid == self->super.uuid && header->number == segment) {
                        self->found_life(segment, header->generation, false);
                        return self->header_done({});
                      }
                      if (looks_left > 1) return self->look_at_header(segment, looks_left - 1);
                      self->look_behind_header(segment);
                    });
  }

  // No valid header: never used, or damaged. Then its first index page knows the generation.
  void look_behind_header(std::uint32_t segment) {
    auto page = std::make_shared<AlignedBuffer>();
    read_stubbornly(io, super.place(segment, super.segment_pages() - 1), page,
                    [self = shared_from_this(), segment, page](Result<void> read) {
                      if (!read) return self->header_done(read.error());
                      const auto index =
                          decode_index_page(page->page(), self->super.segment_pages());
                      if (index && index->uuid == self->super.uuid && index->segment == segment) {
                        self->found_life(segment, index->generation, true);
                      }
                      self->header_done({});
                    });
  }

  void found_life(std::uint32_t segment, std::uint64_t generation, bool tombstones_only) {
    // A life that is yet to come is no life of this store.
    if (generation < super.oldest_generation || generation >> 32 > super.boot) return;
    auto scan = std::make_shared<Scan>();
    scan->segment = segment;
    scan->generation = generation;
    scan->tombstones_only = tombstones_only;
    found.push_back(std::move(scan));
  }

  void header_done(const Status& status) {
    --headers_in_flight;
    if (!status.good()) failed(status);
    tell(++headers_done, super.segments, " segments' headers are read");
    read_headers();
  }

  // ---- 2. the index pages, several segments at a time, applied in order

  void scan_more() {
    while (!scanning.empty() && scanning.front()->finished) {
      if (failure.code == Code::ok) apply(*scanning.front());
      scanning.pop_front();
      tell(++applied, found.size(), " segments' indices are read");
    }
    while (next_scan < found.size() && scanning.size() < kSegmentsInFlight &&
           failure.code == Code::ok) {
      scanning.push_back(std::move(found[next_scan++]));  // its pages go when they are applied
      read_chunk(scanning.back());
    }
    if (!scanning.empty()) return;
    if (failure.code != Code::ok) return finish_failed();
    if (done) std::exchange(done, nullptr)(std::move(result));
  }

  void read_chunk(const std::shared_ptr<Scan>& scan) {
    // Page 0 is the header; index pages end above it at the latest.
    const std::uint32_t left = super.segment_pages() - 1 - scan->next;
    const std::uint32_t count = std::min(left, kChunkPages);
    if (count == 0) return scanned(*scan);
    const std::uint32_t lowest = super.segment_pages() - scan->next - count;
    auto chunk = std::make_shared<AlignedBuffer>(count * kPageBytes);
    read_stubbornly(io, super.place(scan->segment, lowest), chunk,
                    [self = shared_from_this(), scan, chunk, count](Result<void> read) {
                      if (!read) {
                        self->failed(read.error());
                        return self->scanned(*scan);
                      }
                      self->look_at_chunk(scan, *chunk, count);
                    });
  }

  void look_at_chunk(const std::shared_ptr<Scan>& scan, AlignedBuffer& chunk, std::uint32_t count) {
    const std::uint32_t begin = scan->next;
    for (std::uint32_t i = 0; i < count; ++i) {
      auto page = decode_index_page(chunk.page(count - 1 - i), super.segment_pages());
      if (page && belongs(*page, *scan, begin + i)) {
        scan->pages.push_back(std::move(*page));
        scan->hole = false;
        scan->next = begin + i + 1;
        scan->looks_left = kLooks;
        continue;
      }
      if (!scan->hole && --scan->looks_left > 0) return read_chunk(scan);
      scan->hole = true;
    }
    // A hole with something else than index pages behind it is the end.
    const std::uint32_t seen_behind = begin + count - scan->next;
    scan->looks_left = kLooks;
    if (scan->hole && (seen_behind > 1 || begin + count + 1 >= super.segment_pages())) {
      return scanned(*scan);
    }
    if (scan->hole) scan->next = begin + count;
    read_chunk(scan);
  }

  [[nodiscard]] bool belongs(const IndexPage& page, const Scan& scan, std::uint32_t number) const {
    const bool generation_holds =
        page.generation == scan.generation || mutant(Mutant::ignore_generation);
    return page.uuid == super.uuid && page.segment == scan.segment && generation_holds &&
           page.sequence == number;
  }

  void scanned(Scan& scan) {
    scan.finished = true;
    scan_more();
  }

  // ---- 3. the records

  void apply(const Scan& scan) {
    ClosedSegment closed{scan.segment, scan.generation, {}};
    result.closed.push_back({});  // its place, so that its own blocks can make room too
    std::uint32_t tombstones = 0;
    for (const IndexPage& page : scan.pages) {
      if (page.tombstones_before != tombstones && !mutant(Mutant::ignore_generation)) {
        forget_all(closed);
        tombstones = page.tombstones_before;
      }
      for (const Record& record : page.records) {
        if (record.incarnation >> kIncarnationBits > super.boot) continue;
        if (record.kind == RecordKind::tombstone) {
          ++tombstones;
          apply_tombstone(record);
        } else if (!scan.tombstones_only) {
          apply_block(record, closed);
        }
      }
    }
    result.closed.pop_back();
    if (!scan.pages.empty()) result.closed.push_back(std::move(closed));
  }

  // A tombstone was lost: whatever it may have killed is doubtful.
  void forget_all(ClosedSegment& current) {
    log(LogLevel::warning, io.device().name() + ": an index page of segment " +
                               std::to_string(current.number) +
                               " is damaged; what was written before it is forgotten");
    result.index.clear();
    for (ClosedSegment& closed : result.closed) closed.blocks.clear();
    current.blocks.clear();
  }

  void apply_tombstone(const Record& record) {
    const Entry* entry = result.index.find(record.fingerprint);
    if (entry != nullptr && entry->incarnation <= record.incarnation) {
      result.index.erase(record.fingerprint);
    }
  }

  void apply_block(const Record& record, ClosedSegment& closed) {
    // A real segment never holds more.
    if (closed.blocks.size() >= super.segment_pages() / 2) return;
    const Entry* known = result.index.find(record.fingerprint);
    if (known != nullptr && known->incarnation > record.incarnation) return;
    if (known == nullptr && result.index.full() && !make_room()) return;
    const AccountId account = result.index.accounts().of(record.tenant, record.space);
    Entry& entry = result.index.insert(record.fingerprint, record.length, account);
    entry.incarnation = record.incarnation;
    entry.depth = record.depth;
    entry.put_s = record.put_s;
    entry.segment = closed.number;
    entry.page = record.page;
    closed.blocks.push_back({record.fingerprint, record.page});
    result.index.line_up(entry);
  }

  // The index is full: the oldest segment's blocks leave it. False when only the current one's are
  // left.
  bool make_room() {
    for (; result.index.full() && first_emptied + 1 < result.closed.size(); ++first_emptied) {
      ClosedSegment& oldest = result.closed[first_emptied];
      for (const Placed& placed : oldest.blocks) {
        const Entry* entry = result.index.find(placed.fingerprint);
        if (entry != nullptr && entry->segment == oldest.number && entry->page == placed.page) {
          result.index.erase(placed.fingerprint);
        }
      }
      oldest.blocks.clear();
    }
    return !result.index.full();
  }
};

}  // namespace

void recover(DeviceIo& io, const Superblock& super, std::uint64_t index_entries_max,
             const StoreRules& rules, std::move_only_function<void(Result<Recovered>)> done) {
  std::make_shared<Recovery>(io, super, index_entries_max, rules, std::move(done))->start();
}

}  // namespace memkv::engine
