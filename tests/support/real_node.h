// RealNode: a store node in the simulated world: real server, real store, simulated disk and
// network.
//
// The disk survives the process, as on a machine. Calls come from the test, never from a task.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "engine/store.h"
#include "server/server.h"
#include "support/sim.h"

namespace memkv::testing {

inline constexpr std::uint64_t kNodeDiskBytes = 64 * kMiB;
inline constexpr std::uint64_t kNodeSegmentBytes = 8 * kMiB;
inline constexpr std::uint64_t kNodeArenaBytes = 32 * kMiB;

struct NodeSizes {
  std::uint64_t disk = kNodeDiskBytes;
  std::uint64_t segment = kNodeSegmentBytes;
  std::uint64_t arena = kNodeArenaBytes;
};

class RealNode {
 public:
  RealNode(sim::World& world, std::string name, NodeSizes sizes = {})
      : world_(world),
        name_(std::move(name)),
        sizes_(sizes),
        disk_(sizes.disk),
        random_(name_.size()) {}
  ~RealNode() { crash(); }
  RealNode(const RealNode&) = delete;
  RealNode& operator=(const RealNode&) = delete;

  [[nodiscard]] std::string address() const { return name_ + ":9900"; }

  void start(bool format) {
    process_ = world_.spawn(name_);
    arena_ = process_->arena(sizes_.arena);
    auto device = process_->open_device(disk_);
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = std::move(*device);
    StoreOptions options;
    options.format = format;
    options.segment_bytes = sizes_.segment;
    std::optional<Result<std::unique_ptr<Store>>> opened;
    Store::open(options, *device_, *arena_, process_->executor(), random_,
                [&opened](Result<std::unique_ptr<Store>> store) { opened = std::move(store); });
    ASSERT_TRUE(world_.run_until([&opened] { return opened.has_value(); }));
    ASSERT_TRUE(opened->has_value()) << opened->error().message();
    store_ = std::move(**opened);
    ServerOptions served;
    served.listen = address();
    auto server =
        Server::start(served, *store_, process_->network(), process_->executor(), random_);
    ASSERT_TRUE(server.has_value()) << server.error().message();
    server_ = std::move(*server);
  }
  // As SIGTERM does it.
  void stop() {
    bool stopped = false, closed = false;
    server_->stop(100, [&stopped] { stopped = true; });
    EXPECT_TRUE(world_.run_until([&stopped] { return stopped; }));
    server_.reset();
    store_->close([&closed](Result<void> result) {
      EXPECT_TRUE(result.has_value());
      closed = true;
    });
    EXPECT_TRUE(world_.run_until([&closed] { return closed; }));
    crash();
  }
  void crash() {
    if (!process_) return;
    process_->kill();
    server_.reset();
    store_.reset();
    device_.reset();
    arena_.reset();
    process_.reset();
  }
  [[nodiscard]] Store& store() { return *store_; }
  // A number of STAT.
  [[nodiscard]] std::uint64_t stat(const std::string& name) const {
    const std::string text = "\n" + server_->stats_text();
    const std::size_t at = text.find("\n" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    return at == std::string::npos ? 0 : std::stoull(text.substr(at + name.size() + 2));
  }
  // A line of STAT, `name value`, is there.
  [[nodiscard]] bool says(const std::string& line) const {
    return ("\n" + server_->stats_text()).find("\n" + line + "\n") != std::string::npos;
  }

 private:
  sim::World& world_;
  std::string name_;
  NodeSizes sizes_;
  sim::Disk disk_;
  SeededRandom random_;
  std::unique_ptr<sim::Process> process_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
};

}  // namespace memkv::testing
