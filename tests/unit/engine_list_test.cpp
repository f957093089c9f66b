// LIST and MARK in the engine: which blocks are named, by what, and what a mark outlives.
#include <algorithm>
#include <set>
#include <string>

#include "unit/engine_rig.h"

namespace memkv {
namespace {

constexpr std::uint32_t kBytes = 70'000;

std::string key_of(std::uint64_t i) {
  return "k" + std::to_string(i);
}

Listing list(Rig& rig, const Wish& wish) {
  auto listing =
      rig.wait<Result<Listing>>([&](auto done) { rig.store->list(wish, std::move(done)); });
  EXPECT_TRUE(listing && *listing);
  return listing && *listing ? std::move(**listing) : Listing{};
}

// All parts of a list.
std::vector<ListedBlock> list_all(Rig& rig, Wish wish) {
  std::vector<ListedBlock> all;
  do {
    Listing part = list(rig, wish);
    EXPECT_LE(part.blocks.size(), wish.count);
    all.insert(all.end(), part.blocks.begin(), part.blocks.end());
    wish.cursor = part.next;
  } while (wish.cursor != 0);
  return all;
}

std::set<std::string> keys_of(const std::vector<ListedBlock>& blocks) {
  std::set<std::string> keys;
  for (const ListedBlock& block : blocks) keys.emplace(as_text_of(block.key));
  return keys;
}

// In DRAM and on flash alike: who moves what is named here would bring it back elsewhere.
TEST(EngineList, WhatIsGoneByTheRulesIsNeitherNamedNorMarked) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const auto of_space = [](std::string_view key, std::uint8_t space) {
    BlockId id = id_of(key);
    id.space.id[1] = std::byte{space};
    return id;
  };
  for (std::uint64_t i = 0; i < 90; ++i) {  // 4 MiB of DRAM do not hold them all
    ASSERT_TRUE(
        rig.put(of_space(key_of(i), static_cast<std::uint8_t>(i % 3)), bytes_from(i, kBytes)));
  }
  ASSERT_TRUE(rig.rest());
  const auto all = list_all(rig, {.tenant = kDefaultTenant, .count = 100});
  ASSERT_EQ(all.size(), 90u);
  const auto rule_of = [&](std::uint8_t space) {
    return SpaceRule{.tenant = kDefaultTenant, .id = of_space("k", space).space.id};
  };
  SpaceRule dropped = rule_of(1);
  dropped.drop_generation = 1;
  SpaceRule aged = rule_of(2);
  aged.ttl_s = 50;
  rig.world->step_wall_clock(60);
  rig.store->set_rules({{dropped, aged}, {}});
  for (const std::uint8_t space : {0, 1, 2}) {
    const auto one = std::ranges::find(all, of_space("k", space).space, &ListedBlock::space);
    ASSERT_NE(one, all.end());
    const BlockId id{kDefaultTenant, one->space, one->key};
    EXPECT_EQ(rig.store->mark(id, one->incarnation, 1), space == 0);
  }
  const auto left = list_all(rig, {.tenant = kDefaultTenant, .count = 100});
  EXPECT_EQ(left.size(), 30u);
  for (const ListedBlock& block : left) EXPECT_EQ(block.space, of_space("k", 0).space);
}

TEST(EngineList, NamesEveryBlockOfTheTenantOnceFromDramAndFromFlash) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  std::set<std::string> ours;
  for (std::uint64_t i = 0; i < 90; ++i) {  // 4 MiB of DRAM do not hold them all
    const BlockTraits traits{.group = {.high = i, .low = 7}, .depth = 3, .recompute_cost = 11};
    ASSERT_TRUE(
        rig.put(id_of(key_of(i), i % 3 == 0 ? 5 : kDefaultTenant), bytes_from(i, kBytes), traits));
    if (i % 3 != 0) ours.insert(key_of(i));
  }
  ASSERT_TRUE(rig.rest());
  for (const std::uint32_t count : {1u, 7u, 1000u}) {
    const auto all = list_all(rig, {.tenant = kDefaultTenant, .count = count});
    EXPECT_EQ(all.size(), ours.size());
    EXPECT_EQ(keys_of(all), ours);
    for (const ListedBlock& block : all) {
      EXPECT_EQ(block.length, kBytes);
      EXPECT_EQ(block.space, id_of("").space);
      EXPECT_EQ("k" + std::to_string(block.traits.group.high), as_text_of(block.key));
      EXPECT_EQ(block.traits.depth, 3u);
      EXPECT_EQ(block.traits.recompute_cost, 11u);
      EXPECT_EQ(block.mark, 0);
      EXPECT_EQ(block.reads, 0);
    }
  }
  ASSERT_TRUE(rig.close().good());
  ASSERT_TRUE(rig.open().good());
  EXPECT_EQ(keys_of(list_all(rig, {.tenant = kDefaultTenant, .count = 16})), ours);
  EXPECT_EQ(list_all(rig, {.tenant = 77, .count = 16}).size(), 0u);
}

