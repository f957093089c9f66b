// What operators settle: copies, drop generations, quotas, fair eviction, admission (store.h,
// set_rules).
#include <algorithm>
#include <string>
#include <vector>

#include "unit/rules_rig.h"

namespace memkv {
namespace {

// ---- copies

TEST_F(Rules, WhatWaitsForACopyIsCounted) {
  open();
  const auto copies = [&] {
    const CopyCounts all = stats().copies;
    return std::pair(all.blocks, all.waiting);
  };
  using Counts = std::pair<std::uint64_t, std::uint64_t>;
  for (std::uint64_t i = 0; i < 6; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), i < 4 ? 1 : 2)), Code::ok);
  }
  const auto first = rig->put(of_space("marked", 1), bytes_from(1, kBlock));
  ASSERT_TRUE(first);
  EXPECT_TRUE(rig->store->mark(of_space("marked", 1), *first, kMarkOfCopied));
  EXPECT_EQ(copies(), Counts(0, 0)) << "nobody settled it";
  EXPECT_TRUE(rig->store->copies().empty());

  SpaceRule rule = rule_of(1);
  rule.copies = 2;
  rig->store->set_rules({{rule}, {}});
  EXPECT_EQ(copies(), Counts(5, 4));
  ASSERT_EQ(rig->store->copies().size(), 1u);
  EXPECT_EQ(rig->store->copies()[0].id, rule.id);
  EXPECT_EQ(rig->store->copies()[0].counts.waiting, 4u);
  EXPECT_TRUE(rig->store->mark(of_space("marked", 1), *first, kMarkOfCopied)) << "once more";
  EXPECT_EQ(copies(), Counts(5, 4));
  EXPECT_TRUE(rig->store->mark(of_space("marked", 1), *first, 0));
  EXPECT_EQ(copies(), Counts(5, 5));
  EXPECT_TRUE(rig->store->mark(of_space("marked", 1), *first, 7)) << "a drain's is another";
  EXPECT_EQ(copies(), Counts(5, 5));
  EXPECT_TRUE(rig->store->mark(of_space("marked", 1), *first, kMarkOfCopied));
  ASSERT_EQ(rig->drop(of_space("marked", 1)), Code::ok);
  EXPECT_EQ(copies(), Counts(4, 4));
  ASSERT_EQ(put(of_space("marked", 1)), Code::ok);
  EXPECT_EQ(copies(), Counts(5, 5)) << "a mark is of one incarnation";

  again();
  rig->store->set_rules({{rule}, {}});
  EXPECT_EQ(copies(), Counts(5, 5));
  rule.drop_generation = 1;
  rig->store->set_rules({{rule}, {}});
  EXPECT_EQ(copies(), Counts(0, 0)) << "what was dropped waits for nothing";
  rule.copies = 1;
  rig->store->set_rules({{rule}, {}});
  EXPECT_TRUE(rig->store->copies().empty());
}

TEST_F(Rules, CountsOfCopiesFollowWhateverHappens) {
  open();
  SpaceRule rule = rule_of(1);
  rule.quota_bytes = 12 * kBlock;
  SeededRandom random(5);
  for (int step = 0; step < 400; ++step) {
    const std::string key = key_of(random.below(20));
    const BlockId id = of_space(key, 1);
    rule.copies = static_cast<std::uint8_t>(step % 50 == 0 ? 1 : 2);
    if (step % 25 == 0) rig->store->set_rules({{rule}, {}});
    if (random.below(3) == 0) {
      (void)rig->drop(id);
    } else if (const auto done = rig->put(id, bytes_from(1, kBlock)); done) {
      EXPECT_TRUE(rig->store->mark(id, *done, static_cast<std::uint8_t>(random.below(3))));
    }
  }
  rule.copies = 2;
  rig->store->set_rules({{rule}, {}});
  settle();
  std::uint64_t waiting = 0;
  for (std::uint64_t i = 0; i < 20; ++i) {
    const Found found = rig->store->match(of_space(key_of(i), 1), 0);
    waiting += found.present && found.mark != kMarkOfCopied ? 1 : 0;
  }
  EXPECT_EQ(stats().copies.blocks, stats().blocks);
  EXPECT_EQ(stats().copies.waiting, waiting);
  EXPECT_GT(waiting, 0u);
}

// ---- drop generations

