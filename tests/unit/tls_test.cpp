// TLS over the simulated network, whose steps move a byte or many: what is carried, who is let in,
// and what a person hears who is not.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "support/certificates.h"
#include "support/raw_client.h"
#include "transport/tls.h"
#include "unit/link_rig.h"

namespace memkv {
namespace {

using testing::Authority;
using testing::CertificateWish;
using testing::Folder;
using testing::RawClient;
using testing::RawStream;

constexpr std::uint64_t kSecondNs = 1'000'000'000;

// What is logged meanwhile.
struct Logged {
  Logged() {
    set_log_sink([this](LogLevel level, std::string_view line) {
      if (level >= LogLevel::warning) text += std::string(line) + "\n";
    });
  }
  ~Logged() { set_log_sink({}); }
  [[nodiscard]] std::size_t count(std::string_view part) const {
    std::size_t found = 0;
    for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) {
      ++found;
    }
    return found;
  }
  std::string text;
};

// Two processes; `b` listens with a certificate of `ca`, and `a` believes that.
struct Two {
  explicit Two(std::uint64_t seed, sim::Faults faults = {.short_steps = 800'000})
      : world(sim::World::create(seed, faults)), a(world->spawn("a")), b(world->spawn("b")) {
    server = ca.issue("b");
    client.ca = ca.file();
  }
  ~Two() {
    near.reset();
    far.reset();
    a->kill();
    b->kill();
  }
  void listen() {
    secured_b = tls_network(b->network(), b->executor(), server);
    auto listening = secured_b->listen("b:1", [this](auto stream) { far = std::move(stream); });
    ASSERT_TRUE(listening) << listening.error().message();
    listener = std::move(*listening);
  }
  Status connect() {
    far.reset();
    near.reset();
    secured_a = tls_network(a->network(), a->executor(), client);
    std::optional<Status> outcome;
    secured_a->connect("b:1", kSecondNs, [&](Result<std::unique_ptr<Stream>> stream) {
      outcome = stream ? Status() : stream.error();
      if (stream) near = std::move(*stream);
    });
    EXPECT_FALSE(outcome.has_value()) << "the answer comes from a later task";
    EXPECT_TRUE(world->run_until([&] { return outcome && (!outcome->good() || far); }));
    return *outcome;
  }
  // Both ends read on until they have ended or `bytes` have come; the reader's bytes.
  std::string read(Stream& stream, std::size_t bytes) {
    std::string got;
    bool ended = false;
    std::function<void()> on = [&] {
      char memory[1000];
      const iovec piece{memory, std::min(sizeof memory, bytes - got.size())};
      const IoStep step = stream.read_some({&piece, 1});
      got.append(memory, step.bytes);
      ended = step.code == Code::unreachable;
      if (!ended && got.size() < bytes) stream.when_readable(on);
    };
    stream.when_readable(on);
    EXPECT_TRUE(world->run_until([&] { return ended || got.size() == bytes; }));
    return got;
  }
  // Shakes hands and says "hello" both ways; false when either end heard less.
  bool talk() {
    write(*near, "hello");
    write(*far, "hello");
    const bool heard = read(*near, 5) == "hello";
    return read(*far, 5) == "hello" && heard;
  }
  void write(Stream& stream, std::string text) {
    auto left = std::make_shared<std::string>(std::move(text));
    write_on(stream, left);
  }
  void write_on(Stream& stream, const std::shared_ptr<std::string>& left) {
    const iovec piece{left->data(), left->size()};
    const IoStep step = stream.write_some({&piece, 1});
    left->erase(0, step.bytes);
    if (left->empty() || step.code == Code::unreachable) return;
    stream.when_writable([this, &stream, left] { write_on(stream, left); });
  }

  Folder folder;
  Authority ca{folder, "ca"};
  TlsSettings server, client;
  std::unique_ptr<sim::World> world;
  std::unique_ptr<sim::Process> a, b;
  std::unique_ptr<Network> secured_a, secured_b;
  std::unique_ptr<Listener> listener;
  std::unique_ptr<Stream> near, far;
};

// ---- what is carried

struct Cargo {
  explicit Cargo(Random& random) : bytes(random_bytes(1 + random.below(300'000), random)) {
    pieces = random_pieces(bytes, 20, random);
  }
  std::vector<std::byte> bytes;
  std::vector<iovec> pieces;
};

struct Traffic {
  explicit Traffic(Two& two, std::uint64_t seed) : random(seed) {
    left.link = Link::start(std::move(two.near), two.a->executor(), left, kBodyBytesMax);
    right.link = Link::start(std::move(two.far), two.b->executor(), right, kBodyBytesMax);
    for (std::uint64_t i = 1; i <= 8; ++i) {
      send(left, right, i, from_left);
      send(right, left, i, from_right);
    }
  }
  void send(Recorder& from, Recorder& to, std::uint64_t request, std::vector<Cargo>& cargo) {
    cargo.reserve(8);
    const Cargo& one = cargo.emplace_back(random);
    to.expect(request, 0, one.bytes.size());
    total += one.bytes.size();
    from.link->send(wire::Type::stat_reply, request, std::span(one.bytes).first(1));
    from.link->ship({.request = request, .pieces = one.pieces});
  }
  [[nodiscard]] bool whole() const { return left.landed_bytes + right.landed_bytes == total; }
  [[nodiscard]] bool over() const { return left.closed && right.closed; }
  // Whatever counts as landed is right.
  void check() {
    for (std::uint64_t i = 1; i <= 8; ++i) {
      check(right.block(i, 0), from_left[i - 1]);
      check(left.block(i, 0), from_right[i - 1]);
    }
  }
  static void check(const Landed& landed, const Cargo& truth) {
    ASSERT_TRUE(std::equal(landed.memory.begin(),
                           landed.memory.begin() + static_cast<std::ptrdiff_t>(landed.bytes),
                           truth.bytes.begin()));
  }

  SeededRandom random;
  std::vector<Cargo> from_left, from_right;
  std::size_t total = 0;
  Recorder left, right;
};

TEST(Tls, LinksMoveBlocksBothWaysInStepsOfAnySize) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    SCOPED_TRACE(seed);
    Two two(seed);
    two.listen();
    ASSERT_TRUE(two.connect().good());
    Traffic traffic(two, seed);
    ASSERT_TRUE(two.world->run_until([&] { return traffic.whole(); }));
    traffic.check();
    traffic.left.link->close(Code::shutdown);
    ASSERT_TRUE(two.world->run_until([&] { return traffic.over(); }));
    EXPECT_EQ(traffic.right.closed->code, Code::unreachable);
  }
}

TEST(Tls, FreshKeysAreTakenOnTheWay) {
  Two two(3);
  two.client.records_per_key = 3;
  two.server.records_per_key = 2;
  two.listen();
  ASSERT_TRUE(two.connect().good());
  Traffic traffic(two, 3);
  ASSERT_TRUE(two.world->run_until([&] { return traffic.whole(); }));
  traffic.check();
}

TEST(Tls, AConnectionThatIsCutAnywhereEndsAndCarriesNoWrongByte) {
  int whole = 0, cut = 0;
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(seed);
    Two two(seed, {.cut_connection = static_cast<std::uint32_t>(seed % 3 == 0 ? 60'000 : 3000),
                   .short_steps = 300'000});
    two.listen();
    (void)two.connect();
    ASSERT_TRUE(two.near && two.far);
    Traffic traffic(two, seed);
    ASSERT_TRUE(two.world->run_until([&] { return traffic.whole() || traffic.over(); }));
    traffic.check();
    traffic.whole() ? ++whole : ++cut;
    EXPECT_TRUE(!traffic.over() || traffic.left.closed->code == Code::unreachable);
  }
  EXPECT_GT(whole, 0);
  EXPECT_GT(cut, 20);
}

TEST(Tls, ABitThatFlipsOnTheWayEndsTheConnection) {
  int ended = 0;
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(seed);
    Two two(seed, {.flip_network = 4000, .short_steps = 300'000});
    two.listen();
    (void)two.connect();
    ASSERT_TRUE(two.near && two.far);
    Traffic traffic(two, seed);
    // A handshake whose length was hit waits for bytes that never come: its deadline is the
    // caller's.
    (void)two.world->run_until([&] { return traffic.whole() || traffic.over(); }, 5000);
    traffic.check();
    ended += traffic.over() ? 1 : 0;
  }
  EXPECT_GT(ended, 10);
}

TEST(Tls, BytesThatWereDecipheredWakeAReader) {
  Two two(1, {.short_steps = 0});
  two.listen();
  ASSERT_TRUE(two.connect().good());
  const std::string text(40'000, 'x');
  two.write(*two.far, text);
  ASSERT_EQ(two.read(*two.near, 1), "x");  // the rest lies in the stream, none below
  ASSERT_FALSE(two.world->run_until([] { return false; }, 100));
  ASSERT_EQ(two.read(*two.near, 1), "x");
  bool woken = false;
  two.near->when_readable([&] { woken = true; }, 20'000);
  EXPECT_TRUE(two.world->run_until([&] { return woken; }, 1000));
  EXPECT_EQ(two.read(*two.near, text.size() - 2).size(), text.size() - 2);
}

TEST(Tls, WhoOnlyWritesShakesHandsToo) {
  Two two(5);
  two.listen();
  ASSERT_TRUE(two.connect().good());
  two.write(*two.near, "hello");
  EXPECT_EQ(two.read(*two.far, 5), "hello");
}

TEST(Tls, BytesOfARecordThatIsNotWholeCountAsUnread) {
  Two two(1, {.stall_network = 1'000'000, .short_steps = 1'000'000});
  two.listen();
  ASSERT_TRUE(two.connect().good());
  ASSERT_TRUE(two.talk());
  two.write(*two.far, std::string(16'000, 'x'));
  // The reader takes what there is each time, and sees a slow peer and not a silent one.
  std::vector<std::size_t> seen;
  std::size_t moved = 0;
  std::function<void()> on = [&] {
    char memory[16'000];
    const iovec piece{memory, sizeof memory};
    moved += two.near->read_some({&piece, 1}).bytes;
    seen.push_back(two.near->unread());
    if (moved < sizeof memory) two.near->when_readable(on);
  };
  two.near->when_readable(on);
  ASSERT_TRUE(two.world->run_until([&] { return moved == 16'000; }));
  ASSERT_GT(seen.size(), 2u);
  seen.pop_back();
  EXPECT_TRUE(std::ranges::is_sorted(seen, std::less_equal<>{})) << "each step has more of it";
}

TEST(Tls, AfterItsEndAStreamAnswersUnreachable) {
  Two two(1);
  two.listen();
  ASSERT_TRUE(two.connect().good());
  ASSERT_TRUE(two.talk());
  two.far->close();
  EXPECT_EQ(two.read(*two.near, 5), "");
  EXPECT_EQ(two.near->why(), "");
  two.near->close();
  char byte = 0;
  const iovec piece{&byte, 1};
  EXPECT_EQ(two.near->read_some({&piece, 1}).code, Code::unreachable);
  EXPECT_EQ(two.near->write_some({&piece, 1}).code, Code::unreachable);
}

// ---- who is let in

struct Refused {
  std::string client, server;
};

// What either end hears; empty where they talk.
Refused refused(Two& two) {
  Refused out;
  two.listen();
  EXPECT_TRUE(two.connect().good());
  if (two.talk()) return out;
  (void)two.read(*two.far, 5);
  (void)two.read(*two.near, 5);
  return {two.near->why(), two.far->why()};
}

TEST(Tls, ACertificateOfTheCaForTheHostIsTaken) {
  Two two(1);
  const auto [client, server] = refused(two);
  EXPECT_EQ(client + server, "");
}

TEST(Tls, TheNamesOfACertificateAreThoseOfTheHost) {
  for (const auto& [names, server_name, fits] :
       std::vector<std::tuple<std::vector<std::string>, std::string, bool>>{
           {{"DNS:b"}, "", true},
           {{"DNS:elsewhere"}, "", false},
           {{}, "", false},  // its subject is "b", which counts for nothing
           {{"DNS:elsewhere"}, "elsewhere", true},
           {{"DNS:b"}, "elsewhere", false},
           {{"IP:10.0.0.7"}, "10.0.0.7", true},
           {{"IP:10.0.0.7"}, "10.0.0.8", false},
           {{"DNS:10.0.0.7"}, "10.0.0.7", false},
           {{"IP:2001:db8::7"}, "2001:db8::7", true},
           {{"DNS:*.pool.example"}, "b.pool.example", true},
           {{"DNS:*.pool.example"}, "a.b.pool.example", false},
       }) {
    SCOPED_TRACE((names.empty() ? "none" : names[0]) + " for " + server_name);
    Two two(1);
    two.server = two.ca.issue("b", {.names = names});
    two.client.server_name = server_name;
    const std::string why = refused(two).client;
    EXPECT_EQ(why.empty(), fits);
    EXPECT_TRUE(fits || why.contains("does not name the host")) << why;
  }
}

TEST(Tls, ACertificateOfAnotherCaIsRefused) {
  Logged logged;
  Two two(1);
  const Authority other(two.folder, "other");
  two.server = other.issue("b");
  const auto [client, server] = refused(two);
  EXPECT_TRUE(client.contains("a CA that is not trusted here: is tls_ca the right file?"))
      << client;
  EXPECT_TRUE(server.contains("refuses: unknown CA")) << server;
  EXPECT_EQ(logged.count("is refused: TLS: "), 1u) << logged.text;
}

TEST(Tls, WhoIsRefusedInALoopDoesNotFillTheLog) {
  Logged logged;
  Two two(1);
  const Authority other(two.folder, "other");
  two.server = other.issue("b");
  two.listen();
  for (std::uint64_t i = 0; i < kStrangerLinesMax + 5; ++i) {
    ASSERT_TRUE(two.connect().good());
    EXPECT_FALSE(two.talk());
  }
  EXPECT_EQ(logged.count("is refused: TLS: "), kStrangerLinesMax) << logged.text;
  (void)two.world->run_until([] { return false; }, kStrangerLinesMs);
  ASSERT_TRUE(two.connect().good());  // whoever comes next
  EXPECT_EQ(logged.count("5 more lines about peers whose TLS was refused were left out"), 1u)
      << logged.text;
}

TEST(Tls, ACertificateHasItsTime) {
  Two late(1);
  late.server = late.ca.issue("b", {.from_s = -7200, .to_s = -3600});
  const std::string past = refused(late).client;
  EXPECT_TRUE(past.contains("the node's certificate is past its time")) << past;
  Two early(1);
  early.server = early.ca.issue("b", {.from_s = 3600, .to_s = 7200});
  const std::string future = refused(early).client;
  EXPECT_TRUE(future.contains("is not valid yet")) << future;
}

TEST(Tls, ANodeMayAskItsClientsForCertificates) {
  Logged logged;
  Two none(1);
  none.server.ca = none.ca.file();
  const auto [client, server] = refused(none);
  EXPECT_TRUE(client.contains("wants a certificate of its clients")) << client;
  EXPECT_TRUE(server.contains("shows no certificate")) << server;

  Two foreign(1);
  foreign.server.ca = foreign.ca.file();
  const Authority other(foreign.folder, "other");
  const TlsSettings theirs = other.issue("a");
  foreign.client.cert = theirs.cert;
  foreign.client.key = theirs.key;
  const std::string why = refused(foreign).server;
  EXPECT_TRUE(why.contains("the client's certificate comes from a CA that is not trusted")) << why;

  Two good(1);
  good.server.ca = good.ca.file();
  const TlsSettings ours = good.ca.issue("a");
  good.client.cert = ours.cert;
  good.client.key = ours.key;
  EXPECT_EQ(refused(good).server, "");
}

// ---- who speaks something else

TEST(Tls, AClientWithoutTlsIsToldSoInAFrame) {
  Logged logged;
  Two two(1);
  two.listen();
  RawClient plain(two.a->network(), two.a->executor(), "b:1");
  ASSERT_TRUE(two.world->run_until([&] { return plain.link && two.far; }));
  Recorder node;
  node.link = Link::start(std::move(two.far), two.b->executor(), node, kBodyBytesMax);
  plain.hello();
  ASSERT_TRUE(two.world->run_until([&] { return plain.closed && node.closed; }, 1000));
  EXPECT_EQ(plain.refused(0).code, Code::unsupported);
  EXPECT_TRUE(plain.refused(0).text.contains("tls_ca")) << plain.refused(0).text;
  EXPECT_TRUE(node.frames.empty());
  EXPECT_EQ(logged.count("it speaks without, and this node has a certificate"), 1u) << logged.text;
}

TEST(Tls, ANodeWithoutTlsIsToldSoAndSaysWhatToSet) {
  Two two(1);
  auto listening =
      two.b->network().listen("b:1", [&](auto stream) { two.far = std::move(stream); });
  ASSERT_TRUE(two.connect().good());
  Recorder client, node;
  node.link = Link::start(std::move(two.far), two.b->executor(), node, kBodyBytesMax);
  client.link = Link::start(std::move(two.near), two.a->executor(), client, kBodyBytesMax);
  ASSERT_TRUE(two.world->run_until([&] { return client.closed && node.closed; }, 1000));
  EXPECT_EQ(node.closed->code, Code::protocol);
  EXPECT_TRUE(node.closed->text.contains("a TLS handshake came")) << node.closed->text;
  EXPECT_EQ(client.closed->code, Code::unreachable);
  EXPECT_TRUE(client.closed->text.contains("the node speaks without")) << client.closed->text;
}

TEST(Tls, GarbageEndsTheConnectionAndNothingElse) {
  SeededRandom random(7);
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    SCOPED_TRACE(seed);
    Two two(seed);
    two.listen();
    RawStream stranger(two.a->network(), "b:1");
    ASSERT_TRUE(two.world->run_until([&] { return stranger.stream && two.far; }));
    Recorder node;
    node.link = Link::start(std::move(two.far), two.b->executor(), node, kBodyBytesMax);
    auto bytes = random_bytes(20'000, random);
    // Half of them begin as a handshake does.
    const std::array begin = {std::byte{0x16}, std::byte{3}, std::byte{1}, std::byte{2}};
    if (seed % 2 == 0) std::ranges::copy(begin, bytes.begin());
    stranger.send(bytes);
    ASSERT_TRUE(two.world->run_until([&] { return node.closed.has_value(); }, 1000));
    EXPECT_EQ(node.closed->code, Code::unreachable);
    EXPECT_TRUE(node.closed->text.contains("TLS: ")) << node.closed->text;
  }
}

TEST(Tls, AHandshakeHasAnEnd) {
  Two two(1, {.short_steps = 0});
  two.listen();
  RawStream stranger(two.a->network(), "b:1");
  ASSERT_TRUE(two.world->run_until([&] { return stranger.stream && two.far; }));
  Recorder node;
  node.link = Link::start(std::move(two.far), two.b->executor(), node, kBodyBytesMax);
  // One message of 100,000 bytes, in records of 16 KiB.
  std::vector<std::byte> bytes;
  for (int i = 0; i < 6; ++i) {
    std::vector<std::byte> record(5 + 16'384);
    std::ranges::copy(std::array{std::byte{0x16}, std::byte{3}, std::byte{1}, std::byte{0x40}},
                      record.begin());
    if (i == 0) {
      const std::array head = {std::byte{1}, std::byte{1}, std::byte{0x86}, std::byte{0xa0}};
      std::ranges::copy(head, record.begin() + 5);
    }
    bytes.insert(bytes.end(), record.begin(), record.end());
  }
  stranger.send(bytes);
  ASSERT_TRUE(two.world->run_until([&] { return node.closed.has_value(); }, 1000));
  EXPECT_TRUE(node.closed->text.contains("longer than 65536 bytes")) << node.closed->text;
}

TEST(Tls, AClientThatHangsUpInTheMiddleIsNoNews) {
  Logged logged;
  Two two(1);
  two.listen();
  RawStream stranger(two.a->network(), "b:1");
  ASSERT_TRUE(two.world->run_until([&] { return stranger.stream && two.far; }));
  stranger.send(std::vector<std::byte>(3, std::byte{0x16}));
  ASSERT_FALSE(two.world->run_until([] { return false; }, 100));
  stranger.stream->close();
  EXPECT_EQ(two.read(*two.far, 1), "");
  EXPECT_EQ(two.far->why(), "TLS: the connection ended before hands were shaken");
  EXPECT_EQ(logged.text, "");
}

// ---- the files

TEST(Tls, CertificatesThatAreReplacedServeTheNextConnection) {
  Logged logged;
  Two two(1);
  two.listen();
  ASSERT_TRUE(two.connect().good());
  ASSERT_TRUE(two.talk());
  const auto before = std::move(two.near);
  const auto before_far = std::move(two.far);

  const Authority next(two.folder, "next");
  (void)next.issue("b");
  two.client.ca = next.file();
  ASSERT_TRUE(two.connect().good());
  EXPECT_TRUE(two.talk());
  // The connection that there was goes on.
  two.write(*before_far, "still");
  EXPECT_EQ(two.read(*before, 5), "still");
  EXPECT_EQ(logged.text, "");
}

TEST(Tls, ABadFileLeavesTheCertificateThatThereWasAndIsSaidOnce) {
  Logged logged;
  Two two(1);
  two.listen();
  std::ofstream(two.server.cert) << "no certificate\n";
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(two.connect().good());
    EXPECT_TRUE(two.talk());
  }
  EXPECT_EQ(logged.count("goes on with the certificates it has"), 1u) << logged.text;
  std::filesystem::remove(two.server.key);
  ASSERT_TRUE(two.connect().good());
  EXPECT_TRUE(two.talk());
  (void)two.ca.issue("b");
  ASSERT_TRUE(two.connect().good());
  EXPECT_TRUE(two.talk());
}

TEST(Tls, FilesThatAreNoGoodAreRefusedByName) {
  Two two(1);
  const auto listens = [&two](const TlsSettings& settings) {
    const auto network = tls_network(two.b->network(), two.b->executor(), settings);
    const auto listening = network->listen("b:2", [](std::unique_ptr<Stream>) {});
    return listening ? Status() : listening.error();
  };
  const TlsSettings good = two.server;
  EXPECT_EQ(listens(good).code, Code::ok);
  const TlsSettings other = two.ca.issue("other");
  std::ofstream(two.folder.file("empty"));
  std::ofstream(two.folder.file("text")) << "-----BEGIN CERTIFICATE-----\nnone\n";
  const auto with = [&good](auto change) {
    TlsSettings out = good;
    change(out);
    return out;
  };
  const std::vector<std::pair<TlsSettings, std::string>> wrong = {
      {TlsSettings{}, "name it with tls_cert"},
      {with([](auto& s) { s.key.clear(); }), "tls_cert and tls_key go together"},
      {with([&](auto& s) { s.key = other.key; }), "is not the key of the certificate"},
      {with([&](auto& s) { s.cert = two.folder.file("none"); }), "is not there"},
      {with([&](auto& s) { s.cert = two.folder.file("empty"); }), "is empty"},
      {with([&](auto& s) { s.cert = two.folder.file("text"); }), "holds no certificate"},
      {with([&](auto& s) { s.key = s.cert; }), "holds no private key"},
      {with([&](auto& s) { s.ca = s.key; }), "holds no certificates"},
      {with([&](auto& s) { s.ca = two.folder.file("text"); }), "holds no certificates"},
      {with([&](auto& s) { s.ca = two.folder.file("."); }), "is empty, or no file"},
  };
  for (const auto& [settings, sentence] : wrong) {
    const Status why = listens(settings);
    EXPECT_EQ(why.code, Code::invalid) << sentence;
    EXPECT_TRUE(why.text.contains(sentence)) << why.text;
  }
  two.client.ca = two.folder.file("none");
  two.listen();
  const Status why = two.connect();
  EXPECT_EQ(why.code, Code::invalid);
  EXPECT_TRUE(why.text.contains("tls_ca: '")) << why.text;
}

}  // namespace
}  // namespace memkv
