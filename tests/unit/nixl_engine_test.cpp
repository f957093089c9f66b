// The plugin's engine over real nodes, in the simulation's hands: what transfers, queries and
// notifications do.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "base/limits.h"
#include "support/nixl_world.h"

namespace memkv::testing {
namespace {

using Piece = FakeCore::Piece;

class NixlEngineTest : public NixlWorldTest {
 protected:
  // A block of random bytes for each device id, put under "key <id>" by its own agent.
  std::vector<Buffer> put_blocks(FakeCore& core, const std::vector<std::uint64_t>& devices,
                                 std::size_t length) {
    std::vector<Buffer> blocks;
    for (const std::uint64_t device : devices) blocks.push_back(random_buffer(length, device));
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < devices.size(); ++i) {
      core.object(devices[i], key(devices[i]));
      pieces.push_back({&blocks[i], core.memory(blocks[i]), devices[i]});
    }
    EXPECT_EQ(run(core, Direction::write, pieces), Answer::success);
    return blocks;
  }
  static std::string key(std::uint64_t device) { return "key " + std::to_string(device); }
};

TEST_F(NixlEngineTest, SaysWhatItIs) {
  start_nodes(1);
  abi::Engine& engine = core().engine();
  EXPECT_FALSE(engine.supportsRemote());
  EXPECT_TRUE(engine.supportsLocal());
  EXPECT_TRUE(engine.supportsNotif());
  EXPECT_EQ(engine.getSupportedMems(), (std::vector{MemoryKind::dram, MemoryKind::object}));
  EXPECT_EQ(engine.connect("agent"), Answer::success);
  EXPECT_EQ(engine.connect("another"), Answer::not_supported);
  EXPECT_EQ(engine.disconnect("agent"), Answer::success);
  std::string text;
  EXPECT_EQ(engine.getConnInfo(text), Answer::not_supported);
  EXPECT_EQ(engine.getPublicData(nullptr, text), Answer::not_supported);
  EXPECT_EQ(engine.loadRemoteConnInfo("x", "y"), Answer::not_supported);
  EXPECT_EQ(engine.genNotif("agent", "text"), Answer::not_supported);
  abi::Metadata* made = nullptr;
  EXPECT_EQ(engine.loadRemoteMD({}, MemoryKind::object, "x", made), Answer::not_supported);
  EXPECT_EQ(engine.loadLocalMD(nullptr, made), Answer::invalid_param);
  void* view = nullptr;
  const abi::RegisteredList list(MemoryKind::object, {});
  EXPECT_EQ(engine.prepMemView(list, view, nullptr), Answer::not_supported);
  engine.releaseMemView(nullptr);
  EXPECT_EQ(engine.unloadMD(nullptr), Answer::success);
}

TEST_F(NixlEngineTest, WhatOneAgentWritesAnotherReads) {
  start_nodes(3);
  FakeCore& writer = core("writer");
  const auto blocks = put_blocks(writer, {1, 2, 3, 4, 5, 6, 7, 8}, 200'001);

  FakeCore& reader = core("reader");
  std::vector<Buffer> targets(blocks.size(), Buffer(200'001));
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    reader.object(100 + i, key(1 + i));  // the key counts, not the device id
    pieces.push_back({&targets[i], reader.memory(targets[i]), 100 + i});
  }
  EXPECT_EQ(run(reader, Direction::read, pieces), Answer::success);
  EXPECT_EQ(targets, blocks);
}

TEST_F(NixlEngineTest, NamespacesDoNotSeeEachOther) {
  start_nodes(1);
  const auto blocks = put_blocks(core("a", {{"namespace", "one"}}), {1}, 1000);
  FakeCore& other = core("b", {{"namespace", "two"}});
  EXPECT_EQ(other.query({{1, key(1)}}), std::vector<std::string>{"0"});
  // Nor do dialects, also where they spell the same key.
  FakeCore& obj = core("c", {{"namespace", "one"}, {"key_dialect", "obj"}});
  EXPECT_EQ(obj.query({{1, key(1)}}), std::vector<std::string>{"0"});
  FakeCore& full = core("d", {{"namespace", "one"}, {"key_dialect", "full"}});
  const std::string record = nixl::record_of({.key = key(1)});
  EXPECT_EQ(full.query({{1, record}}), std::vector<std::string>{"1000"});
}

TEST_F(NixlEngineTest, AReadTakesTheAddressAsAnOffset) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_blocks(agent, {1}, 300'000)[0];
  Buffer target(300'000, std::byte{0xee});
  abi::Metadata* memory = agent.memory(target);
  // Three ranges of one block, not in order, into one buffer.
  EXPECT_EQ(
      run(agent, Direction::read,
          {{.buffer = &target,
            .memory = memory,
            .device = 1,
            .offset = 299'999,
            .at = 5,
            .length = 1},
           {.buffer = &target,
            .memory = memory,
            .device = 1,
            .offset = 65'000,
            .at = 1000,
            .length = 70'000},
           {.buffer = &target, .memory = memory, .device = 1, .offset = 0, .at = 0, .length = 5}}),
      Answer::success);
  EXPECT_EQ(target[5], block[299'999]);
  EXPECT_TRUE(std::equal(target.begin() + 1000, target.begin() + 71'000, block.begin() + 65'000));
  EXPECT_TRUE(std::equal(target.begin(), target.begin() + 5, block.begin()));
  EXPECT_EQ(target[6], std::byte{0xee});
  EXPECT_EQ(target[71'000], std::byte{0xee});
}

TEST_F(NixlEngineTest, AMissingBlockLeavesTheOthersDelivered) {
  start_nodes(2);
  FakeCore& agent = core();
  const auto blocks = put_blocks(agent, {1, 3}, 100'000);
  agent.object(2, "nobody put this");
  std::vector<Buffer> targets(3, Buffer(100'000));
  std::vector<Piece> pieces;
  for (std::uint64_t i = 0; i < 3; ++i) {
    pieces.push_back({&targets[i], agent.memory(targets[i]), i + 1});
  }
  const std::string text = "read";
  EXPECT_EQ(run(agent, Direction::read, pieces, &text), Answer::not_found);
  EXPECT_EQ(targets[0], blocks[0]);
  EXPECT_EQ(targets[2], blocks[1]);
  EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::ok, Code::not_found, Code::ok})});
}

TEST_F(NixlEngineTest, AnyOtherFailureIsTheBackends) {
  start_nodes(1);
  FakeCore& agent = core();
  (void)put_blocks(agent, {1, 2}, 5000);
  agent.object(3, "nobody put this");
  Buffer longer(6000);
  Buffer other(5000);
  const std::string text = "n";
  // Longer than the block: an error, although the third is only absent.
  EXPECT_EQ(run(agent, Direction::read,
                {{&longer, agent.memory(longer), 1}, {&other, agent.memory(other), 3}}, &text),
            Answer::backend_error);
  EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::invalid, Code::not_found})});
  // Another length under a key that is there.
  EXPECT_EQ(run(agent, Direction::write, {{&longer, agent.memory(longer), 1}}, &text),
            Answer::backend_error);
  EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::conflict})});
}

