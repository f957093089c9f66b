// Accounts: who has how many of the blocks that are here, and who owes bytes by the rules.
//
// An account is one namespace of one tenant in one drop generation. It has a line of its blocks,
// the longest there first, from which its quota is paid. It comes with its first block and goes
// with its last one. A line has at most three times as many places as the account has blocks, and
// 64.
//
// Names that nobody settled cost bounded memory. A namespace with a rule always gets an account.
// One without gets its own while its tenant has fewer than kAccountsPerTenantMax and all tenants
// together fewer than kAccountsMax, or its tenant fewer than kAccountsPerTenantMin, whatever the
// others have; else it shares one with all others like it of its tenant. What came to a shared
// account before its namespace had a rule stays there, and counts against the tenant's quota only,
// until somebody asks for it (Core::living); a shared account has neither quota nor TTL nor drop
// generation of its own. Who asks is told by the rules in any case.
//
// Thread: the mind.
#pragma once

#include <compare>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "base/fingerprint.h"
#include "base/identity.h"
#include "base/limits.h"
#include "engine/rules.h"
#include "engine/usage.h"

namespace memkv::engine {

using AccountId = std::uint32_t;
inline constexpr AccountId kNoAccount = 0xffffffff;
inline constexpr std::size_t kAccountsPerTenantMax = kAccountsMax / 4;
inline constexpr std::size_t kAccountsPerTenantMin = kAccountsMax / kTenantsMax;

// A block's place in its account's line; its block may be gone.
struct Placard {
  Fingerprint fingerprint;
  std::uint64_t incarnation = 0;
};

class Accounts {
 public:
  // Whether a placard's block is here, in this account.
  using Lives = std::function<bool(const Placard&)>;

  // The account of this namespace, made when there is none. It lasts while it has blocks, and until
  // the next call when it has none.
  [[nodiscard]] AccountId of(TenantId tenant, const Namespace& space);
  // A block came or went; nothing for kNoAccount.
  void add(AccountId account, std::uint32_t length);
  void remove(AccountId account, std::uint32_t length, const Lives& lives);
  // A block of it got, or lost, the mark kMarkOfCopied; one that goes has none. Nothing for
  // kNoAccount.
  void count_copied(AccountId account, bool got);
  // A block that was added stands last in the line.
  void line_up(AccountId account, const Placard& placard, const Lives& lives);
  void clear();

  // What is settled from now on; see StoreRules.
  void apply(Rules rules);
  [[nodiscard]] const Rules& rules() const { return rules_; }

  // It has more than its quota, or its tenant has.
  [[nodiscard]] bool owes(AccountId account) const;
  // Who is to lose a block next: one that is over its quota, or the largest of a tenant that is.
  // It looks at two accounts at most, however many there are.
  [[nodiscard]] std::optional<AccountId> payer();
  // How many payer() looked at so far.
  [[nodiscard]] std::uint64_t looks() const { return looks_; }
  // It is one that several namespaces share.
  [[nodiscard]] bool is_shared(AccountId account) const {
    return account != kNoAccount && accounts_[account].name.shared;
  }
  // It has a quota, or its tenant has, and neither is over it.
  [[nodiscard]] bool within_quota(AccountId account) const;
  // Its generation is over: all of it goes.
  [[nodiscard]] bool is_over(AccountId account) const;
  [[nodiscard]] std::uint32_t ttl_s(AccountId account) const;
  // On how many nodes its blocks are to lie.
  [[nodiscard]] std::uint8_t wants_copies(AccountId account) const;
  // The first of the line, which leaves it.
  [[nodiscard]] Placard take_first(AccountId account);
  // It stays, and goes last.
  void stay(AccountId account, const Placard& placard);
  // The same, unless that was done too often since somebody went.
  [[nodiscard]] bool spare(AccountId account, const Placard& placard);
  void went(AccountId account);
  [[nodiscard]] bool is_newest(AccountId account, const Placard& placard) const;
  // One of its blocks was taken out for this reason.
  void count_gone(AccountId account, Gone why);
  // Of the namespaces and tenants that are counted; see Usage.
  [[nodiscard]] RulesUsage usage() const;

  [[nodiscard]] std::uint64_t bytes(AccountId account) const { return accounts_[account].bytes; }
  [[nodiscard]] bool exists(AccountId account) const { return accounts_[account].blocks > 0; }
  [[nodiscard]] std::size_t places(AccountId account) const {
    return accounts_[account].line.size();
  }
  [[nodiscard]] std::size_t count() const { return by_name_.size(); }
  [[nodiscard]] const CopyCounts& all_copies() const { return all_copies_; }
  // Of the first kSpacesCounted namespaces that want two.
  [[nodiscard]] std::vector<SpaceCopies> copies() const;

 private:
  struct Name {
    TenantId tenant = 0;
    NamespaceId id{};
    std::uint32_t generation = 0;
    bool shared = false;  // then the two above say nothing
    friend auto operator<=>(const Name&, const Name&) = default;
  };
  struct Account {
    Name name;
    std::uint64_t blocks = 0, bytes = 0, copied = 0;
    std::uint64_t quota = kNoQuota;
    std::uint32_t ttl_s = 0;
    std::uint8_t copies = 1;
    std::uint32_t spared = 0;  // since one went
    std::uint64_t newest = 0;  // incarnation
    std::deque<Placard> line;
  };
  struct Tenant {
    std::uint64_t blocks = 0, bytes = 0;
    std::uint64_t quota = kNoQuota;
    std::uint64_t newest = 0;
    std::set<std::pair<std::uint64_t, AccountId>> by_bytes;  // its accounts, the largest last
  };

  [[nodiscard]] bool takes_one_more(TenantId tenant) const;
  [[nodiscard]] AccountId make(const Name& name);
  // The account has so many bytes from now on.
  void weigh(AccountId account, std::uint64_t bytes);
  static void trim(Account& account, const Lives& lives);
  void settle(Account& account) const;
  [[nodiscard]] static CopyCounts copies_of(const Account& account);
  [[nodiscard]] TenantUsage usage_of(const TenantQuota& rule) const;
  void look_whether_over(AccountId account);
  void close(AccountId account);

  Rules rules_;
  std::deque<Account> accounts_;  // a deque, so that lines need not move
  std::vector<AccountId> closed_;
  std::map<Name, AccountId> by_name_;
  std::map<TenantId, Tenant> tenants_;
  std::set<AccountId> over_;
  std::set<TenantId> tenants_over_;
  Usage usage_;
  std::uint64_t looks_ = 0;
  CopyCounts all_copies_;  // of all accounts
};

}  // namespace memkv::engine
