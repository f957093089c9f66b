// The client against real nodes: real server, real store, a simulated device and network.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/client.h"
#include "support/fake_node.h"
#include "support/real_node.h"
#include "support/sim.h"

namespace memkv::testing {
namespace {

class ClientServerTest : public ::testing::Test {
 protected:
  ClientServerTest() : world_(sim::World::create(3)), process_(world_->spawn("client")) {}
  ~ClientServerTest() override {
    if (client_) {
      bool closed = false;
      client_->close([&closed] { closed = true; });
      EXPECT_TRUE(world_->run_until([&closed] { return closed; }));
      client_.reset();
    }
    process_->kill();
    nodes_.clear();
  }

  void start(int nodes) {
    ClientOptions options;
    for (int i = 0; i < nodes; ++i) {
      nodes_.push_back(std::make_unique<RealNode>(*world_, "node" + std::to_string(i)));
      nodes_.back()->start(true);
      options.nodes.push_back(nodes_.back()->address());
    }
    auto client = Client::open(options, {process_->executor(), process_->network(), random_});
    ASSERT_TRUE(client.has_value());
    client_ = std::move(*client);
  }
  std::vector<Code> finish(const std::unique_ptr<Request>& request) {
    EXPECT_TRUE(world_->run_until([&] { return request->done(); }));
    return {request->codes().begin(), request->codes().end()};
  }
  using Named = std::pair<std::string, Bytes>;
  std::vector<Code> put(const std::vector<Named>& blocks) {
    std::vector<PutBlock> asked;
    for (const auto& [key, bytes] : blocks) {
      asked.push_back({.key = key_bytes(key), .group = {}, .bytes = bytes});
    }
    return finish(client_->put(space_, asked));
  }
  std::vector<Code> get(std::vector<Named>& blocks) {
    std::vector<GetBlock> asked;
    for (auto& [key, bytes] : blocks) {
      asked.push_back({.key = key_bytes(key), .group = {}, .offset = 0, .target = bytes});
    }
    return finish(client_->get(space_, asked));
  }
  static std::vector<Named> blanks_of(std::vector<Named> blocks) {
    for (auto& [key, bytes] : blocks) std::ranges::fill(bytes, std::byte{0xee});
    return blocks;
  }
  bool all_connected() {
    return std::ranges::all_of(client_->health(), [](const NodeHealth& h) { return h.connected; });
  }
  static std::vector<Named> some_blocks(int count) {
    const std::size_t lengths[] = {1, 4096, 65'537, 300'000, 1'500'000};
    std::vector<Named> blocks;
    for (int i = 0; i < count; ++i) {
      blocks.emplace_back("block " + std::to_string(i), pattern(lengths[i % 5], 10 + i));
    }
    return blocks;
  }

