// Placement against its golden file, and the laws that docs/formats/placement.md promises.
#include "client/placement.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "support/json.h"

namespace memkv {
namespace {

using test::Json;

constexpr std::size_t kGroups = 100'000;
constexpr std::size_t kRanked = 3;
constexpr std::uint32_t kMissing = 0xffffffff;
constexpr std::size_t kDomains = 4;

const Json& golden() {
  static const Json file = Json::read_file("tests/golden/placement.json");
  return file;
}

Fingerprint fingerprint_of(const Json& value) {
  const std::string_view text = value.text();
  return {Json::digits(text.substr(0, 16), 16), Json::digits(text.substr(16), 16)};
}

std::vector<PlacementNode> map_of(const std::vector<std::uint32_t>& weights) {
  std::vector<PlacementNode> nodes;
  for (std::size_t n = 0; n < weights.size(); ++n) {
    nodes.push_back({node_id_of("node-" + std::to_string(n) + ".memkv.test:7440"), weights[n]});
  }
  return nodes;
}

std::vector<std::vector<PlacementNode>> golden_maps() {
  std::vector<std::vector<PlacementNode>> maps;
  for (const Json& map : golden()["maps"].items()) {
    std::vector<std::uint32_t> weights;
    for (const Json& weight : map["weights"].items()) {
      weights.push_back(static_cast<std::uint32_t>(weight.number()));
    }
    maps.push_back(map_of(weights));
  }
  return maps;
}

// Key i, by the file's own rule.
Fingerprint golden_key(std::size_t i) {
  std::array<std::byte, 16> ns;
  for (std::size_t j = 0; j < ns.size(); ++j) ns[j] = static_cast<std::byte>(3 * i + j);
  const std::string group =
      "group-" + std::to_string(i) + std::string(i % 90, static_cast<char>(i % 251));
  return group_fingerprint(ns, as_bytes_of(group));
}

std::vector<std::size_t> ranked(const Fingerprint& group, std::span<const PlacementNode> nodes,
                                std::size_t count) {
  std::vector<std::size_t> out(count);
  out.resize(place_ranked(group, nodes, out));
  return out;
}

std::vector<std::size_t> indices_of(const Json& list) {
  std::vector<std::size_t> indices;
  for (const Json& index : list.items()) indices.push_back(index.number());
  return indices;
}

const std::vector<Fingerprint>& groups() {
  static const std::vector<Fingerprint> all = [] {
    std::vector<Fingerprint> made;
    for (std::size_t i = 0; i < kGroups; ++i) made.push_back(golden_key(i));
    return made;
  }();
  return all;
}

std::vector<std::size_t> place_all(std::span<const PlacementNode> nodes) {
  std::vector<std::size_t> places;
  for (const Fingerprint& group : groups()) places.push_back(place(group, nodes).value());
  return places;
}

TEST(PlacementGolden, NodeIds) {
  ASSERT_GT(golden()["node_ids"].size(), 0U);
  for (const Json& row : golden()["node_ids"].items()) {
    EXPECT_EQ(node_id_of(row[0].text()), row[1].hex()) << row[0].text();
  }
}

TEST(PlacementGolden, Distances) {
  ASSERT_GT(golden()["distances"].size(), 64U);
  for (const Json& row : golden()["distances"].items()) {
    EXPECT_EQ(placement_distance(row[0].hex()), row[1].hex()) << row[0].text();
  }
}

TEST(PlacementGolden, TiesGoToTheSmallerIdAndThenTheSmallerIndex) {
  ASSERT_GT(golden()["ties"].size(), 0U);
  for (const Json& row : golden()["ties"].items()) {
    std::vector<PlacementNode> nodes;
    for (const Json& node : row[1].items()) {
      nodes.push_back({node[0].hex(), static_cast<std::uint32_t>(node[1].number())});
    }
    const Fingerprint group = fingerprint_of(row[0]);
    const std::vector<std::size_t> expected = indices_of(row[2]);
    EXPECT_EQ(ranked(group, nodes, kRanked), expected) << row[0].text();
    EXPECT_EQ(place(group, nodes), expected.front()) << row[0].text();
    EXPECT_EQ(placement_distance(placement_hash(group, nodes[0].id)),
              placement_distance(placement_hash(group, nodes[1].id)));
  }
}

TEST(PlacementGolden, Rows) {
  const auto maps = golden_maps();
  ASSERT_EQ(golden()["rows"].size(), 64U);
  for (const Json& row : golden()["rows"].items()) {
    const std::size_t i = row[0].number();
    EXPECT_EQ(golden_key(i), fingerprint_of(row[1])) << "key " << i;
    EXPECT_EQ(ranked(golden_key(i), maps[i % maps.size()], kRanked), indices_of(row[2]))
        << "key " << i;
  }
}

TEST(PlacementGolden, SecondPlaces) {
  auto maps = golden_maps();
  for (auto& nodes : maps) {
    for (std::size_t n = 0; n < nodes.size(); ++n) nodes[n].domain = n * 7 % kDomains;
  }
  const std::vector<Json>& digests = golden()["copies"].items();
  ASSERT_EQ(digests.size(), 100U);
  for (std::size_t block = 0; block < digests.size(); ++block) {
    SipHash128 hash(kPublishedKey);
    for (std::size_t i = 100 * block; i < 100 * (block + 1); ++i) {
      const auto copy = place_copy(golden_key(i), maps[i % maps.size()]);
      const std::array<std::uint32_t, 1> row{static_cast<std::uint32_t>(copy.value_or(kMissing))};
      hash.update(std::as_bytes(std::span(row)));
    }
    EXPECT_EQ(hash.finish(), fingerprint_of(digests[block])) << "keys from " << 100 * block;
  }
}

// When the holder leaves, whoever asks the new holder and the new second place finds the copy.
TEST(Placement, ACopyOutlivesItsHolder) {
  std::mt19937_64 random(4);
  for (std::size_t i = 0; i < 2'000; ++i) {
    std::vector<std::uint32_t> weights(2 + random() % 12);
    for (std::uint32_t& weight : weights) weight = static_cast<std::uint32_t>(random() % 4);
    std::vector<PlacementNode> nodes = map_of(weights);
    for (PlacementNode& node : nodes) node.domain = random() % 4;
    const auto holder = place(groups()[i], nodes);
    const auto copy = place_copy(groups()[i], nodes);
    if (!copy) continue;
    ASSERT_NE(*copy, *holder);
    const std::uint64_t domain = nodes[*holder].domain;
    const bool other_domains = std::ranges::any_of(
        nodes, [&](const PlacementNode& node) { return node.weight > 0 && node.domain != domain; });
    if (domain != 0 && other_domains) {
      ASSERT_NE(nodes[*copy].domain, domain) << "key " << i;
    }
    nodes[*holder].weight = 0;
    if (place(groups()[i], nodes) == copy || !other_domains || domain == 0) continue;
    ASSERT_EQ(place_copy(groups()[i], nodes), copy) << "key " << i;
  }
}

TEST(PlacementGolden, Digests) {
  const auto maps = golden_maps();
  const std::vector<Json>& digests = golden()["digests"].items();
  ASSERT_EQ(digests.size(), 100U);
  for (std::size_t block = 0; block < digests.size(); ++block) {
    SipHash128 hash(kPublishedKey);
    for (std::size_t i = 100 * block; i < 100 * (block + 1); ++i) {
      const auto& nodes = maps[i % maps.size()];
      const std::vector<std::size_t> found = ranked(golden_key(i), nodes, kRanked);
      std::array<std::uint32_t, kRanked> row{kMissing, kMissing, kMissing};
      std::copy(found.begin(), found.end(), row.begin());
      hash.update(std::as_bytes(std::span(row)));
      const std::optional<std::size_t> first = place(golden_key(i), nodes);
      ASSERT_EQ(first.has_value(), !found.empty());
      ASSERT_EQ(first.value_or(kMissing), row[0]);
    }
    EXPECT_EQ(hash.finish(), fingerprint_of(digests[block])) << "keys from " << 100 * block;
  }
}

TEST(Placement, NobodyWithAWeightIsNone) {
  std::array<std::size_t, 2> out{7, 7};
  EXPECT_EQ(place(golden_key(1), {}), std::nullopt);
  EXPECT_EQ(place_ranked(golden_key(1), {}, out), 0U);
  const auto drained = map_of({0, 0, 0});
  EXPECT_EQ(place(golden_key(1), drained), std::nullopt);
  EXPECT_EQ(place_ranked(golden_key(1), drained, out), 0U);
  EXPECT_EQ(place_ranked(golden_key(1), map_of({1, 1}), {}), 0U);
}

TEST(Placement, DistanceFallsAsTheHashGrowsAndFollowsLog2) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t hash = random() >> (random() % 64);
    const std::uint64_t distance = placement_distance(hash);
    EXPECT_NEAR(std::ldexp(static_cast<double>(distance), -56),
                64 - std::log2(static_cast<double>(hash | 1)), 2e-7);
    const std::uint64_t above = hash + std::min<std::uint64_t>(2, UINT64_MAX - hash);
    ASSERT_GE(distance, placement_distance(above)) << hash;
    ASSERT_GE(distance, 1U);
    ASSERT_LE(distance, std::uint64_t{1} << 62);
  }
}

