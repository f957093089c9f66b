// The device of a real node, on a real file: below TMPDIR, or in the working directory where that
// has no O_DIRECT.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/event_loop.h"
#include "base/limits.h"
#include "base/random.h"
#include "device/block_file.h"
#include "device/device.h"

namespace memkv {
namespace {

namespace fs = std::filesystem;

// Memory as O_DIRECT wants it.
class Pages {
 public:
  explicit Pages(std::size_t bytes)
      : bytes_(bytes), memory_(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes))) {
    std::memset(memory_, 0, bytes);
  }
  ~Pages() { std::free(memory_); }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  [[nodiscard]] std::byte* at(std::size_t offset = 0) { return memory_ + offset; }
  [[nodiscard]] std::size_t size() const { return bytes_; }
  void fill(Random& random) {
    for (std::size_t i = 0; i + 8 <= bytes_; i += 8) {
      const std::uint64_t word = random.next();
      std::memcpy(memory_ + i, &word, 8);
    }
  }
  // The memory [from, from + bytes) cut at random page borders.
  [[nodiscard]] std::vector<iovec> pieces(std::size_t from, std::size_t bytes, Random& random) {
    std::vector<iovec> out;
    while (bytes > 0) {
      const std::size_t count = std::min<std::size_t>(bytes, kPageBytes * (1 + random.below(80)));
      out.push_back({memory_ + from, count});
      from += count;
      bytes -= count;
    }
    return out;
  }

 private:
  std::size_t bytes_;
  std::byte* memory_;
};

class UringDeviceTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = make_folder(fs::temp_directory_path());
    if (!has_direct(folder_)) {
      fs::remove_all(folder_);
      folder_ = make_folder(fs::current_path());
    }
    if (!has_direct(folder_)) {
      GTEST_SKIP() << "no O_DIRECT below " << fs::temp_directory_path() << " or "
                   << fs::current_path() << "; set TMPDIR to a folder on ext4 or XFS";
    }
    auto loop = EventLoop::create(0);
    ASSERT_TRUE(loop) << loop.error().message();
    loop_ = std::move(*loop);
  }
  void TearDown() override {
    loop_.reset();
    if (!folder_.empty()) fs::remove_all(folder_);
  }

  static fs::path make_folder(const fs::path& where) {
    std::string pattern = (where / "memkv-device-XXXXXX").string();
    const char* made = ::mkdtemp(pattern.data());
    return made == nullptr ? fs::path{} : fs::path(made);
  }
  static bool has_direct(const fs::path& folder) {
    if (folder.empty()) return false;
    const fs::path probe = folder / "probe";
    const int fd = ::open(probe.c_str(), O_RDWR | O_CREAT | O_DIRECT, 0600);
    if (fd >= 0) ::close(fd);
    fs::remove(probe);
    return fd >= 0;
  }

  [[nodiscard]] std::string path(const std::string& name = "device") const {
    return (folder_ / name).string();
  }
  Result<std::unique_ptr<Device>> open(std::uint64_t capacity, const std::string& name = "device") {
    return open_uring_device({.path = path(name), .capacity_bytes = capacity}, *loop_);
  }

  // Counts down; the last one stops the loop.
  DeviceDone expect(Result<void>& result) {
    ++pending_;
    return [this, &result](Result<void> got) {
      result = std::move(got);
      if (--pending_ == 0) loop_->stop();
    };
  }
  void run() {
    ASSERT_GT(pending_, 0U);
    loop_->run();
    ASSERT_EQ(pending_, 0U);
  }
  Result<void> write(Device& device, std::uint64_t offset, std::vector<iovec> pieces) {
    Result<void> result = fail(Code::internal, "no completion");
    device.write(offset, std::move(pieces), expect(result));
    run();
    return result;
  }
  Result<void> read(Device& device, std::uint64_t offset, std::vector<iovec> pieces) {
    Result<void> result = fail(Code::internal, "no completion");
    device.read(offset, std::move(pieces), expect(result));
    run();
    return result;
  }

  fs::path folder_;
  std::unique_ptr<EventLoop> loop_;
  std::size_t pending_ = 0;
};

