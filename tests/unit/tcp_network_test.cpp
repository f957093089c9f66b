// Real sockets on the loopback: addresses, connecting, listening, readiness, ends, and links over
// all of it.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>
#include <thread>

#include "base/event_loop.h"
#include "base/log.h"
#include "unit/link_rig.h"

namespace memkv {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;

struct Tcp {
  explicit Tcp(unsigned hands = 0) : loop(*EventLoop::create(hands)), network(tcp_network(*loop)) {}

  // Runs the loop until `done()`; a minute is the end of all hope.
  [[nodiscard]] bool run_until(std::function<bool()> done) {
    bool late = false;
    const TimerId limit = loop->after(60 * kSecondNs, [&] {
      late = true;
      loop->stop();
    });
    std::function<void()> look = [&] {
      if (done()) return loop->stop();
      (void)loop->after(kNsPerMs / 2, look);
    };
    loop->post(look);
    loop->run();
    loop->cancel(limit);
    return !late;
  }
  [[nodiscard]] Result<std::unique_ptr<Stream>> connect(const std::string& address,
                                                        std::uint64_t timeout_ns = 10 * kSecondNs) {
    std::optional<Result<std::unique_ptr<Stream>>> outcome;
    bool inside = true;
    network->connect(address, timeout_ns, [&](Result<std::unique_ptr<Stream>> stream) {
      EXPECT_FALSE(inside) << "done comes from a later task";
      EXPECT_TRUE(loop->on_mind());
      outcome = std::move(stream);
    });
    inside = false;
    EXPECT_TRUE(run_until([&] { return outcome.has_value(); }));
    return *std::move(outcome);
  }
  [[nodiscard]] std::unique_ptr<Listener> listen(const std::string& address) {
    auto listening = network->listen(
        address, [this](std::unique_ptr<Stream> stream) { accepted.push_back(std::move(stream)); });
    EXPECT_TRUE(listening) << listening.error().message();
    return *std::move(listening);
  }

  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Network> network;
  std::vector<std::unique_ptr<Stream>> accepted;
};

IoStep write_text(Stream& stream, std::string_view text) {
  const iovec piece{const_cast<char*>(text.data()), text.size()};
  return stream.write_some({&piece, 1});
}

// A connected pair: `near` asked, `far` was accepted.
struct TcpPair : Tcp {
  explicit TcpPair(const std::string& address = "127.0.0.1:0") : listener(listen(address)) {
    near = *connect(listener->address());
    EXPECT_TRUE(run_until([this] { return !accepted.empty(); }));
    far = std::move(accepted[0]);
  }
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> near;
  std::unique_ptr<Stream> far;
};

// The descriptors of this process that are connected TCP sockets.
std::vector<int> connected_sockets() {
  std::vector<int> found;
  rlimit limit{};
  EXPECT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  for (int fd = 0; fd < static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 4096)); ++fd) {
    sockaddr_storage peer{};
    socklen_t bytes = sizeof peer;
    if (::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &bytes) != 0) continue;
    if (peer.ss_family == AF_INET || peer.ss_family == AF_INET6) found.push_back(fd);
  }
  return found;
}

int option_of(int fd, int level, int name) {
  int value = -1;
  socklen_t bytes = sizeof value;
  EXPECT_EQ(::getsockopt(fd, level, name, &value, &bytes), 0);
  return value;
}

bool has_ipv6() {
  const int fd = ::socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 any{};
  any.sin6_family = AF_INET6;
  any.sin6_addr = in6addr_loopback;
  const bool has = fd >= 0 && ::bind(fd, reinterpret_cast<sockaddr*>(&any), sizeof any) == 0;
  if (fd >= 0) ::close(fd);
  return has;
}

// ---- addresses

TEST(TcpNetwork, ConnectsToNumbersAndNames) {
  std::vector<std::string> hosts = {"127.0.0.1", "localhost"};
  if (has_ipv6()) hosts.push_back("[::1]");
  for (const std::string& host : hosts) {
    SCOPED_TRACE(host);
    Tcp tcp;
    const auto listener = tcp.listen(host + ":0");
    const std::string address = listener->address();
    const std::string port = address.substr(address.rfind(':'));
    EXPECT_NE(port, ":0");
    const auto stream = tcp.connect(host + port);
    ASSERT_TRUE(stream) << stream.error().message();
    ASSERT_TRUE(tcp.run_until([&] { return tcp.accepted.size() == 1; }));
    if (host == "localhost") continue;  // which of its numbers was taken is the machine's matter
    EXPECT_EQ((*stream)->peer(), host + port);
    EXPECT_TRUE(tcp.accepted[0]->peer().starts_with(host + ":"));
  }
}

