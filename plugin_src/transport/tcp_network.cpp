#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "base/event_loop.h"
#include "base/limits.h"
#include "base/log.h"
#include "transport/name_resolver.h"
#include "transport/tcp_address.h"
#include "transport/tcp_stream.h"
#include "transport/transport.h"

namespace memkv {
namespace {

constexpr int kAcceptsPerEvent = 16;
constexpr std::uint64_t kAcceptPauseNs = 100 * kNsPerMs;

// "connection refused", as the errno says it but in the middle of a sentence.
std::string word_of(int error) {
  std::string text = std::strerror(error);
  if (!text.empty()) text[0] = static_cast<char>(std::tolower(text[0]));
  return text;
}

Status unreachable(const std::string& address, int error) {
  std::string text = address + ": " + word_of(error);
  if (error == ECONNREFUSED) text += "; is memkvd running there?";
  return {Code::unreachable, std::move(text)};
}

int open_socket(int family) {
  return ::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
}

// ---- listening

class TcpListener final : public Listener {
 public:
  using Accepted = std::function<void(std::unique_ptr<Stream>)>;

  TcpListener(EventLoop& loop, int fd, Accepted accepted)
      : loop_(loop), fd_(fd), address_(local_address(fd).text()), accepted_(std::move(accepted)) {}
  ~TcpListener() override {
    loop_.cancel(pause_);
    loop_.unwatch(fd_);
    ::close(fd_);
  }
  TcpListener(const TcpListener&) = delete;
  TcpListener& operator=(const TcpListener&) = delete;

  Result<void> begin() {
    return loop_.watch(fd_, EPOLLIN, [this](unsigned) { accept_some(); });
  }
  [[nodiscard]] std::string address() const override { return address_; }

 private:
  void accept_some();
  void pause(int error);

  EventLoop& loop_;
  int fd_;
  std::string address_;
  Accepted accepted_;
  TimerId pause_ = 0;
  std::shared_ptr<bool> life_ = std::make_shared<bool>();
};

void TcpListener::accept_some() {
  // What is called may destroy the listener, and with it what is called.
  const std::weak_ptr<bool> life = life_;
  const Accepted accepted = accepted_;
  for (int i = 0; i < kAcceptsPerEvent; ++i) {
    SocketAddress peer;
    peer.bytes = sizeof peer.storage;
    const int fd = ::accept4(fd_, reinterpret_cast<sockaddr*>(&peer.storage), &peer.bytes,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
      const int error = errno;
      if (error == EINTR || error == ECONNABORTED) continue;
      if (error != EAGAIN && error != EWOULDBLOCK) pause(error);
      return;
    }
    accepted(std::make_unique<TcpStream>(loop_, fd, peer.text()));
    if (life.expired()) return;
  }
}

// The peer that waits would be reported again and again while there is no descriptor for it.
void TcpListener::pause(int error) {
  log(LogLevel::warning, address_ + ": cannot accept a connection: " + word_of(error) +
                             "; trying again soon (ulimit -n tells how many files are allowed)");
  loop_.unwatch(fd_);
  pause_ = loop_.after(kAcceptPauseNs, [this] {
    pause_ = 0;
    if (!begin()) pause(errno);
  });
}

// ---- connecting

class TcpNetwork final : public Network {
 public:
  using Connected = std::move_only_function<void(Result<std::unique_ptr<Stream>>)>;

  explicit TcpNetwork(EventLoop& loop) : loop_(loop), resolver_(loop) {}
  ~TcpNetwork() override;

  void connect(std::string_view address, std::uint64_t timeout_ns, Connected done) override;
  [[nodiscard]] Result<std::unique_ptr<Listener>> listen(
      std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) override;

 private:
  using Id = std::uint64_t;
  // One connect(): the addresses are tried one after another until the time is over.
  struct Attempt {
    std::string name;  // as it was asked for
    Connected done;
    TimerId timer = 0;
    std::vector<SocketAddress> addresses;
    std::size_t next = 0;
    int fd = -1;
    Status last{Code::unreachable};
  };

  void resolved(Id id, Result<std::vector<SocketAddress>> addresses);
  void try_next(Id id);
  [[nodiscard]] int begin_connect(Id id, const SocketAddress& address);
  void connected_or_not(Id id);
  void drop_socket(Attempt& attempt);
  void finish(Id id, Result<std::unique_ptr<Stream>> outcome);