testing::AssertionResult refused(const Result<std::unique_ptr<Device>>& result, Code code,
                                 const std::vector<std::string>& words) {
  if (result) return testing::AssertionFailure() << "it was opened";
  if (result.error().code != code) return testing::AssertionFailure() << result.error().message();
  for (const std::string& word : words) {
    if (result.error().text.find(word) == std::string::npos) {
      return testing::AssertionFailure()
             << "'" << word << "' is missing in: " << result.error().text;
    }
  }
  return testing::AssertionSuccess();
}

TEST_F(UringDeviceTest, MakesAFileOfItsCapacity) {
  auto device = open(8 * kMiB + 100);
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_EQ((*device)->capacity_bytes(), 8 * kMiB);
  EXPECT_EQ((*device)->name(), path());
  struct stat found{};
  ASSERT_EQ(::stat(path().c_str(), &found), 0);
  EXPECT_EQ(static_cast<std::uint64_t>(found.st_size), 8 * kMiB);
  EXPECT_GE(static_cast<std::uint64_t>(found.st_blocks) * 512, 8 * kMiB) << "not preallocated";
  EXPECT_EQ(found.st_mode & 0777, 0600U);
}

TEST_F(UringDeviceTest, RandomPiecesComeBackAsTheyWereWritten) {
  SeededRandom random(7);
  auto device = open(32 * kMiB);
  ASSERT_TRUE(device) << device.error().message();
  Pages model(32 * kMiB);
  Pages back(32 * kMiB);
  model.fill(random);
  ASSERT_TRUE(write(**device, 0, model.pieces(0, model.size(), random)));
  for (int round = 0; round < 60; ++round) {
    const std::size_t bytes = kPageBytes * (1 + random.below(1200));
    const std::size_t offset = kPageBytes * random.below((model.size() - bytes) / kPageBytes + 1);
    if (random.below(2) == 0) {
      for (std::size_t i = 0; i < bytes; i += 512)
        model.at(offset)[i] = static_cast<std::byte>(random.next());
      const auto wrote = write(**device, offset, model.pieces(offset, bytes, random));
      ASSERT_TRUE(wrote) << wrote.error().message();
    } else {
      const auto got = read(**device, offset, back.pieces(offset, bytes, random));
      ASSERT_TRUE(got) << got.error().message();
      ASSERT_EQ(std::memcmp(model.at(offset), back.at(offset), bytes), 0) << "round " << round;
    }
  }
  ASSERT_TRUE(read(**device, 0, {{back.at(), back.size()}}));
  EXPECT_EQ(std::memcmp(model.at(), back.at(), model.size()), 0);
}

TEST_F(UringDeviceTest, ManyMoreOperationsThanTheDepthAllFinish) {
  constexpr std::size_t kOperations = 5 * kDeviceQueueDepth;
  constexpr std::size_t kBytes = 3 * kPageBytes;
  SeededRandom random(8);
  auto device = open(kOperations * kBytes);
  ASSERT_TRUE(device) << device.error().message();
  Pages written(kOperations * kBytes);
  Pages back(written.size());
  written.fill(random);
  std::vector<Result<void>> results(kOperations, fail(Code::internal));
  for (std::size_t i = 0; i < kOperations; ++i) {
    (*device)->write(i * kBytes, {{written.at(i * kBytes), kBytes}}, expect(results[i]));
  }
  EXPECT_EQ((*device)->in_flight(), kOperations);
  Result<void> flushed = fail(Code::internal);
  (*device)->flush(expect(flushed));
  run();
  EXPECT_TRUE(flushed);
  EXPECT_EQ((*device)->in_flight(), 0U);
  for (const auto& result : results) ASSERT_TRUE(result) << result.error().message();
  for (std::size_t i = 0; i < kOperations; ++i) {
    (*device)->read(i * kBytes, {{back.at(i * kBytes), kBytes}}, expect(results[i]));
  }
  run();
  for (const auto& result : results) ASSERT_TRUE(result) << result.error().message();
  EXPECT_EQ(std::memcmp(written.at(), back.at(), written.size()), 0);
}

