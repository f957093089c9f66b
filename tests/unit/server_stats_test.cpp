// What STAT counts, and that its page says so.
#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "base/histogram.h"
#include "server/spaces.h"
#include "support/server_world.h"

namespace memkv::testing {
namespace {

using wire::Type;

class ServerStatsTest : public ServerWorldTest {
 protected:
  // How many a line `sum=… BOUND=N … more=N` counts.
  static std::uint64_t counted_in(const std::string& line) {
    std::istringstream words(line);
    std::uint64_t sum = 0;
    for (std::string word; words >> word;) {
      if (!word.starts_with("sum=")) sum += std::stoull(word.substr(word.find('=') + 1));
    }
    return sum;
  }
  [[nodiscard]] std::string line_of_stat(const std::string& name) const {
    std::istringstream text(server_->stats_text());
    for (std::string line; std::getline(text, line);) {
      if (line.starts_with(name + " ")) return line.substr(name.size() + 1);
    }
    return "no such line";
  }
};

// ---- what is counted

TEST_F(ServerStatsTest, CountsWhatIsPutServedAndMissed) {
  serve();
  RawClient& peer = client();
  const Body bytes = bytes_of(70'000, 1);
  EXPECT_EQ(put(peer, 1, 3, bytes).code, Code::ok);
  ask_get(peer, 2, 3, 0, 70'000);
  EXPECT_EQ(wait_get_block(peer, 2).code, Code::ok);
  ask_get(peer, 3, 9, 0, 1);
  EXPECT_EQ(wait_get_block(peer, 3).code, Code::not_found);
  ASSERT_TRUE(runs_until([&] { return at_rest() && stat("get_blocks_pinned") == 0; }));
  EXPECT_EQ(stat("get_bytes"), 70'000U);
  EXPECT_EQ(stat("get_blocks_queued") + stat("put_blocks_queued"), 0U);
  EXPECT_EQ(line_of_stat("namespace_1_" + std::string(32, '0')),
            "hits=1 misses=1 get_bytes=70000 keys=0 found=0 holes=0 puts=1 put_bytes=70000");
  for (const char* latency : {"latency_get_first_byte", "latency_get_whole", "latency_put"}) {
    EXPECT_EQ(counted_in(line_of_stat(latency)), 1U) << latency;
  }
}

TEST_F(ServerStatsTest, AHoleIsAbsentBetweenTwoThatAreHere) {
  serve();
  RawClient& peer = client();
  for (const std::size_t key : {1, 2, 5, 7}) {
    EXPECT_EQ(put(peer, key, key, bytes_of(100, key)).code, Code::ok);
  }
  Body body(kBodyBytesMax);
  wire::MatchWriter writer(body, wire::MatchHead{});
  for (std::size_t key = 0; key < 10; ++key) {
    const Body name = key_of(key);
    ASSERT_TRUE(writer.add({.bytes = name}));
  }
  peer.say_body(Type::match, 20, writer.body());
  ASSERT_TRUE(runs_until([&] { return peer.count(Type::match_reply, 20) == 1; }));
  EXPECT_EQ(stat("match_found"), 4U);
  EXPECT_EQ(stat("match_holes"), 3U);
  EXPECT_NE(line_of_stat("namespace_1_" + std::string(32, '0')).find("keys=10 found=4 holes=3"),
            std::string::npos);
}

TEST_F(ServerStatsTest, SaysWhatIsHereOfWhoHasRules) {
  serve();
  NamespaceId id{};
  id[15] = std::byte{0xab};
  store_->usage.spaces.push_back({.tenant = 7,
                                  .id = id,
                                  .quota_bytes = 9,
                                  .blocks = 2,
                                  .bytes = 8,
                                  .over_quota = 3,
                                  .expired = 4,
                                  .ended = 5});
  store_->usage.tenants.push_back({.tenant = 7, .quota_bytes = 20, .blocks = 3, .bytes = 10});
  EXPECT_EQ(line_of_stat("usage_7_" + std::string(30, '0') + "ab"),
            "quota=9 bytes=8 blocks=2 over_quota=3 expired=4 ended=5");
  EXPECT_EQ(line_of_stat("usage_7"), "quota=20 bytes=10 blocks=3");
}

TEST(Spaces, HaveABoundAndKeepTheirPlace) {
  Spaces spaces;
  const auto id = [](std::size_t number) {
    NamespaceId out{};
    out[0] = static_cast<std::byte>(number);
    return out;
  };
  EXPECT_EQ(&spaces.find(1, id(0)), &spaces.other()) << "who only asks has no counters of its own";
  SpaceCounters& first = spaces.claim(1, id(0));
  for (std::size_t i = 0; i < 2 * kSpacesCounted; ++i) ++spaces.claim(1, id(i)).puts;
  ++spaces.claim(2, id(0)).puts;
  EXPECT_EQ(spaces.own().size(), kSpacesCounted);
  EXPECT_EQ(spaces.other().puts, kSpacesCounted + 1) << "another tenant's is another namespace";
  EXPECT_EQ(&spaces.find(1, id(0)), &first);
  EXPECT_EQ(first.puts, 1U);
}

TEST(Histogram, ABoundBelongsToTheBucketBelowIt) {
  Histogram took;
  for (const std::uint64_t ns : {0ULL, 16'000ULL, 16'001ULL, 32'000ULL, 20'000'000'000ULL}) {
    took.count(ns);
  }
  EXPECT_EQ(took.buckets()[0], 2U);
  EXPECT_EQ(took.buckets()[1], 2U);
  EXPECT_EQ(took.buckets().back(), 1U);
  EXPECT_EQ(took.sum_us(), 20'000'064U);
  EXPECT_EQ(Histogram::bound_us(Histogram::kBounds - 1), 16'777'216U);
}

// ---- the page and the lines are the same

TEST_F(ServerStatsTest, EveryLineOfStatStandsInItsPage) {
  serve();
  std::set<std::string> lines;
  std::istringstream text(server_->stats_text());
  for (std::string line; std::getline(text, line);) lines.insert(line.substr(0, line.find(' ')));
  std::ifstream page("docs/reference/stat.md");
  ASSERT_TRUE(page) << "the tests run in the project's root";
  std::set<std::string> documented;
  for (std::string line; std::getline(page, line);) {
    if (line.starts_with("| `")) documented.insert(line.substr(3, line.find('`', 3) - 3));
  }
  EXPECT_EQ(lines, documented);
}

}  // namespace
}  // namespace memkv::testing