  EventLoop& loop_;
  std::map<Id, Attempt> attempts_;
  Id last_id_ = 0;
  // Tasks that were posted for an attempt look here whether there still is a network.
  std::shared_ptr<TcpNetwork*> self_ = std::make_shared<TcpNetwork*>(this);
  NameResolver resolver_;
};

TcpNetwork::~TcpNetwork() {
  *self_ = nullptr;
  for (auto& [id, attempt] : attempts_) {
    loop_.cancel(attempt.timer);
    drop_socket(attempt);
  }
}

void TcpNetwork::connect(std::string_view address, std::uint64_t timeout_ns, Connected done) {
  const Id id = ++last_id_;
  Attempt& attempt = attempts_[id];
  attempt.name = address;
  attempt.done = std::move(done);
  attempt.timer = loop_.after(timeout_ns, [this, id] {
    attempts_.at(id).timer = 0;
    finish(id, fail(Code::timeout, attempts_.at(id).name + ": no connection in time"));
  });
  // The answer comes from a later task in every case.
  auto go_on = [self = self_, id](Result<std::vector<SocketAddress>> found) {
    if (*self != nullptr) (*self)->resolved(id, std::move(found));
  };
  Result<HostPort> target = parse_host_port(address);
  if (target && target->port == 0) {
    target = fail(Code::invalid, attempt.name + ": port 0 is only for listening");
  }
  Result<std::vector<SocketAddress>> numeric;
  if (target) {
    numeric = resolve_numeric(*target);
    if (numeric->empty()) return resolver_.ask(*std::move(target), std::move(go_on));
  } else {
    numeric = fail(target.error());
  }
  loop_.post([go_on, numeric = std::move(numeric)]() mutable { go_on(std::move(numeric)); });
}

void TcpNetwork::resolved(Id id, Result<std::vector<SocketAddress>> addresses) {
  const auto found = attempts_.find(id);
  if (found == attempts_.end()) return;  // out of time
  if (!addresses) return finish(id, fail(addresses.error()));
  found->second.addresses = *std::move(addresses);
  try_next(id);
}

void TcpNetwork::try_next(Id id) {
  Attempt& attempt = attempts_.at(id);
  while (attempt.next < attempt.addresses.size()) {
    const SocketAddress& address = attempt.addresses[attempt.next++];
    const int error = begin_connect(id, address);
    if (error == 0) return;
    attempt.last = unreachable(address.text(), error);
    drop_socket(attempt);
  }
  finish(id, fail(attempt.last));
}

// 0 when the connection is on its way, else the errno.
int TcpNetwork::begin_connect(Id id, const SocketAddress& address) {
  Attempt& attempt = attempts_.at(id);
  attempt.fd = open_socket(address.family());
  if (attempt.fd < 0) return errno;
  if (::connect(attempt.fd, address.get(), address.bytes) != 0 && errno != EINPROGRESS) {
    return errno;
  }
  const auto watched =
      loop_.watch(attempt.fd, EPOLLOUT, [this, id](unsigned) { connected_or_not(id); });
  return watched ? 0 : ENOMEM;
}

void TcpNetwork::connected_or_not(Id id) {
  Attempt& attempt = attempts_.at(id);
  int error = 0;
  socklen_t bytes = sizeof error;
  if (::getsockopt(attempt.fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) error = errno;
  const std::string address = attempt.addresses[attempt.next - 1].text();
  if (error != 0) {
    attempt.last = unreachable(address, error);
    drop_socket(attempt);
    return try_next(id);
  }
  loop_.unwatch(attempt.fd);
  finish(id, std::make_unique<TcpStream>(loop_, std::exchange(attempt.fd, -1), address));
}

void TcpNetwork::drop_socket(Attempt& attempt) {
  if (attempt.fd < 0) return;
  loop_.unwatch(attempt.fd);
  ::close(std::exchange(attempt.fd, -1));
}

void TcpNetwork::finish(Id id, Result<std::unique_ptr<Stream>> outcome) {
  const auto found = attempts_.find(id);
  loop_.cancel(found->second.timer);
  drop_socket(found->second);
  Connected done = std::move(found->second.done);
  attempts_.erase(found);
  done(std::move(outcome));  // may destroy the network
}

Result<std::unique_ptr<Listener>> TcpNetwork::listen(
    std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) {
  const Result<HostPort> target = parse_host_port(address);
  if (!target) return fail(target.error());
  // Listening begins before anything else runs, so that a name may take its time here.
  std::vector<SocketAddress> addresses = resolve_numeric(*target);
  if (addresses.empty()) {
    Result<std::vector<SocketAddress>> found = resolve_slowly(*target);
    if (!found) return fail(found.error());
    addresses = *std::move(found);
  }
  const int fd = open_socket(addresses[0].family());
  if (fd < 0) return fail(unreachable(std::string(address), errno));
  const int yes = 1;
  ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(fd, addresses[0].get(), addresses[0].bytes) != 0 ||
      ::listen(fd, static_cast<int>(kPeersMax)) != 0) {
    const int error = errno;
    Status why = unreachable(std::string(address), error);
    if (error == EADDRINUSE) why.text += "; another process listens there, choose another port";
    ::close(fd);
    return fail(std::move(why));
  }
  auto listener = std::make_unique<TcpListener>(loop_, fd, std::move(accepted));
  if (const auto begun = listener->begin(); !begun) return fail(begun.error());
  return listener;
}

}  // namespace

std::unique_ptr<Network> tcp_network(EventLoop& loop) {
  return std::make_unique<TcpNetwork>(loop);
}

}  // namespace memkv