TEST_F(Rules, BlocksOfAnOlderGenerationNeverMatchAgain) {
  open();
  ASSERT_EQ(put(of_space("a", 1)), Code::ok);
  ASSERT_EQ(put(of_space("a", 2)), Code::ok);
  ASSERT_TRUE(rig->rest());
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 1;
  rig->store->set_rules({{rule}, {}});
  // At once, and not when they have been taken out.
  EXPECT_FALSE(has(of_space("a", 1)));
  EXPECT_EQ(rig->get(of_space("a", 1), 0, 1).error().code, Code::not_found);
  EXPECT_EQ(rig->drop(of_space("a", 1)), Code::not_found);
  EXPECT_TRUE(has(of_space("a", 2))) << "another namespace";
  settle();
  EXPECT_EQ(stats().blocks, 1u) << "its place is free";
  EXPECT_EQ(stats().ended_blocks, 1u);
  EXPECT_EQ(stats().quota_evicted_blocks, 0u) << "no quota was the reason";
  // Also without the rule, and after a restart.
  again();
  rig->store->set_rules({});
  EXPECT_FALSE(has(of_space("a", 1)));
  EXPECT_EQ(rig->get(of_space("a", 2)).value(), bytes_from(1, kBlock));
}

TEST_F(Rules, ANodeThatWasAwayDropsWhenItHearsOfIt) {
  open();
  ASSERT_EQ(put(of_space("a", 1)), Code::ok);
  again();
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 7;
  rig->store->set_rules({{rule}, {}});
  EXPECT_FALSE(has(of_space("a", 1)));
  settle();
  EXPECT_EQ(stats().blocks, 0u);
}

TEST_F(Rules, APutOfAnotherGenerationIsRefused) {
  open();
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 2;
  rig->store->set_rules({{rule}, {}});
  EXPECT_EQ(put(of_space("a", 1, kDefaultTenant, 1)), Code::denied);
  EXPECT_EQ(put(of_space("a", 1, kDefaultTenant, 3)), Code::busy);
  EXPECT_EQ(put(of_space("a", 1, kDefaultTenant, 2)), Code::ok);
  EXPECT_EQ(put(of_space("a", 1, 9, 1)), Code::ok) << "another tenant's namespace";
  EXPECT_EQ(stats().puts_ended, 2u);
  EXPECT_EQ(stats().puts_rejected, 0u);
}

TEST_F(Rules, APutThatWasGrantedBeforeTheDropIsNeverSeen) {
  open();
  const BlockId id = of_space("a", 1);
  auto grant = rig->begin(id, kBlock);
  ASSERT_TRUE(grant);
  Rig::fill(*grant, bytes_from(1, kBlock));
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 1;
  rig->store->set_rules({{rule}, {}});
  const auto crcs = crcs_of(bytes_from(1, kBlock));
  EXPECT_TRUE(rig->store->commit_put(grant->put, crcs, crcs));
  EXPECT_FALSE(has(id));
  settle();
  EXPECT_EQ(stats().blocks, 0u);
}

TEST_F(Rules, ThousandsAreTakenOutASliceATask) {
  RigOptions options = small();
  options.disk_bytes = 33 * kMiB;
  open(options);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 1), i, 4000), Code::ok);
  }
  ASSERT_TRUE(rig->rest());
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 1;
  rig->store->set_rules({{rule}, {}});
  std::uint64_t before = stats().blocks;
  ASSERT_EQ(before, 1000u);
  while (rig->world->step() && stats().blocks > 0) {
    ASSERT_LE(before - stats().blocks, 128u);
    before = stats().blocks;
  }
  EXPECT_EQ(stats().blocks, 0u);
}

// Tombstones come faster than the index is written: they wait, and take no room from others.
TEST_F(Rules, DroppingALargeNamespaceTakesNoRoomFromOthers) {
  RigOptions options = small();
  options.disk_bytes = 65 * kMiB;
  open(options);
  for (std::uint64_t i = 0; i < 40; ++i) ASSERT_EQ(put(of_space(key_of(i), 2), i), Code::ok);
  for (std::uint64_t i = 0; i < 2500; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 1), i, 100), Code::ok);
  }
  ASSERT_TRUE(rig->rest());
  const std::uint64_t free_before = stats().segments_free;
  ASSERT_GT(free_before, 4u);
  SpaceRule rule = rule_of(1);
  rule.drop_generation = 1;
  rig->store->set_rules({{rule}, {}});
  std::uint64_t waiting = 0;
  while (rig->world->step() && stats().blocks > 40) {
    waiting = std::max(waiting, stats().records_waiting);
  }
  ASSERT_TRUE(rig->rest());
  EXPECT_EQ(stats().blocks, 40u);
  EXPECT_LE(waiting, 64u) << "a segment has 256 pages, and each record may need one";
  EXPECT_GE(stats().segments_free + 1, free_before) << "2500 tombstones are 45 pages";
  EXPECT_EQ(stats().evicted_blocks, 0u);
  EXPECT_EQ(count(2, 40), 40u);
  again();
  EXPECT_EQ(stats().blocks, 40u);
}

