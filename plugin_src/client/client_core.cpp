#include "client/client_core.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "client/places.h"

namespace memkv {
namespace {

// Two ranges of one key agree when they saw the same value: incarnations are told apart per
// connection.
bool agree(const Operation::Item& a, const Operation::Item& b) {
  return a.node == b.node && a.connection == b.connection && a.incarnation == b.incarnation;
}

bool names_its_node(const Operation& operation) {
  return operation.kind == Operation::Kind::stat || operation.kind == Operation::Kind::map ||
         operation.kind == Operation::Kind::question;
}

// Ranges of one key that saw different values are no part of one block: all of them are misses.
void refuse_mixed_ranges(Operation& operation) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < operation.items.size(); ++i) {
    if (operation.codes[i] == Code::ok) order.push_back(i);
  }
  const auto key_of = [&](std::size_t i) { return as_text_of(operation.items[i].key); };
  std::ranges::sort(order, {}, [&](std::size_t i) { return std::pair(key_of(i), i); });
  for (std::size_t begin = 0, end = 0; begin < order.size(); begin = end) {
    bool mixed = false;
    for (end = begin + 1; end < order.size() && key_of(order[end]) == key_of(order[begin]); ++end) {
      mixed = mixed || !agree(operation.items[order[begin]], operation.items[order[end]]);
    }
    for (std::size_t i = begin; mixed && i < end; ++i) operation.codes[order[i]] = Code::not_found;
  }
}

}  // namespace

ClientCore::ClientCore(const ClientOptions& options, const ClientWorld& world)
    : options_(options), world_(world), credentials_(options), map_(options.nodes) {
  for (const std::string& address : options_.nodes) health_.push_back(unknown_health(address));
}

void ClientCore::start() {
  if (closing_) return;
  adopt();
  if (!options_.token_file.empty()) look_at_token();
}

void ClientCore::look_at_token() {
  credentials_.look();
  for (const auto& session : sessions_) {
    if (session) session->show_token();
  }
  looking_at_token_ = world_.executor.after(kTokenLookMs * kNsPerMs, [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->look_at_token();
  });
}

void ClientCore::begin(const std::shared_ptr<Operation>& operation) {
  count_begin(*operation);
  operation->number = ++last_operation_;
  operations_.emplace(operation->number, operation);
  blocks_under_way_ += operation->items.size();
  if (closing_ || blocks_under_way_ > kClientBlocksMax) {
    operation->settle_all(closing_ ? Code::shutdown : Code::busy);
  }
  if (operation->open == 0) {
    finish(operation);
    return;
  }
  set_deadline(*operation);
  if (oriented_ || names_its_node(*operation)) {
    place_and_submit(operation);
  } else {
    unplaced_.push_back(operation);
  }
}

void ClientCore::place_and_submit(const std::shared_ptr<Operation>& operation) {
  place_items(*operation);
  if (operation->open == 0) {
    finish(operation);
  } else {
    submit(operation);
  }
}

void ClientCore::place_items(Operation& operation) {
  if (names_its_node(operation)) return;
  struct Placed {
    Fingerprint group;
    std::optional<ClientMap::Place> place;
  };
  // Blocks of a prefix name one group again and again; a key that is its own group hardly does.
  std::map<std::string_view, Placed> groups;
  const auto place_print = [&](const Fingerprint& fingerprint) {
    return Placed{.group = fingerprint, .place = map_.place(fingerprint)};
  };
  const auto place_group = [&](std::span<const std::byte> group) {
    return place_print(group_fingerprint(operation.space.id, group));
  };
  operation.epoch = map_.epoch();
  for (std::size_t i = 0; i < operation.items.size(); ++i) {
    Operation::Item& item = operation.items[i];
    if (item.over) continue;
    Placed placed;
    if (item.group_given) {
      placed = place_print(item.traits.group);
    } else if (item.group.empty()) {
      placed = place_group(item.key);
    } else {
      const auto [known, is_new] = groups.try_emplace(as_text_of(item.group));
      if (is_new) known->second = place_group(item.group);
      placed = known->second;
    }
    item.traits.group = placed.group;
    if (placed.place) {
      item.map = placed.place->map;
      item.node = placed.place->node;
      if (operation.kind == Operation::Kind::drop) plan_drop(item, placed.group);
    } else {
      operation.settle(i, Code::unreachable);  // a map without a node that takes blocks
    }
  }
  if (operation.reads()) plan_reads(operation);
  for (Operation::Item& item : operation.items) {
    if (item.over) continue;
    send_to(item, {.node = item.plan.empty() ? item.node : item.plan[0], .map = item.map});
  }
}