TEST(Placement, ShareIsTheWeight) {
  for (const std::vector<std::uint32_t>& weights :
       {std::vector<std::uint32_t>{1, 1, 1}, {10, 20, 30}, {1, 2, 3, 4, 3, 2, 1}, {900, 0, 100}}) {
    std::vector<double> count(weights.size(), 0);
    for (const std::size_t at : place_all(map_of(weights))) count[at] += 1;
    double sum = 0;
    for (const std::uint32_t weight : weights) sum += weight;
    for (std::size_t n = 0; n < weights.size(); ++n) {
      const double fair = static_cast<double>(kGroups) * weights[n] / sum;
      EXPECT_NEAR(count[n], fair, 0.05 * fair) << "node " << n << " of " << weights.size();
    }
  }
}

// With 800 groups a node chance alone moves single shares by more than 5 %; chi-squared takes them
// together. Its mean is 124, its deviation 15.7; far below would be as suspicious as far above.
TEST(Placement, SharesOfManyNodesScatterAsChanceDoes) {
  std::vector<std::uint32_t> weights(125);
  double sum = 0;
  for (std::size_t n = 0; n < weights.size(); ++n) sum += weights[n] = 1 + n % 4;
  std::vector<double> count(weights.size(), 0);
  for (const std::size_t at : place_all(map_of(weights))) count[at] += 1;
  double chi_squared = 0;
  for (std::size_t n = 0; n < weights.size(); ++n) {
    const double fair = static_cast<double>(kGroups) * weights[n] / sum;
    chi_squared += (count[n] - fair) * (count[n] - fair) / fair;
  }
  EXPECT_GT(chi_squared, 124 - 4 * 15.7);
  EXPECT_LT(chi_squared, 124 + 4 * 15.7);
}