// ---- quotas

TEST_F(Rules, WhoIsOverItsQuotaLosesItsOldestAndNobodyElseAny) {
  open();
  SpaceRule rule = rule_of(1);
  rule.quota_bytes = 10 * kBlock;
  rig->store->set_rules({{rule}, {}});
  for (std::uint64_t i = 0; i < 20; ++i) ASSERT_EQ(put(of_space(key_of(i), 2)), Code::ok);
  for (std::uint64_t i = 0; i < 30; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 1)), Code::ok);
    settle();
    ASSERT_LE(stats().block_bytes, 30 * kBlock);
    ASSERT_TRUE(has(of_space(key_of(i), 1))) << "the newest goes last";
  }
  EXPECT_EQ(stats().quota_evicted_blocks, 20u);
  EXPECT_EQ(count(2, 20), 20u);
  EXPECT_EQ(count(1, 30), 10u);
}

TEST_F(Rules, WhatWasHitGoesLater) {
  open();
  SpaceRule rule = rule_of(1);
  rule.quota_bytes = 10 * kBlock;
  rig->store->set_rules({{rule}, {}});
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(put(of_space(key_of(i), 1)), Code::ok);
  for (std::uint64_t i = 10; i < 40; ++i) {
    for (const std::uint64_t hot : {0, 3}) ASSERT_TRUE(has(of_space(key_of(hot), 1))) << i;
    ASSERT_EQ(put(of_space(key_of(i), 1)), Code::ok);
    settle();
  }
  EXPECT_EQ(count(1, 40), 10u);
}

TEST_F(Rules, ABlockLargerThanItsQuotaIsNoSpace) {
  open();
  SpaceRule rule = rule_of(1);
  rule.quota_bytes = kBlock - 1;
  rig->store->set_rules({{rule}, {{.tenant = 5, .quota_bytes = kBlock}}});
  EXPECT_EQ(put(of_space("a", 1)), Code::no_space);
  EXPECT_EQ(put(of_space("a", 1), 1, kBlock - 1), Code::ok);
  EXPECT_EQ(put(of_space("a", 2, 5), 1, kBlock + 1), Code::no_space);
  EXPECT_EQ(put(of_space("a", 2, 5)), Code::ok);
  EXPECT_EQ(stats().puts_over_quota, 2u);
}

TEST_F(Rules, TheTenantsLargestNamespacePaysForItsQuota) {
  open();
  rig->store->set_rules({{}, {{.tenant = 5, .quota_bytes = 12 * kBlock}}});
  for (std::uint64_t i = 0; i < 10; ++i) ASSERT_EQ(put(of_space(key_of(i), 1, 5)), Code::ok);
  for (std::uint64_t i = 0; i < 5; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 2, 5)), Code::ok);
    ASSERT_EQ(put(of_space(key_of(i), 2, 6)), Code::ok);
  }
  settle();
  EXPECT_EQ(count(2, 5, 5), 5u);
  EXPECT_EQ(count(1, 10, 5), 7u);
  EXPECT_EQ(count(2, 5, 6), 5u);
}

// One is over by a little more than the other: both come down, not the one alone.
TEST_F(Rules, TheNamespacesOfATenantPayUntilTheyAreLevel) {
  open();
  rig->store->set_rules({});
  for (std::uint64_t i = 0; i < 51; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 1, 5)), Code::ok);
    if (i >= 49) continue;
    ASSERT_EQ(put(of_space(key_of(i), 2, 5)), Code::ok);
  }
  ASSERT_TRUE(rig->rest());
  rig->store->set_rules({{}, {{.tenant = 5, .quota_bytes = 50 * kBlock}}});
  settle();
  EXPECT_EQ(stats().blocks, 50u);
  EXPECT_EQ(count(1, 51, 5), 25u);
  EXPECT_EQ(count(2, 51, 5), 25u);
}

TEST_F(Rules, QuotasHoldAcrossARestart) {
  open();
  SpaceRule rule = rule_of(1);
  rule.quota_bytes = 10 * kBlock;
  rig->store->set_rules({{rule}, {}});
  for (std::uint64_t i = 0; i < 30; ++i) ASSERT_EQ(put(of_space(key_of(i), 1)), Code::ok);
  settle();
  again();
  EXPECT_EQ(stats().blocks, 10u) << "what was taken out does not come back";
  rule.quota_bytes = 4 * kBlock;
  rig->store->set_rules({{rule}, {}});
  settle();
  EXPECT_EQ(stats().blocks, 4u) << "the accounts are rebuilt from what lies on the device";
  EXPECT_TRUE(has(of_space(key_of(29), 1)));
}

