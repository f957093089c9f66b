// The engine on the real things: a file behind io_uring, real memory, a mind and its hands.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/event_loop.h"
#include "engine/store.h"

namespace memkv {
namespace {

using Bytes = std::vector<std::byte>;

Bytes bytes_from(std::uint64_t seed, std::size_t count) {
  SeededRandom random(seed + 1);
  Bytes out(count);
  for (std::byte& one : out) one = static_cast<std::byte>(random.next());
  return out;
}

std::vector<std::uint32_t> crcs_of(const Bytes& bytes) {
  const std::uint32_t unit = unit_bytes_of(bytes.size());
  std::vector<std::uint32_t> crcs;
  for (std::size_t at = 0; at < bytes.size(); at += unit) {
    const auto rest = std::span(bytes).subspan(at);
    crcs.push_back(crc32c(rest.first(std::min<std::size_t>(unit, rest.size()))));
  }
  return crcs;
}

class Disk : public testing::TestWithParam<unsigned> {
 protected:
  static constexpr int kBlocks = 60;
  static constexpr std::size_t kLength = 700'001;

  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() /
            ("memkv_engine_" + std::to_string(getpid()) + "_" + std::to_string(GetParam()));
    loop_ = EventLoop::create(GetParam()).value();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  void open() {
    DeviceOptions options{path_, 65 * kMiB, true};
    auto device = open_uring_device(options, *loop_);
    if (!device) {
      options.direct = false;
      device = open_uring_device(options, *loop_);
    }
    if (!device && device.error().code == Code::unsupported) GTEST_SKIP() << device.error().text;
    ASSERT_TRUE(device.has_value()) << device.error().message();
    device_ = std::move(*device);
    StoreOptions store;
    store.segment_bytes = 8 * kMiB;
    Store::open(store, *device_, *arena_, *loop_, system_random(),
                [this](Result<std::unique_ptr<Store>> opened) {
                  ASSERT_TRUE(opened.has_value()) << opened.error().message();
                  store_ = std::move(*opened);
                  loop_->stop();
                });
    loop_->run();
  }
  void close() {
    store_->close([this](Result<void> closed) {
      EXPECT_TRUE(closed.has_value());
      loop_->stop();
    });
    loop_->run();
    store_.reset();
    device_.reset();
  }

  static BlockId id_of(const std::string& key) {
    BlockId id;
    id.key = std::as_bytes(std::span(key));
    return id;
  }

  void put_all() {
    int left = kBlocks;
    for (int i = 0; i < kBlocks; ++i) {
      const auto granted = [this, i, &left](Result<Grant> grant) {
        ASSERT_TRUE(grant.has_value()) << grant.error().message();
        const Bytes bytes = bytes_from(static_cast<std::uint64_t>(i), kLength);
        std::size_t at = 0;
        for (const iovec& piece : grant->pieces) {
          std::memcpy(piece.iov_base, bytes.data() + at, piece.iov_len);
          at += piece.iov_len;
        }
        const auto crcs = crcs_of(bytes);
        EXPECT_TRUE(store_->commit_put(grant->put, crcs, crcs).has_value());
        if (--left == 0) store_->when_clean([this] { loop_->stop(); });
      };
      (void)store_->begin_put(id_of("k" + std::to_string(i)), kLength, {}, granted);
    }
    loop_->run();
  }

  void get_all() {
    int left = kBlocks;
    int found = 0;
    for (int i = 0; i < kBlocks; ++i) {
      const auto got = [this, i, &left, &found](Result<Pinned> pinned) {
        if (pinned) {
          const Bytes bytes = bytes_from(static_cast<std::uint64_t>(i), kLength);
          std::size_t at = 0;
          for (const iovec& piece : pinned->pieces) {
            EXPECT_EQ(std::memcmp(piece.iov_base, bytes.data() + at, piece.iov_len), 0);
            at += piece.iov_len;
          }
          EXPECT_EQ(at, kLength);
          ++found;
          store_->end_get(pinned->get);
        } else {
          EXPECT_EQ(pinned.error().code, Code::not_found);
        }
        if (--left == 0) loop_->stop();
      };
      (void)store_->begin_get(id_of("k" + std::to_string(i)), 0, kLength, got);
    }
    loop_->run();
    EXPECT_GE(found, kBlocks * 2 / 3);
  }

  std::string path_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Arena> arena_ = map_arena(16 * kMiB).value();
  std::unique_ptr<Device> device_;
  std::unique_ptr<Store> store_;
};

TEST_P(Disk, BlocksComeBackFromARealFile) {
  open();
  if (IsSkipped() || HasFatalFailure()) return;
  put_all();
  get_all();
  close();
  open();
  EXPECT_GT(store_->stats().recovered_blocks, 0u);
  get_all();
  EXPECT_EQ(store_->stats().corrupt, 0u);
  close();
}

INSTANTIATE_TEST_SUITE_P(Hands, Disk, testing::Values(0u, 3u));

}  // namespace
}  // namespace memkv