void ClientCore::set_deadline(Operation& operation) {
  const std::uint64_t now = world_.executor.clock().now_ns();
  const std::uint64_t left = operation.deadline_ns > now ? operation.deadline_ns - now : 0;
  operation.timer =
      world_.executor.after(left, [weak = weak_from_this(), number = operation.number] {
        const auto self = weak.lock();
        if (!self) return;
        const auto late = self->operations_.find(number);
        if (late == self->operations_.end()) return;
        const std::shared_ptr<Operation> ended = late->second;
        ended->timer = 0;
        self->end_early(ended, Code::timeout);
      });
}

void ClientCore::submit(const std::shared_ptr<Operation>& operation) {
  std::map<std::uint32_t, std::vector<std::uint32_t>> parts;  // by node
  for (std::size_t i = 0; i < operation->items.size(); ++i) {
    const Operation::Item& item = operation->items[i];
    if (!item.over) parts[item.node].push_back(static_cast<std::uint32_t>(i));
  }
  for (const auto& [node, items] : parts) operation->nodes.push_back(node);
  for (auto& [node, items] : parts) submit_to(node, operation, std::move(items));
}

void ClientCore::submit_to(std::uint32_t node, const std::shared_ptr<Operation>& operation,
                           std::vector<std::uint32_t> items) {
  const std::uint64_t now = world_.executor.clock().now_ns();
  for (const std::uint32_t index : items) {
    Operation::Item& item = operation->items[index];
    item.sent_ns = now;
    if (!item.target.empty()) item.queued = copies_.wanted(node, item.target.size());
  }
  const std::shared_ptr<NodeSession> session = sessions_[node];
  if (session != nullptr) return session->submit(operation, std::move(items));
  for (const std::uint32_t item : items) item_over(operation, item, Code::unreachable);
}

void ClientCore::end_early(const std::shared_ptr<Operation>& operation, Code code) {
  const bool waits = std::erase(waiting_drops_, operation) > 0;
  if (operation->ending || (operation->open == 0 && !waits)) return;
  operation->ending = true;
  operation->ending_code = code;
  if (waits) {
    doubt(*operation, code);
    return finish(operation);
  }
  if (std::erase(unplaced_, operation) > 0) {
    operation->settle_all(code);
    finish(operation);
    return;
  }
  for (const std::uint32_t node : operation->nodes) {
    if (sessions_[node] != nullptr) sessions_[node]->abandon(operation, code);
  }
}

void ClientCore::release(const std::shared_ptr<Operation>& operation) {
  operation->hold = false;
  for (const std::uint32_t node : operation->nodes) {
    if (sessions_[node] != nullptr) sessions_[node]->release(operation);
  }
}

void ClientCore::cancel(const std::shared_ptr<Operation>& operation) {
  end_early(operation, Code::cancelled);
}

void ClientCore::item_over(const std::shared_ptr<Operation>& operation, std::size_t item,
                           Code code) {
  MEMKV_CHECK(!operation->items[item].over, "a block is over once");
  if (operation->items[item].over) return;
  count_answer(*operation, item, code);
  if (ask_older(operation, item, code)) return;
  const Code known = told(*operation, item, code);
  if (known == Code::ok && operation->reads() && operation->items[item].times_asked > 1) {
    const std::lock_guard lock(published_mutex_);
    stats_.found_older += 1;
  }
  operation->settle(item, known);
  operation->look_at_gate();
  if (operation->open == 0) finish(operation);
}

void ClientCore::finish(const std::shared_ptr<Operation>& operation) {
  const std::shared_ptr<Operation> kept = operation;  // whoever called may hold the map's reference
  if (drop_again(kept)) return;
  if (kept->kind == Operation::Kind::get) refuse_mixed_ranges(*kept);
  for (std::size_t i = 0; i < kept->matches.size(); ++i) {
    kept->matches[i].code = kept->codes[i];
  }
  count_end(*kept);
  note_latency(*kept);
  world_.executor.cancel(kept->timer);
  blocks_under_way_ -= kept->items.size();
  operations_.erase(kept->number);
  kept->completion.complete(std::move(kept->finished));
  tell_closed_when_over();
}

