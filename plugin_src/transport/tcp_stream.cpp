#include "transport/tcp_stream.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv {
namespace {

constexpr int kKeepaliveIdleS = 10;
constexpr int kKeepaliveIntervalS = 5;
constexpr int kKeepaliveProbes = 3;
constexpr std::size_t kDrainBytes = 1024 * 1024;
constexpr std::size_t kLowWaterMax = 256 * kKiB;

void set_option(int fd, int level, int name, int value) {
  ::setsockopt(fd, level, name, &value, sizeof value);
}

msghdr message_of(std::span<const iovec> pieces) {
  msghdr message{};
  message.msg_iov = const_cast<iovec*>(pieces.data());
  message.msg_iovlen = std::min(pieces.size(), kSystemPiecesMax);
  return message;
}

IoStep failed_step() {
  const bool later = errno == EAGAIN || errno == EWOULDBLOCK;
  return {later ? Code::busy : Code::unreachable, 0};
}

}  // namespace

TcpStream::TcpStream(EventLoop& loop, int fd, std::string peer)
    : loop_(loop), fd_(fd), peer_(std::move(peer)) {
  set_option(fd_, IPPROTO_TCP, TCP_NODELAY, 1);
  set_option(fd_, SOL_SOCKET, SO_KEEPALIVE, 1);
  set_option(fd_, IPPROTO_TCP, TCP_KEEPIDLE, kKeepaliveIdleS);
  set_option(fd_, IPPROTO_TCP, TCP_KEEPINTVL, kKeepaliveIntervalS);
  set_option(fd_, IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes);
  set_option(fd_, IPPROTO_TCP, TCP_USER_TIMEOUT, static_cast<int>(kPeerStallMs));
}

TcpStream::~TcpStream() {
  close();
}

IoStep TcpStream::read_some(std::span<const iovec> pieces) {
  if (fd_ < 0) return {Code::unreachable, 0};
  msghdr message = message_of(pieces);
  ssize_t got = 0;
  do {
    got = ::recvmsg(fd_, &message, MSG_DONTWAIT);
  } while (got < 0 && errno == EINTR);
  if (got > 0) return {Code::ok, static_cast<std::size_t>(got)};
  return got == 0 ? IoStep{Code::unreachable, 0} : failed_step();
}

IoStep TcpStream::write_some(std::span<const iovec> pieces) {
  if (fd_ < 0) return {Code::unreachable, 0};
  msghdr message = message_of(pieces);
  ssize_t put = 0;
  do {
    put = ::sendmsg(fd_, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (put < 0 && errno == EINTR);
  return put >= 0 ? IoStep{Code::ok, static_cast<std::size_t>(put)} : failed_step();
}

void TcpStream::when_readable(std::move_only_function<void()> ready, std::size_t enough) {
  if (fd_ < 0) return;
  const int low_water = static_cast<int>(std::min(enough, kLowWaterMax));
  if (low_water != low_water_) set_option(fd_, SOL_SOCKET, SO_RCVLOWAT, low_water);
  low_water_ = low_water;
  readable_ = std::move(ready);
  arm();
}

void TcpStream::when_writable(std::move_only_function<void()> ready) {
  if (fd_ < 0) return;
  writable_ = std::move(ready);
  arm();
}

std::size_t TcpStream::unread() const {
  int bytes = 0;
  if (fd_ < 0 || ::ioctl(fd_, FIONREAD, &bytes) != 0) return 0;
  return static_cast<std::size_t>(bytes);
}

// One shot: while nobody waits, nothing wakes the mind, and arming looks at the socket again.
void TcpStream::arm() {
  const unsigned events = (readable_ ? EPOLLIN : 0U) | (writable_ ? EPOLLOUT : 0U);
  const auto watched =
      loop_.watch(fd_, events | EPOLLONESHOT, [this](unsigned ready) { on_events(ready); });
  if (watched) return;
  // Nobody would ever hear of this stream again: it ends instead.
  log(LogLevel::error, peer_ + ": " + watched.error().text);
  ::shutdown(fd_, SHUT_RDWR);
  loop_.post([this, life = std::weak_ptr<bool>(life_)] {
    if (!life.expired()) on_events(EPOLLHUP);
  });
}

void TcpStream::on_events(unsigned events) {
  const bool broken = (events & (EPOLLERR | EPOLLHUP)) != 0;
  const bool read = (broken || (events & EPOLLIN) != 0) && readable_;
  const bool write = (broken || (events & EPOLLOUT) != 0) && writable_;
  // Firing one direction has disarmed the other, too.
  if ((readable_ && !read) || (writable_ && !write)) arm();
  const std::weak_ptr<bool> life = life_;
  if (read) std::exchange(readable_, nullptr)();
  // The first call may have closed the stream, or destroyed it.
  if (write && !life.expired() && writable_) std::exchange(writable_, nullptr)();
}

void TcpStream::close() {
  if (fd_ < 0) return;
  readable_ = nullptr;
  writable_ = nullptr;
  loop_.unwatch(fd_);
  // Closing a socket that has unread bytes resets the connection, and a reset can overtake the last
  // words we wrote.
  ::shutdown(fd_, SHUT_WR);
  [[maybe_unused]] const ssize_t drained =
      ::recv(fd_, nullptr, kDrainBytes, MSG_DONTWAIT | MSG_TRUNC);
  ::close(fd_);
  fd_ = -1;
}

}  // namespace memkv