// A tenant that writes ten times its quota; another one whose blocks are read all the time.
TEST_F(Rules, ANoisyTenantPushesOutNothingHotOfAnotherWithinItsQuota) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    RigOptions options = small();
    options.seed = seed;
    options.store.rewrite_percent = 0;  // nobody's blocks move, but for their quota
    open(options);
    const std::uint64_t hot = 30;
    rig->store->set_rules(
        {{}, {{.tenant = 5, .quota_bytes = 40 * kBlock}, {.tenant = 6, .quota_bytes = 2 * kMiB}}});
    std::uint64_t noise = 0;
    const auto shout = [&] {
      ++noise;
      ASSERT_EQ(put(of_space("n" + std::to_string(noise), 1, 6), noise), Code::ok);
    };
    for (std::uint64_t i = 0; i < hot; ++i) {
      ASSERT_EQ(put(of_space(key_of(i), 1, 5), i), Code::ok);
      shout();
    }
    while (noise * kBlock < 20 * kMiB) {
      shout();
      if (noise % 8 == 0) {
        ASSERT_TRUE(rig->rest());  // a device that keeps up
        ASSERT_EQ(count(1, hot, 5), hot) << "seed " << seed << ", " << noise;
      }
    }
    for (std::uint64_t i = 0; i < hot; ++i) {
      ASSERT_EQ(rig->get(of_space(key_of(i), 1, 5)).value(), bytes_from(i, kBlock));
    }
    EXPECT_GT(stats().device_bytes_written, 2 * options.disk_bytes);
    EXPECT_GE(stats().rewritten_blocks, hot);
  }
}

TEST_F(Rules, InDramTheTenantThatHasMostMakesRoom) {
  open();
  // 32 pages of arena; each block takes one.
  for (std::uint64_t i = 0; i < 8; ++i) ASSERT_EQ(put(of_space(key_of(i), 1, 5)), Code::ok);
  ASSERT_TRUE(rig->rest());
  for (std::uint64_t i = 0; i < 60; ++i) {
    ASSERT_EQ(put(of_space(key_of(i), 1, 6)), Code::ok);
    ASSERT_TRUE(rig->rest());
  }
  for (std::uint64_t i = 0; i < 8; ++i) {
    EXPECT_TRUE(rig->store->match(of_space(key_of(i), 1, 5), 0).in_dram) << i;
  }
}

// ---- admission

TEST_F(Rules, SecondTouchTakesABlockAtItsSecondPut) {
  open();
  SpaceRule rule = rule_of(1);
  rule.admission = Admission::second_touch;
  rig->store->set_rules({{rule}, {}});
  EXPECT_EQ(put(of_space("a", 1)), Code::no_space);
  EXPECT_EQ(put(of_space("b", 1)), Code::no_space);
  EXPECT_FALSE(has(of_space("a", 1))) << "asking is no touch";
  EXPECT_EQ(put(of_space("a", 1)), Code::ok);
  EXPECT_EQ(put(of_space("a", 1)), Code::exists);
  EXPECT_EQ(put(of_space("a", 2)), Code::ok) << "another namespace takes all";
  EXPECT_EQ(stats().puts_not_admitted, 2u);
}

TEST_F(Rules, TheBudgetOfWritesHoldsAndComesBackWithTime) {
  RigOptions options = small();
  options.store.write_budget = 24 * kMiB;  // an hour's worth is 1 MiB
  open(options);
  SpaceRule rule = rule_of(1);
  rule.admission = Admission::budget;
  rig->store->set_rules({{rule}, {}});
  std::uint64_t taken = 0;
  const auto fill = [&] {
    Code code = Code::ok;
    while (code == Code::ok) {
      code = put(of_space(key_of(taken), 1));
      if (code == Code::ok) ++taken;
      ASSERT_TRUE(rig->rest());
    }
    EXPECT_EQ(code, Code::no_space);
  };
  fill();
  const std::uint64_t first = taken;
  EXPECT_NEAR(static_cast<double>(first), 1.0 * kMiB / kBlock, 4);
  EXPECT_EQ(put(of_space("all", 2)), Code::ok) << "other namespaces are not held back";
  ASSERT_TRUE(rig->rest());
  pass(2ull * 3600);
  fill();
  EXPECT_NEAR(static_cast<double>(taken - first), 1.0 * kMiB / kBlock, 4)
      << "two hours, and an hour's worth";
  EXPECT_GE(stats().puts_not_admitted, 2u);
}