TEST_F(NixlEngineTest, ASecondWriteOfTheSameIsASuccess) {
  start_nodes(1);
  FakeCore& agent = core();
  auto blocks = put_blocks(agent, {1}, 5000);
  const std::string text = "again";
  EXPECT_EQ(run(agent, Direction::write, {{&blocks[0], agent.memory(blocks[0]), 1}}, &text),
            Answer::success);
  EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::exists})});
}

TEST_F(NixlEngineTest, ATransferIsPostedAgainAndAgain) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_blocks(agent, {1}, 50'000)[0];
  Buffer target(50'000);
  const std::string first = "first";
  const std::string third = "third";
  auto transfer = agent.describe(Direction::read, {{&target, agent.memory(target), 1}});
  ASSERT_EQ(agent.prepare(transfer, &first), Answer::success);
  EXPECT_EQ(agent.check(transfer), Answer::not_posted);
  for (const std::string* text : {static_cast<const std::string*>(nullptr), &first, &third}) {
    std::ranges::fill(target, std::byte{0});
    ASSERT_EQ(agent.post(transfer, text), Answer::in_progress);
    EXPECT_EQ(agent.post(transfer, text), Answer::repost_active);
    EXPECT_EQ(finish(agent, transfer), Answer::success);
    EXPECT_EQ(agent.check(transfer), Answer::success) << "and it stays so";
    EXPECT_EQ(target, block);
  }
  EXPECT_EQ(agent.notices(),
            (std::vector{notice_text(first, {Code::ok}), notice_text(first, {Code::ok}),
                         notice_text(third, {Code::ok})}));
  EXPECT_TRUE(agent.notices().empty());
  EXPECT_EQ(agent.release(transfer), Answer::success);
}

TEST_F(NixlEngineTest, WithoutATextThereIsNoNotification) {
  start_nodes(1);
  FakeCore& agent = core();
  (void)put_blocks(agent, {1}, 50);
  EXPECT_TRUE(agent.notices().empty());
}

TEST_F(NixlEngineTest, AnEmptyTextAndOneOfAnyBytesAreTextsToo) {
  start_nodes(1);
  FakeCore& agent = core();
  auto blocks = put_blocks(agent, {1}, 50);
  for (const std::string& text : {std::string(), std::string("\0:\xff\n", 4)}) {
    EXPECT_EQ(run(agent, Direction::write, {{&blocks[0], agent.memory(blocks[0]), 1}}, &text),
              Answer::success);
    EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::exists})});
  }
}

