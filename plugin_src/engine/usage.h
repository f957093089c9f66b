// Usage: what is counted of the namespaces that have rules, for at most kSpacesCounted of them.
//
// Whoever is counted before and after new rules keeps its numbers. What a namespace holds now is
// not counted here: its account knows.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/rules.h"

namespace memkv::engine {

// Why a block was taken out by the rules: it or its tenant had more than its quota, it outlived its
// TTL, or its drop generation is over.
enum class Gone : std::uint8_t { over_quota, expired, ended };

class Usage {
 public:
  // These are settled from now on, by tenant and id. Those with a quota are counted first.
  void apply(const StoreRules& rules);
  // Nothing when the namespace is not counted.
  void count(TenantId tenant, const NamespaceId& id, Gone why);
  // Without blocks and bytes.
  [[nodiscard]] std::span<const SpaceUsage> spaces() const { return spaces_; }

 private:
  [[nodiscard]] SpaceUsage* find(TenantId tenant, const NamespaceId& id);

  std::vector<SpaceUsage> spaces_;
};

}  // namespace memkv::engine
