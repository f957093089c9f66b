// TLS over real sockets and real threads: hands that read and write one connection at once, a
// client with a thread of its own, a node that loses its certificate. What matters here is what
// the sanitizers see.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/event_loop.h"
#include "client/client.h"
#include "support/certificates.h"
#include "support/node_thread.h"
#include "transport/tls.h"
#include "unit/link_rig.h"

namespace memkv::testing {
namespace {

constexpr std::uint64_t kSecondNs = 1'000'000'000;
constexpr std::uint64_t kLongMs = 60'000;

// A mind with its hands on threads of their own, and one link.
class End {
 public:
  End(unsigned hands, const TlsSettings& settings)
      : loop_(*EventLoop::create(hands)),
        tcp_(tcp_network(*loop_)),
        tls_(tls_network(*tcp_, *loop_, settings)) {}
  void start() {
    thread_ = std::thread([this] { loop_->run(); });
  }
  std::string listen() {
    auto listening = tls_->listen("127.0.0.1:0", [this](auto stream) { take(std::move(stream)); });
    EXPECT_TRUE(listening) << listening.error().message();
    listener_ = std::move(*listening);
    return listener_->address();
  }
  void connect(const std::string& address) {
    run([this, &address] {
      tls_->connect(address, 10 * kSecondNs, [this](Result<std::unique_ptr<Stream>> stream) {
        ASSERT_TRUE(stream) << stream.error().message();
        take(std::move(*stream));
      });
    });
  }
  void wait_linked() { linked_.wait(false); }
  void run(const std::function<void()>& task) {
    std::atomic<bool> done = false;
    loop_->post([&] {
      task();
      done = true;
      done.notify_one();
    });
    done.wait(false);
  }
  void stop() {
    std::atomic<bool> closed = false;
    loop_->post([&] {
      const auto end = [&] {
        closed = true;
        closed.notify_one();
      };
      if (!recorder.link) return end();
      recorder.when_closed = end;
      recorder.link->close(Code::shutdown);
    });
    closed.wait(false);
    loop_->stop();
    thread_.join();
  }

  Recorder recorder;

 private:
  void take(std::unique_ptr<Stream> stream) {
    recorder.link = Link::start(std::move(stream), *loop_, recorder, kBodyBytesMax);
    linked_ = true;
    linked_.notify_one();
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Network> tcp_, tls_;
  std::unique_ptr<Listener> listener_;
  std::atomic<bool> linked_ = false;
  std::thread thread_;
};

void move_blocks_both_ways(unsigned hands) {
  constexpr std::uint64_t kBlocks = 12;
  const Folder folder;
  const Authority ca(folder, "ca");
  End left(hands, {.ca = ca.file(), .records_per_key = 100});
  End right(hands, ca.issue("node"));
  const std::string address = right.listen();
  left.start();
  right.start();
  left.connect(address);
  left.wait_linked();
  right.wait_linked();
  SeededRandom random(hands);
  const std::array<End*, 2> ends = {&left, &right};
  std::array<std::vector<std::vector<std::byte>>, 2> cargo;
  std::atomic<int> whole = 0;
  for (std::size_t side = 0; side < 2; ++side) {
    std::size_t total = 0;
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      cargo[side].push_back(random_bytes(1 + random.below(i % 3 == 0 ? 100 : 4'000'000), random));
      total += cargo[side].back().size();
    }
    Recorder& reader = ends[1 - side]->recorder;
    ends[1 - side]->run([&, total] {
      for (std::uint64_t i = 0; i < kBlocks; ++i) reader.expect(i + 1, 0, cargo[side][i].size());
      reader.when_landed = [&, total] {
        if (reader.landed_bytes != total) return;
        ++whole;
        whole.notify_one();
      };
    });
  }
  for (std::size_t side = 0; side < 2; ++side) {
    ends[side]->run([&] {
      Link& link = *ends[side]->recorder.link;
      for (std::uint64_t i = 0; i < kBlocks; ++i) {
        std::vector<std::byte>& bytes = cargo[side][i];
        link.ship({.request = i + 1, .pieces = {{bytes.data(), bytes.size()}}});
      }
    });
  }
  for (int seen = 0; seen < 2; seen = whole) whole.wait(seen);
  left.stop();
  right.run([] {});
  right.stop();
  for (std::size_t side = 0; side < 2; ++side) {
    for (std::uint64_t i = 0; i < kBlocks; ++i) {
      EXPECT_TRUE(ends[1 - side]->recorder.block(i + 1, 0).memory == cargo[side][i]);
    }
  }
}

TEST(TlsTcp, MovesBlocksBothWaysWithoutHands) {
  move_blocks_both_ways(0);
}
TEST(TlsTcp, MovesBlocksBothWaysWithHandsThatReadAndWriteAtOnce) {
  move_blocks_both_ways(3);
}

class TlsClientTest : public ::testing::Test {
 protected:
  void open(const std::string& address, TlsSettings tls) {
    auto client = Client::open({.nodes = {address}, .tls = std::move(tls), .timeout_ms = kLongMs});
    ASSERT_TRUE(client) << client.error().message();
    client_ = std::move(*client);
  }
  Code put(const std::string& key, std::span<const std::byte> bytes) {
    const PutBlock asked{.key = key_bytes(key), .group = {}, .bytes = bytes};
    return finish(client_->put({}, std::span(&asked, 1)));
  }
  Code get(const std::string& key, std::span<std::byte> target) {
    const GetBlock asked{.key = key_bytes(key), .group = {}, .offset = 0, .target = target};
    return finish(client_->get({}, std::span(&asked, 1)));
  }
  static Code finish(const std::unique_ptr<Request>& request) {
    EXPECT_TRUE(request->wait(kLongMs));
    return request->done() ? request->codes()[0] : Code::internal;
  }