TEST_F(UringDeviceTest, MorePiecesThanOneCallTakesAreSplit) {
  constexpr std::size_t kPieces = 1500;  // more than IOV_MAX, none of them neighbours in memory
  auto device = open(kPieces * kPageBytes);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(2 * kPieces * kPageBytes);
  SeededRandom random(9);
  memory.fill(random);
  std::vector<iovec> pieces;
  for (std::size_t i = 0; i < kPieces; ++i)
    pieces.push_back({memory.at(2 * i * kPageBytes), kPageBytes});
  ASSERT_TRUE(write(**device, 0, pieces));
  Pages back(kPieces * kPageBytes);
  ASSERT_TRUE(read(**device, 0, {{back.at(), back.size()}}));
  for (std::size_t i = 0; i < kPieces; ++i) {
    ASSERT_EQ(std::memcmp(memory.at(2 * i * kPageBytes), back.at(i * kPageBytes), kPageBytes), 0)
        << i;
  }
}

TEST_F(UringDeviceTest, AFlushComesAfterTheWritesBeforeIt) {
  auto device = open(16 * kMiB);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(16 * kMiB);
  Result<void> flushed;
  std::vector<std::string> order;
  ++pending_;
  (*device)->write(0, {{memory.at(), memory.size()}}, [&](Result<void> result) {
    EXPECT_TRUE(result);
    order.push_back("written");
    --pending_;
  });
  ++pending_;
  (*device)->flush([&](Result<void> result) {
    EXPECT_TRUE(result);
    order.push_back("flushed");
    --pending_;
    loop_->stop();
  });
  run();
  EXPECT_EQ(order, (std::vector<std::string>{"written", "flushed"}));
}

TEST_F(UringDeviceTest, KeepsItsBytesAcrossOpensAndGrows) {
  Pages memory(kMiB);
  SeededRandom random(10);
  memory.fill(random);
  {
    auto device = open(4 * kMiB);
    ASSERT_TRUE(device) << device.error().message();
    ASSERT_TRUE(write(**device, 2 * kMiB, {{memory.at(), memory.size()}}));
  }
  auto device = open(6 * kMiB);
  ASSERT_TRUE(device) << device.error().message();
  EXPECT_EQ((*device)->capacity_bytes(), 6 * kMiB);
  ASSERT_TRUE(write(**device, 5 * kMiB, {{memory.at(), memory.size()}}));
  Pages back(kMiB);
  ASSERT_TRUE(read(**device, 2 * kMiB, {{back.at(), back.size()}}));
  EXPECT_EQ(std::memcmp(memory.at(), back.at(), memory.size()), 0);
  device->reset();
  auto as_it_is = open(0);
  ASSERT_TRUE(as_it_is) << as_it_is.error().message();
  EXPECT_EQ((*as_it_is)->capacity_bytes(), 6 * kMiB);
}

TEST_F(UringDeviceTest, AFileThatIsNeverWrittenToIsLeftAsItWas) {
  ASSERT_TRUE(open(kMiB));
  EXPECT_FALSE(fs::exists(path()));
  std::ofstream(path()) << "somebody's letter";
  ASSERT_TRUE(open(kMiB));
  EXPECT_EQ(fs::file_size(path()), 17U);
}

TEST_F(UringDeviceTest, OutsideOfItIsRefusedAndNeverMakesItLonger) {
  auto device = open(kMiB);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(2 * kPageBytes);
  const auto over_the_end = read(**device, kMiB - kPageBytes, {{memory.at(), memory.size()}});
  ASSERT_FALSE(over_the_end);
  EXPECT_EQ(over_the_end.error().code, Code::device_error);
  EXPECT_NE(over_the_end.error().text.find("offset 1044480"), std::string::npos)
      << over_the_end.error().text;
  EXPECT_NE(over_the_end.error().text.find("8192 bytes"), std::string::npos)
      << over_the_end.error().text;
  const auto wraps =
      write(**device, ~std::uint64_t{0} - kPageBytes + 1, {{memory.at(), memory.size()}});
  ASSERT_FALSE(wraps);
  EXPECT_EQ(fs::file_size(path()), kMiB);
  EXPECT_TRUE(write(**device, kMiB - memory.size(), {{memory.at(), memory.size()}}));
}