TEST(TcpNetwork, RefusesWhatIsNoAddress) {
  Tcp tcp;
  for (const char* address :
       {"", "host", "host:", "host:x", "host:1x", "host:-1", "host:65536", ":9900", "::1:9900",
        "[::1:9900", "[]:9900", "ho[st:9900", "127.0.0.1:0"}) {
    SCOPED_TRACE(address);
    const auto stream = tcp.connect(address);
    ASSERT_FALSE(stream);
    EXPECT_EQ(stream.error().code, Code::invalid);
    EXPECT_FALSE(stream.error().text.empty());
    if (std::string_view(address) == "127.0.0.1:0") continue;  // which is fine for listening
    const auto listening = tcp.network->listen(address, [](std::unique_ptr<Stream>) {});
    ASSERT_FALSE(listening);
    EXPECT_EQ(listening.error().code, Code::invalid);
  }
}

TEST(TcpNetwork, ANameNobodyKnowsIsUnreachable) {
  Tcp tcp;
  const auto stream = tcp.connect("no..such..name:9900");
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code, Code::unreachable);
  EXPECT_TRUE(stream.error().text.starts_with("no..such..name: ")) << stream.error().text;
}

TEST(TcpNetwork, NobodyThereIsUnreachableAndSaysSo) {
  Tcp tcp;
  const std::string address = tcp.listen("127.0.0.1:0")->address();  // and gone again
  const auto stream = tcp.connect(address);
  ASSERT_FALSE(stream);
  EXPECT_EQ(stream.error().code, Code::unreachable);
  EXPECT_EQ(stream.error().text, address + ": connection refused; is memkvd running there?");
}

TEST(TcpNetwork, AnAddressInUseIsRefused) {
  Tcp tcp;
  const auto first = tcp.listen("127.0.0.1:0");
  const auto second = tcp.network->listen(first->address(), [](std::unique_ptr<Stream>) {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, Code::unreachable);
  EXPECT_NE(second.error().text.find("address already in use; another process listens there"),
            std::string::npos)
      << second.error().text;
  // An address of no interface of ours.
  const auto elsewhere = tcp.network->listen("192.0.2.1:0", [](std::unique_ptr<Stream>) {});
  ASSERT_FALSE(elsewhere);
  EXPECT_EQ(elsewhere.error().code, Code::unreachable);
}

TEST(TcpNetwork, ConnectingHasADeadline) {
  // A listener whose queue is full answers nobody.
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in here{};
  here.sin_family = AF_INET;
  here.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof here;
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&here), bytes), 0);
  ASSERT_EQ(::listen(fd, 0), 0);
  ASSERT_EQ(::getsockname(fd, reinterpret_cast<sockaddr*>(&here), &bytes), 0);
  const std::string address = "127.0.0.1:" + std::to_string(ntohs(here.sin_port));
  Tcp tcp;
  std::vector<std::unique_ptr<Stream>> filling;
  std::optional<Status> late;
  while (!late && filling.size() < 10) {
    auto stream = tcp.connect(address, 100 * kNsPerMs);
    if (stream) {
      filling.push_back(*std::move(stream));
    } else {
      late = stream.error();
    }
  }
  ASSERT_TRUE(late);
  EXPECT_EQ(late->code, Code::timeout);
  EXPECT_TRUE(late->text.starts_with(address)) << late->text;
  ::close(fd);
}

TEST(TcpNetwork, ANetworkThatIsDestroyedForgetsItsAttempts) {
  Tcp tcp;
  const auto witness = std::make_shared<int>(0);
  const std::string address = tcp.listen("127.0.0.1:0")->address();
  for (const std::string& target : {address, std::string("localhost:1"), std::string("bad")}) {
    tcp.network->connect(target, kSecondNs, [witness](Result<std::unique_ptr<Stream>>) { FAIL(); });
  }
  tcp.network.reset();
  EXPECT_EQ(witness.use_count(), 1);
  bool later = false;
  (void)tcp.loop->after(kNsPerMs, [&] { later = true; });
  EXPECT_TRUE(tcp.run_until([&] { return later; }));
}

// ---- streams

