#include "engine/core.h"

#include <utility>

namespace memkv::engine {

Core::Core(const StoreOptions& with, const Superblock& superblock, Index entries, Device& device,
           Arena& arena, Executor& runs_on)
    : options(with),
      executor(runs_on),
      super(superblock),
      io(device, stats, runs_on.clock()),
      pages(arena.memory()),
      index(std::move(entries)),
      residents(pages, index),
      log(runs_on, io, super, with.index_flush_ms, {[this] { nudge(); }, [this] { nudge(); }}),
      next_incarnation((super.boot << kIncarnationBits) | 1),
      next_generation((super.boot << 32) | 1) {}

void Core::nudge() {
  if (std::exchange(nudged_, true)) return;
  post([this] {
    nudged_ = false;
    progress();
  });
}

void Core::post(Task task) {
  executor.post(guarded(std::move(task)));
}

Entry* Core::entry_of(const Fingerprint& print, std::uint64_t incarnation) {
  Entry* entry = index.find(print);
  return entry != nullptr && entry->incarnation == incarnation ? entry : nullptr;
}

Entry* Core::entry_at(const Fingerprint& print, std::uint32_t segment, std::uint32_t page) {
  Entry* entry = index.find(print);
  return entry != nullptr && entry->segment == segment && entry->page == page ? entry : nullptr;
}

Entry* Core::living(const BlockId& id, const Fingerprint& print) {
  Entry* entry = index.find(print);
  if (entry == nullptr) return nullptr;
  const SpaceRule* rule = index.accounts().rules().of(id.tenant, id.space.id);
  if (rule == nullptr) return entry;
  if (rule->drop_generation != id.space.generation) return nullptr;
  Accounts& accounts = index.accounts();
  if (accounts.is_shared(entry->account)) {
    index.move_to(*entry, accounts.of(id.tenant, id.space));
    nudge();
  }
  if (!outlived(*entry, rule->ttl_s)) return entry;
  gone(*entry, Gone::expired);
  take_out(print);
  return nullptr;
}

bool Core::outlived(const Entry& entry, std::uint32_t ttl_s) const {
  if (ttl_s == 0) return false;
  const std::uint32_t now_s = executor.clock().unix_s();
  if (entry.put_s > now_s) return entry.put_s - now_s > kClockBackSMax;
  return now_s - entry.put_s >= ttl_s;
}

void Core::gone(const Entry& entry, Gone why) {
  switch (why) {
    case Gone::over_quota:
      ++stats.quota_evicted_blocks;
      break;
    case Gone::expired:
      ++stats.expired_blocks;
      break;
    case Gone::ended:
      ++stats.ended_blocks;
      break;
  }
  index.accounts().count_gone(entry.account, why);
}

void Core::forget(const Fingerprint& print) {
  const Entry* entry = index.find(print);
  if (entry == nullptr) return;
  if (entry->resident != kNone) residents.kill(entry->resident);
  index.erase(print);
  nudge();
}

void Core::take_out(const Fingerprint& print) {
  const Entry* entry = index.find(print);
  if (entry == nullptr) return;
  const std::uint64_t incarnation = entry->incarnation;
  forget(print);
  log.tombstone(print, incarnation, nullptr);
}

}  // namespace memkv::engine