  std::unique_ptr<sim::World> world_;
  std::unique_ptr<sim::Process> process_;
  SeededRandom random_{5};
  std::vector<std::unique_ptr<RealNode>> nodes_;
  std::unique_ptr<Client> client_;
  Namespace space_{.id = {std::byte{1}}, .generation = 0};
};

TEST_F(ClientServerTest, WhatWasPutComesBack) {
  start(2);
  const auto blocks = some_blocks(30);
  EXPECT_EQ(put(blocks), std::vector<Code>(30, Code::ok));
  auto read = blanks_of(blocks);
  EXPECT_EQ(get(read), std::vector<Code>(30, Code::ok));
  EXPECT_TRUE(read == blocks);
  EXPECT_EQ(put(blocks), std::vector<Code>(30, Code::exists));
  EXPECT_EQ(put({{"block 0", Bytes(2)}}), std::vector<Code>{Code::conflict});
  std::vector<Named> missing = {{"nobody", Bytes(10)}};
  EXPECT_EQ(get(missing), std::vector<Code>{Code::not_found});
}

TEST_F(ClientServerTest, RangesMatchAndDrop) {
  start(1);
  const Bytes block = pattern(1'500'000, 1);
  const std::string key = "k", absent = "absent";
  ASSERT_EQ(put({{key, block}}), std::vector<Code>{Code::ok});
  std::vector<Bytes> targets = {Bytes(1), Bytes(100'000), Bytes(70), Bytes(1)};
  const std::uint32_t offsets[] = {0, 65'530, 1'499'930, 1'500'000};
  std::vector<GetBlock> ranges;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    ranges.push_back(
        {.key = key_bytes(key), .group = {}, .offset = offsets[i], .target = targets[i]});
  }
  EXPECT_EQ(finish(client_->get(space_, ranges)),
            (std::vector{Code::ok, Code::ok, Code::ok, Code::invalid}));
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_TRUE(
        std::ranges::equal(targets[i], std::span(block).subspan(offsets[i], targets[i].size())));
  }
  const std::vector<NamedBlock> names = {{.key = key_bytes(key), .group = {}},
                                         {.key = key_bytes(absent), .group = {}}};
  const auto matched = client_->match(space_, names);
  EXPECT_EQ(finish(matched), (std::vector{Code::ok, Code::ok}));
  EXPECT_NE(matched->matches()[0].where, Where::absent);
  EXPECT_EQ(matched->matches()[0].length, block.size());
  EXPECT_EQ(matched->matches()[1].where, Where::absent);
  EXPECT_EQ(finish(client_->drop(space_, names)), (std::vector{Code::ok, Code::not_found}));
  EXPECT_EQ(finish(client_->drop(space_, names)), (std::vector{Code::not_found, Code::not_found}));
}

TEST_F(ClientServerTest, ANodeThatWasStoppedServesWhatItHad) {
  start(2);
  const auto blocks = some_blocks(20);
  ASSERT_EQ(put(blocks), std::vector<Code>(20, Code::ok));
  nodes_[0]->stop();
  auto read = blanks_of(blocks);
  const auto without = get(read);
  EXPECT_GT(std::ranges::count(without, Code::ok), 0);
  EXPECT_GT(std::ranges::count(without, Code::unreachable), 0);
  nodes_[0]->start(false);
  ASSERT_TRUE(world_->run_until([&] { return all_connected(); }, 10'000));
  read = blanks_of(blocks);
  EXPECT_EQ(get(read), std::vector<Code>(20, Code::ok));
  EXPECT_TRUE(read == blocks);
}

TEST_F(ClientServerTest, ANodeThatCrashedServesNothingWrong) {
  start(1);
  const auto blocks = some_blocks(20);
  ASSERT_EQ(put(blocks), std::vector<Code>(20, Code::ok));
  bool clean = false;
  nodes_[0]->store().when_clean([&clean] { clean = true; });
  ASSERT_TRUE(world_->run_until([&clean] { return clean; }));
  (void)world_->run_until([] { return false; }, 1000);
  nodes_[0]->crash();
  nodes_[0]->start(false);
  ASSERT_TRUE(world_->run_until([&] { return all_connected(); }, 10'000));
  auto read = blanks_of(blocks);
  const auto codes = get(read);
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    EXPECT_TRUE(codes[i] == Code::ok || codes[i] == Code::not_found) << code_name(codes[i]);
    if (codes[i] == Code::ok) {
      EXPECT_TRUE(read[i].second == blocks[i].second);
    }
  }
  EXPECT_GT(std::ranges::count(codes, Code::ok), 10);
}

TEST_F(ClientServerTest, ACancelledPutCanBePutAgain) {
  start(1);
  const Bytes block = pattern(6 * kMiB, 1);
  const std::string key = "k";
  const PutBlock asked{.key = key_bytes(key), .group = {}, .bytes = block};
  const auto request = client_->put(space_, std::span(&asked, 1));
  for (int i = 0; i < 300; ++i) world_->step();
  request->cancel();
  const auto codes = finish(request);
  EXPECT_TRUE(codes[0] == Code::cancelled || codes[0] == Code::ok);
  Code again = Code::busy;
  for (int i = 0; i < 100 && again == Code::busy; ++i) {
    (void)world_->run_until([] { return false; }, 10);
    again = put({{key, block}})[0];
  }
  EXPECT_EQ(again, codes[0] == Code::ok ? Code::exists : Code::ok);
  std::vector<Named> read = {{key, Bytes(block.size())}};
  EXPECT_EQ(get(read), std::vector<Code>{Code::ok});
  EXPECT_TRUE(read[0].second == block);
}

}  // namespace
}  // namespace memkv::testing