TEST(Placement, JoiningMovesGroupsOnlyToTheNewNode) {
  std::vector<PlacementNode> nodes = map_of({4, 4, 2, 8});
  const auto before = place_all(nodes);
  nodes.push_back({node_id_of("new:7440"), 6});
  const auto after = place_all(nodes);
  std::size_t moved = 0;
  for (std::size_t i = 0; i < kGroups; ++i) {
    if (after[i] == before[i]) continue;
    ASSERT_EQ(after[i], 4U) << "key " << i;
    ++moved;
  }
  EXPECT_NEAR(static_cast<double>(moved), kGroups * 6.0 / 24, 0.05 * kGroups * 6 / 24);
}

TEST(Placement, LeavingMovesOnlyItsOwnGroupsEachToItsSecond) {
  std::vector<PlacementNode> nodes = map_of({4, 4, 2, 8, 6});
  const std::vector<PlacementNode> full = nodes;
  nodes[3].weight = 0;
  for (const Fingerprint& group : groups()) {
    const std::vector<std::size_t> best = ranked(group, full, 2);
    ASSERT_EQ(place(group, nodes), best[0] == 3 ? best[1] : best[0]);
  }
}

TEST(Placement, AWeightMovesGroupsOnlyInItsOwnDirection) {
  std::vector<PlacementNode> nodes = map_of({4, 4, 2, 8, 6});
  std::vector<std::size_t> before = place_all(nodes);
  for (const std::uint32_t weight : {5U, 6U, 12U, 11U, 3U, 1U}) {
    const bool grows = weight > nodes[1].weight;
    nodes[1].weight = weight;
    std::vector<std::size_t> after = place_all(nodes);
    std::size_t moved = 0;
    for (std::size_t i = 0; i < kGroups; ++i) {
      if (after[i] == before[i]) continue;
      ASSERT_EQ(grows ? after[i] : before[i], 1U) << "key " << i << " weight " << weight;
      ++moved;
    }
    EXPECT_GT(moved, 0U) << weight;
    before = std::move(after);
  }
}

