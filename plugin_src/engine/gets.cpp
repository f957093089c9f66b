#include "engine/gets.h"

#include <string>
#include <utility>

#include "engine/verify.h"

namespace memkv::engine {
GetId Gets::begin(const BlockId& id, std::uint32_t offset, std::uint32_t length, Got got) {
  const GetId number = next_get_++;
  ++core_.stats.gets;
  Get& get = gets_[number];
  get.got = std::move(got);
  if (shut_) {
    answer(number, Code::shutdown);
  } else if (id.key.empty() || id.key.size() > kKeyBytesMax) {
    answer(number, {Code::invalid, "a key of " + std::to_string(id.key.size()) +
                                       " bytes: it has 1 to " + std::to_string(kKeyBytesMax)});
  } else {
    get.identity = Identity::of(id);
    get.print = core_.print_of(id);
    get.offset = offset;
    get.length = length;
    start(number);
  }
  return number;
}

// Looks where the block is now. Called again when that may have changed while the get waited.
void Gets::start(GetId number) {
  Get& get = gets_.at(number);
  Entry* entry = core_.living(get.id(), get.print);
  if (entry == nullptr) return answer(number, Code::not_found);
  if (entry->resident == kNone) return start_from_flash(number, *entry);
  if (core_.residents.at(entry->resident).state != ResidentState::loading) {
    return start_from_dram(number, *entry);
  }
  reader_.join(entry->resident,
               [this, number](Code code, std::uint32_t slot) { loaded(number, code, slot); });
}

void Gets::start_from_dram(GetId number, const Entry& entry) {
  Get& get = gets_.at(number);
  const BlockMeta& meta = core_.residents.at(entry.resident).meta;
  if (is_foreign(get, meta)) return answer(number, Code::not_found);
  if (!cover(get, meta.length)) return answer(number, range_error(get, meta.length));
  ++core_.stats.hits_dram;
  get.slot = entry.resident;
  core_.residents.use(get.slot);
  pin(number);
}

void Gets::start_from_flash(GetId number, const Entry& entry) {
  Get& get = gets_.at(number);
  // Whose block it is comes before how long it is: a range outside of it is answered with the
  // header read.
  if (!cover(get, entry.length)) return header_only(number, entry);
  const std::uint32_t count = arena_pages(bytes_of_units(entry.length, get.first_unit, get.units));
  if (count > core_.residents.share_pages_max()) {
    return answer(number, {Code::no_space, "the DRAM of this node is too small for this block"});
  }
  const MemoryQueue::Ticket ticket = memory_.ask(
      Share::get, count, [this, number](Memory memory) { with_memory(number, std::move(memory)); });
  // It was served at once when it does not wait any more; it may even be over then.
  const auto at = gets_.find(number);
  if (at != gets_.end() && memory_.waits(ticket)) at->second.ticket = ticket;
}

void Gets::with_memory(GetId number, Memory memory) {
  Get& get = gets_.at(number);
  get.ticket = 0;
  Entry* entry = core_.index.find(get.print);
  const bool as_it_was = entry != nullptr && entry->resident == kNone && cover(get, entry->length);
  if (!as_it_was ||
      pages_of(memory) != arena_pages(bytes_of_units(entry->length, get.first_unit, get.units))) {
    core_.residents.give_back(Share::get, memory);
    return start(number);
  }
  if (get.units < unit_count_of(entry->length)) {
    return load_range(number, *entry, std::move(memory));
  }
  reader_.load(*entry, Share::get, std::move(memory),
               [this, number](Code code, std::uint32_t slot) { loaded(number, code, slot); });
}

void Gets::header_only(GetId number, const Entry& entry) {
  const std::uint32_t block_length = entry.length;
  reader_.fetch(entry, 0, 0, {}, [this, number, block_length](Code code, BlockMeta meta) {
    const auto at = gets_.find(number);
    if (at == gets_.end()) return;
    if (code != Code::ok) return answer(number, code);
    if (is_foreign(at->second, meta)) return answer(number, Code::not_found);
    answer(number, range_error(at->second, block_length));
  });
}

void Gets::load_range(GetId number, const Entry& entry, Memory memory) {
  const Get& get = gets_.at(number);
  reader_.fetch(entry, get.first_unit, get.units, memory,
                [this, number, memory](Code code, BlockMeta meta) {
                  const auto at = gets_.find(number);
                  if (at == gets_.end() || code != Code::ok) {
                    core_.residents.give_back(Share::get, memory);
                    core_.nudge();
                    if (at != gets_.end()) answer(number, code);
                    return;
                  }
                  at->second.memory = memory;
                  if (is_foreign(at->second, meta)) return answer(number, Code::not_found);
                  at->second.meta = std::move(meta);
                  ++core_.stats.hits_flash;
                  pin(number);
                });
}

// A whole block came, for this get and perhaps for others.
void Gets::loaded(GetId number, Code code, std::uint32_t slot) {
  const auto at = gets_.find(number);
  if (at == gets_.end()) {
    if (code == Code::ok) core_.residents.unuse(slot);
    return;
  }
  Get& get = at->second;
  if (code != Code::ok) return answer(number, code);
  get.slot = slot;  // its use ends with the get
  const BlockMeta& meta = core_.residents.at(slot).meta;
  if (is_foreign(get, meta)) return answer(number, Code::not_found);
  if (!cover(get, meta.length)) return answer(number, range_error(get, meta.length));
  ++core_.stats.hits_flash;
  pin(number);
}

// Which units the range needs. False when it leaves the block.
bool Gets::cover(Get& get, std::uint32_t block_length) const {
  if (get.length == 0 || get.offset >= block_length || get.length > block_length - get.offset) {
    return false;
  }
  const std::uint32_t unit_bytes = unit_bytes_of(block_length);
  get.first_unit = get.offset / unit_bytes;
  get.units = (get.offset + get.length - 1) / unit_bytes - get.first_unit + 1;
  return true;
}

Status Gets::range_error(const Get& get, std::uint32_t block_length) const {
  return {Code::invalid, "bytes " + std::to_string(get.offset) + " to " +
                             std::to_string(std::uint64_t{get.offset} + get.length) +
                             ": the block has " + std::to_string(block_length)};
}

// The fingerprint is the same, the block another one: it goes, so that this one can be put.
bool Gets::is_foreign(const Get& get, const BlockMeta& meta) {
  if (meta.identity.is(get.id())) return false;
  ++core_.stats.foreign;
  if (core_.entry_of(get.print, meta.incarnation) != nullptr) core_.take_out(get.print);
  return true;
}

void Gets::pin(GetId number) {
  Get& get = gets_.at(number);
  const BlockMeta& meta = get.slot != kNone ? core_.residents.at(get.slot).meta : get.meta;
  if (Entry* entry = core_.entry_of(get.print, meta.incarnation)) {
    entry->hit = true;
    entry->count_read(core_.executor.clock().now_ns());
    get.mark = entry->mark;
  }
  core_.post([this, number] {
    const auto at = gets_.find(number);
    if (at == gets_.end()) return;
    Get& ready = at->second;
    const bool whole = ready.slot != kNone;
    const BlockMeta& of = whole ? core_.residents.at(ready.slot).meta : ready.meta;
    const std::uint64_t skipped = std::uint64_t{ready.first_unit} * unit_bytes_of(of.length);
    const std::uint64_t bytes = bytes_of_units(of.length, ready.first_unit, ready.units);
    Pinned pinned;
    pinned.get = number;
    pinned.incarnation = of.incarnation;
    pinned.block_length = of.length;
    pinned.first_unit = ready.first_unit;
    pinned.mark = ready.mark;
    pinned.pieces = whole
                        ? core_.pages.pieces(core_.residents.at(ready.slot).memory, skipped, bytes)
                        : core_.pages.pieces(ready.memory, 0, bytes);
    pinned.crcs = std::span(of.crcs).subspan(ready.first_unit, ready.units);
    Got got = std::move(ready.got);
    got(std::move(pinned));
  });
}

void Gets::answer(GetId number, Status status) {
  if (status.code == Code::not_found) ++core_.stats.misses;
  core_.post([this, number, status = std::move(status)]() mutable {
    const auto at = gets_.find(number);
    if (at == gets_.end()) return;
    Got got = std::move(at->second.got);
    erase(at);
    got(fail(std::move(status)));
  });
}

void Gets::end(GetId number) {
  const auto at = gets_.find(number);
  if (at != gets_.end()) erase(at);
}

void Gets::erase(std::map<GetId, Get>::iterator at) {
  const Get& get = at->second;
  if (get.ticket != 0) memory_.cancel(get.ticket);
  if (get.slot != kNone) core_.residents.unuse(get.slot);
  if (!get.memory.empty()) core_.residents.give_back(Share::get, get.memory);
  gets_.erase(at);
  core_.nudge();
}

void Gets::shut_down() {
  shut_ = true;
  for (auto& [number, get] : gets_) {
    if (get.ticket == 0) continue;
    memory_.cancel(std::exchange(get.ticket, 0));
    answer(number, Code::shutdown);
  }
}

void Gets::report(const BlockId& id, std::uint64_t incarnation) {
  if (shut_ || id.key.empty() || id.key.size() > kKeyBytesMax) return;
  const Fingerprint print = core_.print_of(id);
  const Entry* entry = core_.entry_of(print, incarnation);
  // More reports than that at once tell nothing new; each costs a read.
  if (entry == nullptr || reports_.size() >= kReportsMax || !reports_.insert(print).second) return;
  const std::uint32_t slot = entry->resident;
  if (slot == kNone || core_.residents.at(slot).state == ResidentState::loading) {
    return report_flash(print, incarnation);
  }
  report_dram(print, incarnation, slot);
}

void Gets::report_dram(const Fingerprint& print, std::uint64_t incarnation, std::uint32_t slot) {
  core_.residents.use(slot);
  const Resident& resident = core_.residents.at(slot);
  const BlockMeta& meta = resident.meta;
  verify_units(core_.executor, core_.pages.pieces(resident.memory, 0, meta.length),
               unit_bytes_of(meta.length), meta.crcs,
               core_.guarded([this, print, incarnation, slot](bool good) {
                 Entry* entry = core_.entry_of(print, incarnation);
                 if (!good) ++core_.stats.corrupt;
                 if (!good && entry != nullptr && entry->resident == slot) {
                   const bool only_copy = !entry->on_flash();
                   entry->resident = kNone;
                   core_.residents.kill(slot);
                   if (only_copy) core_.take_out(print);
                 }
                 core_.residents.unuse(slot);
                 core_.nudge();
                 report_flash(print, incarnation);
               }));
}

void Gets::report_flash(const Fingerprint& print, std::uint64_t incarnation) {
  const Entry* entry = core_.entry_of(print, incarnation);
  if (shut_ || entry == nullptr || !entry->on_flash()) return report_done(print);
  const std::uint32_t count = arena_pages(entry->length);
  if (count > core_.residents.share_pages_max()) return report_done(print);
  memory_.ask(Share::get, count, [this, print, incarnation](Memory memory) {
    const Entry* still = core_.entry_of(print, incarnation);
    if (shut_ || still == nullptr || !still->on_flash()) {
      core_.residents.give_back(Share::get, memory);
      return report_done(print);
    }
    // The Reader takes out what is wrong.
    reader_.fetch(*still, 0, unit_count_of(still->length), memory,
                  [this, print, memory](Code, BlockMeta) {
                    core_.residents.give_back(Share::get, memory);
                    report_done(print);
                    core_.nudge();
                  });
  });
}

}  // namespace memkv::engine