// Those of namespaces whose blocks are to lie on two nodes, and of these those in DRAM.
TEST(EngineList, NamesWhatIsToLieOnTwoNodes) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const auto of_space = [](std::string_view key, std::uint64_t space) {
    BlockId id = id_of(key);
    id.space.id[1] = static_cast<std::byte>(space);
    return id;
  };
  std::set<std::string> twice;
  for (std::uint64_t i = 0; i < 90; ++i) {  // 4 MiB of DRAM do not hold them all
    ASSERT_TRUE(rig.put(of_space(key_of(i), i % 2), bytes_from(i, kBytes)));
    if (i % 2 == 1) twice.insert(key_of(i));
  }
  ASSERT_TRUE(rig.rest());
  Wish wish{.tenant = kDefaultTenant, .count = 7, .copies_min = 2};
  EXPECT_EQ(list_all(rig, wish).size(), 0u);
  rig.store->set_rules(
      {{{.tenant = kDefaultTenant, .id = of_space("", 1).space.id, .copies = 2}}, {}});
  EXPECT_EQ(keys_of(list_all(rig, wish)), twice);
  wish.in_dram = true;
  const auto in_dram = list_all(rig, wish);
  EXPECT_GT(in_dram.size(), 0u);
  EXPECT_LT(in_dram.size(), twice.size());
  for (const ListedBlock& block : in_dram) {
    const BlockId id{kDefaultTenant, block.space, block.key};
    EXPECT_TRUE(rig.store->match(id, 0).in_dram);
    EXPECT_TRUE(rig.store->mark(id, block.incarnation, kMarkOfCopied));
  }
  wish.mark_not = kMarkOfCopied;
  EXPECT_EQ(list_all(rig, wish).size(), 0u);
  wish.in_dram = false;
  EXPECT_EQ(list_all(rig, wish).size(), twice.size() - in_dram.size());
}

TEST(EngineList, ReadsCountAndFade) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  for (std::uint64_t i = 0; i < 4; ++i) ASSERT_TRUE(rig.put(key_of(i), bytes_from(i, kBytes)));
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(rig.get(key_of(1)));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(rig.get(key_of(2)));
  ASSERT_TRUE(rig.store->match(id_of(key_of(3)), 0).present);  // a question is no read
  const auto with = [&](std::uint8_t reads_min) {
    return keys_of(list_all(rig, {.tenant = kDefaultTenant, .count = 9, .reads_min = reads_min}));
  };
  EXPECT_EQ(with(9), (std::set<std::string>{}));
  EXPECT_EQ(with(8), (std::set<std::string>{"k1"}));
  EXPECT_EQ(with(3), (std::set<std::string>{"k1", "k2"}));
  EXPECT_EQ(with(0).size(), 4u);
  rig.world->run_until([] { return false; }, kReadsHalfMs);
  EXPECT_EQ(with(5), (std::set<std::string>{}));
  EXPECT_EQ(with(4), (std::set<std::string>{"k1"}));
  rig.world->run_until([] { return false; }, 8 * kReadsHalfMs);
  EXPECT_EQ(with(1), (std::set<std::string>{}));
  for (int i = 0; i < 300; ++i) ASSERT_TRUE(rig.get(key_of(0)));
  EXPECT_EQ(with(255), (std::set<std::string>{"k0"}));  // it does not wrap
}

