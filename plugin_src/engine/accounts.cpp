#include "engine/accounts.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv::engine {
namespace {

constexpr std::size_t kLineSlack = 64;
constexpr int kLineSteps = 4;  // one block comes or goes, so many places are looked at
constexpr std::uint32_t kSparedMax = 64;

}  // namespace

AccountId Accounts::of(TenantId tenant, const Namespace& space) {
  const Name name{tenant, space.id, space.generation};
  if (const auto known = by_name_.find(name); known != by_name_.end()) return known->second;
  if (rules_.of(tenant, space.id) != nullptr || takes_one_more(tenant)) return make(name);
  const Name shared{.tenant = tenant, .shared = true};
  const auto known = by_name_.find(shared);
  return known != by_name_.end() ? known->second : make(shared);
}

bool Accounts::takes_one_more(TenantId tenant) const {
  const auto known = tenants_.find(tenant);
  const std::size_t has = known == tenants_.end() ? 0 : known->second.by_bytes.size();
  if (has < kAccountsPerTenantMin) return true;
  return has < kAccountsPerTenantMax && by_name_.size() < kAccountsMax;
}

AccountId Accounts::make(const Name& name) {
  AccountId number = static_cast<AccountId>(accounts_.size());
  if (closed_.empty()) {
    accounts_.emplace_back();
  } else {
    number = closed_.back();
    closed_.pop_back();
  }
  Account& account = accounts_[number];
  account = Account{};
  account.name = name;
  settle(account);
  by_name_[name] = number;
  Tenant& tenant = tenants_[name.tenant];
  tenant.quota = rules_.tenant_quota(name.tenant);
  tenant.by_bytes.insert({0, number});
  return number;
}

void Accounts::settle(Account& account) const {
  const SpaceRule* rule = rules_.of(account.name.tenant, account.name.id);
  account.quota = kNoQuota;
  account.ttl_s = 0;
  account.copies = 1;
  if (rule == nullptr || account.name.shared) return;
  account.ttl_s = rule->ttl_s;
  if (rule->quota_bytes != 0) account.quota = rule->quota_bytes;
  account.copies = rule->copies;
  if (rule->drop_generation == account.name.generation) return;
  account.quota = 0;
  account.copies = 1;
}

CopyCounts Accounts::copies_of(const Account& account) {
  if (account.copies < kCopiesMax) return {};
  return {.blocks = account.blocks, .waiting = account.blocks - account.copied};
}

void Accounts::add(AccountId number, std::uint32_t length) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  ++account.blocks;
  ++tenants_[account.name.tenant].blocks;
  if (account.copies == kCopiesMax) {
    ++all_copies_.blocks;
    ++all_copies_.waiting;
  }
  weigh(number, account.bytes + length);
}

void Accounts::remove(AccountId number, std::uint32_t length, const Lives& lives) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  MEMKV_CHECK(account.blocks > 0 && account.bytes >= length, "an account loses what it has");
  --account.blocks;
  --tenants_[account.name.tenant].blocks;
  if (account.copies == kCopiesMax) {
    --all_copies_.blocks;
    --all_copies_.waiting;
  }
  weigh(number, account.bytes - length);
  if (account.blocks == 0) return close(number);
  trim(account, lives);
}

void Accounts::weigh(AccountId number, std::uint64_t bytes) {
  Account& account = accounts_[number];
  Tenant& tenant = tenants_[account.name.tenant];
  auto place = tenant.by_bytes.extract({account.bytes, number});
  place.value().first = bytes;
  tenant.by_bytes.insert(std::move(place));
  tenant.bytes += bytes - account.bytes;
  account.bytes = bytes;
  look_whether_over(number);
}

void Accounts::count_copied(AccountId number, bool got) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  all_copies_.waiting -= copies_of(account).waiting;
  got ? ++account.copied : --account.copied;
  MEMKV_CHECK(account.copied <= account.blocks, "copies are of blocks that are there");
  all_copies_.waiting += copies_of(account).waiting;
}

void Accounts::close(AccountId number) {
  const Name name = accounts_[number].name;
  const std::uint64_t bytes = accounts_[number].bytes;
  accounts_[number] = Account{};
  over_.erase(number);
  by_name_.erase(name);
  closed_.push_back(number);
  const auto tenant = tenants_.find(name.tenant);
  tenant->second.by_bytes.erase({bytes, number});
  if (!tenant->second.by_bytes.empty()) return;
  tenants_over_.erase(name.tenant);
  tenants_.erase(tenant);
}

void Accounts::clear() {
  Rules rules = std::move(rules_);
  Usage usage = std::move(usage_);
  *this = Accounts();
  rules_ = std::move(rules);
  usage_ = std::move(usage);
}

void Accounts::look_whether_over(AccountId number) {
  const Account& account = accounts_[number];
  if (account.bytes > account.quota) {
    over_.insert(number);
  } else {
    over_.erase(number);
  }
  const Tenant& tenant = tenants_[account.name.tenant];
  if (tenant.bytes > tenant.quota) {
    tenants_over_.insert(account.name.tenant);
  } else {
    tenants_over_.erase(account.name.tenant);
  }
}

void Accounts::line_up(AccountId number, const Placard& placard, const Lives& lives) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  account.line.push_back(placard);
  account.newest = std::max(account.newest, placard.incarnation);
  Tenant& tenant = tenants_[account.name.tenant];
  tenant.newest = std::max(tenant.newest, placard.incarnation);
  trim(account, lives);
}