  Folder folder_;
  Authority ca_{folder_, "ca"};
  std::unique_ptr<Client> client_;
};

TEST_F(TlsClientTest, ABlockGoesThereAndBack) {
  const NodeThread node(ca_.issue("node"));
  open(node.address(), {.ca = ca_.file()});
  const Bytes block = pattern(5'000'000, 1);
  Bytes read(block.size());
  EXPECT_EQ(put("k", block), Code::ok);
  EXPECT_EQ(get("k", read), Code::ok);
  EXPECT_TRUE(read == block);
}

TEST_F(TlsClientTest, ANodeThatIsNotWhoItShouldBeIsAMissAndSaysWhy) {
  const Authority other(folder_, "other");
  const NodeThread node(other.issue("node"));
  open(node.address(), {.ca = ca_.file()});
  Bytes read(10);
  EXPECT_EQ(get("k", read), Code::unreachable);
  const NodeHealth health = client_->health()[0];
  EXPECT_TRUE(health.breaker_open);
  EXPECT_TRUE(health.last_error.contains("a CA that is not trusted")) << health.last_error;
}

TEST_F(TlsClientTest, ANodeWithoutTlsIsAMissAndSaysWhy) {
  const NodeThread node;
  open(node.address(), {.ca = ca_.file()});
  Bytes read(10);
  EXPECT_EQ(get("k", read), Code::unreachable);
  const std::string why = client_->health()[0].last_error;
  EXPECT_TRUE(why.contains("the node speaks without")) << why;
}

TEST_F(TlsClientTest, WhoForgetsTheCaHearsOfIt) {
  const NodeThread node(ca_.issue("node"));
  open(node.address(), {});
  Bytes read(10);
  EXPECT_EQ(get("k", read), Code::unreachable);
  const std::string why = client_->health()[0].last_error;
  EXPECT_TRUE(why.contains("this node speaks TLS only")) << why;
}

TEST_F(TlsClientTest, SettingsThatDoNotGoTogetherAreRefused) {
  for (const TlsSettings& tls :
       {TlsSettings{.cert = "c", .key = "k"}, TlsSettings{.ca = "ca", .cert = "c"},
        TlsSettings{.ca = "ca", .key = "k"}, TlsSettings{.server_name = "n"}}) {
    const auto client = Client::open({.nodes = {"127.0.0.1:1"}, .tls = tls});
    ASSERT_FALSE(client);
    EXPECT_EQ(client.error().code, Code::invalid);
  }
}

}  // namespace
}  // namespace memkv::testing
