// Spaces: what a node counts for each namespace, for at most kSpacesCounted of them.
//
// A namespace has counters of its own from its first block that was put or found here on, as long
// as there is room; everything else is counted together. So neither many namespaces nor peers that
// make names up cost memory. What is handed out stays where it is. Thread: the mind.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

#include "base/identity.h"
#include "base/limits.h"

namespace memkv {

struct SpaceCounters {
  TenantId tenant = 0;
  NamespaceId id{};
  std::uint64_t hits = 0, misses = 0, get_bytes = 0;  // of GET
  std::uint64_t keys = 0, found = 0, holes = 0;       // of MATCH
  std::uint64_t puts = 0, put_bytes = 0;              // published
};

class Spaces {
 public:
  // The namespace's own counters, or those of all others.
  [[nodiscard]] SpaceCounters& find(TenantId tenant, const NamespaceId& id) {
    const auto known = std::span(own_).first(count_);
    const auto at = std::ranges::find_if(known, [&](const SpaceCounters& space) {
      return space.tenant == tenant && space.id == id;
    });
    return at == known.end() ? other_ : *at;
  }
  // The same for one that has a block here; it gets its own when there is room.
  [[nodiscard]] SpaceCounters& claim(TenantId tenant, const NamespaceId& id) {
    SpaceCounters& found = find(tenant, id);
    if (&found != &other_ || count_ == own_.size()) return found;
    own_[count_].tenant = tenant;
    own_[count_].id = id;
    return own_[count_++];
  }

  [[nodiscard]] std::span<const SpaceCounters> own() const { return std::span(own_).first(count_); }
  [[nodiscard]] const SpaceCounters& other() const { return other_; }

 private:
  std::array<SpaceCounters, kSpacesCounted> own_{};
  std::size_t count_ = 0;
  SpaceCounters other_;
};

}  // namespace memkv
