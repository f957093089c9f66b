// The two limits: plain TCP and the raw device.
#include <fcntl.h>
#include <liburing.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>

#include "base/clock.h"
#include "base/random.h"
#include "measures.h"

namespace memkv::bench {
namespace {

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

std::unexpected<Status> failed(const std::string& what) {
  return fail(Code::device_error, what + ": " + std::strerror(errno));
}

double per_second(std::uint64_t bytes, std::uint64_t started_ns) {
  return static_cast<double>(bytes) * 1e9 /
         static_cast<double>(system_clock().now_ns() - started_ns);
}

struct Pair {
  int sender = -1;
  int receiver = -1;
};

Result<Pair> connect_loopback() {
  const Descriptor listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  auto* generic = reinterpret_cast<sockaddr*>(&address);
  if (::bind(listener.get(), generic, length) != 0 || ::listen(listener.get(), 1) != 0 ||
      ::getsockname(listener.get(), generic, &length) != 0) {
    return failed("listen on loopback");
  }
  Pair pair;
  pair.sender = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (::connect(pair.sender, generic, length) != 0) return failed("connect on loopback");
  pair.receiver = ::accept(listener.get(), nullptr, nullptr);
  if (pair.receiver < 0) return failed("accept on loopback");
  const int on = 1;
  ::setsockopt(pair.sender, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  return pair;
}

// Walks the memory round and round until `total` bytes went through `step`; false when a step
// failed.
template <typename Step>
bool move_all(std::span<std::byte> memory, std::size_t chunk, std::uint64_t total, Step&& step) {
  std::uint64_t moved = 0;
  while (moved < total) {
    const std::size_t at = static_cast<std::size_t>(moved % memory.size());
    const std::size_t room = std::min<std::uint64_t>(
        {static_cast<std::uint64_t>(chunk), memory.size() - at, total - moved});
    const ssize_t got = step(memory.data() + at, room);
    if (got <= 0) return false;
    moved += static_cast<std::uint64_t>(got);
  }
  return true;
}

class Ring {
 public:
  explicit Ring(unsigned depth) { error_ = io_uring_queue_init(depth, &ring_, 0); }
  ~Ring() {
    if (error_ == 0) io_uring_queue_exit(&ring_);
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  [[nodiscard]] int error() const { return error_; }
  [[nodiscard]] io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
  int error_;
};

// Operations in flight at a time: `depth` reads or writes, and a flush between.
class RawRun {
 public:
  RawRun(int fd, const RawPlan& plan, Blocks& memory)
      : fd_(fd), plan_(plan), memory_(memory), ring_(plan.depth + 1) {}

  [[nodiscard]] int error() const { return ring_.error(); }

  void begin(std::uint64_t number) {
    io_uring_sqe* const entry = io_uring_get_sqe(ring_.get());
    const std::span<std::byte> place = memory_.block(number % memory_.count());
    const auto length = static_cast<unsigned>(place.size());
    const std::uint64_t offset = plan_.first_byte + number * plan_.io_bytes;
    if (plan_.write) {
      io_uring_prep_write(entry, fd_, place.data(), length, offset);
    } else {
      io_uring_prep_read(entry, fd_, place.data(), length, offset);
    }
    io_uring_sqe_set_data64(entry, place.size());
  }

  void begin_flush() {
    io_uring_sqe* const entry = io_uring_get_sqe(ring_.get());
    io_uring_prep_fsync(entry, fd_, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data64(entry, kFlush);
    flushing_ = true;
  }
  [[nodiscard]] bool flushing() const { return flushing_; }

  // Waits until something is over; how many reads or writes were, or what went wrong.
  Result<std::uint64_t> reap() {
    io_uring_submit_and_wait(ring_.get(), 1);
    io_uring_cqe* completion = nullptr;
    std::uint64_t over = 0;
    while (io_uring_peek_cqe(ring_.get(), &completion) == 0) {
      const int result = completion->res;
      const std::uint64_t wanted = io_uring_cqe_get_data64(completion);
      io_uring_cqe_seen(ring_.get(), completion);
      if (result != static_cast<int>(wanted)) {
        return fail(Code::device_error, "short or failed I/O, result " + std::to_string(result));
      }
      if (wanted == kFlush) flushing_ = false;
      if (wanted != kFlush) ++over;
    }
    return over;
  }

 private:
  static constexpr std::uint64_t kFlush = 0;  // the result of a flush
  int fd_;
  const RawPlan& plan_;
  Blocks& memory_;
  Ring ring_;
  bool flushing_ = false;
};

}  // namespace

Blocks::Blocks(std::size_t count, std::size_t block_bytes, std::uint64_t seed)
    : count_(count), block_bytes_(block_bytes) {
  void* memory = ::mmap(nullptr, count * block_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  ::madvise(memory, count * block_bytes, MADV_HUGEPAGE);
  memory_ = static_cast<std::byte*>(memory);
  SeededRandom random(seed);
  for (std::size_t at = 0; at + 8 <= count * block_bytes; at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(memory_ + at, &word, sizeof word);
  }
}

Blocks::~Blocks() {
  ::munmap(memory_, count_ * block_bytes_);
}

Result<double> plain_tcp(Blocks& from, Blocks& to, std::size_t chunk_bytes,
                         std::uint64_t total_bytes) {
  const Result<Pair> pair = connect_loopback();
  if (!pair) return fail(pair.error());
  const Descriptor sender(pair->sender);
  const Descriptor receiver(pair->receiver);
  bool sent = false;
  const std::uint64_t started = system_clock().now_ns();
  std::thread thread([&] {
    sent = move_all(from.all(), chunk_bytes, total_bytes, [&](std::byte* place, std::size_t room) {
      return ::send(sender.get(), place, room, MSG_NOSIGNAL);
    });
    if (!sent) ::shutdown(sender.get(), SHUT_RDWR);
  });
  const bool received = move_all(
      to.all(), chunk_bytes, total_bytes,
      [&](std::byte* place, std::size_t room) { return ::recv(receiver.get(), place, room, 0); });
  const double speed = per_second(total_bytes, started);
  thread.join();
  if (!sent || !received) return failed("plain send/recv");
  return speed;
}

Result<double> raw_device(const std::string& path, const RawPlan& plan, Blocks& memory) {
  const int flags = (plan.write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC;
  const Descriptor file(::open(path.c_str(), flags));
  if (file.get() < 0) return failed("open " + path);
  if (memory.count() < plan.depth) return fail(Code::invalid, "too little memory for this depth");
  RawRun run(file.get(), plan, memory);
  if (run.error() != 0) return fail(Code::unsupported, std::strerror(-run.error()));
  const std::uint64_t operations = plan.total_bytes / plan.io_bytes;
  const std::uint64_t flush_every = plan.flush_every_bytes / plan.io_bytes;
  std::uint64_t begun = 0;
  std::uint64_t done = 0;
  const std::uint64_t started = system_clock().now_ns();
  while (done < operations || run.flushing()) {
    while (begun < operations && begun - done < plan.depth) {
      if (plan.write && begun % flush_every == 0 && !run.flushing()) run.begin_flush();
      run.begin(begun++);
    }
    const Result<std::uint64_t> over = run.reap();
    if (!over) return fail(over.error().code, path + ": " + over.error().text);
    done += *over;
  }
  return per_second(operations * plan.io_bytes, started);
}
}  // namespace memkv::bench