// A peer whose machine is gone says nothing; only the kernel can notice.
TEST(TcpStream, BothEndsNoticeAPeerThatIsGoneWithoutAWord) {
  const std::vector<int> before = connected_sockets();
  const TcpPair pair;
  std::vector<int> ours = connected_sockets();
  std::erase_if(ours, [&](int fd) { return std::ranges::find(before, fd) != before.end(); });
  ASSERT_EQ(ours.size(), 2U) << "the one that asked and the one that was accepted";
  for (const int fd : ours) {
    EXPECT_NE(option_of(fd, SOL_SOCKET, SO_KEEPALIVE), 0);
    EXPECT_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 10);
    EXPECT_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 5);
    EXPECT_EQ(option_of(fd, IPPROTO_TCP, TCP_KEEPCNT), 3);
    EXPECT_EQ(option_of(fd, IPPROTO_TCP, TCP_USER_TIMEOUT), static_cast<int>(kPeerStallMs));
    EXPECT_NE(option_of(fd, IPPROTO_TCP, TCP_NODELAY), 0);
  }
}

TEST(TcpStream, IsReadyWhenThereIsSomething) {
  TcpPair pair;
  int ready = 0;
  pair.far->when_readable([&] { ++ready; });
  bool later = false;
  (void)pair.loop->after(2 * kNsPerMs, [&] { later = true; });
  ASSERT_TRUE(pair.run_until([&] { return later; }));
  EXPECT_EQ(ready, 0);
  EXPECT_EQ(write_text(*pair.near, "hello").bytes, 5U);
  ASSERT_TRUE(pair.run_until([&] { return ready > 0; }));
  std::array<char, 10> text{};
  const iovec pieces[2] = {{text.data(), 2}, {text.data() + 2, 8}};
  const IoStep step = pair.far->read_some(pieces);
  EXPECT_EQ(step.code, Code::ok);
  EXPECT_EQ(std::string_view(text.data(), step.bytes), "hello");
  EXPECT_EQ(pair.far->read_some(pieces).code, Code::busy);
  EXPECT_EQ(write_text(*pair.near, "again").bytes, 5U);
  later = false;
  (void)pair.loop->after(2 * kNsPerMs, [&] { later = true; });
  ASSERT_TRUE(pair.run_until([&] { return later; }));
  EXPECT_EQ(ready, 1) << "one call for each when_readable";
}

TEST(TcpStream, AReaderThatIsSureOfMoreIsLeftAsleepUntilItIsThere) {
  TcpPair pair;
  constexpr std::size_t kEnough = 100'000;
  int ready = 0;
  pair.far->when_readable([&] { ++ready; }, kEnough);
  const std::string half(kEnough / 2, 'h');
  EXPECT_EQ(write_text(*pair.near, half).bytes, half.size());
  bool later = false;
  (void)pair.loop->after(2 * kNsPerMs, [&] { later = true; });
  ASSERT_TRUE(pair.run_until([&] { return later; }));
  EXPECT_EQ(ready, 0);
  EXPECT_EQ(write_text(*pair.near, half).bytes, half.size());
  ASSERT_TRUE(pair.run_until([&] { return ready > 0; }));
  std::vector<char> text(2 * kEnough);
  const iovec piece{text.data(), text.size()};
  EXPECT_EQ(pair.far->read_some({&piece, 1}).bytes, kEnough);
  // Whoever is sure of nothing hears of every byte, and everybody of the end.
  pair.far->when_readable([&] { ++ready; });
  EXPECT_EQ(write_text(*pair.near, "x").bytes, 1U);
  ASSERT_TRUE(pair.run_until([&] { return ready == 2; }));
  EXPECT_EQ(pair.far->read_some({&piece, 1}).bytes, 1U);
  pair.far->when_readable([&] { ++ready; }, kEnough);
  pair.near->close();
  ASSERT_TRUE(pair.run_until([&] { return ready == 3; }));
}

TEST(TcpStream, IsWritableAgainWhenThePeerHasRead) {
  TcpPair pair;
  std::vector<std::byte> room(1024 * 1024);
  const iovec piece{room.data(), room.size()};
  while (pair.near->write_some({&piece, 1}).code == Code::ok) {
  }
  EXPECT_EQ(pair.near->write_some({&piece, 1}).code, Code::busy);
  bool writable = false;
  bool readable = false;
  pair.near->when_writable([&] { writable = true; });
  pair.near->when_readable([&] { readable = true; });  // both directions may wait at once
  ASSERT_TRUE(pair.run_until([&] {
    while (pair.far->read_some({&piece, 1}).code == Code::ok) {
    }
    return writable;
  }));
  EXPECT_FALSE(readable);
  EXPECT_EQ(write_text(*pair.far, "x").code, Code::ok);
  ASSERT_TRUE(pair.run_until([&] { return readable; }));
}