TEST(Placement, OneFactorOnAllWeightsMovesNothing) {
  std::vector<PlacementNode> nodes = map_of({4, 4, 2, 8, 6});
  const auto before = place_all(nodes);
  for (PlacementNode& node : nodes) node.weight *= 400'000'001;
  EXPECT_EQ(place_all(nodes), before);
}

TEST(Placement, TheOrderOfTheMapMovesNothing) {
  std::vector<PlacementNode> nodes = map_of({4, 0, 2, 8, 6, 1, 1});
  const std::vector<PlacementNode> ordered = nodes;
  std::mt19937_64 random(2);
  for (std::size_t i = 0; i < 10'000; ++i) {
    std::shuffle(nodes.begin(), nodes.end(), random);
    const auto here = ranked(groups()[i], nodes, nodes.size());
    const auto there = ranked(groups()[i], ordered, ordered.size());
    ASSERT_EQ(here.size(), there.size());
    for (std::size_t k = 0; k < here.size(); ++k) ASSERT_EQ(nodes[here[k]], ordered[there[k]]);
  }
}

TEST(Placement, RankingIsPlaceWithTheBetterOnesTakenAway) {
  std::mt19937_64 random(3);
  for (std::size_t i = 0; i < 2'000; ++i) {
    std::vector<std::uint32_t> weights(random() % 20);
    for (std::uint32_t& weight : weights) weight = static_cast<std::uint32_t>(random() % 4);
    std::vector<PlacementNode> nodes = map_of(weights);
    const auto all = ranked(groups()[i], nodes, nodes.size() + 2);
    for (std::size_t count = 0; count <= all.size(); ++count) {
      const std::vector<std::size_t> best(all.begin(),
                                          all.begin() + static_cast<std::ptrdiff_t>(count));
      ASSERT_EQ(ranked(groups()[i], nodes, count), best) << "key " << i;
    }
    for (const std::size_t index : all) {
      ASSERT_EQ(place(groups()[i], nodes), index) << "key " << i;
      nodes[index].weight = 0;
    }
    ASSERT_EQ(place(groups()[i], nodes), std::nullopt);
  }
}

// What the size of a pool is planned by: 1,000,000 keys over 125 nodes of three sizes.
class PlacementMillion : public ::testing::Test {
 protected:
  static constexpr std::size_t kKeys = 1'000'000;

  static std::vector<std::uint32_t> weights() {
    std::vector<std::uint32_t> all(125);
    for (std::size_t n = 0; n < all.size(); ++n) all[n] = static_cast<std::uint32_t>(2 + n % 3);
    return all;
  }
  static Fingerprint key(std::uint64_t i) {
    static constexpr std::array<std::byte, 16> ns{};
    return group_fingerprint(ns, std::as_bytes(std::span(&i, 1)));
  }
  static std::vector<std::uint8_t> places(std::span<const PlacementNode> nodes) {
    std::vector<std::uint8_t> all;
    for (std::size_t i = 0; i < kKeys; ++i) {
      all.push_back(static_cast<std::uint8_t>(place(key(i), nodes).value()));
    }
    return all;
  }
};

