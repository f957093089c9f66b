#include "sim/schedule.h"

#include <algorithm>
#include <array>
#include <functional>
#include <memory>
#include <set>
#include <utility>

#include "base/bytes.h"
#include "base/fingerprint.h"
#include "base/limits.h"
#include "base/log.h"
#include "sim/hosts.h"
#include "sim/maps.h"
#include "sim/mover.h"
#include "sim/traffic.h"
#include "wire/wire.h"

namespace memkv::sim {
namespace {

constexpr std::uint64_t kCopiesMs = 60'000;  // until every copy is made, after the faults
constexpr unsigned kLastKeys = 5;            // new blocks of each client after the faults

// Bytes of all blocks, and of those in namespace 8.
void add_up(const Listing& listing, std::array<std::uint64_t, 2>& bytes) {
  for (const ListedBlock& block : listing.blocks) {
    bytes[0] += block.length;
    if (block.space.id == space_of(2).id) bytes[1] += block.length;
  }
}

class Schedule {
 public:
  Schedule(const Plan& plan, bool verbose, Totals& totals);
  ~Schedule() { set_log_sink({}); }
  Outcome run();

 private:
  void hear(const std::string& sentence);
  void make_hosts();
  void boot_node(unsigned number, bool format = false);
  void node_refused(unsigned number, const Status& why);
  void crash_node(unsigned number);
  void stop_node(unsigned number);
  void crash_client(unsigned number);
  void part(const std::string& a, const std::string& b);
  void disk_outage();
  void new_map();
  void hand_maps(const MapFile& file, std::uint64_t most_ns);
  void node_holds(unsigned node, std::uint32_t epoch);
  void start_movers();
  void crash_mover(unsigned number);
  void crash_movers();
  void settle_copies();
  void count_client(ClientHost& client);
  void crash_at_work(unsigned number, unsigned looks);
  void after_drop(const Identity& id);
  void chaos();
  void chaos_sometimes();

  void live();
  void heal();
  void rest();
  void look_at_quotas(unsigned number, unsigned tenant);
  void stop_and_start();
  void end();

  // Runs the world until `done`; else that is the finding.
  void need(const std::function<bool()>& done, std::uint64_t ms, const std::string& what);
  [[nodiscard]] bool failed() const { return !traffic_.finding().empty(); }
  [[nodiscard]] bool all_running() const;
  [[nodiscard]] bool all_connected() const;
  [[nodiscard]] std::uint64_t evicted_blocks() const;
  [[nodiscard]] Code insist(const std::function<std::shared_ptr<Operation>()>& ask,
                            std::initializer_list<Code> final);
  [[nodiscard]] Code get_last(ClientHost& client, const Identity& id);
  void heal_block(unsigned client, const Identity& id);
  void count_node(unsigned number);