TEST(TcpStream, AnEndIsReadableAndUnreachable) {
  TcpPair pair;
  bool readable = false;
  pair.near->when_readable([&] { readable = true; });
  pair.far->close();
  pair.far->close();
  ASSERT_TRUE(pair.run_until([&] { return readable; }));
  std::byte one{};
  const iovec piece{&one, 1};
  EXPECT_EQ(pair.near->read_some({&piece, 1}).code, Code::unreachable);
  // Writing into it fails without a signal, at the latest when the peer's reset is here.
  Code code = Code::ok;
  EXPECT_TRUE(pair.run_until([&] {
    code = pair.near->write_some({&piece, 1}).code;
    return code != Code::ok;
  }));
  EXPECT_EQ(code, Code::unreachable);
  EXPECT_EQ(pair.far->read_some({&piece, 1}).code, Code::unreachable);
  EXPECT_EQ(pair.far->write_some({&piece, 1}).code, Code::unreachable);
}

TEST(TcpStream, LastWordsArriveAlsoWhenNotAllWasRead) {
  TcpPair pair;
  EXPECT_EQ(write_text(*pair.near, std::string(100'000, 'x')).code, Code::ok);
  EXPECT_EQ(write_text(*pair.far, "farewell").bytes, 8U);
  bool readable = false;
  pair.near->when_readable([&] { readable = true; });
  pair.far->close();
  ASSERT_TRUE(pair.run_until([&] { return readable; }));
  std::array<char, 10> text{};
  const iovec piece{text.data(), text.size()};
  EXPECT_EQ(pair.near->read_some({&piece, 1}).bytes, 8U);
}

TEST(TcpStream, CloseForgetsWhoWaits) {
  TcpPair pair;
  pair.near->when_readable([] { FAIL(); });
  pair.near->when_writable([] { FAIL(); });
  EXPECT_EQ(write_text(*pair.far, "x").code, Code::ok);
  pair.near->close();
  pair.near->when_readable([] { FAIL(); });
  bool later = false;
  (void)pair.loop->after(2 * kNsPerMs, [&] { later = true; });
  ASSERT_TRUE(pair.run_until([&] { return later; }));
}

TEST(TcpStream, MayBeDestroyedInItsOwnCall) {
  TcpPair pair;
  bool called = false;
  // Both directions are ready in one event; the first call destroys the stream.
  EXPECT_EQ(write_text(*pair.far, "x").code, Code::ok);
  pair.near->when_writable([] { FAIL(); });
  pair.near->when_readable([&] {
    pair.near.reset();
    called = true;
  });
  ASSERT_TRUE(pair.run_until([&] { return called; }));
}

// ---- listening

TEST(TcpListener, MayBeDestroyedInItsOwnCall) {
  Tcp tcp;
  std::unique_ptr<Listener> listener;
  int calls = 0;
  listener = *tcp.network->listen("127.0.0.1:0", [&](std::unique_ptr<Stream>) {
    ++calls;
    listener.reset();
  });
  const std::string address = listener->address();
  for (int i = 0; i < 3; ++i) {
    tcp.network->connect(address, kSecondNs, [](Result<std::unique_ptr<Stream>>) {});
  }
  ASSERT_TRUE(tcp.run_until([&] { return calls > 0; }));
  EXPECT_EQ(calls, 1);
}

// Without a descriptor for the peer that waits the listener pauses; it neither spins nor gives up.
TEST(TcpListener, PausesWhenThereAreTooManyFiles) {
  Tcp tcp;
  const auto listener = tcp.listen("127.0.0.1:0");
  auto near = tcp.connect(listener->address());  // everything that needs a file once has it now
  ASSERT_TRUE(near);
  ASSERT_TRUE(tcp.run_until([&] { return tcp.accepted.size() == 1; }));
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const int client = ::socket(AF_INET, SOCK_STREAM, 0);
  const int highest = ::dup(client);
  ::close(highest);
  const rlimit tight{static_cast<rlim_t>(highest), limit.rlim_max};
  int warnings = 0;
  set_log_sink([&](LogLevel, std::string_view line) {
    ++warnings;
    EXPECT_NE(line.find("too many open files"), std::string_view::npos) << line;
    EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);  // the next try finds room
  });
  sockaddr_in there{};
  there.sin_family = AF_INET;
  there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const std::string address = listener->address();
  there.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  ASSERT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&there), sizeof there), 0);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &tight), 0);
  EXPECT_TRUE(tcp.run_until([&] { return tcp.accepted.size() == 2; }));
  EXPECT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  set_log_sink({});
  EXPECT_EQ(warnings, 1);
  ::close(client);
}

// ---- links over it

