#include "server/server.h"

#include <map>
#include <optional>
#include <utility>

#include "base/fingerprint.h"
#include "base/limits.h"
#include "base/log.h"
#include "server/peer.h"
#include "server/stats.h"

namespace memkv {
namespace {

constexpr std::uint64_t kTickNs = 500 * kNsPerMs;
constexpr std::uint64_t kDrainNs = 10 * kNsPerMs;

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, Store& store, Executor& executor, Random& random)
      : context_{.options = std::move(options),
                 .store = store,
                 .executor = executor,
                 .random = random,
                 .counters = {},
                 .spaces = {},
                 .address = {}},
        began_ns_(context_.now_ns()) {}
  ~ServerImpl() override {
    context_.executor.cancel(tick_);
    context_.executor.cancel(drain_);
  }

  [[nodiscard]] Result<void> listen(Network& network);
  [[nodiscard]] std::string address() const override { return bound_; }
  void stop(std::uint64_t grace_ms, std::move_only_function<void()> stopped) override;
  void take_map(Result<std::vector<std::byte>> body) override;
  [[nodiscard]] std::string stats_text() const override;

 private:
  void accepted(std::unique_ptr<Stream> stream);
  void over(std::uint64_t id);
  void tick();
  void drain();
  void post_stopped();

  ServerContext context_;
  std::uint64_t began_ns_;
  std::unique_ptr<Listener> listener_;
  std::string bound_;
  std::map<std::uint64_t, std::unique_ptr<Peer>> peers_;  // in the order they came
  std::uint64_t next_peer_ = 1;
  TimerId tick_ = 0;
  TimerId drain_ = 0;
  std::uint64_t drain_until_ns_ = 0;
  std::move_only_function<void()> stopped_;
};

Result<void> ServerImpl::listen(Network& network) {
  auto listener = network.listen(context_.options.listen, [this](std::unique_ptr<Stream> stream) {
    accepted(std::move(stream));
  });
  if (!listener) return fail(listener.error());
  listener_ = std::move(*listener);
  bound_ = listener_->address();
  context_.address = context_.options.advertise.empty() ? bound_ : context_.options.advertise;
  context_.node = node_id_of(context_.address);
  tick();
  return {};
}

void ServerImpl::accepted(std::unique_ptr<Stream> stream) {
  if (context_.stopping || peers_.size() >= kPeersMax + kPeersRefusedMax)
    return;  // closed without a word
  ++context_.counters.peers_accepted;
  const std::uint64_t id = next_peer_++;
  const bool full = peers_.size() >= kPeersMax;
  PeerHooks hooks{.over = [this, id] { over(id); }, .stats_text = [this] { return stats_text(); }};
  const auto [place, fresh] =
      peers_.emplace(id, std::make_unique<Peer>(context_, std::move(stream), std::move(hooks)));
  if (full) {
    place->second->drop({Code::busy, "this node has its " + std::to_string(kPeersMax) +
                                         " peers: try another or later"});
  }
}

void ServerImpl::over(std::uint64_t id) {
  peers_.erase(id);
  if (context_.stopping && peers_.empty()) post_stopped();
}

void ServerImpl::tick() {
  for (const auto& [id, peer] : peers_) peer->tick();
  tick_ = context_.executor.after(kTickNs, [this] { tick(); });
}

void ServerImpl::stop(std::uint64_t grace_ms, std::move_only_function<void()> stopped) {
  if (context_.stopping) return;
  context_.stopping = true;
  stopped_ = std::move(stopped);
  listener_.reset();
  drain_until_ns_ = context_.now_ns() + grace_ms * kNsPerMs;
  if (peers_.empty()) {
    post_stopped();
  } else {
    drain();
  }
}

void ServerImpl::drain() {
  const bool late = context_.now_ns() >= drain_until_ns_;
  for (const auto& [id, peer] : peers_) {
    if (late || peer->idle()) peer->drop({Code::shutdown, "this node is stopping"});
  }
  drain_ = late ? 0 : context_.executor.after(kDrainNs, [this] { drain(); });
}

void ServerImpl::post_stopped() {
  context_.executor.cancel(std::exchange(drain_, 0));
  context_.executor.cancel(std::exchange(tick_, 0));
  if (stopped_) context_.executor.post(std::exchange(stopped_, {}));
}

void ServerImpl::take_map(Result<std::vector<std::byte>> body) {
  std::optional<Status> wrong;
  if (!body) {
    wrong = body.error();
  } else if (const auto map = wire::MapReplyReader::open(*body); !map) {
    wrong = map.error();
  } else if (map->head().epoch > context_.epoch) {
    context_.epoch = map->head().epoch;
    context_.map_nodes = map->count();
    context_.map = std::move(*body);
    log(LogLevel::info,
        "holds the map of epoch " + std::to_string(context_.epoch) + " with " +
            std::to_string(context_.map_nodes) + " nodes",
        {{"epoch", std::to_string(context_.epoch)}, {"nodes", std::to_string(context_.map_nodes)}});
  }
  if (!wrong) return;
  ++context_.maps_refused;
  log(LogLevel::error,
      "keeps the map of epoch " + std::to_string(context_.epoch) + ": " + wrong->message());
}

std::string ServerImpl::stats_text() const {
  ServerNow now{.uptime_ms = (context_.now_ns() - began_ns_) / kNsPerMs, .peers = peers_.size()};
  for (const auto& [id, peer] : peers_) {
    now.requests += peer->requests();
    now.bytes_granted += peer->bytes_granted();
    now.bytes_pinned += peer->bytes_pinned();
    now.blocks_pinned += peer->blocks_pinned();
    now.puts_queued += peer->puts_queued();
    now.gets_queued += peer->gets_queued();
    now.bytes_in += peer->link->bytes_in();
    now.bytes_out += peer->link->bytes_out();
  }
  return stats_text_of(context_, now);
}

}  // namespace

Authenticator open_authenticator() {
  return [](std::span<const std::byte> token, std::span<const std::byte>,
            std::span<const std::byte>) -> Result<TenantId> {
    if (!token.empty()) return fail(Code::denied, "this node knows no tokens: connect without one");
    return kDefaultTenant;
  };
}

Result<std::unique_ptr<Server>> Server::start(ServerOptions options, Store& store, Network& network,
                                              Executor& executor, Random& random) {
  auto server = std::make_unique<ServerImpl>(std::move(options), store, executor, random);
  if (auto listening = server->listen(network); !listening) return fail(listening.error());
  return server;
}

}  // namespace memkv
