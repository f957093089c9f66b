#include "sim/hosts.h"

#include <algorithm>
#include <charconv>

#include "base/check.h"

namespace memkv::sim {
namespace {

constexpr std::uint64_t kGraceMs = 200;

Authenticator tenants_by_token() {
  return [](const Claim& claim) -> Result<Pass> {
    for (unsigned tenant = 0; tenant < kTenants; ++tenant) {
      if (std::ranges::equal(claim.token, token_of(tenant))) {
        return Pass{.tenant = tenant_of(tenant)};
      }
    }
    return fail(Code::denied, "a token of nobody");
  };
}

}  // namespace

NodeHost::NodeHost(World& world, const Plan& plan, unsigned number, Events events)
    : world_(world),
      plan_(plan),
      name_("node" + std::to_string(number)),
      events_(std::move(events)),
      disk_(plan.disk_bytes) {
  disk_.bad_pages().insert(plan.bad_pages.begin(), plan.bad_pages.end());
}

void NodeHost::later(std::function<void()> what) {
  world_.after(0, [this, life = life_, what = std::move(what)] {
    if (life == life_) what();
  });
}

void NodeHost::boot(bool format) {
  MEMKV_CHECK(down(), "a node is booted when it is down");
  ++life_;
  stopping_ = false;
  process_ = world_.spawn(name_);
  random_ = std::make_unique<SeededRandom>(world_.random().next());
  auto device = process_->open_device(disk_);
  MEMKV_CHECK(device.has_value(), "nobody else holds the disk");
  device_ = std::move(*device);
  arena_ = process_->arena(plan_.arena_bytes);
  StoreOptions options;
  options.format = format;
  options.segment_bytes = plan_.segment_bytes;
  options.index_flush_ms = plan_.index_flush_ms;
  options.rewrite_percent = plan_.rewrite_percent;
  options.fingerprint_bits = plan_.fingerprint_bits;
  Store::open(options, *device_, *arena_, process_->executor(), *random_,
              [this](Result<std::unique_ptr<Store>> store) { opened(std::move(store)); });
}

void NodeHost::opened(Result<std::unique_ptr<Store>> store) {
  if (!store) {
    later([this, why = store.error()] { events_.refused(why); });
    return;
  }
  store_ = std::move(*store);
  ServerOptions options;
  options.listen = address();
  options.authenticate = tenants_by_token();
  auto server =
      Server::start(options, *store_, process_->network(), process_->executor(), *random_);
  if (!server) {
    later([this, why = server.error()] {
      events_.wrong("the server of " + name_ + " does not start: " + why.message());
    });
    return;
  }
  server_ = std::move(*server);
  if (!map_.map.empty()) take_map();
  later([this] { events_.started(); });
}

void NodeHost::hand_map(std::uint32_t epoch, MapFile file) {
  if (epoch <= epoch_) return;
  epoch_ = epoch;
  map_ = std::move(file);
  if (!server_) return events_.holds(epoch_);  // it will, before it answers anybody
  if (stopping_) return;
  process_->executor().post([this, life = life_] {
    if (life == life_ && server_) take_map();
  });
}

void NodeHost::take_map() {
  server_->take_map(map_);
  events_.holds(epoch_);
}

void NodeHost::crash() {
  if (down()) return;
  ++life_;
  process_->kill();
  server_.reset();
  store_.reset();
  device_.reset();
  arena_.reset();
  random_.reset();
  process_.reset();
}

void NodeHost::stop(std::function<void()> stopped) {
  MEMKV_CHECK(running(), "a node is stopped when it runs");
  stopping_ = true;
  process_->executor().post([this, stopped = std::move(stopped)]() mutable {
    server_->stop(kGraceMs, [this, stopped = std::move(stopped)]() mutable {
      store_->close([this, stopped = std::move(stopped)](Result<void>) mutable {
        later([this, stopped = std::move(stopped)] {
          if (device_->in_flight() > 0) {
            events_.wrong("the store of " + name_ + " is closed, but its device is not at rest");
          }
          crash();
          stopped();
        });
      });
    });
  });
}

std::uint64_t NodeHost::stat(const std::string& name) const {
  const std::string text = "\n" + server_->stats_text();
  const std::size_t found = text.find("\n" + name + " ");
  std::uint64_t number = 0;
  if (found == std::string::npos) return 0;
  const char* begin = text.data() + found + name.size() + 2;
  std::from_chars(begin, text.data() + text.size(), number);
  return number;
}

ClientHost::ClientHost(World& world, unsigned number, unsigned tenant, unsigned seeds)
    : world_(world), name_("client" + std::to_string(number)), tenant_(tenant), seeds_(seeds) {}

void ClientHost::boot() {
  process_ = world_.spawn(name_);
  random_ = std::make_unique<SeededRandom>(world_.random().next());
  ClientOptions options;
  for (unsigned i = 0; i < seeds_; ++i) options.nodes.push_back(address_of(i));
  options.token = token_of(tenant_);
  options.name = name_;
  auto client =
      Client::open(options, ClientWorld{process_->executor(), process_->network(), *random_});
  MEMKV_CHECK(client.has_value(), "a client opens over a world");
  client_ = std::move(*client);
}

void ClientHost::crash() {
  if (down()) return;
  process_->kill();
  client_.reset();
  random_.reset();
  process_.reset();
}

}  // namespace memkv::sim
