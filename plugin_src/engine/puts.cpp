#include "engine/puts.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/mutant.h"

namespace memkv::engine {

PutId Puts::begin(const BlockId& id, std::uint32_t length, const BlockTraits& traits,
                  Granted granted) {
  const PutId number = next_put_++;
  ++core_.stats.puts;
  Put& put = puts_[number];
  put.granted = std::move(granted);
  Status status = look_at_form(id, length);
  if (status.code == Code::invalid || status.code == Code::no_space) ++core_.stats.puts_rejected;
  if (status.good()) {
    put.print = core_.print_of(id);
    status = look(id, length, put.print);
  }
  if (status.code != Code::ok) {
    answer(number, std::move(status));
    return number;
  }
  put.meta.identity = Identity::of(id);
  put.meta.traits = traits;
  const std::uint32_t now_s = core_.executor.clock().unix_s();
  put.put_s = now_s - std::min(now_s, traits.age_s);
  put.meta.length = length;
  put.owns_print = true;
  by_print_[put.print] = number;
  const MemoryQueue::Ticket ticket =
      memory_.ask(Share::put, arena_pages(length),
                  [this, number](Memory memory) { grant(number, std::move(memory)); });
  if (put.memory.empty()) put.ticket = ticket;
  if (put.memory.empty() && index_is_full()) core_.nudge();
  return number;
}

Status Puts::look_at_form(const BlockId& id, std::uint32_t length) const {
  if (shut_) return Code::shutdown;
  if (id.key.empty() || id.key.size() > kKeyBytesMax) {
    return {Code::invalid, "a key of " + std::to_string(id.key.size()) + " bytes: it has 1 to " +
                               std::to_string(kKeyBytesMax)};
  }
  if (length == 0 || length > kBlockBytesMax) {
    return {Code::invalid, "a block of " + std::to_string(length) + " bytes: it has 1 to " +
                               std::to_string(kBlockBytesMax)};
  }
  const std::uint64_t fits_segment = block_bytes_max(core_.super.segment_bytes);
  const std::uint64_t fits_arena = core_.residents.share_pages_max() * kArenaPageBytes;
  if (length > fits_segment || length > fits_arena) {
    return {Code::no_space, "a block of " + std::to_string(length) +
                                " bytes: this node takes at most " +
                                std::to_string(std::min(fits_segment, fits_arena))};
  }
  return Code::ok;
}

Status Puts::look(const BlockId& id, std::uint32_t length, const Fingerprint& print) {
  if (Status status = look_at_generation(id); !status.good()) {
    ++core_.stats.puts_ended;
    return status;
  }
  if (has(print) || dropping_.contains(print)) {
    ++core_.stats.puts_busy;
    return Code::busy;
  }
  Entry* entry = core_.living(id, print);
  if (entry != nullptr && entry->resident != kNone) {
    const Resident& resident = core_.residents.at(entry->resident);
    if (resident.state != ResidentState::loading && !resident.meta.identity.is(id)) {
      ++core_.stats.foreign;
      core_.take_out(print);
      entry = nullptr;
    }
  }
  if (entry == nullptr) return look_at_rules(id, length, print);
  if (entry->length != length) {
    ++core_.stats.puts_conflict;
    return {Code::conflict, "the block is here with " + std::to_string(entry->length) + " bytes"};
  }
  ++core_.stats.puts_exist;
  entry->hit = true;
  if (entry->resident != kNone) core_.residents.touch(entry->resident);
  return Code::exists;
}

Status Puts::look_at_generation(const BlockId& id) const {
  const SpaceRule* rule = core_.index.accounts().rules().of(id.tenant, id.space.id);
  if (rule == nullptr || rule->drop_generation == id.space.generation) return Code::ok;
  const std::string is_at = "this node is at " + std::to_string(rule->drop_generation);
  if (rule->drop_generation > id.space.generation) {
    return {Code::denied, "drop generation " + std::to_string(id.space.generation) +
                              " of the namespace is over: " + is_at};
  }
  return {Code::busy, "drop generation " + std::to_string(id.space.generation) +
                          " of the namespace has not begun: " + is_at};
}

Status Puts::look_at_rules(const BlockId& id, std::uint32_t length, const Fingerprint& print) {
  const Rules& rules = core_.index.accounts().rules();
  const SpaceRule* rule = rules.of(id.tenant, id.space.id);
  std::uint64_t quota = rules.tenant_quota(id.tenant);
  if (rule != nullptr && rule->quota_bytes != 0) quota = std::min(quota, rule->quota_bytes);
  if (length > quota) {
    ++core_.stats.puts_over_quota;
    return {Code::no_space, "a block of " + std::to_string(length) + " bytes: its quota here is " +
                                std::to_string(quota)};
  }
  if (rule == nullptr || rule->admission == Admission::all) return Code::ok;
  const bool taken =
      rule->admission == Admission::second_touch
          ? touches_.again(print)
          : budget_.allows(core_.executor.clock().now_ns(), core_.stats.device_bytes_written);
  if (taken) return Code::ok;
  ++core_.stats.puts_not_admitted;
  return {Code::no_space, "the namespace's admission does not take it now"};
}

void Puts::answer(PutId number, Status status) {
  core_.post([this, number, status = std::move(status)]() mutable {
    const auto at = puts_.find(number);
    if (at == puts_.end()) return;
    Granted granted = std::move(at->second.granted);
    erase(at);
    granted(fail(std::move(status)));
  });
}

void Puts::grant(PutId number, Memory memory) {
  Put& put = puts_.at(number);
  put.memory = std::move(memory);
  put.granted_ns = core_.executor.clock().now_ns();
  put.ticket = 0;
  ++granted_;
  zero_tail(put);
  core_.post([this, number] {
    const auto at = puts_.find(number);
    if (at == puts_.end()) return;
    Granted granted = std::move(at->second.granted);
    granted(Grant{number, core_.pages.pieces(at->second.memory, 0, at->second.meta.length)});
  });
}

// What goes to flash behind the block's last byte, up to the end of the page.
void Puts::zero_tail(const Put& put) const {
  const std::uint64_t tail = round_up(put.meta.length, kPageBytes) - put.meta.length;
  for (const iovec& piece : core_.pages.pieces(put.memory, put.meta.length, tail)) {
    std::memset(piece.iov_base, 0, piece.iov_len);
  }
}

void Puts::erase(std::map<PutId, Put>::iterator at) {
  Put& put = at->second;
  if (put.ticket != 0) memory_.cancel(put.ticket);
  if (put.owns_print) by_print_.erase(put.print);
  if (!put.memory.empty()) {
    --granted_;
    core_.residents.give_back(Share::put, put.memory);
  }
  puts_.erase(at);
  core_.nudge();
}

Result<std::uint64_t> Puts::commit(PutId number, std::span<const std::uint32_t> arrived,
                                   std::span<const std::uint32_t> written) {
  const auto at = puts_.find(number);
  if (at == puts_.end() || at->second.memory.empty()) {
    return fail(Code::invalid, "there is no such put, or it was not granted");
  }
  Put& put = at->second;
  const std::uint32_t units = unit_count_of(put.meta.length);
  Status status;
  if (shut_) {
    status = Code::shutdown;
  } else if (arrived.size() != units || written.size() != units) {
    status = {Code::invalid, "a block of " + std::to_string(put.meta.length) + " bytes has " +
                                 std::to_string(units) + " CRCs, not " +
                                 std::to_string(written.size())};
  } else if (!std::ranges::equal(arrived, written) && !mutant(Mutant::publish_early)) {
    status = Code::corrupt;
  }
  if (!status.good()) {
    ++core_.stats.puts_rejected;
    erase(at);
    return fail(std::move(status));
  }
  put.meta.crcs.assign(arrived.begin(), arrived.end());
  put.meta.incarnation = core_.next_incarnation++;
  const std::uint64_t incarnation = put.meta.incarnation;
  const std::uint64_t granted_ns = put.granted_ns;
  const Identity& identity = put.meta.identity;
  const AccountId account = core_.index.accounts().of(identity.tenant, identity.space);
  Entry& entry = core_.index.insert(put.print, put.meta.length, account);
  entry.incarnation = incarnation;
  entry.put_s = put.put_s;
  entry.depth = put.meta.traits.depth;
  const std::uint32_t slot =
      core_.residents.add(put.print, std::move(put.meta), Share::put, std::exchange(put.memory, {}),
                          ResidentState::dirty);
  entry.resident = slot;
  core_.stats.put_bytes += entry.length;
  core_.index.line_up(entry);
  --granted_;
  erase(at);
  writer_.enqueue(slot, granted_ns);
  core_.residents.unuse(slot);
  return incarnation;
}

void Puts::abort(PutId number) {
  const auto at = puts_.find(number);
  if (at == puts_.end()) return;
  ++core_.stats.puts_aborted;
  erase(at);
}

void Puts::shut_down() {
  shut_ = true;
  for (auto& [number, put] : puts_) {
    if (put.ticket == 0) continue;
    memory_.cancel(std::exchange(put.ticket, 0));
    answer(number, Code::shutdown);
  }
}

void Puts::set_dropping(const Fingerprint& print, bool dropping) {
  if (dropping) {
    ++dropping_[print];
  } else if (--dropping_[print] == 0) {
    dropping_.erase(print);
  }
}

}  // namespace memkv::engine
