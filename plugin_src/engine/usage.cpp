#include "engine/usage.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"

namespace memkv::engine {

void Usage::apply(const StoreRules& rules) {
  std::vector<SpaceUsage> next;
  for (const bool with_quota : {true, false}) {
    for (const SpaceRule& rule : rules.spaces) {
      if ((rule.quota_bytes != 0) != with_quota) continue;
      if (next.size() == kSpacesCounted) break;
      const SpaceUsage* known = find(rule.tenant, rule.id);
      next.push_back(known != nullptr ? *known : SpaceUsage{.tenant = rule.tenant, .id = rule.id});
      next.back().quota_bytes = rule.quota_bytes;
    }
  }
  spaces_ = std::move(next);
}

void Usage::count(TenantId tenant, const NamespaceId& id, Gone why) {
  SpaceUsage* space = find(tenant, id);
  if (space == nullptr) return;
  switch (why) {
    case Gone::over_quota:
      ++space->over_quota;
      return;
    case Gone::expired:
      ++space->expired;
      return;
    case Gone::ended:
      ++space->ended;
      return;
  }
}

SpaceUsage* Usage::find(TenantId tenant, const NamespaceId& id) {
  const auto at = std::ranges::find_if(
      spaces_, [&](const SpaceUsage& space) { return space.tenant == tenant && space.id == id; });
  return at == spaces_.end() ? nullptr : &*at;
}

}  // namespace memkv::engine
