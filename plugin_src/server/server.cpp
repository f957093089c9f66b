#include "server/server.h"

#include <map>
#include <utility>

#include "base/fingerprint.h"
#include "base/limits.h"
#include "base/log.h"
#include "server/peer.h"
#include "server/stats.h"

namespace memkv {
namespace {

constexpr std::uint64_t kTickNs = kLookMs * kNsPerMs;
constexpr std::uint64_t kDrainNs = 10 * kNsPerMs;

class ServerImpl final : public Server {
 public:
  ServerImpl(ServerOptions options, Store& store, Executor& executor, Random& random)
      : context_{.options = std::move(options),
                 .store = store,
                 .executor = executor,
                 .random = random,
                 .counters = {},
                 .lines = {},
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
  void take_map(Result<MapFile> file) override;
  [[nodiscard]] std::string stats_text() const override { return stats_text_for(nullptr); }

 private:
  [[nodiscard]] std::string stats_text_for(const Pass* pass) const;
  void accepted(std::unique_ptr<Stream> stream);
  [[nodiscard]] Result<void> take(MapFile file);
  void hold(std::uint32_t epoch, std::uint32_t nodes, std::vector<std::byte> map, StoreRules rules);
  void over(std::uint64_t id);
  void tick();
  void relieve();
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
  context_.names = context_.options.also_known_as;
  context_.names.push_back(context_.address);
  context_.arena_bytes = context_.store.stats().arena_bytes;
  if (bound_ != context_.address) context_.names.push_back(bound_);
  tick();
  return {};
}

void ServerImpl::accepted(std::unique_ptr<Stream> stream) {
  if (context_.stopping || peers_.size() >= kPeersMax + kPeersRefusedMax ||
      context_.greeting >= kPeersGreetingMax + kPeersRefusedMax)
    return;  // closed without a word
  ++context_.counters.peers_accepted;
  const std::uint64_t id = next_peer_++;
  const bool crowded = context_.greeting >= kPeersGreetingMax;
  const bool full = crowded || peers_.size() >= kPeersMax;
  PeerHooks hooks{.over = [this, id] { over(id); },
                  .stats_text = [this](const Pass& pass) { return stats_text_for(&pass); }};
  const auto [place, fresh] =
      peers_.emplace(id, std::make_unique<Peer>(context_, std::move(stream), std::move(hooks)));
  if (full) {
    place->second->drop({Code::busy, crowded ? "too many are at this node's door: try later"
                                             : "this node has its " + std::to_string(kPeersMax) +
                                                   " peers: try another or later"});
  }
}

void ServerImpl::over(std::uint64_t id) {
  peers_.erase(id);
  if (context_.stopping && peers_.empty()) post_stopped();
}

void ServerImpl::tick() {
  context_.wanted = context_.store.memory_wanted();
  context_.held_bytes = 0;
  for (const auto& [id, peer] : peers_) context_.held_bytes += peer->bytes_held();
  for (const auto& [id, peer] : peers_) peer->tick();
  relieve();
  context_.lines.tell(context_.now_ns());
  tick_ = context_.executor.after(kTickNs, [this] { tick(); });
}

// One a tick: what it held is enough for some of those who wait, and where the node is what is
// slow, its peers do not all have to pay for that.
void ServerImpl::relieve() {
  Peer* worst = nullptr;
  std::uint64_t slow_bytes = 0;
  for (const auto& [id, peer] : peers_) {
    const std::uint64_t bytes = peer->slow_bytes();
    slow_bytes += bytes;
    if (bytes > 0 && (worst == nullptr || bytes > worst->slow_bytes())) worst = peer.get();
  }
  if (worst != nullptr && slow_bytes >= context_.arena_bytes / kPacePart) worst->drop_slow();
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

void ServerImpl::take_map(Result<MapFile> file) {
  const Result<void> taken = file ? take(std::move(*file)) : fail(file.error());
  if (taken) return;
  ++context_.maps_refused;
  log(LogLevel::error,
      "keeps the map of epoch " + std::to_string(context_.epoch) + ": " + taken.error().message());
}

// All of it or nothing.
Result<void> ServerImpl::take(MapFile file) {
  const auto map = wire::MapReplyReader::open(file.map);
  if (!map) return fail(map.error());
  const std::uint32_t epoch = map->head().epoch;
  const auto mine = portion_of(file.map, context_.node, context_.options.weight);
  if (!mine) return fail(mine.error());
  auto rules = decode_rules(file.rules, epoch, *mine);
  if (!rules) return fail(rules.error());
  auto trust = file.trust ? Trust::read(*file.trust) : Trust();
  if (!trust) return fail(trust.error());
  if (epoch < context_.epoch) return {};
  if (epoch > context_.epoch) {
    const std::uint32_t nodes = map->count();
    hold(epoch, nodes, std::move(file.map), std::move(*rules));
  }
  context_.trust = std::move(*trust);
  for (const auto& [id, peer] : peers_) peer->trust_changed();
  return {};
}

void ServerImpl::hold(std::uint32_t epoch, std::uint32_t nodes, std::vector<std::byte> map,
                      StoreRules rules) {
  context_.epoch = epoch;
  context_.map_nodes = nodes;
  context_.map = std::move(map);
  context_.namespaces_settled = rules.spaces.size();
  log(LogLevel::info,
      "holds the map of epoch " + std::to_string(epoch) + " with " + std::to_string(nodes) +
          " nodes and rules for " + std::to_string(rules.spaces.size()) + " namespaces",
      {{"epoch", std::to_string(epoch)}, {"nodes", std::to_string(nodes)}});
  context_.store.set_rules(std::move(rules));
}

std::string ServerImpl::stats_text_for(const Pass* pass) const {
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
  return stats_text_of(context_, now, pass);
}

}  // namespace

bool ServerContext::takes_strangers() const {
  if (options.anonymous == Anonymous::until_tenants) return !trust.has_tenants();
  return options.anonymous == Anonymous::yes;
}

Result<Pass> ServerContext::admit(const Claim& claim) const {
  if (options.authenticate) return options.authenticate(claim);
  if (!claim.token.empty()) return trust.admit(claim, names, options.wall_s());
  if (takes_strangers()) return Pass{};
  return fail(Code::denied, "it has no token, and --anonymous says that it needs one");
}

bool ServerContext::upholds(Pass& pass) const {
  if (options.authenticate) return true;
  return pass.by_token ? trust.upholds(pass) : takes_strangers();
}

bool ServerContext::sees_all(const Pass& pass) const {
  return pass.tenant == kAgentTenant || (!pass.by_token && !trust.has_tenants());
}

Result<std::unique_ptr<Server>> Server::start(ServerOptions options, Store& store, Network& network,
                                              Executor& executor, Random& random) {
  auto server = std::make_unique<ServerImpl>(std::move(options), store, executor, random);
  if (auto listening = server->listen(network); !listening) return fail(listening.error());
  return server;
}

}  // namespace memkv
