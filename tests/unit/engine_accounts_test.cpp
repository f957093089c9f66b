// Accounts of namespaces: their bounds, the work to pay from them, and what a
// restart makes of them.
#include "engine/accounts.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "engine/admittance.h"
#include "engine/index.h"
#include "engine/usage.h"
#include "unit/engine_rig.h"

namespace memkv::engine {
namespace {

constexpr std::uint64_t kHourNs = 3600ULL * 1'000'000'000;

bool always(const Placard& /*of*/) {
  return true;
}

Namespace space_of(std::uint32_t number) {
  Namespace space;
  for (std::size_t i = 0; i < 4; ++i) space.id[i] = static_cast<std::byte>(number >> (8 * i));
  return space;
}

// A block of `length` bytes in a namespace of the tenant.
AccountId give(Accounts& accounts, TenantId tenant, const Namespace& space,
               std::uint64_t incarnation, std::uint32_t length = 10) {
  const AccountId account = accounts.of(tenant, space);
  accounts.add(account, length);
  accounts.line_up(account, {{incarnation, incarnation}, incarnation}, always);
  return account;
}

// ---- how many accounts there are

TEST(AccountsTest, NamesThatNobodySettledShareAnAccountBeyondALimit) {
  Accounts accounts;
  for (std::uint32_t i = 0; i < kAccountsPerTenantMax + 1000; ++i) {
    give(accounts, 7, space_of(i), i);
  }
  EXPECT_EQ(accounts.count(), kAccountsPerTenantMax + 1);
  const AccountId shared = accounts.of(7, space_of(kAccountsPerTenantMax + 5));
  EXPECT_TRUE(accounts.is_shared(shared));
  EXPECT_EQ(accounts.bytes(shared), 1000u * 10);
  for (int i = 0; i < 1000; ++i) accounts.remove(shared, 10, always);
  EXPECT_EQ(accounts.count(), kAccountsPerTenantMax);
}

TEST(AccountsTest, WhoeverMakesUpNamesTakesNoOthersAccounts) {
  Accounts accounts;
  std::uint32_t made = 0;
  for (TenantId tenant = 1; tenant <= 5; ++tenant) {
    for (std::uint32_t i = 0; i < kAccountsPerTenantMax + 10; ++i) {
      give(accounts, tenant, space_of(i), ++made);
    }
  }
  EXPECT_LE(accounts.count(), kAccountsMax + kAccountsPerTenantMin + 5);
  for (std::uint32_t i = 0; i < kAccountsPerTenantMin; ++i) {
    EXPECT_FALSE(accounts.is_shared(give(accounts, 9, space_of(i), ++made))) << i;
  }
  EXPECT_TRUE(accounts.is_shared(give(accounts, 9, space_of(kAccountsPerTenantMin), ++made)));
}

TEST(AccountsTest, ANamespaceWithARuleAlwaysHasAnAccountOfItsOwn) {
  Accounts accounts;
  for (std::uint32_t i = 0; i <= kAccountsPerTenantMax; ++i) give(accounts, 7, space_of(i), i);
  const Namespace settled = space_of(~0U);
  accounts.apply(Rules({{{.tenant = 7, .id = settled.id, .quota_bytes = 5}}, {}}));
  const AccountId account = give(accounts, 7, settled, kAccountsPerTenantMax + 1);
  EXPECT_FALSE(accounts.is_shared(account));
  EXPECT_TRUE(accounts.owes(account));
}

// No number of a generation is taken for something else.
TEST(AccountsTest, TheLastDropGenerationIsOneLikeTheOthers) {
  Accounts accounts;
  Namespace last;
  last.generation = ~0U;
  const AccountId account = give(accounts, 7, last, 1);
  for (std::uint32_t i = 1; i <= kAccountsPerTenantMax + 10; ++i) {
    give(accounts, 7, space_of(i), i + 1);
  }
  EXPECT_FALSE(accounts.is_shared(account));
  EXPECT_EQ(accounts.bytes(account), 10u);
  accounts.apply(Rules(
      {{{.tenant = 7, .id = last.id, .drop_generation = ~0U, .ttl_s = 3, .quota_bytes = 5}}, {}}));
  EXPECT_EQ(accounts.ttl_s(account), 3u);
  EXPECT_TRUE(accounts.owes(account));
}

// ---- lines

// How long a line is while its blocks go one by one, in this order.
void expect_short_line(Index& index, const std::vector<Fingerprint>& order, AccountId account) {
  std::uint64_t left = order.size();
  for (const Fingerprint& print : order) {
    ASSERT_TRUE(index.erase(print));
    if (--left == 0) return;
    ASSERT_LE(index.accounts().places(account), 3 * left + 64) << left << " left";
  }
}

TEST(AccountsTest, ALineIsBoundedByTheBlocksAlsoWhenTheyGo) {
  constexpr std::uint64_t kBlocks = 20'000;
  const auto print_of = [](std::uint64_t i) { return Fingerprint{i, i * 0x9e3779b97f4a7c15}; };
  std::vector<std::uint64_t> forth(kBlocks);
  for (std::uint64_t i = 0; i < kBlocks; ++i) forth[i] = i;
  const std::vector<std::uint64_t> back(forth.rbegin(), forth.rend());
  std::vector<std::uint64_t> odd_last = forth;
  std::ranges::stable_sort(odd_last, {}, [](std::uint64_t i) { return i % 2; });
  for (const auto& order : {forth, back, odd_last}) {
    Index index(2 * kBlocks);
    const AccountId account = index.accounts().of(7, {});
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      Entry& entry = index.insert(print_of(i), 10, account);
      entry.incarnation = i;
      index.line_up(entry);
    }
    std::vector<Fingerprint> prints;
    for (const std::uint64_t i : order) prints.push_back(print_of(i));
    expect_short_line(index, prints, account);
  }
}

TEST(AccountsTest, ALineIsBoundedByTheBlocks) {
  Accounts accounts;
  // One block that lives for ever at the head, and others that come and go behind it.
  const AccountId account = give(accounts, 7, {}, 0, 1);
  for (std::uint64_t i = 1; i < 10'000; ++i) {
    const auto lives = [i](const Placard& of) {
      return of.incarnation == 0 || of.incarnation == i;
    };
    accounts.add(account, 1);
    accounts.line_up(account, {{i, i}, i}, lives);
    accounts.remove(account, 1, lives);
  }
  EXPECT_LE(accounts.places(account), 70u);
}

// ---- who pays

// A tenant of very many small namespaces costs the node no more to be held to its quota than
// others.
TEST(AccountsTest, ToFindWhoPaysIsTheSameWorkHoweverManyAccountsThereAre) {
  Accounts accounts;
  for (std::uint32_t i = 0; i < kAccountsPerTenantMax; ++i) give(accounts, 7, space_of(i), i + 1);
  accounts.apply(Rules({{}, {{.tenant = 7, .quota_bytes = 10}}}));
  std::uint64_t paid = 0;
  while (const auto payer = accounts.payer()) {
    (void)accounts.take_first(*payer);
    accounts.remove(*payer, 10, always);
    ++paid;
  }
  EXPECT_EQ(paid, kAccountsPerTenantMax - 1);
  EXPECT_LE(accounts.looks(), 2 * (paid + 1));
}

TEST(AccountsTest, TheLargestPaysAndOfTheLastTwoTheOneThatCameFirst) {
  Accounts accounts;
  const AccountId small = give(accounts, 7, space_of(1), 1, 10);
  const AccountId large = give(accounts, 7, space_of(2), 2, 15);
  give(accounts, 7, space_of(2), 3, 15);
  const AccountId newest = give(accounts, 7, space_of(3), 4, 100);
  accounts.apply(Rules({{}, {{.tenant = 7, .quota_bytes = 1}}}));
  for (const AccountId expected : {large, large, small, newest}) {
    const auto payer = accounts.payer();
    ASSERT_TRUE(payer.has_value());
    ASSERT_EQ(*payer, expected);
    accounts.remove(*payer, *payer == large ? 15 : *payer == small ? 10 : 100, always);
  }
  EXPECT_FALSE(accounts.payer().has_value());
}

// ---- the budget of writes

TEST(WriteBudgetTest, WhatWasWrittenAndWhatTimeAllowedAreSetOffBeforeAnythingIsCutOff) {
  WriteBudget budget(24'000);  // 1000 an hour
  ASSERT_TRUE(budget.allows(kHourNs, 0));
  EXPECT_TRUE(budget.allows(9 * kHourNs, 8'000)) << "eight hours' worth in eight hours";
  EXPECT_TRUE(budget.allows(9 * kHourNs, 8'900)) << "an hour's worth was saved";
  EXPECT_FALSE(budget.allows(9 * kHourNs, 9'100));
  EXPECT_TRUE(budget.allows(10 * kHourNs, 9'100));
}

TEST(WriteBudgetTest, ADayIsTheLongestThatItIsOwed) {
  WriteBudget budget(24'000);
  ASSERT_TRUE(budget.allows(kHourNs, 0));
  EXPECT_FALSE(budget.allows(2 * kHourNs, 10'000'000));
  EXPECT_FALSE(budget.allows(25 * kHourNs, 10'000'000));
  EXPECT_TRUE(budget.allows(27 * kHourNs, 10'000'000));
}

// ---- what is counted

TEST(UsageTest, CountsThoseWithAQuotaFirstAndKeepsTheirNumbers) {
  StoreRules rules;
  for (std::uint32_t i = 0; i < 2 * kSpacesCounted; ++i) {
    rules.spaces.push_back({.tenant = 7, .id = space_of(i).id});
  }
  rules.spaces.back().quota_bytes = 5;
  Usage usage;
  usage.apply(rules);
  ASSERT_EQ(usage.spaces().size(), kSpacesCounted);
  EXPECT_EQ(usage.spaces()[0].id, rules.spaces.back().id);
  for (const SpaceRule& rule : rules.spaces) usage.count(7, rule.id, Gone::ended);
  usage.count(8, rules.spaces.back().id, Gone::ended);
  rules.spaces.back().quota_bytes = 9;
  usage.apply(rules);
  EXPECT_EQ(usage.spaces()[0].quota_bytes, 9u);
  for (const SpaceUsage& space : usage.spaces()) EXPECT_EQ(space.ended, 1u);
  usage.apply({});
  EXPECT_TRUE(usage.spaces().empty());
}

TEST(UsageTest, CountsTenantsWithAQuotaFirstAndOthersAsFarAsThereIsRoom) {
  StoreRules rules;
  for (TenantId tenant = 1; tenant <= 2 * kSpacesCounted; ++tenant) {
    rules.tenants.push_back({.tenant = tenant});
  }
  rules.tenants.back().quota_bytes = 1000;
  Accounts accounts;
  accounts.apply(Rules(rules));
  accounts.add(accounts.of(2 * kSpacesCounted, space_of(1)), 10);
  accounts.add(accounts.of(1, space_of(1)), 20);
  accounts.add(accounts.of(1, space_of(2)), 30);
  const std::vector<TenantUsage> tenants = accounts.usage().tenants;
  ASSERT_EQ(tenants.size(), kSpacesCounted);
  EXPECT_EQ(tenants[0].tenant, 2 * kSpacesCounted);
  EXPECT_EQ(tenants[0].quota_bytes, 1000u);
  EXPECT_EQ(tenants[0].bytes, 10u);
  EXPECT_EQ(tenants[1].tenant, 1u);
  EXPECT_EQ(tenants[1].quota_bytes, 0u);
  EXPECT_EQ(tenants[1].blocks, 2u);
  EXPECT_EQ(tenants[1].bytes, 50u);
}

// ---- more names than accounts

// All accounts of a tenant are taken when the namespace comes that will have a rule.
TEST(ManyNamesTest, ARuleHoldsForAllThatLiesOnTheDeviceOrForWhatIsAskedForWhenItComesLater) {
  const Namespace settled = space_of(~0U);
  const StoreRules rules{{{.tenant = kDefaultTenant, .id = settled.id, .quota_bytes = 200}}, {}};
  const auto id = [](std::string_view key, const Namespace& space) {
    BlockId named = id_of(key);
    named.space = space;
    return named;
  };
  Rig rig({.disk_bytes = 257 * kMiB, .store = {.segment_bytes = kMiB}});
  const auto held = [&rig] { return rig.store->stats().usage.spaces.at(0).blocks; };
  const auto settle = [&rig] { rig.world->run_until([] { return false; }, 200); };
  ASSERT_TRUE(rig.open().good());
  const Bytes bytes = bytes_from(1, 100);
  for (std::uint32_t i = 0; i < kAccountsPerTenantMax; ++i) {
    ASSERT_TRUE(rig.put(id("a", space_of(i)), bytes));
  }
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(rig.put(id("b" + std::to_string(i), settled), bytes));
  rig.store->set_rules(rules);
  settle();
  EXPECT_EQ(held(), 0u);
  for (int i = 0; i < 5; ++i) {
    EXPECT_TRUE(rig.store->match(id("b" + std::to_string(i), settled), 0).present);
  }
  settle();
  EXPECT_EQ(held(), 2u);
  EXPECT_EQ(rig.store->stats().quota_evicted_blocks, 3u);

  ASSERT_TRUE(rig.rest());
  ASSERT_TRUE(rig.close().good());
  rig.options.store.rules = rules;
  ASSERT_TRUE(rig.open().good());
  settle();
  EXPECT_EQ(held(), 2u);
  EXPECT_EQ(rig.store->stats().quota_evicted_blocks, 5u) << "also those nobody asked for";
}

}  // namespace
}  // namespace memkv::engine
