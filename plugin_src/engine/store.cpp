// The engine, put together: opening, and one method of Store after the other.
#include "engine/store.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "engine/boot.h"
#include "engine/core.h"
#include "engine/gets.h"
#include "engine/lister.h"
#include "engine/memory_queue.h"
#include "engine/puts.h"
#include "engine/quotas.h"
#include "engine/reader.h"
#include "engine/reclaimer.h"
#include "engine/recovery.h"
#include "engine/writer.h"

namespace memkv {
namespace {

using namespace engine;

constexpr std::uint64_t kBytesPerIndexEntry = 64 * kKiB;
constexpr std::uint64_t kIndexEntriesMin = 64 * kKiB;
constexpr std::uint32_t kTestArenaPagesMin = 4;

class StoreImpl final : public Store {
 public:
  StoreImpl(const StoreOptions& options, const Superblock& super, Recovered recovered,
            Device& device, Arena& arena, Executor& executor);

  void close(std::move_only_function<void(Result<void>)> closed) override;
  void set_rules(StoreRules rules) override {
    core_.index.accounts().apply(Rules(std::move(rules)));
    core_.nudge();
  }
  Found match(const BlockId& id, std::uint64_t hold_ms) override;
  PutId begin_put(const BlockId& id, std::uint32_t length, const BlockTraits& traits,
                  std::move_only_function<void(Result<Grant>)> granted) override {
    return puts_.begin(id, length, traits, std::move(granted));
  }
  Result<std::uint64_t> commit_put(PutId put, std::span<const std::uint32_t> arrived,
                                   std::span<const std::uint32_t> written) override {
    return puts_.commit(put, arrived, written);
  }
  void abort_put(PutId put) override { puts_.abort(put); }
  GetId begin_get(const BlockId& id, std::uint32_t offset, std::uint32_t length,
                  std::move_only_function<void(Result<Pinned>)> got) override {
    return gets_.begin(id, offset, length, std::move(got));
  }
  void end_get(GetId get) override { gets_.end(get); }
  void drop(const BlockId& id, std::move_only_function<void(Code)> dropped) override;
  void report(const BlockId& id, std::uint64_t incarnation) override {
    gets_.report(id, incarnation);
  }
  void list(const Wish& wish, std::move_only_function<void(Result<Listing>)> listed) override;
  bool mark(const BlockId& id, std::uint64_t incarnation, std::uint8_t mark) override;
  StoreStats stats() const override;
  MemoryWanted memory_wanted() const override {
    return {.of_puts = memory_.wants(Share::put), .of_gets = memory_.wants(Share::get)};
  }
  std::vector<SpaceCopies> copies() const override { return core_.index.accounts().copies(); }
  void when_clean(std::move_only_function<void()> tell) override;

  // What opening took of the device and of time.
  void set_opening(const StoreStats& opening, std::uint64_t took_ms) {
    core_.stats.recovery_ms = took_ms;
    core_.stats.device_bytes_read += opening.device_bytes_read;
    core_.stats.device_bytes_written += opening.device_bytes_written;
    core_.stats.device_errors += opening.device_errors;
  }

 private:
  [[nodiscard]] Entry* find(const BlockId& id);
  void drop_absent(const BlockId& id, std::move_only_function<void(Code)> dropped);
  void kill(const Fingerprint& print, std::uint64_t incarnation,
            std::move_only_function<void(Code)> dropped);
  void answer(std::move_only_function<void(Code)> tell, Code code);
  [[nodiscard]] std::uint64_t lost() const {
    return core_.stats.lost_blocks + core_.log.lost_records();
  }
  [[nodiscard]] MemoryQueue::Limits limits();
  // Every part looks at what changed.
  void progress();
  [[nodiscard]] bool clean() const { return writer_.at_rest() && core_.log.at_rest(); }
  void go_on_closing();
  void finish_closing(Result<void> flushed);