// When all the blocks that are left come first and half of them go before a placard of one that is
// gone comes up, the line is at most 8/3 as long as the account.
void Accounts::trim(Account& account, const Lives& lives) {
  for (int i = 0; i < kLineSteps && account.line.size() > 2 * account.blocks + kLineSlack; ++i) {
    const Placard first = account.line.front();
    account.line.pop_front();
    if (lives(first)) account.line.push_back(first);
  }
}

void Accounts::apply(Rules rules) {
  rules_ = std::move(rules);
  usage_.apply(rules_.all());
  for (auto& [number, tenant] : tenants_) tenant.quota = rules_.tenant_quota(number);
  all_copies_ = {};
  for (const auto& [name, number] : by_name_) {
    settle(accounts_[number]);
    look_whether_over(number);
    const CopyCounts more = copies_of(accounts_[number]);
    all_copies_.blocks += more.blocks;
    all_copies_.waiting += more.waiting;
  }
}

std::vector<SpaceCopies> Accounts::copies() const {
  std::vector<SpaceCopies> found;
  for (const SpaceRule& rule : rules_.spaces()) {
    if (rule.copies < kCopiesMax) continue;
    if (found.size() == kSpacesCounted) break;
    SpaceCopies& one = found.emplace_back(SpaceCopies{.tenant = rule.tenant, .id = rule.id});
    const auto known = by_name_.find({rule.tenant, rule.id, rule.drop_generation});
    if (known != by_name_.end()) one.counts = copies_of(accounts_[known->second]);
  }
  return found;
}

bool Accounts::owes(AccountId number) const {
  return over_.contains(number) || tenants_over_.contains(accounts_[number].name.tenant);
}

std::optional<AccountId> Accounts::payer() {
  if (!over_.empty()) return *over_.begin();
  if (tenants_over_.empty()) return std::nullopt;
  const Tenant& tenant = tenants_.at(*tenants_over_.begin());
  auto largest = tenant.by_bytes.rbegin();
  const Account& account = accounts_[largest->second];
  ++looks_;
  // What came last goes last.
  const bool only_the_newest = account.blocks == 1 && account.newest == tenant.newest;
  if (only_the_newest && std::next(largest) != tenant.by_bytes.rend()) {
    ++largest;
    ++looks_;
  }
  return largest->second;
}

bool Accounts::within_quota(AccountId number) const {
  if (number == kNoAccount || owes(number)) return false;
  const Account& account = accounts_[number];
  return account.quota != kNoQuota || tenants_.at(account.name.tenant).quota != kNoQuota;
}

bool Accounts::is_over(AccountId number) const {
  return number != kNoAccount && accounts_[number].quota == 0;
}

std::uint32_t Accounts::ttl_s(AccountId number) const {
  return number == kNoAccount ? 0 : accounts_[number].ttl_s;
}

std::uint8_t Accounts::wants_copies(AccountId number) const {
  return number == kNoAccount ? 1 : accounts_[number].copies;
}

Placard Accounts::take_first(AccountId number) {
  std::deque<Placard>& line = accounts_[number].line;
  MEMKV_CHECK(!line.empty(), "every block of an account stands in its line");
  const Placard first = line.front();
  line.pop_front();
  return first;
}

void Accounts::stay(AccountId number, const Placard& placard) {
  accounts_[number].line.push_back(placard);
}

bool Accounts::spare(AccountId number, const Placard& placard) {
  Account& account = accounts_[number];
  if (account.spared >= std::min<std::uint64_t>(kSparedMax, account.blocks)) return false;
  ++account.spared;
  stay(number, placard);
  return true;
}

void Accounts::went(AccountId number) {
  accounts_[number].spared = 0;
}

bool Accounts::is_newest(AccountId number, const Placard& placard) const {
  const Account& account = accounts_[number];
  return account.blocks > 1 && account.newest == placard.incarnation;
}

void Accounts::count_gone(AccountId number, Gone why) {
  if (number == kNoAccount || is_shared(number)) return;
  const Name& name = accounts_[number].name;
  usage_.count(name.tenant, name.id, why);
}

RulesUsage Accounts::usage() const {
  RulesUsage usage;
  for (const auto& counted : usage_.spaces()) {
    usage.spaces.push_back(counted);
    SpaceUsage& space = usage.spaces.back();
    const SpaceRule* rule = rules_.of(space.tenant, space.id);
    const auto account = by_name_.find({space.tenant, space.id, rule->drop_generation});
    if (account == by_name_.end()) continue;
    space.blocks = accounts_[account->second].blocks;
    space.bytes = accounts_[account->second].bytes;
  }
  for (const bool with_quota : {true, false}) {
    for (const TenantQuota& rule : rules_.all().tenants) {
      if ((rule.quota_bytes != 0) != with_quota) continue;
      if (usage.tenants.size() == kSpacesCounted) break;
      usage.tenants.push_back(usage_of(rule));
    }
  }
  return usage;
}

TenantUsage Accounts::usage_of(const TenantQuota& rule) const {
  TenantUsage tenant{.tenant = rule.tenant, .quota_bytes = rule.quota_bytes};
  if (const auto known = tenants_.find(rule.tenant); known != tenants_.end()) {
    tenant.blocks = known->second.blocks;
    tenant.bytes = known->second.bytes;
  }
  return tenant;
}

}  // namespace memkv::engine
