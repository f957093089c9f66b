// Store: blocks in, blocks out; the one header of the engine.
//
// A block lands in the arena, is visible when all its bytes are there and agree with the writer's
// CRCs, goes to the log of segments on the device (docs/formats/segment.md), and is served from the
// arena or the device. The store may lose a block; it never hands out other bytes than those put
// under the whole identity (tenant, namespace, drop generation, key).
//
// Thread: the mind, for every call and every callback. A callback always comes from a later task,
// never from inside the call that asked for it. Offsets and lengths are bytes of the block.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/executor.h"
#include "base/histogram.h"
#include "base/identity.h"
#include "base/random.h"
#include "base/result.h"
#include "device/device.h"
#include "engine/rules.h"

namespace memkv {

struct StoreOptions {
  bool format = false;  // overwrite whatever the device holds
  std::uint64_t segment_bytes =
      0;  // 0: chosen from the capacity; only tests ask for less than kSegmentBytesMin
  std::uint64_t index_entries_max = 0;  // 0: chosen from the capacity
  std::uint64_t index_flush_ms = 50;    // a group of index records waits at most so long
  std::uint32_t rewrite_percent =
      12;  // of a segment's bytes that may move to the tail when it is reclaimed
  std::uint64_t write_budget = 0;  // bytes a day to the device before Admission::budget takes no
                                   // more blocks; 0: the device's capacity
  std::uint32_t fingerprint_bits = 128;  // fewer only in tests, to make fingerprints collide
  StoreRules rules;  // that hold from the beginning: what lies on the device is counted by them
};

struct Found {
  bool present = false;
  bool in_dram = false;
  std::uint8_t mark = 0;
  std::uint32_t length = 0;
};

using PutId = std::uint64_t;
struct Grant {
  PutId put = 0;
  std::vector<iovec> pieces;  // arena memory for exactly the block's bytes, in order; the caller's
                              // to fill until commit or abort
};

using GetId = std::uint64_t;
struct Pinned {
  GetId get = 0;
  std::uint64_t incarnation = 0;
  std::uint32_t block_length = 0;
  std::uint32_t first_unit = 0;
  std::uint8_t mark = 0;
  std::vector<iovec>
      pieces;  // the whole units that cover the range, verified, in order; unchanged until end_get
  std::span<const std::uint32_t> crcs;  // the writer's, one a unit; live until end_get
};

// What list() is to name.
struct Wish {
  TenantId tenant = 0;
  std::uint64_t cursor = 0;     // 0: from the first on
  std::uint32_t count = 0;      // at most; at least 1
  std::uint8_t reads_min = 0;   // only those that were read so often lately
  std::uint8_t mark_not = 0;    // only those that carry another mark than this; 0: any
  std::uint8_t copies_min = 0;  // only those whose rule wants so many copies at least; 0: any
  bool in_dram = false;         // only those that are
};
struct ListedBlock {
  Namespace space;
  std::vector<std::byte> key;
  std::uint64_t incarnation = 0;
  std::uint32_t length = 0;
  BlockTraits traits;
  std::uint8_t reads = 0;
  std::uint8_t mark = 0;
};
struct Listing {
  std::vector<ListedBlock> blocks;
  std::uint64_t next = 0;  // the cursor to go on with; 0: that was all
};

struct MemoryWanted {
  bool of_puts = false;  // that is granted, and whose bytes have not all come
  bool of_gets = false;  // that is pinned until it was sent
  [[nodiscard]] bool any() const { return of_puts || of_gets; }
};

struct StoreStats {
  std::uint64_t boot = 0;
  std::uint64_t capacity_bytes = 0, arena_bytes = 0, segment_bytes = 0, segments = 0,
                segments_free = 0;
  std::uint64_t blocks = 0, block_bytes = 0, dram_blocks = 0, dirty_bytes = 0;
  std::uint64_t puts = 0, puts_exist = 0, puts_conflict = 0, puts_busy = 0, puts_rejected = 0,
                puts_aborted = 0;
  std::uint64_t puts_ended = 0, puts_over_quota = 0, puts_not_admitted = 0, expired_blocks = 0,
                quota_evicted_blocks = 0, ended_blocks = 0;
  std::uint64_t gets = 0, hits_dram = 0, hits_flash = 0, misses = 0, corrupt = 0, foreign = 0;
  std::uint64_t evicted_blocks = 0, rewritten_blocks = 0, lost_blocks = 0, dropped_blocks = 0;
  std::uint64_t device_bytes_written = 0, device_bytes_read = 0, device_errors = 0;
  std::uint64_t recovered_blocks = 0, recovery_ms = 0, puts_waiting = 0, gets_waiting = 0;
  std::uint64_t records_waiting = 0;
  std::uint64_t put_bytes = 0, rewritten_bytes = 0, evicted_bytes = 0, device_operations = 0;
  CopyCounts copies;
  Histogram device_reads, device_writes;
  RulesUsage usage;
};

class Store {
 public:
  // Reads what the device holds and opens it, or formats it when it is blank or `format` is set.
  // Statuses, each with the sentence that helps: invalid (the device holds something else, belongs
  // to a newer format, is too small, or the arena is), device_error.
  static void open(const StoreOptions& options, Device& device, Arena& arena, Executor& executor,
                   Random& random,
                   std::move_only_function<void(Result<std::unique_ptr<Store>>)> opened);