void ClientCore::close(Task closed) {
  when_closed_.push_back(std::move(closed));
  if (!closing_) {
    closing_ = true;
    const auto all = operations_;  // ending one takes it out
    for (const auto& [number, operation] : all) end_early(operation, Code::cancelled);
    world_.executor.cancel(std::exchange(looking_, 0));
    world_.executor.cancel(std::exchange(looking_at_token_, 0));
    world_.executor.cancel(std::exchange(outliving_, 0));
    for (const auto& session : sessions_) {
      if (session != nullptr) session->close(Code::cancelled);
    }
  }
  tell_closed_when_over();
}

void ClientCore::node_closed(std::size_t node) {
  sessions_open_ -= 1;
  tell_closed_when_over();
  if (closing_) return;
  // It calls from inside of itself.
  world_.executor.post([weak = weak_from_this(), node] {
    const auto self = weak.lock();
    if (!self || self->closing_) return;
    self->sessions_[node].reset();
    if (self->map_.named(node)) return self->adopt();  // it came back in the meantime
    self->map_.forget(node);
    self->copies_.forget(node);
    const std::lock_guard lock(self->published_mutex_);
    self->health_[node] = {};
  });
}

void ClientCore::tell_closed_when_over() {
  if (!closing_ || sessions_open_ > 0 || !operations_.empty()) return;
  for (Task& closed : std::exchange(when_closed_, {})) {
    // The client may be destroyed by it: not under the feet of whoever called this.
    world_.executor.post(
        [self = shared_from_this(), told = std::move(closed)]() mutable { told(); });
  }
}

std::span<std::byte> ClientCore::frame_memory() {
  frame_memory_.resize(kBodyBytesMax);
  return frame_memory_;
}

void ClientCore::node_changed(std::size_t node, const NodeHealth& health) {
  {
    const std::lock_guard lock(published_mutex_);
    const std::uint64_t id = health_[node].node;
    health_[node] = health;
    health_[node].node = id;
  }
  if (!health.breaker_open || closing_) return;
  look_for_map();
  if (oriented_) return;
  const bool all = std::ranges::all_of(health_, &NodeHealth::breaker_open);
  if (all) orient();
}

void ClientCore::node_reconnected() {
  const std::lock_guard lock(published_mutex_);
  stats_.reconnects += 1;
}

void ClientCore::count_begin(const Operation& operation) {
  const std::lock_guard lock(published_mutex_);
  const std::size_t blocks = operation.items.size();
  switch (operation.kind) {
    case Operation::Kind::put:
      stats_.puts += blocks;
      break;
    case Operation::Kind::get:
      stats_.gets += blocks;
      break;
    case Operation::Kind::match:
      stats_.matches += blocks;
      break;
    case Operation::Kind::drop:
      stats_.drops += blocks;
      break;
    case Operation::Kind::stat:
    case Operation::Kind::map:
    case Operation::Kind::question:
      break;
  }
}

void ClientCore::count_end(const Operation& operation) {
  if (operation.kind == Operation::Kind::map) return;  // nobody's request
  const std::lock_guard lock(published_mutex_);
  const bool put = operation.kind == Operation::Kind::put;
  const bool get = operation.kind == Operation::Kind::get;
  for (std::size_t i = 0; i < operation.items.size(); ++i) {
    const Operation::Item& item = operation.items[i];
    switch (operation.codes[i]) {
      case Code::ok:
        stats_.put_ok += put ? 1 : 0;
        stats_.get_ok += get ? 1 : 0;
        stats_.bytes_put += item.bytes.size();
        stats_.bytes_got += item.target.size();
        break;
      case Code::exists:
        stats_.put_exists += put ? 1 : 0;
        break;
      case Code::not_found:
        stats_.get_misses += get ? 1 : 0;
        break;
      case Code::corrupt:
        stats_.corrupt += 1;
        break;
      case Code::timeout:
        stats_.timeouts += 1;
        break;
      case Code::unreachable:
        stats_.unreachable += 1;
        break;
      default:
        break;
    }
  }
}

void ClientCore::note_latency(const Operation& operation) {
  const auto ending = ending_of(operation);
  if (!ending) return;
  latencies_.note(*ending, world_.executor.clock().now_ns() - operation.asked_ns);
}

ClientStats ClientCore::stats() const {
  ClientStats stats;
  {
    const std::lock_guard lock(published_mutex_);
    stats = stats_;
  }
  stats.requests = latencies_.read();
  return stats;
}

std::vector<NodeHealth> ClientCore::health() const {
  const std::lock_guard lock(published_mutex_);
  std::vector<NodeHealth> known = health_;
  std::erase_if(known, [](const NodeHealth& health) { return health.address.empty(); });
  return known;
}

}  // namespace memkv
