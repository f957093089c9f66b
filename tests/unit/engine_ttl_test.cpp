// How long a block lives by its namespace's TTL: across restarts, moves and clocks that are set
// (store.h, set_rules).
#include "unit/rules_rig.h"

namespace memkv {
namespace {

TEST_F(Rules, ABlockThatOutlivedItsTtlIsAMissAlsoAfterARestart) {
  open();
  SpaceRule rule = rule_of(1);
  rule.ttl_s = 100;
  rig->store->set_rules({{rule}, {}});
  ASSERT_EQ(put(of_space("a", 1)), Code::ok);
  ASSERT_EQ(put(of_space("b", 1)), Code::ok);
  ASSERT_EQ(put(of_space("a", 2)), Code::ok);
  again();
  rig->store->set_rules({{rule}, {}});
  rig->world->step_wall_clock(98);
  EXPECT_TRUE(has(of_space("a", 1)));
  rig->world->step_wall_clock(2);
  EXPECT_EQ(rig->get(of_space("a", 1), 0, 1).error().code, Code::not_found);
  EXPECT_FALSE(has(of_space("b", 1)));
  EXPECT_TRUE(has(of_space("a", 2))) << "no TTL";
  EXPECT_EQ(stats().expired_blocks, 2u);
  // What was a miss stays one, whatever the rules and the clock say then.
  again();
  rig->world->step_wall_clock(-50);
  rig->store->set_rules({});
  EXPECT_FALSE(has(of_space("a", 1)));
  EXPECT_EQ(put(of_space("a", 1), 5), Code::ok) << "it can be put again";
  EXPECT_EQ(rig->get(of_space("a", 1)).value(), bytes_from(5, kBlock));
}

TEST_F(Rules, ABlockKeepsItsAgeWhenItMoves) {
  RigOptions options = small();
  options.store.rewrite_percent = 25;
  open(options);
  SpaceRule rule = rule_of(1);
  rule.ttl_s = 100;
  rig->store->set_rules({{rule}, {}});
  ASSERT_EQ(put(of_space("a", 1)), Code::ok);
  ASSERT_TRUE(rig->rest());
  rig->world->step_wall_clock(60);
  ASSERT_TRUE(has(of_space("a", 1)));
  for (std::uint64_t i = 0; stats().rewritten_blocks == 0; ++i) {
    ASSERT_LT(i, 400u);
    ASSERT_EQ(put(of_space(key_of(i), 2)), Code::ok);
  }
  again();
  rig->store->set_rules({{rule}, {}});
  EXPECT_TRUE(has(of_space("a", 1)));
  rig->world->step_wall_clock(40);
  EXPECT_FALSE(has(of_space("a", 1)));
}

TEST_F(Rules, ABlockThatComesFromAnotherNodeIsAsOldAsItWasThere) {
  open();
  SpaceRule rule = rule_of(1);
  rule.ttl_s = 100;
  rig->store->set_rules({{rule}, {}});
  const BlockId id = of_space("a", 1);
  ASSERT_TRUE(rig->put(id, bytes_from(1, kBlock), {.age_s = 70}));
  ASSERT_TRUE(rig->put(of_space("b", 1), bytes_from(1, kBlock), {.age_s = 100}));
  EXPECT_FALSE(has(of_space("b", 1)));
  rig->world->step_wall_clock(10);
  const auto listing = rig->wait<Result<Listing>>([&](auto done) {
    rig->store->list({.tenant = kDefaultTenant, .count = 2}, std::move(done));
  });
  ASSERT_TRUE(listing && *listing);
  ASSERT_EQ((*listing)->blocks.size(), 1u);
  EXPECT_EQ((*listing)->blocks[0].traits.age_s, 80u);
  again();
  rig->store->set_rules({{rule}, {}});
  rig->world->step_wall_clock(19);
  EXPECT_TRUE(has(id));
  rig->world->step_wall_clock(1);
  EXPECT_FALSE(has(id));
}

TEST_F(Rules, ABlockOfTheFutureIsAMissAndAClockThatIsSetBackALittleIsNone) {
  open();
  SpaceRule rule = rule_of(1);
  rule.ttl_s = 1000;
  rig->store->set_rules({{rule}, {}});
  ASSERT_EQ(put(of_space("a", 1)), Code::ok);
  rig->world->step_wall_clock(-50);
  EXPECT_TRUE(has(of_space("a", 1)));
  rig->world->step_wall_clock(-50);
  EXPECT_FALSE(has(of_space("a", 1)));
}

}  // namespace
}  // namespace memkv