// One end in a thread of its own, with a loop of its own.
class TcpEnd {
 public:
  explicit TcpEnd(unsigned hands) : tcp(hands) {}
  void start() {
    thread_ = std::thread([this] { tcp.loop->run(); });
  }
  // Runs `task` on the end's mind and waits for it.
  void run(std::function<void()> task) {
    std::atomic<bool> done = false;
    tcp.loop->post([&] {
      task();
      done = true;
      done.notify_one();
    });
    done.wait(false);
  }
  // Ends the link, and then the mind.
  void stop() {
    std::atomic<bool> closed = false;
    tcp.loop->post([&] {
      const auto end = [&] {
        closed = true;
        closed.notify_one();
      };
      if (!recorder.link) return end();
      recorder.when_closed = end;
      recorder.link->close(Code::shutdown);
    });
    closed.wait(false);
    tcp.loop->stop();
    thread_.join();
  }

  Tcp tcp;
  Recorder recorder;

 private:
  std::thread thread_;
};

struct Cargo {
  Cargo(std::size_t size, std::uint64_t seed) : crcs(unit_bytes_of(size), size) {
    SeededRandom random(seed);
    bytes = random_bytes(size, random);
    pieces = random_pieces(bytes, 9, random);
  }
  std::vector<std::byte> bytes;
  std::vector<iovec> pieces;
  UnitCrcs crcs;
};

void move_blocks_both_ways(unsigned hands) {
  constexpr std::uint64_t kBlocks = 24;
  TcpEnd left(hands);
  TcpEnd right(hands);
  const auto listener = right.tcp.network->listen("127.0.0.1:0", [&](std::unique_ptr<Stream> s) {
    right.recorder.link = Link::start(std::move(s), *right.tcp.loop, right.recorder, kBodyBytesMax);
  });
  ASSERT_TRUE(listener);
  auto stream = left.tcp.connect((*listener)->address());
  ASSERT_TRUE(stream);
  ASSERT_TRUE(right.tcp.run_until([&] { return right.recorder.link != nullptr; }));
  left.recorder.link =
      Link::start(*std::move(stream), *left.tcp.loop, left.recorder, kBodyBytesMax);
  SeededRandom random(hands);
  std::array<std::vector<std::unique_ptr<Cargo>>, 2> cargo;
  std::array<TcpEnd*, 2> ends = {&left, &right};
  std::array<std::size_t, 2> total{};
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      const std::size_t size = 1 + random.below(i % 3 == 0 ? 100 : 3'000'000);
      cargo[side].push_back(std::make_unique<Cargo>(size, i));
      ends[1 - side]->recorder.expect(i + 1, 0, size);
      total[side] += size;
    }
  }
  std::atomic<std::uint64_t> sent = 0;
  std::atomic<int> whole = 0;
  for (std::size_t side = 0; side < 2; ++side) {
    Recorder& recorder = ends[side]->recorder;
    recorder.when_landed = [&, side] {
      if (ends[side]->recorder.landed_bytes != total[1 - side]) return;
      ++whole;
      whole.notify_one();
    };
    ends[side]->tcp.loop->post([&, side] {
      Link& link = *ends[side]->recorder.link;
      for (std::uint64_t i = 0; i < kBlocks; ++i) {
        Cargo& one = *cargo[side][i];
        link.send(wire::Type::stat_reply, i + 1,
                  std::span(one.bytes).first(std::min<std::size_t>(one.bytes.size(), 50'000)));
        link.ship({.request = i + 1, .pieces = one.pieces, .crcs = &one.crcs, .sent = [&] {
                     ++sent;
                     sent.notify_one();
                   }});
      }
    });
  }
  left.start();
  right.start();
  for (int seen = 0; seen < 2; seen = whole) whole.wait(seen);
  for (std::uint64_t seen = 0; seen < 2 * kBlocks; seen = sent) sent.wait(seen);
  left.run([&] { EXPECT_EQ(left.recorder.frames.size(), kBlocks); });
  right.run([&] { EXPECT_EQ(right.recorder.frames.size(), kBlocks); });
  left.stop();
  right.run([] {});
  right.stop();
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      const Cargo& truth = *cargo[side][i];
      const Landed& landed = ends[1 - side]->recorder.block(i + 1, 0);
      EXPECT_TRUE(landed.memory == truth.bytes);
      EXPECT_TRUE(std::ranges::equal(landed.crcs.crcs(), truth.crcs.crcs()));
    }
  }
}

TEST(TcpLink, MovesBlocksBothWaysWithoutHands) {
  move_blocks_both_ways(0);
}
TEST(TcpLink, MovesBlocksBothWaysWithHands) {
  move_blocks_both_ways(2);
}

}  // namespace
}  // namespace memkv