TEST_F(NixlEngineTest, ThousandsOfBlocksInOneTransfer) {
  start_nodes(2);
  FakeCore& agent = core();
  constexpr std::size_t kBlocks = 4096;
  constexpr std::size_t kLength = 512;
  Buffer source = random_buffer(kBlocks * kLength, 1);
  Buffer target(source.size());
  abi::Metadata* from = agent.memory(source);
  abi::Metadata* to = agent.memory(target);
  std::vector<Piece> out;
  std::vector<Piece> in;
  std::vector<std::pair<std::uint64_t, std::string>> names;
  for (std::size_t i = 0; i < kBlocks; ++i) {
    agent.object(i, key(i));
    names.emplace_back(i, key(i));
    out.push_back(
        {.buffer = &source, .memory = from, .device = i, .at = i * kLength, .length = kLength});
    in.push_back(
        {.buffer = &target, .memory = to, .device = i, .at = i * kLength, .length = kLength});
  }
  EXPECT_EQ(agent.query(names), std::vector<std::string>(kBlocks, "0"));
  EXPECT_EQ(run(agent, Direction::write, out), Answer::success);
  EXPECT_EQ(agent.query(names), std::vector<std::string>(kBlocks, std::to_string(kLength)));
  EXPECT_EQ(run(agent, Direction::read, in), Answer::success);
  EXPECT_EQ(target, source);
}

