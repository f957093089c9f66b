// ServerWorldTest: a server over a FakeStore in the simulated world, and the few sentences its
// tests are written in.
#pragma once

#include <gtest/gtest.h>

#include <list>
#include <memory>
#include <string>
#include <vector>

#include "server/server.h"
#include "support/fake_store.h"
#include "support/raw_client.h"
#include "support/sim.h"

namespace memkv::testing {

class ServerWorldTest : public ::testing::Test {
 protected:
  // Whole steps: a farewell is one write, and tests ask for what it says. fragment() makes them
  // short.
  ServerWorldTest() : world_(sim::World::create(1, {.short_steps = 0})) {
    node_ = world_->spawn("node");
    people_ = world_->spawn("people");
    store_ = std::make_unique<FakeStore>(node_->executor());
  }
  ~ServerWorldTest() override {
    people_->kill();
    node_->kill();
    clients_.clear();
    streams_.clear();
    server_.reset();
    store_.reset();
  }

  void serve(ServerOptions options = {}) {
    options.listen = "node:9900";
    auto server =
        Server::start(std::move(options), *store_, node_->network(), node_->executor(), random_);
    ASSERT_TRUE(server) << server.error().message();
    server_ = std::move(*server);
  }
  void fragment() { world_->set_faults({.short_steps = 700'000}); }
  // Runs until it is so.
  ::testing::AssertionResult runs_until(const std::function<bool()>& done,
                                        std::uint64_t virtual_ms = 60'000) {
    if (world_->run_until(done, virtual_ms)) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "it never happened";
  }
  void run_for(std::uint64_t virtual_ms) {
    ASSERT_FALSE(world_->run_until([] { return false; }, virtual_ms));
  }
  [[nodiscard]] std::uint64_t now_ms() { return world_->clock().now_ns() / kNsPerMs; }

  // A client that is connected and has said nothing.
  RawClient& stranger() {
    clients_.emplace_back(
        std::make_unique<RawClient>(people_->network(), people_->executor(), "node:9900"));
    RawClient& client = *clients_.back();
    EXPECT_TRUE(runs_until([&] { return client.link != nullptr; }));
    return client;
  }
  // One that is welcome.
  RawClient& client(std::span<const std::byte> token = {}) {
    RawClient& fresh = stranger();
    fresh.hello();
    EXPECT_TRUE(runs_until([&] { return fresh.count(wire::Type::challenge, 0) == 1; }));
    fresh.auth(token);
    EXPECT_TRUE(runs_until([&] { return fresh.count(wire::Type::welcome, 0) == 1; }));
    return fresh;
  }
  RawStream& raw_stream() {
    streams_.emplace_back(std::make_unique<RawStream>(people_->network(), "node:9900"));
    RawStream& stream = *streams_.back();
    EXPECT_TRUE(runs_until([&] { return stream.stream != nullptr; }));
    return stream;
  }
  // One that is welcome.
  RawStream& open_stream() {
    RawStream& stream = raw_stream();
    stream.send(wire::Type::hello, 0, body_of(wire::Hello{.session = 1, .name = "raw"}));
    EXPECT_TRUE(runs_until([&] { return stream.frames().size() == 1; }));
    stream.send(wire::Type::auth, 0, body_of(wire::Auth{}));
    EXPECT_TRUE(runs_until([&] { return stream.frames().size() == 2; }));
    return stream;
  }

  // It ends, with this REFUSE 0 before it.
  ::testing::AssertionResult is_refused(RawClient& client, Code code,
                                        std::uint64_t within_ms = 60'000) {
    if (auto ends = runs_until([&] { return client.closed.has_value(); }, within_ms); !ends)
      return ends;
    const Status why = client.refused(0);
    if (why.code == code && !why.text.empty()) return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "REFUSE 0 said " << why.message();
  }
  ::testing::AssertionResult is_refused(RawStream& stream, Code code,
                                        std::uint64_t within_ms = 60'000) {
    if (auto ends = runs_until([&] { return stream.ended; }, within_ms); !ends) return ends;
    const auto frames = stream.frames();
    if (frames.empty() || frames.back().type != wire::Type::refuse) {
      return ::testing::AssertionFailure() << "no REFUSE came";
    }
    const auto refuse = wire::decode_refuse(frames.back().body);
    if (refuse && refuse->code == code && frames.back().request == 0)
      return ::testing::AssertionSuccess();
    return ::testing::AssertionFailure() << "another REFUSE came";
  }
  // Nothing is begun and not ended at the store.
  [[nodiscard]] bool at_rest() const {
    return store_->open_puts() == 0 && store_->open_gets() == 0;
  }

  static Body key_of(std::size_t number) { return text_bytes("key-" + std::to_string(number)); }
  static Body bytes_of(std::size_t length, std::uint64_t seed) {
    SeededRandom random(seed);
    Body out(length);
    for (std::byte& byte : out) byte = static_cast<std::byte>(random.next());
    return out;
  }
  static std::vector<std::uint32_t> crcs_of(std::span<const std::byte> bytes) {
    UnitCrcs crcs(unit_bytes_of(bytes.size()), bytes.size());
    crcs.feed(bytes);
    return {crcs.crcs().begin(), crcs.crcs().end()};
  }

  void ask_put(RawClient& client, std::uint64_t request, const std::vector<std::uint32_t>& lengths,
               std::size_t first_key = 0) {
    Body body(kBodyBytesMax);
    wire::PutWriter writer(body, Namespace{});
    for (const std::uint32_t length : lengths) {
      const Body key = key_of(first_key++);
      ASSERT_TRUE(writer.add({.length = length, .traits = {}, .key = key}));
    }
    client.say_body(wire::Type::put, request, writer.body());
  }
  static Body get_body(const std::vector<wire::GetItem>& items) {
    Body body(kBodyBytesMax);
    wire::GetWriter writer(body, Namespace{});
    for (const wire::GetItem& item : items) EXPECT_TRUE(writer.add(item));
    const auto out = writer.body();
    return {out.begin(), out.end()};
  }
  void ask_get(RawClient& client, std::uint64_t request, std::size_t key, std::uint32_t offset,
               std::uint32_t length) {
    const Body name = key_of(key);
    client.say_body(wire::Type::get, request,
                    get_body({{.offset = offset, .length = length, .key = name}}));
  }
  // The whole way of one block.
  wire::PutDone put(RawClient& client, std::uint64_t request, std::size_t key, const Body& bytes) {
    ask_put(client, request, {static_cast<std::uint32_t>(bytes.size())}, key);
    const auto over = [&] { return client.count(wire::Type::put_done, request) == 1; };
    EXPECT_TRUE(
        runs_until([&] { return over() || client.count(wire::Type::grant, request) == 1; }));
    if (!over()) {
      client.send_bytes(request, 0, 0, bytes);
      EXPECT_TRUE(runs_until([&, sent = client.sent] { return client.sent > sent; }));
      client.commit(request, 0, crcs_of(bytes));
      EXPECT_TRUE(runs_until(over));
    }
    return put_done(client, request);
  }
  static wire::PutDone put_done(RawClient& client, std::uint64_t request, std::size_t nth = 0) {
    const Body* body = client.find(wire::Type::put_done, request, nth);
    EXPECT_NE(body, nullptr);
    return body == nullptr ? wire::PutDone{.code = Code::internal}
                           : wire::decode_put_done(*body).value();
  }
  wire::GetBlock wait_get_block(RawClient& client, std::uint64_t request) {
    EXPECT_TRUE(runs_until([&] { return client.count(wire::Type::get_block, request) == 1; }));
    const Body* body = client.find(wire::Type::get_block, request);
    return body == nullptr ? wire::GetBlock{.code = Code::internal}
                           : wire::decode_get_block(*body).value();
  }
  // A number of STAT.
  std::uint64_t stat(const std::string& name) {
    const std::string text = "\n" + server_->stats_text();
    const std::size_t at = text.find("\n" + name + " ");
    EXPECT_NE(at, std::string::npos) << name;
    return at == std::string::npos ? 0 : std::stoull(text.substr(at + name.size() + 2));
  }

  std::unique_ptr<sim::World> world_;
  SeededRandom random_{5};
  std::unique_ptr<sim::Process> node_, people_;
  std::unique_ptr<FakeStore> store_;
  std::unique_ptr<Server> server_;
  std::list<std::unique_ptr<RawClient>> clients_;
  std::list<std::unique_ptr<RawStream>> streams_;
};

}  // namespace memkv::testing