TEST_F(UringDeviceTest, AFileThatGotShorterIsAShortRead) {
  auto device = open(kMiB);
  ASSERT_TRUE(device) << device.error().message();
  fs::resize_file(path(), kMiB / 2 + kPageBytes);
  Pages memory(kMiB / 2);
  const auto got = read(**device, kMiB / 2, {{memory.at(), memory.size()}});
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::device_error);
  EXPECT_NE(got.error().text.find("short"), std::string::npos) << got.error().text;
  EXPECT_NE(got.error().text.find("only 4096 bytes"), std::string::npos) << got.error().text;
  EXPECT_TRUE(read(**device, 0, {{memory.at(), memory.size()}}))
      << "the other half is as good as before";
}

// No file of this process grows beyond so many bytes, and nobody is killed for trying.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : signal_(::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
    const rlimit tight{bytes, before_.rlim_max};
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &tight), 0);
  }
  ~FileSizeLimit() {
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &before_), 0);
    ::signal(SIGXFSZ, signal_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  sighandler_t signal_;
  rlimit before_{};
};

TEST_F(UringDeviceTest, AWriteThatComesUpShortIsAnError) {
  auto device = open(kMiB);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(kMiB / 2);
  ASSERT_TRUE(write(**device, 0, {{memory.at(), memory.size()}})) << "the file is made";
  Result<void> across = fail(Code::internal, "not tried");
  Result<void> beyond = fail(Code::internal, "not tried");
  {
    const FileSizeLimit limit(kMiB / 2 + kPageBytes);
    across = write(**device, kMiB / 2, {{memory.at(), memory.size()}});
    beyond = write(**device, kMiB / 2 + kPageBytes, {{memory.at(), kPageBytes}});
  }
  ASSERT_FALSE(across);
  EXPECT_EQ(across.error().code, Code::device_error);
  EXPECT_NE(across.error().text.find("came up short: only 4096 bytes"), std::string::npos)
      << across.error().text;
  ASSERT_FALSE(beyond);
  EXPECT_EQ(beyond.error().code, Code::device_error);
  EXPECT_NE(beyond.error().text.find("File too large"), std::string::npos) << beyond.error().text;
  EXPECT_TRUE(write(**device, kMiB / 2, {{memory.at(), memory.size()}})) << "and it goes on";
}

TEST_F(UringDeviceTest, TheKernelsWordIsInTheFailure) {
  auto device = open(kMiB);
  ASSERT_TRUE(device) << device.error().message();
  const auto got = read(**device, 0, {{nullptr, kPageBytes}});
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::device_error);
  EXPECT_NE(got.error().text.find("Bad address"), std::string::npos) << got.error().text;
}

TEST_F(UringDeviceTest, OneBadPartFailsTheWholeOperationOnce) {
  auto device = open(16 * kMiB);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(16 * kMiB);
  std::vector<iovec> pieces = {
      {memory.at(), 4 * kMiB}, {nullptr, kMiB}, {memory.at(5 * kMiB), 11 * kMiB}};
  const auto wrote = write(**device, 0, pieces);
  ASSERT_FALSE(wrote);
  EXPECT_EQ((*device)->in_flight(), 0U);
  EXPECT_TRUE(write(**device, 0, {{memory.at(), memory.size()}}));
}

TEST_F(UringDeviceTest, DestroyedWithWorkInFlightItWaitsAndCallsNobody) {
  auto device = open(16 * kMiB);
  ASSERT_TRUE(device) << device.error().message();
  auto memory = std::make_unique<Pages>(16 * kMiB);
  bool called = false;
  for (int i = 0; i < 8; ++i)
    (*device)->read(0, {{memory->at(), memory->size()}}, [&](auto) { called = true; });
  device->reset();
  memory.reset();  // nobody writes to it any more
  loop_->post([this] { loop_->stop(); });
  loop_->run();
  EXPECT_FALSE(called);
}

TEST_F(UringDeviceTest, WhatAKilledOneHoldsForAMomentIsWaitedFor) {
  const DeviceOptions options{.path = path(), .capacity_bytes = kMiB};
  auto held = open_block_file(options);
  ASSERT_TRUE(held) << held.error().message();
  int waited_ms = 0;
  EXPECT_FALSE(open_block_file(options, [&](int ms) { waited_ms += ms; }));
  EXPECT_EQ(waited_ms, kDeviceHeldMs) << "and no longer";
  waited_ms = 0;
  const auto freed = open_block_file(options, [&](int ms) {
    waited_ms += ms;
    held->fd = Descriptor();
  });
  EXPECT_TRUE(freed) << "it was let go of";
  EXPECT_LT(waited_ms, kDeviceHeldMs);
}

