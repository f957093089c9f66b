// NixlWorld: engines of the plugin over real nodes in the simulated world, driven slot by slot
// through their table as NIXL's core does it, and the few sentences the plugin's tests are written
// in. A given seed and the same calls give the same run.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "nixl/plugin.h"
#include "support/fake_core.h"
#include "support/real_node.h"
#include "support/sim.h"

namespace memkv::testing {

inline constexpr std::uint64_t kPatienceMs = 600'000;

class NixlWorld {
 protected:
  explicit NixlWorld(std::uint64_t seed, const sim::Faults& faults = {})
      : world_(sim::World::create(seed, faults)),
        process_(world_->spawn("engine")),
        random_(seed + 2) {}
  ~NixlWorld() {
    for (const auto& core : cores_) core->leave();
    process_->kill();
    cores_.clear();
    nodes_.clear();
  }

  void start_nodes(int count) {
    for (int i = 0; i < count; ++i) {
      nodes_.push_back(std::make_unique<RealNode>(*world_, "node" + std::to_string(i)));
      nodes_.back()->start(true);
    }
  }
  // An agent with its engine; `given` are parameters besides the nodes.
  FakeCore& core(const std::string& agent = "agent", nixl::Parameters given = {}) {
    std::string names;
    for (const auto& node : nodes_) names += (names.empty() ? "" : ",") + node->address();
    given.emplace("nodes", names);
    auto settings =
        nixl::load_settings(given, [](const std::string&) { return std::optional<std::string>(); });
    EXPECT_TRUE(settings.has_value()) << settings.error().text;
    auto client = Client::open(
        {.nodes = settings->nodes, .token = {}, .timeout_ms = settings->timeout_ms},
        {.executor = process_->executor(), .network = process_->network(), .random = random_});
    EXPECT_TRUE(client.has_value());
    const abi::Init init{.agent = agent, .type = "MEMKV", .parameters = &given};
    const nixl::EngineWorld world{.clock = world_->clock(),
                                  .wait = [this](Request& request, std::uint64_t timeout_ms) {
                                    return world_->run_until([&] { return request.done(); },
                                                             std::min(timeout_ms, kPatienceMs));
                                  }};
    cores_.push_back(std::make_unique<FakeCore>(
        agent, nixl::make_engine(init, *settings, std::move(*client), world)));
    return *cores_.back();
  }
  // Lets the world go on until the transfer is over.
  Answer finish(FakeCore& core, FakeCore::Transfer& transfer) {
    EXPECT_TRUE(world_->run_until([&] { return core.check(transfer) != Answer::in_progress; }))
        << "a transfer does not end";
    return core.check(transfer);
  }
  // Prepares, posts, waits, releases.
  Answer run(FakeCore& core, Direction direction, const std::vector<FakeCore::Piece>& pieces,
             const std::string* notice = nullptr) {
    auto transfer = core.describe(direction, pieces);
    if (const Answer answer = core.prepare(transfer, notice); answer != Answer::success) {
      return answer;
    }
    (void)core.post(transfer);
    const Answer answer = finish(core, transfer);
    EXPECT_EQ(core.release(transfer), Answer::success);
    return answer;
  }
  void run_for(std::uint64_t ms) {
    (void)world_->run_until([] { return false; }, ms);
  }
  [[nodiscard]] std::uint64_t now_ms() { return world_->clock().now_ns() / kNsPerMs; }

  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Process> process_;
  SeededRandom random_;
  std::vector<std::unique_ptr<RealNode>> nodes_;
  std::vector<std::unique_ptr<FakeCore>> cores_;
};

// A world without faults.
class NixlWorldTest : public ::testing::Test, protected NixlWorld {
 protected:
  NixlWorldTest() : NixlWorld(5) {}
};

}  // namespace memkv::testing
