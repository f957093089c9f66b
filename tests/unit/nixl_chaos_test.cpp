// The plugin under seeded chaos: several engines of the real plugin, real nodes, a network that
// cuts, flips, stalls and parts, disks that lie, nodes that crash; transfers are posted, polled,
// posted again, released and robbed of their memory on the way; and an oracle looks at every byte,
// answer and notification.
//
// A run is its seed: MEMKV_NIXL_SEED=17 runs that one alone, MEMKV_NIXL_SEEDS=500 so many. The
// floors at the end hold that enough of everything happened, the planted bug that the oracle sees.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "base/mutant.h"
#include "support/nixl_world.h"

namespace memkv::testing {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr std::uint64_t kSeeds = 4;
#else
constexpr std::uint64_t kSeeds = 24;
#endif
constexpr std::uint64_t kFloorSeeds = 24;  // that the floors are for
constexpr std::uint64_t kMutantSeedsMax = 200;
constexpr unsigned kSteps = 220;
constexpr unsigned kNodes = 2;
constexpr unsigned kKeys = 10;
constexpr unsigned kVersions = 2;
constexpr std::size_t kGuardBytes = 32;
constexpr std::byte kGuard{0x5a};
constexpr std::byte kLeftAlone{0xa5};
constexpr std::uint64_t kLateMs = 100;
constexpr std::uint64_t kTimeoutMs = 1500;
constexpr std::uint64_t kQueryTimeoutMs = 200;
constexpr unsigned kUnderWayMax = 6;

// What happened in all runs together.
struct Totals {
  std::map<std::string, std::uint64_t> counts;
  std::uint64_t& operator[](const std::string& what) { return counts[what]; }
};

// The nodes' and clients' own lines would drown the finding.
class NixlChaosTest : public ::testing::Test {
 protected:
  NixlChaosTest() {
    set_log_sink([](LogLevel, std::string_view) {});
  }
  ~NixlChaosTest() override { set_log_sink({}); }
};

class Chaos : NixlWorld {
 public:
  Chaos(std::uint64_t seed, Totals& totals)
      : NixlWorld(seed, {}), seed_(seed), totals_(totals), dice_(seed * 977 + 1) {
    start_nodes(kNodes);
    const std::string timeout = std::to_string(kTimeoutMs);
    const std::string query = std::to_string(kQueryTimeoutMs);
    // The first two speak to each other, the others hear nothing of them.
    const std::array<std::array<const char*, 2>, 4> spaces = {
        {{"one", "raw"}, {"one", "raw"}, {"two", "raw"}, {"one", "obj"}}};
    for (const auto& [space, dialect] : spaces) {
      Agent agent{.space = std::string(space) + "/" + dialect};
      agent.core = &core("agent" + std::to_string(agents_.size()), {{"namespace", space},
                                                                    {"key_dialect", dialect},
                                                                    {"timeout_ms", timeout},
                                                                    {"query_timeout_ms", query}});
      for (unsigned key = 0; key < kKeys; ++key) agent.core->object(key, key_of(key));
      agents_.push_back(agent);
    }
    draw_faults();
  }

  // The first thing that is wrong; empty: nothing.
  std::string run() {
    for (unsigned step = 0; step < kSteps && finding_.empty(); ++step) take_step();
    heal();
    return finding_;
  }
  [[nodiscard]] std::uint64_t trace() const { return world_->trace(); }

 private:
  struct Agent {
    std::string space;
    FakeCore* core = nullptr;
  };
  struct Item {
    unsigned key = 0;
    unsigned version = 0;  // of a write
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
    Buffer memory;  // with a guard at both ends
    abi::Metadata* registered = nullptr;
  };
  struct Trip {
    Agent* agent = nullptr;
    unsigned number = 0;
    Direction direction = Direction::read;
    std::vector<Item> items;
    FakeCore::Transfer transfer;
    std::string text;
    std::uint64_t posted_ms = 0;
    bool robbed = false;  // of its memory
  };

  static std::string key_of(unsigned key) { return "key " + std::to_string(key); }
  void wrong(const std::string& what) {
    if (finding_.empty()) finding_ = "seed " + std::to_string(seed_) + ": " + what;
  }
  bool chance(std::uint64_t of) { return dice_.below(of) == 0; }

  // ---- values