TEST(EngineList, AMarkIsOfOneIncarnationAndGoesWithIt) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  const auto first = rig.put("k", bytes_from(1, kBytes));
  ASSERT_TRUE(first);
  EXPECT_FALSE(rig.store->mark(id_of("k"), *first + 1, 1));
  EXPECT_FALSE(rig.store->mark(id_of("other"), *first, 1));
  EXPECT_FALSE(rig.store->mark(id_of("k", 5), *first, 1));
  EXPECT_FALSE(rig.store->mark(id_of(""), *first, 1));
  EXPECT_EQ(rig.store->match(id_of("k"), 0).mark, 0);
  EXPECT_TRUE(rig.store->mark(id_of("k"), *first, 1));
  EXPECT_EQ(rig.store->match(id_of("k"), 0).mark, 1);
  auto pinned = rig.pin(id_of("k"), 0, kBytes);
  ASSERT_TRUE(pinned);
  EXPECT_EQ(pinned->mark, 1);
  rig.store->end_get(pinned->get);
  const Wish unmarked{.tenant = kDefaultTenant, .count = 9, .mark_not = 1};
  EXPECT_EQ(list_all(rig, unmarked).size(), 0u);
  EXPECT_EQ(list_all(rig, {.tenant = kDefaultTenant, .count = 9, .mark_not = 2}).size(), 1u);

  ASSERT_EQ(rig.drop(id_of("k")), Code::ok);
  EXPECT_FALSE(rig.store->mark(id_of("k"), *first, 1));
  const auto second = rig.put("k", bytes_from(2, kBytes));
  ASSERT_TRUE(second);
  EXPECT_FALSE(rig.store->mark(id_of("k"), *first, 1));
  EXPECT_EQ(list_all(rig, unmarked).size(), 1u);
}

TEST(EngineList, BlocksComeAndGoWhileItIsListed) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    RigOptions options;
    options.seed = seed;
    Rig rig(options);
    ASSERT_TRUE(rig.open().good());
    for (std::uint64_t i = 0; i < 60; ++i) ASSERT_TRUE(rig.put(key_of(i), bytes_from(i, kBytes)));
    Wish wish{.tenant = kDefaultTenant, .count = 5};
    std::set<std::string> seen;
    do {
      Listing part = list(rig, wish);
      for (const ListedBlock& block : part.blocks) seen.emplace(as_text_of(block.key));
      wish.cursor = part.next;
      ASSERT_NE(rig.drop(id_of(key_of(rig.random.below(60)))), Code::device_error);
      (void)rig.put("new" + std::to_string(rig.random.below(1000)), bytes_from(9, 20'000));
    } while (wish.cursor != 0);
    EXPECT_GT(seen.size(), 20u) << seed;
  }
}

TEST(EngineList, AStoreThatClosesListsNothing) {
  Rig rig;
  ASSERT_TRUE(rig.open().good());
  ASSERT_TRUE(rig.put("k", bytes_from(1, kBytes)));
  bool closed = false;
  rig.store->close([&](Result<void>) { closed = true; });
  const auto listing = rig.wait<Result<Listing>>(
      [&](auto done) { rig.store->list({.tenant = kDefaultTenant, .count = 1}, std::move(done)); });
  ASSERT_TRUE(listing);
  ASSERT_FALSE(*listing);
  EXPECT_EQ(listing->error().code, Code::shutdown);
  rig.world->run_until([&] { return closed; });
  EXPECT_TRUE(closed);
}

}  // namespace
}  // namespace memkv