  // Without close() it is a crash as far as the device can tell. Callbacks that have not come do
  // not come.
  virtual ~Store() = default;

  // Refuses new work (shutdown), writes what is only in DRAM and the index, then calls `closed`.
  virtual void close(std::move_only_function<void(Result<void>)> closed) = 0;

  // From now on these rules hold, and no others:
  // - A namespace with a rule has one drop generation, the rule's. Nothing of another one is here
  //   for anybody from this call on; what there is of them is taken out, a slice a task.
  // - A block that is older than its namespace's TTL, by the wall clock, is not here. Nor is one
  //   that was put more than kClockBackSMax in the future: its age is not known.
  // - Over a quota, blocks of the same namespace (or of the tenant's largest) go, the longest there
  //   first, those that were hit since their turn came last time later, the newest last. In DRAM
  //   the tenant that has most of the cache makes room; on the device, blocks that were hit move on
  //   within kKeptPercentMax of a segment where their namespace or tenant has a quota.
  // - Copies are made by others: the store tells by list() and copies() which blocks want one.
  // - Admission::second_touch takes a block at its second put within the last kTouchesMax, about;
  //   Admission::budget only while the device was written less than StoreOptions::write_budget.
  virtual void set_rules(StoreRules rules) = 0;

  // Is the block here? Advisory (fingerprints only), touches what it finds, and with `hold_ms`
  // keeps it from eviction for that long where it can.
  [[nodiscard]] virtual Found match(const BlockId& id, std::uint64_t hold_ms) = 0;

  // Asks for a place for a new block. Copies `id`. `granted` gets the memory, perhaps after a wait
  // for other blocks to reach the device, or: exists, conflict, busy (its first put is in flight,
  // or its drop generation has not begun here), denied (its drop generation is over), invalid (key
  // or length of 0 or too long), no_space (larger than a segment, the arena or its quota can take,
  // or its namespace does not take every block), shutdown.
  virtual PutId begin_put(const BlockId& id, std::uint32_t length, const BlockTraits& traits,
                          std::move_only_function<void(Result<Grant>)> granted) = 0;

  // Publishes a granted block when the CRCs of what arrived are the writer's; gives its
  // incarnation. Either way the put is over. Statuses: corrupt (they differ), invalid (their number
  // is wrong).
  [[nodiscard]] virtual Result<std::uint64_t> commit_put(
      PutId put, std::span<const std::uint32_t> arrived,
      std::span<const std::uint32_t> written) = 0;

  // Ends a put that was granted or still waits; its callback does not come any more. The caller no
  // longer touches the memory.
  virtual void abort_put(PutId put) = 0;

  // Brings the units that cover [offset, offset + length) into DRAM, verified, and pins them.
  // Statuses: not_found (also: not yours, being put, just failed a check), corrupt (failed its
  // check now and was taken out), invalid (range outside of the block; the sentence has the
  // length), device_error, shutdown.
  virtual GetId begin_get(const BlockId& id, std::uint32_t offset, std::uint32_t length,
                          std::move_only_function<void(Result<Pinned>)> got) = 0;

  // Unpins; before `got` has come it cancels, and `got` does not come any more.
  virtual void end_get(GetId get) = 0;

  // Takes a block out. When `dropped` says ok, no restart brings it back. Statuses: ok, not_found,
  // busy (being put), device_error.
  virtual void drop(const BlockId& id, std::move_only_function<void(Code)> dropped) = 0;

  // A reader found this incarnation's bytes wrong: it is verified here, on every copy, and taken
  // out if they are.
  virtual void report(const BlockId& id, std::uint64_t incarnation) = 0;

  // Names blocks of a tenant, a part at a time, and none that is gone by the rules; what is on
  // flash only is named by its header there. Blocks that come, go or move in the index between the
  // parts may be missed or named twice. Statuses: shutdown.
  virtual void list(const Wish& wish, std::move_only_function<void(Result<Listing>)> listed) = 0;

  // Puts a mark on this very incarnation, for found blocks and list(): the store itself counts
  // kMarkOfCopied, does nothing else with it, and forgets it with the block or at a restart. False:
  // it is not here.
  [[nodiscard]] virtual bool mark(const BlockId& id, std::uint64_t incarnation,
                                  std::uint8_t mark) = 0;

  [[nodiscard]] virtual StoreStats stats() const = 0;

  // A put or a get waits for memory of the arena, and for nothing else: whose would help it?
  [[nodiscard]] virtual MemoryWanted memory_wanted() const = 0;

  // How far the copies of namespaces are that want two, of at most kSpacesCounted of them, by
  // tenant and id.
  [[nodiscard]] virtual std::vector<SpaceCopies> copies() const = 0;

  // A nudge from whoever wants to wait until the store is at rest (tests, benchmarks): `clean`
  // comes when nothing is dirty.
  virtual void when_clean(std::move_only_function<void()> clean) = 0;
};

}  // namespace memkv
