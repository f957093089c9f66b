// Rules: what is settled about namespaces and tenants, to be looked up. StoreRules in store.h says
// what the rules mean. Thread: the mind.
#pragma once

#include <cstdint>
#include <vector>

#include "base/identity.h"

namespace memkv {

// The mark of a block that lies on its second place, too; as wire::kMarkCopied.
inline constexpr std::uint8_t kMarkOfCopied = 1;

// Which blocks a namespace takes.
enum class Admission : std::uint8_t { all = 1, second_touch = 2, budget = 3 };

struct SpaceRule {
  TenantId tenant = 0;
  NamespaceId id{};
  std::uint32_t drop_generation = 0;  // the one that there is
  std::uint32_t ttl_s = 0;            // 0: blocks live for ever
  std::uint64_t quota_bytes = 0;      // of this node; 0: no limit
  Admission admission = Admission::all;
  std::uint8_t copies = 1;  // on how many nodes a block is to lie, 1 … kCopiesMax
};

struct TenantQuota {
  TenantId tenant = 0;
  std::uint64_t quota_bytes = 0;  // of this node; 0: no limit
};

// Of blocks that are to lie on two nodes by their namespace's rule.
struct CopyCounts {
  std::uint64_t blocks = 0;
  std::uint64_t waiting = 0;  // of these, without kMarkOfCopied
};
struct SpaceCopies {
  TenantId tenant = 0;
  NamespaceId id{};
  CopyCounts counts;
};

// What is settled, all of it. A namespace that is not here has no rules.
struct StoreRules {
  std::vector<SpaceRule> spaces;
  std::vector<TenantQuota> tenants;
};

// What is here of a namespace that has a rule, in its drop generation, and what was taken out of it
// by its rules, of any generation, since the process started or it began to be counted.
struct SpaceUsage {
  TenantId tenant = 0;
  NamespaceId id{};
  std::uint64_t quota_bytes = 0;  // of this node; 0: no limit
  std::uint64_t blocks = 0, bytes = 0;
  std::uint64_t over_quota = 0, expired = 0, ended = 0;  // blocks taken out; why, as in Gone
};

// What is here of a tenant that the map has, of all its namespaces and any generation.
struct TenantUsage {
  TenantId tenant = 0;
  std::uint64_t quota_bytes = 0;  // of this node; 0: no limit
  std::uint64_t blocks = 0, bytes = 0;
};

// Of at most kSpacesCounted namespaces and as many tenants: those with a quota come first, then by
// tenant and id.
struct RulesUsage {
  std::vector<SpaceUsage> spaces;
  std::vector<TenantUsage> tenants;
};

}  // namespace memkv

namespace memkv::engine {

inline constexpr std::uint64_t kNoQuota = ~std::uint64_t{0};

class Rules {
 public:
  Rules() = default;
  explicit Rules(StoreRules rules);

  // nullptr when the namespace has none. It lives until the rules change.
  [[nodiscard]] const SpaceRule* of(TenantId tenant, const NamespaceId& id) const;
  [[nodiscard]] std::uint64_t tenant_quota(TenantId tenant) const;  // kNoQuota: no limit
  // All of them: namespaces by tenant and id, tenants by number.
  [[nodiscard]] const StoreRules& all() const { return sorted_; }
  [[nodiscard]] const std::vector<SpaceRule>& spaces() const { return sorted_.spaces; }  // by name

 private:
  StoreRules sorted_;
};

}  // namespace memkv::engine