TEST_F(UringDeviceTest, ASecondOpenIsRefused) {
  auto first = open(kMiB);
  ASSERT_TRUE(first) << first.error().message();
  EXPECT_TRUE(refused(open(kMiB), Code::busy, {path(), "held by another process"}));
  first->reset();
  EXPECT_TRUE(open(kMiB)) << "the lock goes with its holder";
}

TEST_F(UringDeviceTest, PathsThatCannotBeDevicesAreRefused) {
  EXPECT_TRUE(refused(open(0), Code::invalid, {"does not exist", "--capacity"}));
  EXPECT_TRUE(refused(open_uring_device({.path = folder_.string(), .capacity_bytes = kMiB}, *loop_),
                      Code::invalid, {"directory", "name a file in it"}));
  EXPECT_TRUE(refused(open(kMiB, "nowhere/device"), Code::invalid, {"directory does not exist"}));
  EXPECT_TRUE(refused(open_uring_device({.path = "/dev/null", .capacity_bytes = kMiB}, *loop_),
                      Code::invalid, {"neither a file nor a block device"}));
  EXPECT_TRUE(refused(open_uring_device({.path = ""}, *loop_), Code::invalid, {"no path"}));
}

TEST_F(UringDeviceTest, CapacitiesThatCannotBeAreRefused) {
  std::ofstream(path("empty")).close();
  EXPECT_TRUE(refused(open(0, "empty"), Code::invalid, {"empty", "--capacity"}));
  EXPECT_TRUE(refused(open(1000, "tiny"), Code::invalid, {"--capacity"}));
  EXPECT_FALSE(fs::exists(path("tiny"))) << "what was made for nothing is taken away";

  std::ofstream(path()).close();
  fs::resize_file(path(), 2 * kMiB);
  EXPECT_TRUE(refused(open(kMiB), Code::invalid, {"2 MiB", "1 MiB", "never shrunk"}));
  EXPECT_EQ(fs::file_size(path()), 2 * kMiB);

  const std::uint64_t too_much = fs::space(folder_).capacity + kGiB;
  EXPECT_TRUE(
      refused(open(too_much, "huge"), Code::no_space, {path("huge"), "free", "--capacity"}));
  EXPECT_FALSE(fs::exists(path("huge")));
}

TEST_F(UringDeviceTest, BufferedWorksWhereItIsAskedFor) {
  auto device =
      open_uring_device({.path = path(), .capacity_bytes = kMiB, .direct = false}, *loop_);
  ASSERT_TRUE(device) << device.error().message();
  Pages memory(kMiB);
  Pages back(kMiB);
  SeededRandom random(11);
  memory.fill(random);
  ASSERT_TRUE(write(**device, 0, {{memory.at(), memory.size()}}));
  ASSERT_TRUE(read(**device, 0, {{back.at(), back.size()}}));
  EXPECT_EQ(std::memcmp(memory.at(), back.at(), memory.size()), 0);
}

// What a container's seccomp profile does to io_uring_setup.
void forbid_io_uring(int error) {
  sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  sock_fprog program{.len = static_cast<unsigned short>(std::size(filter)), .filter = filter};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) {
    std::fprintf(stderr, "no seccomp here\n");
    std::_Exit(77);
  }
}

TEST_F(UringDeviceTest, WithoutIoUringTheSentenceSaysHowToAllowIt) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const int error : {EPERM, ENOSYS}) {
    EXPECT_EXIT(
        {
          forbid_io_uring(error);
          auto device = open(kMiB);
          if (device) std::_Exit(1);
          std::fprintf(stderr, "%s\n", device.error().message().c_str());
          std::_Exit(device.error().code == Code::unsupported ? 3 : 2);
        },
        testing::ExitedWithCode(3),
        "unsupported: io_uring is not allowed.*seccomp profile must allow io_uring_setup");
  }
}

}  // namespace
}  // namespace memkv