  [[nodiscard]] std::uint64_t value_seed(const std::string& space, unsigned key, unsigned version) {
    const std::uint64_t place = std::hash<std::string>()(space) % 1009;
    return ((seed_ * 1013 + place) * kKeys + key) * kVersions + version;
  }
  [[nodiscard]] std::uint32_t length_of(const std::string& space, unsigned key, unsigned version) {
    SeededRandom random(value_seed(space, key, version));
    const std::uint32_t most = key % 3 == 0 ? 300'000 : 20'000;
    return static_cast<std::uint32_t>(1 + random.below(most));
  }
  [[nodiscard]] const Buffer& value_of(const std::string& space, unsigned key, unsigned version) {
    Buffer& value = values_[{space, key, version}];
    if (value.empty()) {
      value = random_buffer(length_of(space, key, version), value_seed(space, key, version));
    }
    return value;
  }

  // ---- the world

  void draw_faults() {
    const auto part = [this](std::uint32_t most) -> std::uint32_t {
      return chance(2) ? 0 : static_cast<std::uint32_t>(1 + dice_.below(most));
    };
    faults_.short_steps = static_cast<std::uint32_t>(dice_.below(800'000));
    if (!chance(6)) {
      faults_.cut_connection = part(4'000);
      faults_.flip_network = part(8'000);
      faults_.stall_network = part(8'000);
      faults_.refuse_connect = part(100'000);
      faults_.hang_connect = part(50'000);
      faults_.misdirect_read = part(30'000);
      faults_.slow_disk = part(30'000);
    }
    world_->set_faults(faults_);
  }

  void disturb_world() {
    const auto number = static_cast<unsigned>(dice_.below(kNodes));
    const std::string node = "node" + std::to_string(number);
    if (down_.contains(number)) {
      world_->set_faults({});
      nodes_[number]->start(false);
      world_->set_faults(faults_);
      down_.erase(number);
    } else if (apart_.contains(node)) {
      world_->partition("engine", node, false);
      apart_.erase(node);
    } else if (chance(2)) {
      totals_["nodes crashed"] += 1;
      nodes_[number]->crash();
      down_.insert(number);
    } else {
      totals_["partitions"] += 1;
      world_->partition("engine", node, true);
      apart_.insert(node);
    }
  }

  // ---- steps

  void take_step() {
    const std::uint64_t kind = dice_.below(24);
    if (kind < 9 && trips_.size() < kUnderWayMax) begin();
    if (kind == 9) ask();
    if (kind == 10) disturb_world();
    if (kind == 11 && !trips_.empty()) release_on_its_way();
    if (kind == 12 && !trips_.empty()) take_memory();
    run_for(chance(4) ? dice_.below(200) : dice_.below(4));
    look_at_all();
  }

  void begin() {
    auto trip = std::make_unique<Trip>();
    trip->agent = &agents_[dice_.below(agents_.size())];
    trip->number = ++trips_made_;
    trip->direction = chance(2) ? Direction::write : Direction::read;
    const std::uint64_t count = 1 + dice_.below(6);
    std::set<unsigned> taken;
    for (std::uint64_t i = 0; i < count; ++i) {
      const auto key = static_cast<unsigned>(dice_.below(kKeys));
      // One key twice is for reads: ranges of one block must be of one value.
      if (trip->direction == Direction::write && !taken.insert(key).second) continue;
      trip->items.push_back(draw_item(*trip, key));
    }
    std::vector<FakeCore::Piece> pieces;
    for (Item& item : trip->items) {
      item.registered = trip->agent->core->memory(item.memory);
      pieces.push_back({.buffer = &item.memory,
                        .memory = item.registered,
                        .device = item.key,
                        .offset = item.offset,
                        .at = kGuardBytes,
                        .length = item.length});
    }
    trip->transfer = trip->agent->core->describe(trip->direction, pieces);
    if (trip->agent->core->prepare(trip->transfer) != Answer::success) {
      return wrong("a right transfer is refused");
    }
    post(*trip);
    trips_.push_back(std::move(trip));
  }

  Item draw_item(const Trip& trip, unsigned key) {
    Item item{.key = key};
    item.version = chance(4) ? 1 : 0;
    item.length = length_of(trip.agent->space, key, item.version);
    if (trip.direction == Direction::read && chance(3)) {
      item.offset = static_cast<std::uint32_t>(dice_.below(item.length));
      item.length = static_cast<std::uint32_t>(1 + dice_.below(item.length - item.offset));
    }
    item.memory.assign(item.length + 2 * kGuardBytes, kGuard);
    return item;
  }

  void post(Trip& trip) {
    for (Item& item : trip.items) {
      const auto inside = std::span(item.memory).subspan(kGuardBytes, item.length);
      if (trip.direction == Direction::write) {
        put_.insert({trip.agent->space, item.key, item.version});
        std::ranges::copy(value_of(trip.agent->space, item.key, item.version), inside.begin());
      } else {
        std::ranges::fill(inside, std::byte{0xee});
      }
    }
    trip.text = "trip " + std::to_string(trip.number) + "/" + std::to_string(++posts_);
    trip.posted_ms = now_ms();
    totals_["posts"] += 1;
    (void)trip.agent->core->post(trip.transfer, &trip.text);
  }

  void look_at_all() {
    for (std::size_t i = 0; i < trips_.size() && finding_.empty();) {
      Trip& trip = *trips_[i];
      const Answer answer = trip.agent->core->check(trip.transfer);
      if (answer == Answer::in_progress) {
        if (now_ms() > trip.posted_ms + kTimeoutMs + kLateMs + 200) {
          wrong(trip.text + " is not over after its time");
        }
        ++i;
        continue;
      }
      settle(trip, answer);
      if (!trip.robbed && chance(3)) {
        totals_["posted again"] += 1;
        post(trip);
        ++i;
        continue;
      }
      if (trip.agent->core->release(trip.transfer) != Answer::success) wrong("a release fails");
      retire(i);
    }
  }

  void release_on_its_way() {
    const std::size_t i = dice_.below(trips_.size());
    Trip& trip = *trips_[i];
    if (trip.agent->core->check(trip.transfer) != Answer::in_progress) return;
    totals_["released on the way"] += 1;
    const std::uint64_t began_ms = now_ms();
    if (trip.agent->core->release(trip.transfer) != Answer::success) wrong("a release fails");
    if (now_ms() > began_ms + kLateMs) wrong("a release waits for a node");
    (void)codes_of(trip);
    retire(i);
  }

  // Deregisters what a transfer under way moves.
  void take_memory() {
    Trip& trip = *trips_[dice_.below(trips_.size())];
    if (trip.robbed || trip.agent->core->check(trip.transfer) != Answer::in_progress) return;
    totals_["memory taken on the way"] += 1;
    Item& item = trip.items[dice_.below(trip.items.size())];
    trip.agent->core->forget_memory(item.registered);
    item.registered = nullptr;
    trip.robbed = true;
    const Answer answer = trip.agent->core->check(trip.transfer);
    if (answer == Answer::in_progress) return wrong("a transfer goes on without its memory");
  }

  // Its memory is watched for as long as the run goes on.
  void retire(std::size_t i) {
    for (Item& item : trips_[i]->items) {
      check_guards(*trips_[i], item);
      if (item.registered != nullptr) trips_[i]->agent->core->forget_memory(item.registered);
      std::ranges::fill(item.memory, kLeftAlone);
    }
    watched_.push_back(std::move(trips_[i]));
    trips_.erase(trips_.begin() + static_cast<std::ptrdiff_t>(i));
  }

  void check_guards(const Trip& trip, const Item& item) {
    const auto head = std::span(item.memory).first(kGuardBytes);
    const auto tail = std::span(item.memory).last(kGuardBytes);
    const auto whole = [](auto bytes) {
      return std::ranges::all_of(bytes, [](std::byte byte) { return byte == kGuard; });
    };
    if (!whole(head) || !whole(tail)) wrong(trip.text + " wrote outside of its target");
  }

  // The one notification of the last posting, which is there when it is over.
  std::vector<Code> codes_of(Trip& trip) {
    for (std::string& notice : trip.agent->core->notices()) {
      const std::size_t colon = notice.find(':');
      if (!notices_.emplace(notice.substr(0, colon), notice.substr(colon + 1)).second) {
        wrong(notice.substr(0, colon) + " has two notifications");
      }
    }
    const auto found = notices_.find(trip.text);
    std::vector<Code> codes;
    if (found == notices_.end() || found->second.size() != trip.items.size()) {
      wrong(trip.text + " has no notification with a byte per block");
      return std::vector<Code>(trip.items.size(), Code::internal);
    }
    for (const char code : found->second) codes.push_back(static_cast<Code>(code));
    return codes;
  }

  void settle(Trip& trip, Answer answer) {
    const std::vector<Code> codes = codes_of(trip);
    if (answer != answer_for(codes)) wrong(trip.text + ": the answer is not what the codes say");
    std::map<unsigned, std::set<unsigned>> versions;  // that a key's ranges may all be of
    for (std::size_t i = 0; i < codes.size(); ++i) {
      Item& item = trip.items[i];
      const Code code = codes[i];
      totals_[std::string(code_name(code))] += 1;
      const bool impossible =
          code == Code::internal || code == Code::denied || code == Code::unsupported ||
          (code == Code::invalid && trip.direction == Direction::write) ||
          (code == Code::cancelled && !trip.robbed) ||
          ((code == Code::exists || code == Code::conflict) && trip.direction == Direction::read);
      if (impossible) wrong(trip.text + ": " + std::string(code_name(code)) + " is no answer");
      check_guards(trip, item);
      if (trip.direction == Direction::read && code == Code::ok) {
        totals_["blocks read right"] += 1;
        narrow(trip, item, versions[item.key]);
      }
    }
  }

  static Answer answer_for(const std::vector<Code>& codes) {
    const auto good = [](Code code) { return code == Code::ok || code == Code::exists; };
    if (std::ranges::all_of(codes, good)) return Answer::success;
    const bool absences = std::ranges::all_of(
        codes, [&good](Code code) { return good(code) || code == Code::not_found; });
    return absences ? Answer::not_found : Answer::backend_error;
  }

  // The bytes must be those of a value that was put under this key, in this namespace.
  void narrow(const Trip& trip, const Item& item, std::set<unsigned>& versions) {
    std::set<unsigned> fitting;
    const auto bytes = std::span(item.memory).subspan(kGuardBytes, item.length);
    for (unsigned version = 0; version < kVersions; ++version) {
      if (!put_.contains({trip.agent->space, item.key, version})) continue;
      const Buffer& value = value_of(trip.agent->space, item.key, version);
      if (std::size_t{item.offset} + item.length > value.size()) continue;
      const auto part = std::span(value).subspan(item.offset, item.length);
      if (std::ranges::equal(bytes, part)) fitting.insert(version);
    }
    if (versions.empty()) versions = fitting;
    std::erase_if(versions, [&](unsigned version) { return !fitting.contains(version); });
    if (versions.empty()) wrong("wrong bytes: " + trip.text + ", " + key_of(item.key));
  }

  void ask() {
    Agent& agent = agents_[dice_.below(agents_.size())];
    std::vector<std::pair<std::uint64_t, std::string>> names;
    for (unsigned key = 0; key < kKeys; ++key) names.emplace_back(key, key_of(key));
    const std::uint64_t began_ms = now_ms();
    const std::vector<std::string> sizes = agent.core->query(names);
    if (now_ms() > began_ms + kQueryTimeoutMs + kLateMs) wrong("a query waits too long");
    for (unsigned key = 0; key < kKeys; ++key) {
      if (sizes[key] == "0") continue;
      totals_["found by a query"] += 1;
      bool known = false;
      for (unsigned version = 0; version < kVersions; ++version) {
        known = known || (put_.contains({agent.space, key, version}) &&
                          sizes[key] == std::to_string(length_of(agent.space, key, version)));
      }
      if (!known) wrong("a query knows a block that nobody put");
    }
  }

  // The faults end; everything still under way ends, memory was left alone, and blocks move.
  void heal() {
    faults_ = {};
    world_->set_faults(faults_);
    for (unsigned i = 0; i < kNodes; ++i) {
      world_->partition("engine", "node" + std::to_string(i), false);
      if (down_.contains(i)) nodes_[i]->start(false);
    }
    for (int i = 0; i < 40 && !trips_.empty() && finding_.empty(); ++i) {
      run_for(100);
      look_at_all();
    }
    run_for(10'000);
    look_at_all();
    for (const auto& trip : watched_) {
      for (const Item& item : trip->items) {
        const bool alone =
            std::ranges::all_of(item.memory, [](std::byte byte) { return byte == kLeftAlone; });
        if (!alone) wrong("the memory of " + trip->text + " was written after its end");
      }
    }
    if (!finding_.empty()) return release_all();
    for (Agent& agent : agents_) {
      Buffer block = random_buffer(70'000, seed_);
      Buffer target(block.size());
      agent.core->object(1000, "the last");
      abi::Metadata* from = agent.core->memory(block);
      abi::Metadata* to = agent.core->memory(target);
      (void)NixlWorld::run(*agent.core, Direction::write, {{&block, from, 1000}});
      if (NixlWorld::run(*agent.core, Direction::read, {{&target, to, 1000}}) != Answer::success ||
          target != block) {
        wrong("after the faults a block does not come back");
      }
      agent.core->forget_memory(from);
      agent.core->forget_memory(to);
    }
    release_all();
  }

  void release_all() {
    for (const auto& trip : trips_) {
      (void)trip->agent->core->release(trip->transfer);
      for (Item& item : trip->items) {
        if (item.registered != nullptr) trip->agent->core->forget_memory(item.registered);
      }
    }
    trips_.clear();
  }

  const std::uint64_t seed_;
  Totals& totals_;
  SeededRandom dice_;
  sim::Faults faults_;
  std::vector<Agent> agents_;
  std::map<std::tuple<std::string, unsigned, unsigned>, Buffer> values_;
  std::set<std::tuple<std::string, unsigned, unsigned>> put_;  // begun at least
  std::vector<std::unique_ptr<Trip>> trips_;
  std::vector<std::unique_ptr<Trip>> watched_;
  std::map<std::string, std::string> notices_;
  std::set<unsigned> down_;
  std::set<std::string> apart_;
  unsigned trips_made_ = 0;
  unsigned posts_ = 0;
  std::string finding_;
};

std::optional<std::uint64_t> number_in(const char* variable) {
  const char* const text = std::getenv(variable);
  return text != nullptr ? std::optional(std::stoull(text)) : std::nullopt;
}

TEST_F(NixlChaosTest, NoWrongByteNoLateByteNoLostAnswer) {
  Totals totals;
  if (const auto seed = number_in("MEMKV_NIXL_SEED")) {
    EXPECT_EQ(Chaos(*seed, totals).run(), "");
    return;
  }
  const std::uint64_t seeds = number_in("MEMKV_NIXL_SEEDS").value_or(kSeeds);
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    ASSERT_EQ(Chaos(seed, totals).run(), "") << "again: MEMKV_NIXL_SEED=" << seed;
  }
  // Too quiet a run finds nothing.
  const std::map<std::string, std::uint64_t> floors = {{"posts", 1500},
                                                       {"blocks read right", 500},
                                                       {"ok", 1000},
                                                       {"exists", 300},
                                                       {"not_found", 300},
                                                       {"unreachable", 100},
                                                       {"timeout", 5},
                                                       {"corrupt", 1},
                                                       {"posted again", 300},
                                                       {"nodes crashed", 20},
                                                       {"released on the way", 30},
                                                       {"partitions", 20},
                                                       {"conflict", 50},
                                                       {"memory taken on the way", 30},
                                                       {"found by a query", 200}};
  for (const auto& [what, least] : floors) {
    EXPECT_GE(totals[what], least * seeds / kFloorSeeds) << what;
  }
}

TEST_F(NixlChaosTest, ARunIsItsSeed) {
  std::array<std::uint64_t, 2> traces{};
  for (std::uint64_t& trace : traces) {
    Totals totals;
    Chaos chaos(3, totals);
    EXPECT_EQ(chaos.run(), "");
    trace = chaos.trace();
  }
  EXPECT_EQ(traces[0], traces[1]);
}

TEST_F(NixlChaosTest, APlantedBugIsFound) {
  set_mutant(Mutant::skip_crc_on_read);
  std::string finding;
  Totals totals;
  for (std::uint64_t seed = 1; seed <= kMutantSeedsMax && finding.empty(); ++seed) {
    finding = Chaos(seed, totals).run();
  }
  set_mutant(Mutant::none);
  EXPECT_NE(finding.find("wrong bytes"), std::string::npos) << finding;
}

}  // namespace
}  // namespace memkv::testing
