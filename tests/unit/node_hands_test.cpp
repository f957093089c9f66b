// A whole node with hands, as memkvd runs it: event loop, server, store and io_uring on a file, and
// clients over TCP in several threads. What matters here is what ThreadSanitizer sees.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/arena.h"
#include "base/event_loop.h"
#include "client/client.h"
#include "device/device.h"
#include "engine/store.h"
#include "server/server.h"
#include "support/fake_node.h"
#include "transport/transport.h"

namespace memkv::testing {
namespace {

namespace fs = std::filesystem;

constexpr unsigned kHands = 3;
constexpr std::uint64_t kLongMs = 60'000;
constexpr int kWorkers = 4;
constexpr int kBlocks = 20;  // of each worker
// Enough for all blocks, and several times what memory has: gets come from the file, too.
constexpr std::uint64_t kFileBytes = 128 * kMiB;
constexpr std::uint64_t kSegmentBytes = 8 * kMiB;
constexpr std::uint64_t kArenaBytes = 16 * kMiB;

class NodeHandsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "memkv-hands-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    loop_ = std::move(*EventLoop::create(kHands));
    ASSERT_EQ(loop_->hands(), kHands);
    DeviceOptions on{.path = folder_ / "device", .capacity_bytes = kFileBytes};
    auto device = open_uring_device(on, *loop_);
    if (!device && device.error().code != Code::unsupported) {
      on.direct = false;  // a file system without O_DIRECT
      device = open_uring_device(on, *loop_);
    }
    if (!device && device.error().code == Code::unsupported)
      GTEST_SKIP() << device.error().message();
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = std::move(*device);
    arena_ = std::move(*map_arena(kArenaBytes));
    network_ = tcp_network(*loop_);
    open_node();
  }
  void TearDown() override {
    clients_.clear();
    if (node_.joinable()) stop_node();
    server_.reset();
    store_.reset();
    network_.reset();
    device_.reset();
    arena_.reset();
    loop_.reset();
    fs::remove_all(folder_);
  }

  void open_node() {
    std::promise<std::string> serving;
    auto address = serving.get_future();
    const StoreOptions options{.format = true, .segment_bytes = kSegmentBytes};
    Store::open(options, *device_, *arena_, *loop_, system_random(),
                [&](Result<std::unique_ptr<Store>> store) {
                  store_ = std::move(store.value());
                  server_ = std::move(
                      Server::start({}, *store_, *network_, *loop_, system_random()).value());
                  serving.set_value(server_->address());
                });
    node_ = std::thread([this] { loop_->run(); });
    ASSERT_EQ(address.wait_for(std::chrono::milliseconds(kLongMs)), std::future_status::ready);
    address_ = address.get();
  }
  // As SIGTERM does it.
  void stop_node() {
    loop_->post([this] {
      server_->stop(1000, [this] {
        store_->close([this](Result<void> closed) {
          EXPECT_TRUE(closed.has_value());
          loop_->stop();
        });
      });
    });
    node_.join();
  }
  StoreStats store_stats() {
    std::promise<StoreStats> stats;
    loop_->post([&] { stats.set_value(store_->stats()); });
    return stats.get_future().get();
  }
  void open_clients(int count) {
    for (int i = 0; i < count; ++i) {
      ClientOptions options;
      options.nodes = {address_};
      options.timeout_ms = kLongMs;
      auto client = Client::open(options);
      ASSERT_TRUE(client.has_value()) << client.error().message();
      clients_.push_back(std::move(*client));
    }
  }
  [[nodiscard]] static Code finish(const std::unique_ptr<Request>& request) {
    EXPECT_TRUE(request->wait(kLongMs));
    return request->done() ? request->codes()[0] : Code::internal;
  }
  [[nodiscard]] Code put(Client& by, const std::string& key, std::span<const std::byte> bytes) {
    const PutBlock asked{.key = key_bytes(key), .group = {}, .bytes = bytes};
    return finish(by.put(space_, std::span(&asked, 1)));
  }
  [[nodiscard]] Code get(Client& by, const std::string& key, std::span<std::byte> target) {
    const GetBlock asked{.key = key_bytes(key), .group = {}, .offset = 0, .target = target};
    return finish(by.get(space_, std::span(&asked, 1)));
  }
  [[nodiscard]] Code drop(Client& by, const std::string& key) {
    const NamedBlock name{.key = key_bytes(key), .group = {}};
    return finish(by.drop(space_, std::span(&name, 1)));
  }

  fs::path folder_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
  std::thread node_;
  std::string address_;
  std::vector<std::unique_ptr<Client>> clients_;
  Namespace space_{.id = {std::byte{1}}, .generation = 0};
};

std::string name_of(int worker, int block) {
  return std::to_string(worker) + "/" + std::to_string(block);
}

Bytes bytes_of(int worker, int block) {
  return pattern(1 + 67'777 * static_cast<std::size_t>(block),
                 static_cast<std::uint64_t>(1000 * worker + block));
}

bool is_dropped(int block) {
  return block % 5 == 4;
}

TEST_F(NodeHandsTest, BlocksOfManyThreadsComeBackAsTheyWerePut) {
  open_clients(2);
  std::atomic<int> right = 0;
  const auto in_threads = [](const auto& work) {
    std::vector<std::thread> threads;
    for (int worker = 0; worker < kWorkers; ++worker) threads.emplace_back(work, worker);
    for (std::thread& thread : threads) thread.join();
  };
  const auto write = [&](int worker) {
    Client& client = *clients_[static_cast<std::size_t>(worker) % clients_.size()];
    for (int block = 0; block < kBlocks; ++block) {
      const std::string key = name_of(worker, block);
      const Bytes bytes = bytes_of(worker, block);
      ASSERT_EQ(put(client, key, bytes), Code::ok) << key;
      Bytes read(bytes.size());
      ASSERT_EQ(get(client, key, read), Code::ok) << key;
      ASSERT_TRUE(read == bytes) << key;
      if (!is_dropped(block)) continue;
      ASSERT_EQ(drop(client, key), Code::ok) << key;
    }
  };
  // Each reads what another one wrote, with the other client.
  const auto read_all = [&](int worker) {
    Client& client = *clients_[static_cast<std::size_t>(worker + 1) % clients_.size()];
    const int writer = (worker + 2) % kWorkers;
    for (int block = 0; block < kBlocks; ++block) {
      const std::string key = name_of(writer, block);
      const Bytes bytes = bytes_of(writer, block);
      Bytes read(bytes.size());
      ASSERT_EQ(get(client, key, read), is_dropped(block) ? Code::not_found : Code::ok) << key;
      if (!is_dropped(block)) {
        ASSERT_TRUE(read == bytes) << key;
      }
      right += 1;
    }
  };
  in_threads(write);
  in_threads(read_all);
  EXPECT_EQ(right, kWorkers * kBlocks);
  const StoreStats stats = store_stats();
  EXPECT_GT(stats.hits_flash, 0U);
  EXPECT_GT(stats.hits_dram, 0U);
  EXPECT_EQ(stats.corrupt, 0U);
  EXPECT_EQ(stats.evicted_blocks, 0U);
}

}  // namespace
}  // namespace memkv::testing