  Core core_;
  MemoryQueue memory_;
  Reader reader_;
  Writer writer_;
  Puts puts_;
  Gets gets_;
  Lister lister_;
  Reclaimer reclaimer_;
  Quotas quotas_;
  std::vector<std::move_only_function<void()>> waiting_clean_;
  std::move_only_function<void(Result<void>)> closed_;
  enum class Life : std::uint8_t { open, closing, flushing, closed } life_ = Life::open;
  std::uint64_t lost_before_close_ = 0;
  // Drops that could not be made durable: the block is gone from here, but a restart may bring it
  // back, so a second drop has something to do.
  std::map<Fingerprint, std::uint64_t> failed_drops_;
};

StoreImpl::StoreImpl(const StoreOptions& options, const Superblock& super, Recovered recovered,
                     Device& device, Arena& arena, Executor& executor)
    : core_(options, super, std::move(recovered.index), device, arena, executor),
      memory_(core_.residents, limits()),
      reader_(core_),
      writer_(core_),
      puts_(core_, memory_, writer_),
      gets_(core_, memory_, reader_),
      lister_(core_, reader_),
      reclaimer_(core_, reader_, writer_, memory_,
                 [this] { return memory_.puts_waiting() > 0 && puts_.index_is_full(); }),
      quotas_(core_) {
  core_.progress = [this] { progress(); };
  core_.stats.recovered_blocks = core_.index.size();
  for (ClosedSegment& segment : recovered.closed) {
    core_.log.adopt(segment.number, segment.generation, std::move(segment.blocks));
  }
  core_.log.adopted();
  core_.nudge();
}

MemoryQueue::Limits StoreImpl::limits() {
  return {.puts_held_back = [this] { return puts_.index_is_full(); },
          .gets_held_back = [this] { return reader_.in_flight() >= kDeviceQueueDepth; },
          .memory_will_come = [this] { return writer_.writing() > 0; }};
}

void StoreImpl::progress() {
  if (life_ == Life::open || life_ == Life::closing) {
    writer_.pump();
    reclaimer_.kick();
    memory_.pump();
  }
  if (life_ == Life::open) quotas_.pump();
  if (clean()) {
    for (auto& tell : std::exchange(waiting_clean_, {})) core_.post(std::move(tell));
  }
  if (life_ == Life::closing) go_on_closing();
}

Entry* StoreImpl::find(const BlockId& id) {
  if (id.key.empty() || id.key.size() > kKeyBytesMax) return nullptr;
  Entry* entry = core_.living(id, core_.print_of(id));
  if (entry == nullptr || entry->resident == kNone) return entry;
  // With the block in DRAM the whole identity is at hand.
  const Resident& resident = core_.residents.at(entry->resident);
  const bool known = resident.state != ResidentState::loading;
  return known && !resident.meta.identity.is(id) ? nullptr : entry;
}

Found StoreImpl::match(const BlockId& id, std::uint64_t hold_ms) {
  Entry* entry = find(id);
  if (entry == nullptr) return {};
  entry->hit = true;
  if (hold_ms > 0) {
    const std::uint64_t until_ns =
        core_.executor.clock().now_ns() + std::min(hold_ms, kHoldMsMax) * kNsPerMs;
    entry->held_until_ns = std::max(entry->held_until_ns, until_ns);
  }
  Found found{.present = true, .in_dram = false, .mark = entry->mark, .length = entry->length};
  if (entry->resident != kNone) {
    core_.residents.touch(entry->resident);
    found.in_dram = core_.residents.at(entry->resident).state != ResidentState::loading;
  }
  return found;
}

void StoreImpl::list(const Wish& wish, std::move_only_function<void(Result<Listing>)> listed) {
  if (life_ == Life::open) return lister_.begin(wish, std::move(listed));
  core_.post([listed = std::move(listed)]() mutable { listed(fail(Code::shutdown)); });
}

bool StoreImpl::mark(const BlockId& id, std::uint64_t incarnation, std::uint8_t mark) {
  Entry* entry = find(id);
  if (entry == nullptr || entry->incarnation != incarnation) return false;
  core_.index.mark(*entry, mark);
  return true;
}

void StoreImpl::answer(std::move_only_function<void(Code)> tell, Code code) {
  core_.post([tell = std::move(tell), code]() mutable { tell(code); });
}

void StoreImpl::drop(const BlockId& id, std::move_only_function<void(Code)> dropped) {
  if (life_ != Life::open) return answer(std::move(dropped), Code::shutdown);
  const Entry* entry = find(id);
  if (entry == nullptr) return drop_absent(id, std::move(dropped));
  const Fingerprint print = entry->fingerprint;
  const std::uint64_t incarnation = entry->incarnation;
  core_.forget(print);
  kill(print, incarnation, std::move(dropped));
}

// Not here is not yet gone for good: an earlier drop may be under way, or may have failed.
void StoreImpl::drop_absent(const BlockId& id, std::move_only_function<void(Code)> dropped) {
  if (id.key.empty() || id.key.size() > kKeyBytesMax) {
    return answer(std::move(dropped), Code::not_found);
  }
  const Fingerprint print = core_.print_of(id);
  if (puts_.has(print) || puts_.is_dropping(print)) return answer(std::move(dropped), Code::busy);
  const auto failed = failed_drops_.find(print);
  if (failed == failed_drops_.end()) return answer(std::move(dropped), Code::not_found);
  kill(print, failed->second, std::move(dropped));
}

void StoreImpl::kill(const Fingerprint& print, std::uint64_t incarnation,
                     std::move_only_function<void(Code)> dropped) {
  puts_.set_dropping(print, true);
  core_.log.tombstone(
      print, incarnation,
      [this, print, incarnation, dropped = std::move(dropped)](bool durable) mutable {
        puts_.set_dropping(print, false);
        if (durable) {
          ++core_.stats.dropped_blocks;
          failed_drops_.erase(print);
        } else if (failed_drops_.size() < kTombstonesWaitingMax) {
          failed_drops_[print] = incarnation;
        }
        answer(std::move(dropped), durable ? Code::ok : Code::device_error);
      });
}

void StoreImpl::when_clean(std::move_only_function<void()> tell) {
  waiting_clean_.push_back(std::move(tell));
  core_.nudge();
}

void StoreImpl::close(std::move_only_function<void(Result<void>)> closed) {
  closed_ = std::move(closed);
  if (life_ == Life::closed) return finish_closing({});
  if (life_ == Life::open) {
    life_ = Life::closing;
    lost_before_close_ = lost();
    puts_.shut_down();
    gets_.shut_down();
    lister_.shut_down();
  }
  core_.nudge();
}

void StoreImpl::go_on_closing() {
  if (!writer_.at_rest()) return;
  core_.log.flush_records();
  if (!clean() || !reclaimer_.at_rest() || core_.io.in_flight() > 0 || reader_.in_flight() > 0) {
    return;
  }
  life_ = Life::flushing;
  core_.io.flush([this](Result<void> flushed) { finish_closing(std::move(flushed)); });
}

void StoreImpl::finish_closing(Result<void> flushed) {
  life_ = Life::closed;
  const std::uint64_t lost_now = lost() - lost_before_close_;
  if (flushed && lost_now > 0) {
    flushed =
        fail(Code::device_error, std::to_string(lost_now) + " blocks could not be written to " +
                                     core_.io.device().name() + " and are lost");
  }
  core_.post([this, flushed = std::move(flushed)]() mutable {
    auto closed = std::exchange(closed_, nullptr);
    if (closed) closed(std::move(flushed));
  });
}

StoreStats StoreImpl::stats() const {
  StoreStats stats = core_.stats;
  stats.boot = core_.super.boot;
  stats.capacity_bytes = core_.super.device_bytes;
  stats.arena_bytes = core_.pages.total() * kArenaPageBytes;
  stats.segment_bytes = core_.super.segment_bytes;
  stats.segments = core_.super.segments;
  stats.segments_free = core_.log.free_count();
  stats.blocks = core_.index.size();
  stats.block_bytes = core_.index.block_bytes();
  stats.copies = core_.index.accounts().all_copies();
  stats.dram_blocks = core_.residents.count();
  stats.dirty_bytes = core_.residents.dirty_bytes();
  stats.records_waiting = core_.log.unwritten_records();
  stats.puts_waiting = memory_.puts_waiting();
  stats.gets_waiting = memory_.gets_waiting();
  stats.device_operations = core_.io.in_flight();
  stats.usage = core_.index.accounts().usage();
  return stats;
}

std::uint64_t choose_index_entries(const StoreOptions& options, const Superblock& super) {
  if (options.index_entries_max != 0) return options.index_entries_max;
  return std::clamp(super.segments * super.segment_bytes / kBytesPerIndexEntry, kIndexEntriesMin,
                    kIndexEntriesMax);
}

// From the call of open() to its callback; lives in the callbacks of its own reads.
struct Opening : std::enable_shared_from_this<Opening> {
  Opening(const StoreOptions& with, Device& on, Arena& in, Executor& runs_on,
          std::move_only_function<void(Result<std::unique_ptr<Store>>)> tell)
      : options(with), device(on), arena(in), executor(runs_on), opened(std::move(tell)) {}

