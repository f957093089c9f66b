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

Result<double> raw_device(const std::string& path, bool write, std::size_t io_bytes, unsigned depth,
                          std::uint64_t first_byte, std::uint64_t total_bytes, Blocks& memory) {
  const Descriptor file(::open(path.c_str(), (write ? O_RDWR : O_RDONLY) | O_DIRECT | O_CLOEXEC));
  if (file.get() < 0) return failed("open " + path);
  Ring ring(depth);
  if (ring.error() != 0) return fail(Code::unsupported, std::strerror(-ring.error()));
  const std::size_t places = memory.all().size() / io_bytes;
  if (places < depth) return fail(Code::invalid, "too little memory for this depth");
  const std::uint64_t operations = total_bytes / io_bytes;
  std::uint64_t begun = 0;
  std::uint64_t done = 0;
  const std::uint64_t started = system_clock().now_ns();
  while (done < operations) {
    while (begun < operations && begun - done < depth) {
      io_uring_sqe* entry = io_uring_get_sqe(ring.get());
      std::byte* place = memory.all().data() + (begun % places) * io_bytes;
      const auto length = static_cast<unsigned>(io_bytes);
      const std::uint64_t offset = first_byte + begun * io_bytes;
      if (write) {
        io_uring_prep_write(entry, file.get(), place, length, offset);
      } else {
        io_uring_prep_read(entry, file.get(), place, length, offset);
      }
      ++begun;
    }
    io_uring_submit_and_wait(ring.get(), 1);
    io_uring_cqe* completion = nullptr;
    while (io_uring_peek_cqe(ring.get(), &completion) == 0) {
      const int result = completion->res;
      io_uring_cqe_seen(ring.get(), completion);
      if (result != static_cast<int>(io_bytes)) {
        return fail(Code::device_error,
                    path + ": short or failed I/O, result " + std::to_string(result));
      }
      ++done;
    }
  }
  return per_second(operations * io_bytes, started);
}

}  // namespace memkv::bench
