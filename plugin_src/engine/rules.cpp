#include "engine/rules.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace memkv::engine {
namespace {

auto name_of(const SpaceRule& rule) {
  return std::tie(rule.tenant, rule.id);
}

}  // namespace

Rules::Rules(StoreRules rules) : sorted_(std::move(rules)) {
  std::ranges::sort(sorted_.spaces, {}, name_of);
  std::ranges::sort(sorted_.tenants, {}, &TenantQuota::tenant);
}

const SpaceRule* Rules::of(TenantId tenant, const NamespaceId& id) const {
  if (sorted_.spaces.empty()) return nullptr;
  const auto at = std::ranges::lower_bound(
      sorted_.spaces, std::tuple(tenant, id), {},
      [](const SpaceRule& rule) { return std::tuple(rule.tenant, rule.id); });
  return at != sorted_.spaces.end() && at->tenant == tenant && at->id == id ? &*at : nullptr;
}

std::uint64_t Rules::tenant_quota(TenantId tenant) const {
  const auto at = std::ranges::lower_bound(sorted_.tenants, tenant, {}, &TenantQuota::tenant);
  const bool known = at != sorted_.tenants.end() && at->tenant == tenant && at->quota_bytes != 0;
  return known ? at->quota_bytes : kNoQuota;
}

}  // namespace memkv::engine