  const StoreOptions options;
  Device& device;
  Arena& arena;
  Executor& executor;
  std::move_only_function<void(Result<std::unique_ptr<Store>>)> opened;
  StoreStats stats;
  DeviceIo io{device, stats, executor.clock()};
  std::uint64_t began_ns = 0;

  void start(Random& random) {
    const std::uint64_t arena_min =
        options.segment_bytes == 0 ? kArenaBytesMin : kTestArenaPagesMin * kArenaPageBytes;
    if (arena.memory().size() < arena_min) {
      return answer(fail(Code::invalid, "DRAM of " + std::to_string(arena.memory().size()) +
                                            " bytes is too little for a store: give it at least " +
                                            std::to_string(arena_min)));
    }
    began_ns = executor.clock().now_ns();
    boot(options, io, random, [self = shared_from_this()](Result<Superblock> super) {
      if (!super) return self->answer(fail(std::move(super).error()));
      self->recover_from(*super);
    });
  }

  void recover_from(const Superblock& super) {
    recover(io, super, choose_index_entries(options, super), options.rules,
            [self = shared_from_this(), super](Result<Recovered> recovered) {
              if (!recovered) return self->answer(fail(std::move(recovered).error()));
              self->make(super, std::move(*recovered));
            });
  }

  void make(const Superblock& super, Recovered recovered) {
    auto store =
        std::make_unique<StoreImpl>(options, super, std::move(recovered), device, arena, executor);
    store->set_opening(stats, (executor.clock().now_ns() - began_ns) / kNsPerMs);
    answer(std::unique_ptr<Store>(std::move(store)));
  }

  void answer(Result<std::unique_ptr<Store>> result) {
    executor.post([tell = std::move(opened), result = std::move(result)]() mutable {
      tell(std::move(result));
    });
  }
};

}  // namespace

void Store::open(const StoreOptions& options, Device& device, Arena& arena, Executor& executor,
                 Random& random,
                 std::move_only_function<void(Result<std::unique_ptr<Store>>)> opened) {
  std::make_shared<Opening>(options, device, arena, executor, std::move(opened))->start(random);
}

}  // namespace memkv
