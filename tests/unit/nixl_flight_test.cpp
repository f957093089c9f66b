// The plugin's transfers in bad times, in the simulation's hands: released, deregistered, without
// nodes, with nodes that die or say nothing.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "base/limits.h"
#include "nixl/flight.h"
#include "support/nixl_world.h"

namespace memkv::testing {
namespace {

using Piece = FakeCore::Piece;

class NixlFlightTest : public NixlWorldTest {
 protected:
  static constexpr std::size_t kLength = 2'000'000;

  Buffer put_block(FakeCore& core, std::uint64_t device, std::size_t length = kLength) {
    Buffer block = random_buffer(length, device);
    core.object(device, "key " + std::to_string(device));
    abi::Metadata* memory = core.memory(block);
    EXPECT_EQ(run(core, Direction::write, {{&block, memory, device}}), Answer::success);
    core.forget_memory(memory);
    return block;
  }
  // A read of the block that has begun to land.
  FakeCore::Transfer reading(FakeCore& core, Buffer& target, abi::Metadata* memory,
                             std::uint64_t device, const std::string* notice = nullptr) {
    auto transfer = core.describe(Direction::read, {{&target, memory, device}});
    EXPECT_EQ(core.prepare(transfer, notice), Answer::success);
    EXPECT_EQ(core.post(transfer), Answer::in_progress);
    EXPECT_TRUE(world_->run_until([head = std::span(target).first(64)] {
      return std::ranges::any_of(head, [](std::byte byte) { return byte != std::byte{0}; });
    }));
    EXPECT_EQ(core.check(transfer), Answer::in_progress) << "too late: it is all there";
    return transfer;
  }
};

TEST_F(NixlFlightTest, AfterReleaseNoByteLands) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_block(agent, 1);
  const std::string text = "n";
  Buffer target(kLength);
  auto transfer = reading(agent, target, agent.memory(target), 1, &text);
  EXPECT_EQ(agent.release(transfer), Answer::success);
  std::ranges::fill(target, std::byte{0xaa});
  run_for(10'000);
  EXPECT_TRUE(std::ranges::all_of(target, [](std::byte byte) { return byte == std::byte{0xaa}; }));
  EXPECT_EQ(agent.notices(), std::vector{notice_text(text, {Code::cancelled})});
  // The connection goes on.
  EXPECT_EQ(run(agent, Direction::read, {{&target, agent.memory(target), 1}}), Answer::success);
  EXPECT_EQ(target, block);
}

TEST_F(NixlFlightTest, AfterDeregistrationNoByteLands) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_block(agent, 1);
  Buffer other(kLength);
  auto untouched = agent.describe(Direction::read, {{&other, agent.memory(other), 1}});
  ASSERT_EQ(agent.prepare(untouched), Answer::success);
  ASSERT_EQ(agent.post(untouched), Answer::in_progress);
  Buffer target(kLength);
  abi::Metadata* memory = agent.memory(target);
  auto transfer = reading(agent, target, memory, 1);
  agent.forget_memory(memory);
  std::ranges::fill(target, std::byte{0xaa});
  EXPECT_EQ(agent.check(transfer), Answer::backend_error);
  EXPECT_EQ(finish(agent, untouched), Answer::success) << "it has other memory";
  EXPECT_EQ(other, block);
  run_for(10'000);
  EXPECT_TRUE(std::ranges::all_of(target, [](std::byte byte) { return byte == std::byte{0xaa}; }));
  EXPECT_EQ(agent.release(transfer), Answer::success);
  EXPECT_EQ(agent.release(untouched), Answer::success);
}

TEST_F(NixlFlightTest, AfterDeregistrationNothingIsPosted) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_block(agent, 1);
  Buffer target(kLength);
  abi::Metadata* memory = agent.memory(target);
  auto fresh = agent.describe(Direction::read, {{&target, memory, 1}});
  ASSERT_EQ(agent.prepare(fresh), Answer::success);
  auto posted = agent.describe(Direction::read, {{&target, memory, 1}});
  ASSERT_EQ(agent.prepare(posted), Answer::success);
  ASSERT_EQ(agent.post(posted), Answer::in_progress);
  ASSERT_EQ(finish(agent, posted), Answer::success);
  agent.forget_memory(memory);
  std::ranges::fill(target, std::byte{0xaa});
  for (FakeCore::Transfer* transfer : {&fresh, &posted}) {
    EXPECT_EQ(agent.post(*transfer), Answer::invalid_param);
    run_for(10'000);
    EXPECT_TRUE(
        std::ranges::all_of(target, [](std::byte byte) { return byte == std::byte{0xaa}; }));
  }
  // Registered again it is other memory: the transfer is to be prepared again.
  memory = agent.memory(target);
  EXPECT_EQ(agent.post(fresh), Answer::invalid_param);
  EXPECT_EQ(run(agent, Direction::read, {{&target, memory, 1}}), Answer::success);
  EXPECT_EQ(target, block);
  EXPECT_EQ(agent.release(fresh), Answer::success);
  EXPECT_EQ(agent.release(posted), Answer::success);
}

// One of two threads deregisters what the other posts: whichever comes first, no byte is late.
TEST_F(NixlFlightTest, AFlightIsFoundBeforeItIsSubmitted) {
  const auto tower = std::make_shared<nixl::Tower>(world_->clock());
  const std::uint64_t memory = tower->open();
  const nixl::Flight::Plan plan{.memories = {memory}};
  std::size_t found = 0;
  const auto fail_after_a_look = [&](Finished) -> std::unique_ptr<Request> {
    found = tower->touching(memory).size();
    throw std::bad_alloc();
  };
  EXPECT_THROW((void)nixl::Flight::start(tower, plan, fail_after_a_look), std::bad_alloc);
  EXPECT_EQ(found, 1u);
  EXPECT_TRUE(tower->touching(memory).empty()) << "nothing is under way";
  tower->close(memory);
  found = 2;
  EXPECT_EQ(nixl::Flight::start(tower, plan, fail_after_a_look), nullptr);
  EXPECT_EQ(found, 2u) << "it was not submitted";
}

TEST_F(NixlFlightTest, AReleasedWriteIsNotThere) {
  start_nodes(1);
  FakeCore& agent = core();
  agent.object(1, "one");
  Buffer block = random_buffer(kLength, 1);
  auto transfer = agent.describe(Direction::write, {{&block, agent.memory(block), 1}});
  ASSERT_EQ(agent.prepare(transfer), Answer::success);
  ASSERT_EQ(agent.post(transfer), Answer::in_progress);
  EXPECT_EQ(agent.release(transfer), Answer::success);
  std::ranges::fill(block, std::byte{0xaa});  // what is still sent is not the block
  run_for(1000);
  EXPECT_EQ(agent.query({{1, "one"}}), std::vector<std::string>{"0"});
}

TEST_F(NixlFlightTest, AnObjectMayBeDeregisteredUnderATransfer) {
  start_nodes(1);
  FakeCore& agent = core();
  const Buffer block = put_block(agent, 1);
  Buffer target(kLength);
  auto transfer = reading(agent, target, agent.memory(target), 1);
  EXPECT_EQ(agent.forget_object(1), Answer::success);
  EXPECT_EQ(finish(agent, transfer), Answer::success);
  EXPECT_EQ(target, block);
  EXPECT_EQ(agent.post(transfer), Answer::in_progress) << "it keeps the names it was made with";
  EXPECT_EQ(finish(agent, transfer), Answer::success);
  EXPECT_EQ(agent.release(transfer), Answer::success);
}

TEST_F(NixlFlightTest, ANodeThatDiesCostsItsBlocksOnly) {
  start_nodes(2);
  FakeCore& agent = core();
  std::vector<Buffer> blocks;
  std::vector<Buffer> targets(8, Buffer(50'000));
  std::vector<Piece> pieces;
  for (std::uint64_t i = 0; i < targets.size(); ++i) {
    blocks.push_back(put_block(agent, i, 50'000));
    pieces.push_back({&targets[i], agent.memory(targets[i]), i});
  }
  nodes_[0]->crash();
  const std::string text = "after";
  const std::uint64_t began_ms = now_ms();
  EXPECT_EQ(run(agent, Direction::read, pieces, &text), Answer::backend_error);
  EXPECT_LT(now_ms() - began_ms, 1500u);
  const auto notices = agent.notices();
  ASSERT_EQ(notices.size(), 1u);
  ASSERT_EQ(notices[0].size(), text.size() + 1 + targets.size());
  std::size_t delivered = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto code = static_cast<Code>(notices[0][text.size() + 1 + i]);
    if (code == Code::ok) {
      EXPECT_EQ(targets[i], blocks[i]);
      delivered += 1;
    } else {
      EXPECT_EQ(code, Code::unreachable);
    }
  }
  EXPECT_GT(delivered, 0u);
  EXPECT_LT(delivered, targets.size());

  nodes_[0]->start(false);
  run_for(10'000);
  (void)run(agent, Direction::read, pieces, &text);
  const auto later = agent.notices();
  EXPECT_EQ(std::ranges::count(later.at(0), static_cast<char>(Code::unreachable)), 0);
}

TEST_F(NixlFlightTest, ANodeThatDiesUnderATransferEndsIt) {
  start_nodes(1);
  FakeCore& agent = core();
  (void)put_block(agent, 1);
  Buffer target(kLength);
  auto transfer = reading(agent, target, agent.memory(target), 1);
  nodes_[0]->crash();
  EXPECT_EQ(finish(agent, transfer), Answer::backend_error);
  EXPECT_EQ(agent.release(transfer), Answer::success);
}

TEST_F(NixlFlightTest, ATransferEndsAtItsDeadline) {
  start_nodes(1);
  FakeCore& agent = core("agent", {{"timeout_ms", "700"}});
  (void)put_block(agent, 1);
  world_->partition("engine", "node0", true);
  Buffer target(kLength);
  const std::string text = "late";
  const std::uint64_t began_ms = now_ms();
  EXPECT_EQ(run(agent, Direction::read, {{&target, agent.memory(target), 1}}, &text),
            Answer::backend_error);
  EXPECT_LE(now_ms() - began_ms, 800u);
  const auto notices = agent.notices();
  ASSERT_EQ(notices.size(), 1u);
  EXPECT_NE(notices[0], notice_text(text, {Code::ok}));
  world_->partition("engine", "node0", false);
}

TEST_F(NixlFlightTest, AQueryWaitsNoLongerThanItMay) {
  start_nodes(1);
  FakeCore& agent = core("agent", {{"query_timeout_ms", "100"}});
  (void)put_block(agent, 1, 1000);
  world_->partition("engine", "node0", true);
  for (int i = 0; i < 8; ++i) {
    const std::uint64_t began_ms = now_ms();
    EXPECT_EQ(agent.query({{1, "key 1"}}), std::vector<std::string>{"0"});
    EXPECT_LE(now_ms() - began_ms, 110u);
  }
  // By now the breaker is open: there is nothing to wait for.
  const std::uint64_t began_ms = now_ms();
  EXPECT_EQ(agent.query({{1, "key 1"}}), std::vector<std::string>{"0"});
  EXPECT_EQ(now_ms(), began_ms);
  world_->partition("engine", "node0", false);
  run_for(30'000);
  EXPECT_EQ(agent.query({{1, "key 1"}}), std::vector<std::string>{"1000"});
}

TEST_F(NixlFlightTest, NotificationsThatNobodyFetchesAreBounded) {
  start_nodes(1);
  FakeCore& agent = core();
  Buffer block = put_block(agent, 1, 10);
  abi::Metadata* memory = agent.memory(block);
  auto transfer = agent.describe(Direction::write, {{&block, memory, 1}});
  ASSERT_EQ(agent.prepare(transfer), Answer::success);
  constexpr std::size_t kTextBytes = 8 * kMiB;
  for (char letter = 'a'; letter < 'a' + 12; ++letter) {
    const std::string text(kTextBytes, letter);
    ASSERT_EQ(agent.post(transfer, &text), Answer::in_progress);
    ASSERT_EQ(finish(agent, transfer), Answer::success);
  }
  const auto notices = agent.notices();
  EXPECT_EQ(notices.size(), kNoticeBytesMax / kTextBytes - 1) << "two bytes too many for one more";
  EXPECT_EQ(notices.back()[0], 'l') << "the newest are kept";
  EXPECT_EQ(agent.release(transfer), Answer::success);
}

TEST_F(NixlFlightTest, SmallNotificationsAreBoundedByWhatTheyTake) {
  nixl::Notices notices;
  constexpr std::size_t kMany = kNoticeBytesMax / sizeof(std::string) + 1000;
  for (std::size_t i = 0; i < kMany; ++i) notices.add("n:");
  abi::Notices got;
  notices.take("agent", got);
  EXPECT_EQ(got.size(), kNoticeBytesMax / (sizeof(std::string) + 2));
}

// ---- one name per device id

class NixlRegistryTest : public NixlWorldTest {
 protected:
  NixlRegistryTest() { start_nodes(1); }
};

TEST_F(NixlRegistryTest, TwoKeysOnOneLiveDeviceIdAreRefused) {
  FakeCore& agent = core();
  agent.object(1, "one");
  EXPECT_EQ(agent.try_object(1, "two"), Answer::not_allowed);
  agent.object(2, "one");
  EXPECT_EQ(agent.forget_object(1), Answer::success);
  agent.object(1, "two");
}

TEST_F(NixlRegistryTest, TheSameKeyIsCounted) {
  FakeCore& agent = core();
  agent.object(1, "one");
  agent.object(1, "one");
  EXPECT_EQ(agent.forget_object(1), Answer::success);
  EXPECT_EQ(agent.try_object(1, "two"), Answer::not_allowed) << "one registration is left";
  EXPECT_EQ(agent.forget_object(1), Answer::success);
  agent.object(1, "two");
}

// NIXL deregisters the first of two that are described the same, twice.
TEST_F(NixlRegistryTest, WhatIsRegisteredTwiceMayBeDeregisteredTwice) {
  FakeCore& agent = core();
  abi::Engine& engine = agent.engine();
  Buffer buffer(1000);
  const auto at = reinterpret_cast<std::uintptr_t>(buffer.data());
  for (const auto& [kind, place] :
       {std::pair{MemoryKind::dram, FakeCore::place(at, buffer.size(), 0)},
        std::pair{MemoryKind::object, FakeCore::place(0, 0, 7, "k")}}) {
    abi::Metadata* first = nullptr;
    abi::Metadata* second = nullptr;
    ASSERT_EQ(engine.registerMem(place, kind, first), Answer::success);
    ASSERT_EQ(engine.registerMem(place, kind, second), Answer::success);
    EXPECT_EQ(engine.deregisterMem(first), Answer::success);
    EXPECT_EQ(engine.deregisterMem(first), Answer::success);
    EXPECT_EQ(engine.deregisterMem(first), Answer::invalid_param) << "there are no three";
    EXPECT_EQ(engine.deregisterMem(second), Answer::invalid_param) << "it is the same";
  }
  EXPECT_EQ(agent.try_object(7, "another"), Answer::success) << "nothing is left of it";
}

TEST_F(NixlRegistryTest, WhatNobodyRegisteredIsLeftAlone) {
  abi::Metadata strange(true);
  EXPECT_EQ(core().engine().deregisterMem(&strange), Answer::invalid_param);
}

TEST_F(NixlRegistryTest, AnotherGroupIsAnotherName) {
  FakeCore& agent = core("agent", {{"key_dialect", "full"}});
  agent.object(1, nixl::record_of({.key = "k", .group = "a"}));
  EXPECT_EQ(agent.try_object(1, nixl::record_of({.key = "k", .group = "b"})), Answer::not_allowed);
}

TEST_F(NixlRegistryTest, WhatCannotBeRegistered) {
  FakeCore& agent = core();
  EXPECT_EQ(agent.try_object(1, ""), Answer::invalid_param);
  EXPECT_EQ(agent.try_object(1, std::string(kKeyBytesMax + 1, 'k')), Answer::invalid_param);
  EXPECT_EQ(agent.try_object(1, std::string(kKeyBytesMax, 'k')), Answer::success);
  abi::Metadata* made = nullptr;
  abi::Engine& engine = agent.engine();
  const auto whole = FakeCore::place(0x1000, 10, 0);
  EXPECT_EQ(engine.registerMem(whole, MemoryKind::vram, made), Answer::invalid_param);
  EXPECT_EQ(engine.registerMem(whole, static_cast<MemoryKind>(77), made), Answer::invalid_param);
  for (const auto& [address, length] :
       {std::pair<std::uintptr_t, std::size_t>{0, 10}, {0x1000, 0}, {0x1000, SIZE_MAX}}) {
    EXPECT_EQ(engine.registerMem(FakeCore::place(address, length, 0), MemoryKind::dram, made),
              Answer::invalid_param);
  }
  EXPECT_EQ(made, nullptr);
  EXPECT_EQ(engine.deregisterMem(nullptr), Answer::invalid_param);
}

TEST_F(NixlRegistryTest, ObjectsOfEveryDialectReachTheirBlocks) {
  const std::vector<std::pair<std::string, std::string>> infos = {
      {"raw", std::string("\0\xff\n", 3)},
      {"obj", ""},
      {"obj", "name"},
      {"cmx", ""},
      {"cmx", "00ff10AB"},
      {"full", nixl::record_of({.key = "k", .group = "g", .depth = 2, .recompute_cost = 9})}};
  for (const auto& [dialect, info] : infos) {
    FakeCore& agent = core("agent", {{"key_dialect", dialect}});
    Buffer block = random_buffer(5000, info.size());
    Buffer target(5000);
    agent.object(77, info);
    EXPECT_EQ(run(agent, Direction::write, {{&block, agent.memory(block), 77}}), Answer::success);
    EXPECT_EQ(run(agent, Direction::read, {{&target, agent.memory(target), 77}}), Answer::success);
    EXPECT_EQ(agent.query({{77, info}}), std::vector<std::string>{"5000"}) << dialect;
    EXPECT_EQ(target, block);
  }
}

}  // namespace
}  // namespace memkv::testing
