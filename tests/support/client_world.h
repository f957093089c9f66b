// ClientWorldTest: a client and some FakeNodes in the simulated world, and the few sentences the
// client's tests are written in.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/identity.h"
#include "client/client.h"
#include "client/placement.h"
#include "support/fake_node.h"
#include "support/sim.h"

namespace memkv::testing {

class ClientWorldTest : public ::testing::Test {
 protected:
  struct Node {
    std::unique_ptr<sim::Process> process;
    std::unique_ptr<FakeNode> fake;
    std::string address;
    std::string name;
  };

  ClientWorldTest() { begin_world(1); }
  ~ClientWorldTest() override { end_world(); }

  void begin_world(std::uint64_t seed) {
    world_ = sim::World::create(seed);
    client_process_ = world_->spawn("client");
    random_ = std::make_unique<SeededRandom>(seed);
  }
  void end_world() {
    close_client();
    client_process_->kill();
    client_.reset();
    for (Node& node : nodes_) {
      if (node.process) node.process->kill();
    }
    nodes_.clear();
    client_process_.reset();
    world_.reset();
  }
  void close_client() {
    if (!client_) return;
    bool closed = false;
    client_->close([&closed] { closed = true; });
    EXPECT_TRUE(world_->run_until([&closed] { return closed; })) << "close() does not end";
    client_.reset();
  }

  // A node that is listening, or, with `up` false, an address where nobody listens yet.
  FakeNode* add_node(bool up = true) {
    Node node;
    node.name = "node" + std::to_string(nodes_.size());
    node.address = node.name + ":9900";
    nodes_.push_back(std::move(node));
    if (up) start_node(nodes_.size() - 1);
    return nodes_.back().fake.get();
  }
  void start_node(std::size_t index) {
    Node& node = nodes_[index];
    node.process = world_->spawn(node.name);
    node.fake =
        std::make_unique<FakeNode>(node.process->network(), node.process->executor(), node.address);
  }
  // As a crash does it; what the node held is handed back.
  std::map<std::string, FakeNode::Block> kill_node(std::size_t index) {
    Node& node = nodes_[index];
    auto blocks = std::move(node.fake->blocks);
    node.process->kill();
    node.fake.reset();
    node.process.reset();
    return blocks;
  }
  void open_client(std::uint64_t timeout_ms = 0) {
    ClientOptions options;
    for (const Node& node : nodes_) options.nodes.push_back(node.address);
    options.timeout_ms = timeout_ms;
    auto client = Client::open(options, world());
    ASSERT_TRUE(client.has_value()) << client.error().message();
    client_ = std::move(*client);
  }
  [[nodiscard]] ClientWorld world() {
    return {client_process_->executor(), client_process_->network(), *random_};
  }

  // Which node holds the key.
  [[nodiscard]] std::size_t node_of(const std::string& key) const {
    std::vector<PlacementNode> map;
    for (const Node& node : nodes_) map.push_back({node_id_of(node.address), 100});
    return place(group_fingerprint(space_.id, key_bytes(key)), map).value();
  }
  // Some key that the node holds; another one for another number.
  [[nodiscard]] std::string key_on(std::size_t node, int number = 0) const {
    for (int i = 0;; ++i) {
      const std::string key = "key " + std::to_string(i);
      if (node_of(key) == node && number-- == 0) return key;
    }
  }

  bool run_until(const std::function<bool()>& done, std::uint64_t ms = 60'000) {
    return world_->run_until(done, ms);
  }
  void run_for(std::uint64_t ms) {
    (void)world_->run_until([] { return false; }, ms);
  }
  // Runs the request to its end.
  std::vector<Code> finish(Request& request) {
    EXPECT_TRUE(run_until([&request] { return request.done(); })) << "a request does not end";
    if (!request.done()) return {};
    return {request.codes().begin(), request.codes().end()};
  }
  std::vector<Code> finish(const std::unique_ptr<Request>& request) { return finish(*request); }

  using Named = std::pair<std::string, Bytes>;
  std::vector<Code> put(const std::vector<Named>& blocks, std::uint64_t timeout_ms = 0) {
    std::vector<PutBlock> asked;
    for (const auto& [key, bytes] : blocks) {
      asked.push_back({.key = key_bytes(key), .group = {}, .bytes = bytes});
    }
    return finish(client_->put(space_, asked, timeout_ms));
  }
  // Gets whole blocks; each target is as long as it comes.
  std::vector<Code> get(std::vector<Named>& blocks, std::uint64_t timeout_ms = 0) {
    std::vector<GetBlock> asked;
    for (auto& [key, bytes] : blocks) {
      asked.push_back({.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes});
    }
    return finish(client_->get(space_, asked, timeout_ms));
  }
  Code get_one(const std::string& key, Bytes& bytes, std::uint64_t timeout_ms = 0) {
    const std::vector<GetBlock> asked = {
        {.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes}};
    const auto codes = finish(client_->get(space_, asked, timeout_ms));
    return codes.empty() ? Code::internal : codes[0];
  }
  // Puts the block into the fake's memory, past the wire.
  void plant(std::size_t node, const std::string& key, Bytes bytes) {
    FakeNode& fake = *nodes_[node].fake;
    fake.blocks[key] = {.bytes = std::move(bytes), .incarnation = ++fake.incarnations};
  }
  [[nodiscard]] FakeNode& fake(std::size_t node) { return *nodes_[node].fake; }
  [[nodiscard]] std::uint64_t now_ms() { return world_->clock().now_ns() / kNsPerMs; }

  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Process> client_process_;
  std::unique_ptr<SeededRandom> random_;
  std::vector<Node> nodes_;
  std::unique_ptr<Client> client_;
  Namespace space_{.id = {std::byte{7}}, .generation = 3};
};

[[nodiscard]] inline std::vector<Code> all(std::size_t count, Code code) {
  return std::vector<Code>(count, code);
}

}  // namespace memkv::testing

namespace memkv {
// For gtest: a code is its word.
inline void PrintTo(Code code, std::ostream* out) {
  *out << code_name(code);
}
}  // namespace memkv