  Plan plan_;
  Totals& totals_;
  std::unique_ptr<World> world_;
  Journal journal_;
  Oracle oracle_;
  Traffic traffic_;
  Maps maps_;
  std::vector<std::unique_ptr<NodeHost>> nodes_;
  std::vector<std::unique_ptr<ClientHost>> clients_;
  std::vector<std::unique_ptr<Mover>> movers_;
  std::set<std::pair<std::string, std::string>> apart_;
  std::set<std::pair<unsigned, unsigned>> over_;  // tenants and spaces whose generation is over
  bool crash_after_drop_ = false;                 // of the node that acknowledges the next
  bool calm_ = false;                             // the faults are over
  bool disk_lied_ = false;
  std::vector<std::pair<unsigned, Identity>> served_;  // client and block of the last phase
};

Schedule::Schedule(const Plan& plan, bool verbose, Totals& totals)
    : plan_(plan),
      totals_(totals),
      world_(World::create(plan.seed, plan.faults)),
      journal_(world_->clock(), verbose),
      oracle_(plan_, world_->clock()),
      traffic_(*world_, plan_, oracle_, journal_, totals),
      maps_(plan_, world_->random()) {
  world_->observe([this](const std::string& sentence) { hear(sentence); });
  set_log_sink(
      [this](LogLevel, std::string_view line) { journal_.add("log: " + std::string(line)); });
}

void Schedule::hear(const std::string& sentence) {
  journal_.add(sentence);
  if (!sentence.starts_with("flip_read") && !sentence.starts_with("misdirect_write")) return;
  disk_lied_ = true;
  oracle_.disk_lied();
}

void Schedule::need(const std::function<bool()>& done, std::uint64_t ms, const std::string& what) {
  if (failed()) return;
  const bool came = world_->run_until([&] { return failed() || done(); }, ms);
  if (!came && !failed()) traffic_.found(what);
}

// ---- hosts

// Some nodes hear of it later than others.
void Schedule::new_map() {
  hand_maps(maps_.next(), 20 * kNsPerMs);
}

void Schedule::hand_maps(const MapFile& file, std::uint64_t most_ns) {
  journal_.add(maps_.sentence());
  ++totals_.maps;
  for (const auto& node : nodes_) {
    const std::uint64_t after_ns = most_ns == 0 ? 0 : world_->random().below(most_ns);
    const auto hand = [&node, file, epoch = maps_.epoch()] { node->hand_map(epoch, file); };
    if (after_ns == 0) {
      hand();
    } else {
      world_->after(after_ns, hand);
    }
  }
}

void Schedule::node_holds(unsigned node, std::uint32_t epoch) {
  maps_.node_holds(node, epoch);
  for (unsigned tenant = 0; tenant < kTenants; ++tenant) {
    for (unsigned space = 0; space < kSpaces; ++space) {
      if (!maps_.is_over(tenant, space)) continue;
      if (over_.insert({tenant, space}).second) ++totals_.generations_over;
      oracle_.end_generation(tenant, space);
    }
  }
}

void Schedule::count_client(ClientHost& client) {
  if (!client.down()) totals_.found_older += client.client().stats().found_older;
}

// For each node and tenant someone who copies and drains.
void Schedule::start_movers() {
  for (unsigned i = 0; i < kNodes * kTenants; ++i) {
    movers_.push_back(std::make_unique<Mover>(*world_, i % kNodes, i / kNodes));
    movers_.back()->boot();
  }
}

void Schedule::crash_mover(unsigned number) {
  movers_[number]->crash();
  world_->after((1 + world_->random().below(50)) * kNsPerMs, [this, number] {
    if (!calm_ && movers_[number]->down()) movers_[number]->boot();
  });
}

void Schedule::make_hosts() {
  for (unsigned i = 0; i < kNodes; ++i) {
    NodeHost::Events events;
    events.started = [this, i] { journal_.add("node" + std::to_string(i) + " runs"); };
    events.refused = [this, i](const Status& why) { node_refused(i, why); };
    events.holds = [this, i](std::uint32_t epoch) { node_holds(i, epoch); };
    events.wrong = [this](const std::string& what) { traffic_.found(what); };
    nodes_.push_back(std::make_unique<NodeHost>(*world_, plan_, i, std::move(events)));
    boot_node(i);
  }
  if (plan_.published()) hand_maps(maps_.first(), 0);
  if (plan_.copies) start_movers();
  const unsigned seeds = plan_.moves ? kNodes - 1 : kNodes;
  for (unsigned i = 0; i < plan_.clients; ++i) {
    clients_.push_back(std::make_unique<ClientHost>(*world_, i, i % kTenants, seeds));
    clients_.back()->boot();
    traffic_.start(*clients_.back());
  }
}

void Schedule::boot_node(unsigned number, bool format) {
  oracle_.node_started(number);
  nodes_[number]->boot(format);
}

// A device that fails is tried again. A disk that lied may have lost both superblocks, which a
// person would answer with --format; any other store opens what it wrote.
void Schedule::node_refused(unsigned number, const Status& why) {
  journal_.add("node" + std::to_string(number) + " refused: " + why.message());
  nodes_[number]->crash();
  if (why.code != Code::device_error && !disk_lied_) {
    return traffic_.found("a node refuses its own disk: " + why.message());
  }
  const bool format = why.code != Code::device_error;
  if (format) ++totals_.reformats;
  world_->after((1 + world_->random().below(50)) * kNsPerMs, [this, number, format] {
    if (nodes_[number]->down()) boot_node(number, format);
  });
}

void Schedule::count_node(unsigned number) {
  if (nodes_[number]->store() == nullptr) return;
  const StoreStats stats = nodes_[number]->store()->stats();
  journal_.add(nodes_[number]->name() + " had " + std::to_string(stats.blocks) +
               " blocks, recovered " + std::to_string(stats.recovered_blocks) + ", evicted " +
               std::to_string(stats.evicted_blocks) + " and by quota " +
               std::to_string(stats.quota_evicted_blocks) + ", lost " +
               std::to_string(stats.lost_blocks) + ", corrupt " + std::to_string(stats.corrupt) +
               ", foreign " + std::to_string(stats.foreign));
  totals_.hits_flash += stats.hits_flash;
  totals_.corrupt += stats.corrupt;
  totals_.foreign += stats.foreign;
  totals_.evicted += stats.evicted_blocks;
  totals_.rewritten += stats.rewritten_blocks;
  totals_.recovered += stats.recovered_blocks;
  totals_.expired += stats.expired_blocks;
  totals_.quota_evicted += stats.quota_evicted_blocks;
  totals_.not_admitted += stats.puts_not_admitted;
}

void Schedule::crash_node(unsigned number) {
  if (nodes_[number]->down()) return;
  count_node(number);
  nodes_[number]->crash();
  world_->after((1 + world_->random().below(300)) * kNsPerMs, [this, number] {
    if (nodes_[number]->down()) boot_node(number);
  });
}

void Schedule::stop_node(unsigned number) {
  NodeHost& node = *nodes_[number];
  if (!node.running()) return;
  count_node(number);
  journal_.add("stop " + node.name());
  const auto stopped = std::make_shared<bool>(false);
  node.stop([this, number, stopped] {
    *stopped = true;
    boot_node(number);
  });
}

void Schedule::crash_client(unsigned number) {
  ClientHost& client = *clients_[number];
  if (client.down()) return;
  count_client(client);
  client.kill();
  traffic_.forget(client);
  client.crash();
  world_->after((1 + world_->random().below(50)) * kNsPerMs, [this, &client] {
    if (!client.down()) return;
    client.boot();
    traffic_.start(client);
  });
}

void Schedule::part(const std::string& a, const std::string& b) {
  if (!apart_.insert({a, b}).second) return;
  world_->partition(a, b, true);
  world_->after((1 + world_->random().below(900)) * kNsPerMs, [this, a, b] {
    if (apart_.erase({a, b}) > 0) world_->partition(a, b, false);
  });
}

// Every so many requests, so that it hits a cluster at work.
void Schedule::chaos_sometimes() {
  if (plan_.chaos_requests == 0 || world_->random().below(plan_.chaos_requests) != 0) return;
  const std::uint64_t most_ns = world_->random().below(2) == 0 ? kNsPerMs : 20 * kNsPerMs;
  world_->after(world_->random().below(most_ns), [this] { chaos(); });
}

void Schedule::chaos() {
  if (calm_ || failed()) return;
  Random& random = world_->random();
  if (plan_.published() && random.below(plan_.moves ? 2 : 6) == 0) return new_map();
  if (plan_.copies && random.below(plan_.moves ? 6 : 3) == 0) {
    return crash_mover(static_cast<unsigned>(random.below(movers_.size())));
  }
  const auto node = static_cast<unsigned>(random.below(kNodes));
  const auto client = static_cast<unsigned>(random.below(plan_.clients));
  const std::uint64_t kind = random.below(9);
  if (kind < 2) {
    crash_at_work(node, 400);
  } else if (kind == 2) {
    crash_after_drop_ = true;
  } else if (kind == 3) {
    crash_node(node);
  } else if (kind == 4) {
    crash_client(client);
  } else if (kind < 7) {
    part(clients_[client]->name(), nodes_[node]->name());
  } else if (kind == 7 && plan_.bad_disk) {
    disk_outage();
  } else {
    stop_node(node);
  }
}

// For a while nearly every operation of every disk fails.
void Schedule::disk_outage() {
  Random& random = world_->random();
  Faults faults = plan_.faults;
  journal_.add("the disks fail");
  (random.below(3) == 0 ? faults.fail_read : faults.fail_write) = 800'000;
  world_->set_faults(faults);
  world_->after(random.below(40 * kNsPerMs), [this] {
    if (calm_) return;
    journal_.add("the disks work again");
    world_->set_faults(plan_.faults);
  });
}

// Waits a little for the disk to be busy: a crash then tears something.
void Schedule::crash_at_work(unsigned number, unsigned looks) {
  if (calm_ || !nodes_[number]->running()) return;
  if (looks == 0 || nodes_[number]->disk_at_work()) return crash_node(number);
  world_->after(50'000, [this, number, looks] { crash_at_work(number, looks - 1); });
}

void Schedule::after_drop(const Identity& id) {
  if (!calm_ && std::exchange(crash_after_drop_, false)) crash_node(oracle_.node_of(id));
}

bool Schedule::all_running() const {
  return std::ranges::all_of(nodes_, [](const auto& node) { return node->running(); }) &&
         std::ranges::none_of(clients_, [](const auto& client) { return client->down(); });
}

bool Schedule::all_connected() const {
  return std::ranges::all_of(clients_, [](const auto& client) {
    return std::ranges::all_of(client->client().health(), &NodeHealth::connected);
  });
}

std::uint64_t Schedule::evicted_blocks() const {
  std::uint64_t sum = 0;
  for (const auto& node : nodes_) {
    if (node->store() != nullptr) sum += node->store()->stats().evicted_blocks;
  }
  return sum;
}

// ---- the phases

void Schedule::live() {
  make_hosts();
  traffic_.observe([this] { chaos_sometimes(); }, [this](const Identity& id) { after_drop(id); },
                   [this](std::uint32_t epoch) { return !plan_.moves || maps_.knows_all(epoch); });
  need([this] { return traffic_.done(); }, 3'600'000, "the requests do not come to an end");
}

// Asks until an answer is one of `final`, for as long as healing may take.
Code Schedule::insist(const std::function<std::shared_ptr<Operation>()>& ask,
                      std::initializer_list<Code> final) {
  const std::uint64_t end = world_->clock().now_ns() + kHealMs * kNsPerMs;
  Code code = Code::busy;
  while (!failed() && world_->clock().now_ns() < end) {
    const auto operation = ask();
    need([&] { return operation->settled; }, 10'000, "a request is not over");
    code = operation->items[0].code;
    if (std::ranges::find(final, code) != final.end()) break;
    world_->run_until([] { return false; }, 200);
  }
  return code;
}

Code Schedule::get_last(ClientHost& client, const Identity& id) {
  return insist([&] { return traffic_.get_one(client, id); },
                {Code::ok, Code::not_found, Code::corrupt});
}

// A new block can be put, and what was put can be got. A node that just failed to write may lose
// what comes until it tries again, so a miss is put once more.
void Schedule::heal_block(unsigned client, const Identity& id) {
  const std::uint32_t length = draw_length(world_->random(), plan_.block_bytes_max);
  const std::uint64_t end = world_->clock().now_ns() + kHealMs * kNsPerMs;
  Code put = Code::busy, got = Code::busy;
  do {
    put = insist([&] { return traffic_.put_one(*clients_[client], id, length); },
                 {Code::ok, Code::exists, Code::no_space, Code::conflict});
    if (put == Code::no_space) return;  // too large for a segment
    if (put == Code::conflict && plan_.collides()) return;
    if (put != Code::ok && put != Code::exists) break;
    got = get_last(*clients_[client], id);
    if (got == Code::ok) {
      served_.emplace_back(client, id);
      return;
    }
    if (plan_.collides()) return;
    world_->run_until([] { return false; }, 200);
  } while (!failed() && world_->clock().now_ns() < end);
  traffic_.found("after the faults " + to_string(id) + " is not served: its put says " +
                 std::string(code_name(put)) + ", its get " + std::string(code_name(got)));
}

void Schedule::heal() {
  if (failed()) return;
  calm_ = true;
  journal_.add("the faults are over");
  world_->set_faults({.short_steps = plan_.faults.short_steps});
  for (const auto& [a, b] : apart_) world_->partition(a, b, false);
  apart_.clear();
  crash_movers();
  if (plan_.published()) hand_maps(maps_.last(), 0);
  need([this] { return all_running(); }, kStopMs, "a node does not come back");
  for (unsigned i = 0; i < plan_.clients && !failed(); ++i) {
    for (unsigned k = 0; k < kLastKeys && !failed(); ++k) {
      const Identity id{clients_[i]->tenant(), 2, kKeys + i * kLastKeys + k};
      heal_block(i, id);
    }
  }
  if (plan_.copies && !failed()) settle_copies();
}

void Schedule::crash_movers() {
  for (const auto& mover : movers_) mover->crash();
}

// What a rule wants on two nodes comes to lie there. Where a node may take one block for another,
// or cannot keep what it took, that may go on and on.
void Schedule::settle_copies() {
  for (const auto& mover : movers_) mover->boot(true);
  const bool certain = !plan_.collides() && !disk_lied_ && plan_.bad_pages.empty();
  if (certain) {
    need(
        [this] {
          return std::ranges::all_of(movers_, [](const auto& one) { return one->done(); });
        },
        kCopiesMs, "blocks wait for their second copy");
  }
  crash_movers();
  for (const auto& mover : movers_) {
    totals_.copied += mover->copied();
    totals_.settled += mover->settled();
    totals_.drained += mover->drained();
  }
}

void Schedule::rest() {
  if (failed()) return;
  world_->run_until([] { return false; }, 3000);
  for (const auto& node : nodes_) {
    bool clean = false;
    node->store()->when_clean([&clean] { clean = true; });
    need([&clean] { return clean; }, 10'000, node->name() + " does not become clean");
    if (failed()) return;
    const StoreStats stats = node->store()->stats();
    const std::array<std::pair<const char*, std::uint64_t>, 7> zeros = {{
        {"puts_waiting", stats.puts_waiting},
        {"gets_waiting", stats.gets_waiting},
        {"dirty_bytes", stats.dirty_bytes},
        {"records_waiting", stats.records_waiting},
        {"requests_open", node->stat("requests_open")},
        {"put_bytes_granted", node->stat("put_bytes_granted")},
        {"get_bytes_pinned", node->stat("get_bytes_pinned")},
    }};
    for (const auto& [name, number] : zeros) {
      if (number == 0) continue;
      traffic_.found(node->name() + " is at rest with " + std::to_string(number) + " " + name);
    }
  }
  for (unsigned i = 0; plan_.published() && i < kNodes * kTenants; ++i) {
    look_at_quotas(i % kNodes, i / kNodes);
  }
}

// All blocks of a tenant on a node, by what LIST says. Whoever lists beyond the cursor's end is
// done; nothing comes or goes meanwhile.
void Schedule::look_at_quotas(unsigned number, unsigned tenant) {
  std::array<std::uint64_t, 2> bytes{};  // of all, and in namespace 8
  Wish wish{.tenant = tenant_of(tenant), .cursor = 0, .count = 1000};
  do {
    bool listed = false;
    nodes_[number]->store()->list(wish, [&](const Result<Listing>& listing) {
      listed = true;
      wish.cursor = 0;
      if (!listing) return;
      wish.cursor = listing->next;
      add_up(*listing, bytes);
    });
    need([&listed] { return listed; }, 10'000, nodes_[number]->name() + " does not list");
  } while (wish.cursor != 0 && !failed());
  const std::array shares = {maps_.tenant_share(tenant, number), maps_.space_share(tenant, number)};
  for (std::size_t i = 0; i < shares.size(); ++i) {
    if (!shares.at(i)) continue;
    ++totals_.quotas_held;
    if (bytes.at(i) <= *shares.at(i)) continue;
    traffic_.found(nodes_[number]->name() + " is at rest with " + std::to_string(bytes.at(i)) +
                   " bytes of tenant " + std::to_string(tenant) +
                   (i == 0 ? "" : " in namespace 8") + ", whose quota there is " +
                   std::to_string(*shares.at(i)));
  }
}

void Schedule::stop_and_start() {
  // A get wakes a node that still has a segment to reclaim: what it evicts then, no stop lost. Nor
  // what a client found by a map so old that the newest names its places no more.
  const auto follows = [this](const auto& one) {
    return !plan_.published() || clients_[one.first]->client().stats().epoch == maps_.epoch();
  };
  std::uint64_t evicted = 0;
  do {
    evicted = evicted_blocks();
    std::erase_if(served_, [this](const auto& one) {
      return failed() || get_last(*clients_[one.first], one.second) != Code::ok;
    });
  } while ((evicted_blocks() != evicted || !std::ranges::all_of(served_, follows)) && !failed());
  for (unsigned i = 0; i < kNodes && !failed(); ++i) {
    stop_node(i);
    need([this, i] { return nodes_[i]->running(); }, kStopMs,
         nodes_[i]->name() + " does not stop and start again");
  }
  // A block may lie where a former map had it; a miss at its place by the newest is a miss while
  // that node is not found again.
  need([this] { return all_connected(); }, kHealMs, "a client does not find a node again");
  if (failed()) return;
  for (const auto& [client, id] : served_) {
    const Code got = get_last(*clients_[client], id);
    if (got == Code::ok) ++totals_.kept_over_stop;
    // A segment whose index pages cannot be written is served until the restart only.
    const bool may_be_lost = disk_lied_ || plan_.collides() || !plan_.bad_pages.empty();
    if (got == Code::ok || may_be_lost || failed()) continue;
    traffic_.found("a clean stop lost " + to_string(id) + ": " + std::string(code_name(got)));
    return;
  }
}

void Schedule::end() {
  if (failed()) return;
  for (const auto& client : clients_) {
    bool closed = false;
    client->client().close([&closed] { closed = true; });
    need([&closed] { return closed; }, 5000, client->name() + " does not close");
  }
  world_->run_until([] { return false; }, 2000);
}

Outcome Schedule::run() {
  live();
  heal();
  rest();
  stop_and_start();
  end();
  for (unsigned i = 0; i < kNodes; ++i) count_node(i);
  Outcome outcome;
  outcome.finding = traffic_.finding();
  outcome.events = world_->events();
  outcome.trace = world_->trace();
  outcome.last.assign(journal_.lines().begin(), journal_.lines().end());
  ++totals_.schedules;
  totals_.events += outcome.events;
  for (const auto& [name, count] : world_->fired()) totals_.fired[name] += count;
  for (const auto& client : clients_) {
    count_client(*client);
    client->kill();
    traffic_.forget(*client);
    client->crash();
  }
  return outcome;
}

}  // namespace

Outcome run_schedule(std::uint64_t seed, std::uint64_t number, bool verbose, Totals& totals) {
  return Schedule(draw_plan(seed, number), verbose, totals).run();
}

}  // namespace memkv::sim
