#include "engine/residents.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace memkv::engine {

bool Residents::within_share(Share share, std::uint32_t count) const {
  return used_[static_cast<std::size_t>(share)] + count <= share_pages_max();
}

std::optional<Memory> Residents::take(Share share, std::uint32_t count) {
  // Nothing is thrown out for a request that cannot be met anyway.
  if (pages_.free() + pages_in(Share::cache) < count) return std::nullopt;
  while (pages_.free() < count) {
    if (!evict_one()) return std::nullopt;
  }
  pages_in(share) += count;
  return pages_.take(count);
}

void Residents::give_back(Share share, const Memory& memory) {
  pages_in(share) -= pages_of(memory);
  pages_.give_back(memory);
}

std::uint32_t Residents::add(const Fingerprint& fingerprint, BlockMeta meta, Share taken_for,
                             Memory memory, ResidentState state) {
  std::uint32_t slot = static_cast<std::uint32_t>(slots_.size());
  if (empty_.empty()) {
    slots_.emplace_back();
  } else {
    slot = empty_.back();
    empty_.pop_back();
  }
  Resident& resident = slots_[slot];
  resident = Resident{};
  resident.fingerprint = fingerprint;
  resident.meta = std::move(meta);
  resident.pages = pages_of(memory);
  resident.memory = std::move(memory);
  resident.uses = 1;
  resident.state = state;
  resident.share = taken_for;
  if (state == ResidentState::dirty) dirty_bytes_ += resident.meta.length;
  ++count_;
  settle(slot);
  return slot;
}

void Residents::use(std::uint32_t slot) {
  ++slots_[slot].uses;
  settle(slot);
}

void Residents::unuse(std::uint32_t slot) {
  MEMKV_CHECK(slots_[slot].uses > 0, "a use ends once");
  --slots_[slot].uses;
  settle(slot);
}

void Residents::become(std::uint32_t slot, ResidentState state) {
  Resident& resident = slots_[slot];
  if (resident.state == ResidentState::dirty) dirty_bytes_ -= resident.meta.length;
  if (state == ResidentState::dirty) dirty_bytes_ += resident.meta.length;
  resident.state = state;
  settle(slot);
}

void Residents::kill(std::uint32_t slot) {
  slots_[slot].dead = true;
  settle(slot);
}

void Residents::touch(std::uint32_t slot) {
  if (slots_[slot].share != Share::cache) return;
  unlink(slot);
  link(slot);
}

// Puts the resident where its state says: under its share, in or out of the cache's list, or away.
void Residents::settle(std::uint32_t slot) {
  Resident& resident = slots_[slot];
  Share share = Share::get;
  if (resident.state == ResidentState::dirty) {
    share = Share::put;
  } else if (resident.state == ResidentState::clean && resident.uses == 0) {
    share = Share::cache;
  }
  if (share != resident.share) {
    if (resident.share == Share::cache) unlink(slot);
    pages_in(resident.share) -= resident.pages;
    pages_in(share) += resident.pages;
    resident.share = share;
    if (share == Share::cache) link(slot);
  }
  if (resident.dead && resident.uses == 0) release(slot);
}

void Residents::link(std::uint32_t slot) {
  Resident& resident = slots_[slot];
  Cached& cached = cached_[resident.meta.identity.tenant];
  resident.older = cached.newest;
  resident.newer = kNone;
  (cached.newest == kNone ? cached.oldest : slots_[cached.newest].newer) = slot;
  cached.newest = slot;
  cached.pages += resident.pages;
}

void Residents::unlink(std::uint32_t slot) {
  Resident& resident = slots_[slot];
  const auto cached = cached_.find(resident.meta.identity.tenant);
  Cached& list = cached->second;
  (resident.older == kNone ? list.oldest : slots_[resident.older].newer) = resident.newer;
  (resident.newer == kNone ? list.newest : slots_[resident.newer].older) = resident.older;
  resident.older = resident.newer = kNone;
  list.pages -= resident.pages;
  if (list.oldest == kNone) cached_.erase(cached);
}

void Residents::release(std::uint32_t slot) {
  Resident& resident = slots_[slot];
  if (resident.share == Share::cache) unlink(slot);
  if (resident.state == ResidentState::dirty) dirty_bytes_ -= resident.meta.length;
  give_back(resident.share, resident.memory);
  resident = Resident{};
  --count_;
  empty_.push_back(slot);
}

bool Residents::evict_one() {
  if (cached_.empty()) return false;
  const auto most =
      std::ranges::max_element(cached_, {}, [](const auto& cached) { return cached.second.pages; });
  const std::uint32_t slot = most->second.oldest;
  Entry* entry = index_.find(slots_[slot].fingerprint);
  if (entry != nullptr && entry->resident == slot) entry->resident = kNone;
  slots_[slot].dead = true;
  release(slot);
  return true;
}

}  // namespace memkv::engine