TEST_F(PlacementMillion, TheFullestIsWithin5PercentOfItsShareAndANewNodeTakesItsOwnOnly) {
  const std::vector<std::uint32_t> given = weights();
  const double sum = std::accumulate(given.begin(), given.end(), 0.0);
  std::vector<PlacementNode> nodes = map_of(given);
  const std::vector<std::uint8_t> before = places(nodes);
  std::vector<double> count(nodes.size(), 0);
  for (const std::size_t at : before) count[at] += 1;
  for (std::size_t n = 0; n < nodes.size(); ++n) {
    EXPECT_LT(count[n], 1.05 * kKeys * given[n] / sum) << "node " << n;
  }

  constexpr std::uint32_t kWeight = 4;
  nodes.push_back({node_id_of("new:7440"), kWeight});
  const std::vector<std::uint8_t> after = places(nodes);
  double moved = 0;
  for (std::size_t i = 0; i < kKeys; ++i) {
    if (after[i] == before[i]) continue;
    ASSERT_EQ(after[i], given.size()) << "key " << i;
    moved += 1;
  }
  const double share = kKeys * kWeight / (sum + kWeight);
  EXPECT_NEAR(moved, share, 0.1 * share);
}

// The processor's time of this thread, and the best of many rounds: what else runs here does not
// count. What is printed stands in docs/performance.md.
TEST_F(PlacementMillion, AKeyCostsLessThanAMicrosecond) {
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "sanitizers make it slower";
#endif
  constexpr std::size_t kRounds = 20;
  constexpr std::size_t kPerRound = 10'000;
  const std::vector<PlacementNode> nodes = map_of(weights());
  const auto now_ns = [] {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
  };
  double best = std::numeric_limits<double>::max();
  double hashes = best;  // of every node, the least that there is to do
  std::uint64_t sum = 0;
  for (std::size_t round = 0; round < kRounds; ++round) {
    const double began = now_ns();
    for (std::size_t i = 0; i < kPerRound; ++i) {
      sum += place(key(round * kPerRound + i), nodes).value();
    }
    const double placed = now_ns();
    for (std::size_t i = 0; i < kPerRound; ++i) {
      const Fingerprint print = key(round * kPerRound + i);
      for (const PlacementNode& node : nodes) sum += placement_hash(print, node.id) >> 32;
    }
    best = std::min(best, (placed - began) / kPerRound);
    hashes = std::min(hashes, (now_ns() - placed) / kPerRound);
  }
  ASSERT_GT(sum, 0U);  // the places are used, so that they are computed
  std::printf("%.0f ns a distinct key on a map of %zu nodes, %.0f of them for hashes alone\n", best,
              nodes.size(), hashes);
  // Three times what they take where this was written.
  if (hashes > 2200) GTEST_SKIP() << "too slow a machine: " << hashes << " ns of hashes";
  EXPECT_LT(best, 1000.0);
}

// place() passes over most nodes by their hash alone; place_ranked() looks at every one.
TEST(Placement, NobodyWhoWouldHaveWonIsPassedOver) {
  std::mt19937_64 random(4);
  for (std::size_t i = 0; i < 200'000; ++i) {
    std::vector<PlacementNode> nodes(1 + random() % 12);
    const int spread = static_cast<int>(random() % 33);
    for (PlacementNode& node : nodes) {
      node.id = random();
      node.weight = static_cast<std::uint32_t>(random() >> 32 >> (random() % 33 * spread / 32));
    }
    const Fingerprint group{random(), random()};
    const std::vector<std::size_t> first = ranked(group, nodes, 1);
    const std::optional<std::size_t> found = place(group, nodes);
    ASSERT_EQ(found.has_value(), !first.empty()) << i;
    if (found) {
      ASSERT_EQ(*found, first.front()) << i;
    }
  }
}

// The mixer alone must do for groups that are no hashes, such as small numbers.
TEST(Placement, GroupsThatAreSmallNumbersSpreadAsWell) {
  const auto nodes = map_of({1, 1, 1, 1, 1});
  for (const bool in_low : {false, true}) {
    std::array<double, 5> count{};
    for (std::uint64_t i = 0; i < kGroups; ++i) {
      const Fingerprint group{in_low ? 0 : i, in_low ? i : 0};
      count[place(group, nodes).value()] += 1;
    }
    for (const double groups_here : count) EXPECT_NEAR(groups_here, kGroups / 5.0, kGroups / 100.0);
  }
}

}  // namespace
}  // namespace memkv