// Others write what the time allows, for many hours in which nobody asks for the budget.
TEST_F(Rules, WhatTheTimePaidForTakesNothingFromTheBudget) {
  RigOptions options = small();
  options.store.write_budget = 24 * kMiB;  // an hour's worth is 1 MiB
  open(options);
  SpaceRule rule = rule_of(1);
  rule.admission = Admission::budget;
  rig->store->set_rules({{rule}, {}});
  ASSERT_EQ(put(of_space("first", 1)), Code::ok);
  ASSERT_TRUE(rig->rest());
  for (std::uint64_t hour = 0; hour < 8; ++hour) {
    const std::uint64_t before = stats().device_bytes_written;
    for (std::uint64_t i = 0; stats().device_bytes_written - before < 900 * kKiB; ++i) {
      ASSERT_EQ(put(of_space(key_of(hour * 100 + i), 2)), Code::ok);
      ASSERT_TRUE(rig->rest());
    }
    pass(3600);
  }
  EXPECT_EQ(put(of_space("second", 1)), Code::ok) << "never more than the budget was written";
  EXPECT_EQ(stats().puts_not_admitted, 0u);
}

// ---- what is said of it

TEST_F(Rules, UsageSaysWhatIsHereAndWhatTheRulesTookOut) {
  open();
  SpaceRule one = rule_of(1, 5);
  one.quota_bytes = 4 * kBlock;
  SpaceRule two = rule_of(2, 5);
  two.ttl_s = 100;
  const std::vector<TenantQuota> tenants = {{.tenant = 5, .quota_bytes = kMiB}};
  rig->store->set_rules({{one, two}, tenants});
  for (std::uint64_t i = 0; i < 7; ++i) ASSERT_EQ(put(of_space(key_of(i), 1, 5)), Code::ok);
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_EQ(put(of_space(key_of(i), 2, 5)), Code::ok);
  settle();
  rig->world->step_wall_clock(100);
  EXPECT_EQ(count(2, 2, 5), 0u);  // who is asked for goes
  two.drop_generation = 1;
  rig->store->set_rules({{one, two}, tenants});
  settle();
  ASSERT_EQ(put(of_space("new", 2, 5, 1)), Code::ok);
  ASSERT_EQ(put(of_space("unsettled", 3, 5)), Code::ok);
  const RulesUsage usage = stats().usage;
  ASSERT_EQ(usage.spaces.size(), 2u);
  const SpaceUsage& first = usage.spaces[0];
  EXPECT_EQ(first.id, one.id);
  EXPECT_EQ(first.quota_bytes, 4 * kBlock);
  EXPECT_EQ(first.blocks, 4u);
  EXPECT_EQ(first.bytes, 4 * kBlock);
  EXPECT_EQ(first.over_quota, 3u);
  EXPECT_EQ(first.expired + first.ended, 0u);
  const SpaceUsage& second = usage.spaces[1];
  EXPECT_EQ(second.id, two.id);
  EXPECT_EQ(second.blocks, 1u) << "of the generation that there is";
  EXPECT_EQ(second.over_quota, 0u);
  EXPECT_EQ(second.expired, 2u);
  EXPECT_EQ(second.ended, 1u);
  ASSERT_EQ(usage.tenants.size(), 1u);
  EXPECT_EQ(usage.tenants[0].blocks, 6u);
  EXPECT_EQ(usage.tenants[0].bytes, 6 * kBlock);
  EXPECT_EQ(usage.tenants[0].quota_bytes, kMiB);
  EXPECT_EQ(stats().quota_evicted_blocks, 3u);
  EXPECT_EQ(stats().expired_blocks, 2u);
  EXPECT_EQ(stats().ended_blocks, 1u);
}

// What outlived its TTL and goes because its namespace is over its quota, went for its age.
TEST_F(Rules, WhatAQuotaFindsTooOldIsCountedAsExpired) {
  open();
  SpaceRule rule = rule_of(1);
  rule.ttl_s = 100;
  rig->store->set_rules({{rule}, {}});
  for (std::uint64_t i = 0; i < 3; ++i) ASSERT_EQ(put(of_space(key_of(i), 1)), Code::ok);
  rig->world->step_wall_clock(100);
  rule.quota_bytes = kBlock;
  rig->store->set_rules({{rule}, {}});
  settle();
  EXPECT_EQ(stats().expired_blocks, 2u);
  EXPECT_EQ(stats().quota_evicted_blocks, 0u);
}

}  // namespace
}  // namespace memkv