TEST_F(NixlEngineTest, AQueryOfThousandsIsOneMatchANode) {
  start_nodes(2);
  FakeCore& agent = core();
  (void)put_blocks(agent, {1, 2}, 777);
  std::vector<std::pair<std::uint64_t, std::string>> names;
  for (std::uint64_t i = 0; i < 10'000; ++i) names.emplace_back(i, key(i));
  const std::vector<std::string> sizes = agent.query(names);
  EXPECT_EQ(std::ranges::count(sizes, "777"), 2);
  EXPECT_EQ(sizes[1], "777");
  EXPECT_EQ(sizes[2], "777");
  for (const auto& node : nodes_) EXPECT_TRUE(node->says("requests_match 1"));
}

TEST_F(NixlEngineTest, AQueryAnswersPerDescriptor) {
  start_nodes(2);
  FakeCore& agent = core();
  (void)put_blocks(agent, {1, 2}, 777);
  // An empty metaInfo names nothing in this dialect; that is a miss of its own.
  EXPECT_EQ(agent.query({{9, key(2)}, {0, "nobody"}, {0, ""}, {0, key(1)}}),
            (std::vector<std::string>{"777", "0", "0", "777"}));
  EXPECT_TRUE(agent.query({}).empty());
  std::vector<abi::Found> found;
  const abi::DescribedList memory(MemoryKind::dram, {FakeCore::place(1, 1, 0)});
  EXPECT_EQ(agent.engine().queryMem(memory, found), Answer::not_supported);
  EXPECT_EQ(found.size(), 1u);
}

TEST_F(NixlEngineTest, AQuerySaysWhereABlockIs) {
  start_nodes(1);
  FakeCore& agent = core();
  (void)put_blocks(agent, {1}, 777);
  std::vector<abi::Found> found;
  const abi::DescribedList list(MemoryKind::object, {FakeCore::place(0, 0, 1, key(1))});
  EXPECT_EQ(agent.engine().queryMem(list, found), Answer::success);
  EXPECT_EQ(found.at(0), (abi::Parameters{{"size", "777"}, {"where", "dram"}}));
}

TEST_F(NixlEngineTest, TheEstimateIsWhatWasMeasured) {
  start_nodes(1);
  FakeCore& agent = core();
  Buffer target(1'000'000);
  auto transfer = agent.describe(Direction::read, {{&target, agent.memory(target), 1}});
  abi::Microseconds duration{};
  abi::Microseconds margin{};
  abi::CostMethod method{};
  const auto estimate = [&](const Direction& direction) {
    return agent.engine().estimateXferCost(direction, transfer.local, transfer.remote, "agent",
                                           transfer.handle, duration, margin, method, nullptr);
  };
  EXPECT_EQ(estimate(Direction::read), Answer::success);
  EXPECT_EQ(duration.count(), 1000) << "the prior: 1 GB/s";
  EXPECT_EQ(margin.count(), 1000);
  EXPECT_EQ(estimate(static_cast<Direction>(7)), Answer::invalid_param);

  (void)put_blocks(agent, {1}, target.size());
  transfer = agent.describe(Direction::read, {{&target, agent.memory(target), 1}});
  ASSERT_EQ(agent.prepare(transfer), Answer::success);
  std::uint64_t took_us = 0;
  for (int i = 0; i < 30; ++i) {
    const std::uint64_t began = world_->clock().now_ns();
    (void)agent.post(transfer);
    ASSERT_EQ(finish(agent, transfer), Answer::success);
    took_us += (world_->clock().now_ns() - began) / 1000 / 30;
  }
  EXPECT_EQ(estimate(Direction::read), Answer::success);
  const auto measured = static_cast<std::uint64_t>(duration.count());
  EXPECT_GT(measured, took_us / 2);
  EXPECT_LT(measured, took_us * 2);
  EXPECT_LT(margin, duration);
  (void)agent.release(transfer);
}

TEST_F(NixlEngineTest, ManyTransfersAreUnderWayAtOnce) {
  start_nodes(2);
  FakeCore& agent = core();
  constexpr std::uint64_t kTransfers = 40;
  std::vector<std::uint64_t> devices;
  for (std::uint64_t i = 0; i < kTransfers; ++i) devices.push_back(i);
  const auto blocks = put_blocks(agent, devices, 20'000);
  std::vector<Buffer> targets(kTransfers, Buffer(20'000));
  std::vector<FakeCore::Transfer> transfers;
  for (std::uint64_t i = 0; i < kTransfers; ++i) {
    transfers.push_back(
        agent.describe(Direction::read, {{&targets[i], agent.memory(targets[i]), i}}));
    ASSERT_EQ(agent.prepare(transfers.back()), Answer::success);
    ASSERT_EQ(agent.post(transfers.back()), Answer::in_progress);
  }
  for (auto& transfer : transfers) {
    EXPECT_EQ(finish(agent, transfer), Answer::success);
    EXPECT_EQ(agent.release(transfer), Answer::success);
  }
  EXPECT_EQ(targets, blocks);
}

// ---- what prepXfer refuses

class NixlPrepareTest : public NixlEngineTest {
 protected:
  NixlPrepareTest() {
    start_nodes(1);
    agent_ = &core();
    memory_ = agent_->memory(buffer_);
    agent_->object(1, "one");
  }
  Answer prepare(Direction direction, const std::vector<Piece>& pieces) {
    auto transfer = agent_->describe(direction, pieces);
    return prepare(transfer);
  }
  Answer prepare(FakeCore::Transfer& transfer) {
    const Answer answer = agent_->prepare(transfer);
    if (transfer.handle != nullptr) (void)agent_->release(transfer);
    return answer;
  }
  [[nodiscard]] Piece piece() { return {&buffer_, memory_, 1}; }

  FakeCore* agent_ = nullptr;
  Buffer buffer_{Buffer(4096)};
  abi::Metadata* memory_ = nullptr;
};

TEST_F(NixlPrepareTest, NothingToMove) {
  EXPECT_EQ(prepare(Direction::read, {}), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, TwoLengths) {
  Piece two = piece();
  two.far_length = 4095;
  EXPECT_EQ(prepare(Direction::read, {two}), Answer::invalid_param);
  EXPECT_EQ(prepare(Direction::write, {piece(), two}), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, NoBytes) {
  Piece none = piece();
  none.length = 0;
  EXPECT_EQ(prepare(Direction::read, {none}), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, BytesOutsideOfTheRegisteredMemory) {
  Piece late = piece();
  late.at = 1;
  EXPECT_EQ(prepare(Direction::read, {late}), Answer::invalid_param);
  late.length = 4095;
  EXPECT_EQ(prepare(Direction::read, {late}), Answer::success);
  auto transfer = agent_->describe(Direction::read, {piece()});
  transfer.local.places[0].address -= 1;
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, AWriteThatIsNotAWholeBlock) {
  Piece later = piece();
  later.offset = 1;
  EXPECT_EQ(prepare(Direction::write, {later}), Answer::invalid_param);
  EXPECT_EQ(prepare(Direction::read, {later}), Answer::success);
}

TEST_F(NixlPrepareTest, ARangeThatNoBlockHas) {
  Piece far = piece();
  far.offset = kBlockBytesMax - 4096;
  EXPECT_EQ(prepare(Direction::read, {far}), Answer::success);
  far.offset += 1;
  EXPECT_EQ(prepare(Direction::read, {far}), Answer::invalid_param);
  far.offset = SIZE_MAX;
  EXPECT_EQ(prepare(Direction::read, {far}), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, WhatIsNotRegistered) {
  Piece strange = piece();
  strange.device = 2;
  EXPECT_EQ(prepare(Direction::read, {strange}), Answer::invalid_param);
  strange = piece();
  strange.memory = nullptr;
  EXPECT_EQ(prepare(Direction::read, {strange}), Answer::invalid_param);
}

// As NIXL 1.0 does, which keeps its own entry of an object that was deregistered.
TEST_F(NixlPrepareTest, AnObjectThatWasDeregistered) {
  auto transfer = agent_->describe(Direction::read, {piece()});
  ASSERT_EQ(agent_->forget_object(1), Answer::success);
  agent_->object(2, "two");
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, MemoryThatWasDeregistered) {
  auto transfer = agent_->describe(Direction::read, {piece()});
  agent_->forget_memory(memory_);
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
}

TEST_F(NixlEngineTest, AnIdMeansWhatItIsRegisteredForNow) {
  start_nodes(1);
  FakeCore& agent = core();
  const auto blocks = put_blocks(agent, {1, 2}, 5000);
  Buffer target(5000);
  agent.object(7, key(1));
  auto transfer = agent.describe(Direction::read, {{&target, agent.memory(target), 7}});
  ASSERT_EQ(agent.forget_object(7), Answer::success);
  agent.object(7, key(2));
  ASSERT_EQ(agent.prepare(transfer), Answer::success);  // what NIXL remembers is of the first
  (void)agent.post(transfer);
  EXPECT_EQ(finish(agent, transfer), Answer::success);
  EXPECT_EQ(target, blocks[1]);
  EXPECT_EQ(agent.release(transfer), Answer::success);
}

TEST_F(NixlPrepareTest, OtherKindsOfMemoryAndOperation) {
  auto transfer = agent_->describe(Direction::read, {piece()});
  transfer.local.kind = MemoryKind::vram;
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
  transfer = agent_->describe(Direction::read, {piece()});
  transfer.remote.kind = MemoryKind::file;
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
  transfer = agent_->describe(Direction::read, {piece()});
  std::swap(transfer.local, transfer.remote);
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
  // The kinds are right, what hangs on them is not.
  transfer = agent_->describe(Direction::read, {piece()});
  std::swap(transfer.local.places[0].metadata, transfer.remote.places[0].metadata);
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
  transfer = agent_->describe(static_cast<Direction>(2), {piece()});
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, ListsOfDifferentLength) {
  auto transfer = agent_->describe(Direction::read, {piece(), piece()});
  transfer.remote.places.pop_back();
  EXPECT_EQ(prepare(transfer), Answer::invalid_param);
}

TEST_F(NixlPrepareTest, AnotherAgentsBlocks) {
  auto transfer = agent_->describe(Direction::read, {piece()});
  EXPECT_EQ(agent_->engine().prepXfer(transfer.direction, transfer.local, transfer.remote,
                                      "somebody else", transfer.handle, nullptr),
            Answer::not_supported);
}

TEST_F(NixlPrepareTest, APostOfSomethingElse) {
  auto transfer = agent_->describe(Direction::read, {piece()});
  EXPECT_EQ(agent_->post(transfer), Answer::invalid_param) << "it was not prepared";
  EXPECT_EQ(agent_->check(transfer), Answer::invalid_param);
  EXPECT_EQ(agent_->release(transfer), Answer::invalid_param);
  ASSERT_EQ(agent_->prepare(transfer), Answer::success);
  transfer.direction = Direction::write;
  EXPECT_EQ(agent_->post(transfer), Answer::invalid_param);
  transfer.direction = Direction::read;
  transfer.local.places.clear();
  EXPECT_EQ(agent_->post(transfer), Answer::invalid_param);
  EXPECT_EQ(agent_->release(transfer), Answer::success);
}

}  // namespace
}  // namespace memkv::testing
