#include "engine/accounts.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv::engine {
namespace {

constexpr std::size_t kLineSlack = 64;
constexpr int kLineSteps = 4;  // one block comes, so many places are looked at
constexpr std::uint32_t kSparedMax = 64;
constexpr std::uint32_t kRestGeneration = ~0U;  // of those who share an account

}  // namespace

AccountId Accounts::of(TenantId tenant, const Namespace& space) {
  const Name name{tenant, space.id, space.generation};
  if (const auto known = by_name_.find(name); known != by_name_.end()) return known->second;
  if (by_name_.size() < kAccountsMax || rules_.of(tenant, space.id) != nullptr) return make(name);
  const Name rest{tenant, {}, kRestGeneration};
  const auto known = by_name_.find(rest);
  return known != by_name_.end() ? known->second : make(rest);
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
  tenant.accounts.insert(number);
  return number;
}

void Accounts::settle(Account& account) const {
  const SpaceRule* rule = rules_.of(account.name.tenant, account.name.id);
  account.quota = kNoQuota;
  account.ttl_s = 0;
  account.copies = 1;
  if (rule == nullptr || account.name.generation == kRestGeneration) return;
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
  account.bytes += length;
  if (account.copies == kCopiesMax) {
    ++all_copies_.blocks;
    ++all_copies_.waiting;
  }
  tenants_[account.name.tenant].bytes += length;
  look_whether_over(number);
}

void Accounts::remove(AccountId number, std::uint32_t length) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  MEMKV_CHECK(account.blocks > 0 && account.bytes >= length, "an account loses what it has");
  --account.blocks;
  account.bytes -= length;
  if (account.copies == kCopiesMax) {
    --all_copies_.blocks;
    --all_copies_.waiting;
  }
  tenants_[account.name.tenant].bytes -= length;
  look_whether_over(number);
  if (account.blocks == 0) close(number);
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
  accounts_[number] = Account{};
  over_.erase(number);
  by_name_.erase(name);
  closed_.push_back(number);
  const auto tenant = tenants_.find(name.tenant);
  tenant->second.accounts.erase(number);
  if (!tenant->second.accounts.empty()) return;
  tenants_over_.erase(name.tenant);
  tenants_.erase(tenant);
}

void Accounts::clear() {
  Rules rules = std::move(rules_);
  *this = Accounts();
  rules_ = std::move(rules);
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

void Accounts::line_up(AccountId number, const Placard& placard,
                       const std::function<bool(const Placard&)>& lives) {
  if (number == kNoAccount) return;
  Account& account = accounts_[number];
  account.line.push_back(placard);
  account.newest = placard.incarnation;
  tenants_[account.name.tenant].newest = placard.incarnation;
  for (int i = 0; i < kLineSteps && account.line.size() > 2 * account.blocks + kLineSlack; ++i) {
    const Placard first = account.line.front();
    account.line.pop_front();
    if (lives(first)) account.line.push_back(first);
  }
}

void Accounts::apply(Rules rules) {
  rules_ = std::move(rules);
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

std::optional<AccountId> Accounts::payer() const {
  if (!over_.empty()) return *over_.begin();
  if (tenants_over_.empty()) return std::nullopt;
  const Tenant& tenant = tenants_.at(*tenants_over_.begin());
  AccountId largest = *tenant.accounts.begin();
  const auto weight = [&](AccountId number) {
    // What came last goes last.
    const Account& account = accounts_[number];
    const bool only_the_newest = account.blocks == 1 && account.newest == tenant.newest;
    return only_the_newest ? 0 : account.bytes;
  };
  for (const AccountId number : tenant.accounts) {
    if (weight(number) > weight(largest)) largest = number;
  }
  return largest;
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

}  // namespace memkv::engine
