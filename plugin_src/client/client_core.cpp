#include "client/client_core.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace memkv {
namespace {

constexpr std::uint32_t kWeightOfAll = 100;  // until there is a map that says otherwise

// Two ranges of one key agree when they saw the same value: incarnations are told apart per
// connection.
bool agree(const Operation::Item& a, const Operation::Item& b) {
  return a.node == b.node && a.connection == b.connection && a.incarnation == b.incarnation;
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
    : options_(options), world_(world) {
  for (const std::string& address : options_.nodes) {
    map_.push_back({.id = node_id_of(address), .weight = kWeightOfAll});
    NodeHealth health;
    health.address = address;
    health.node = map_.back().id;
    health_.push_back(std::move(health));
  }
}

void ClientCore::start() {
  if (closing_) return;
  for (std::size_t i = 0; i < options_.nodes.size(); ++i) {
    sessions_.push_back(std::make_shared<NodeSession>(*this, i, options_.nodes[i]));
  }
  sessions_open_ = sessions_.size();
  for (const auto& session : sessions_) session->start();
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
  place_items(*operation);
  set_deadline(*operation);
  submit(operation);
}

void ClientCore::place_items(Operation& operation) {
  if (operation.kind == Operation::Kind::stat) return;  // it names its node
  struct Placed {
    Fingerprint group;
    std::uint32_t node = 0;
  };
  // Blocks of a prefix name one group again and again; a key that is its own group hardly does.
  std::map<std::string_view, Placed> groups;
  const auto place_group = [&](std::span<const std::byte> group) {
    const Fingerprint fingerprint = group_fingerprint(operation.space.id, group);
    const std::size_t node = place(fingerprint, map_).value_or(0);
    return Placed{.group = fingerprint, .node = static_cast<std::uint32_t>(node)};
  };
  for (Operation::Item& item : operation.items) {
    if (item.over) continue;
    Placed placed;
    if (item.group.empty()) {
      placed = place_group(item.key);
    } else {
      const auto [known, is_new] = groups.try_emplace(as_text_of(item.group));
      if (is_new) known->second = place_group(item.group);
      placed = known->second;
    }
    item.traits.group = placed.group;
    item.node = placed.node;
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
  for (auto& [node, items] : parts) sessions_[node]->submit(operation, std::move(items));
}

void ClientCore::end_early(const std::shared_ptr<Operation>& operation, Code code) {
  if (operation->ending || operation->open == 0) return;
  operation->ending = true;
  for (const std::uint32_t node : operation->nodes) sessions_[node]->abandon(operation, code);
}

void ClientCore::cancel(const std::shared_ptr<Operation>& operation) {
  end_early(operation, Code::cancelled);
}

void ClientCore::item_over(const std::shared_ptr<Operation>& operation, std::size_t item,
                           Code code) {
  MEMKV_CHECK(!operation->items[item].over, "a block is over once");
  if (operation->items[item].over) return;
  operation->settle(item, code);
  if (operation->open == 0) finish(operation);
}

void ClientCore::finish(const std::shared_ptr<Operation>& operation) {
  const std::shared_ptr<Operation> kept = operation;  // whoever called may hold the map's reference
  if (kept->kind == Operation::Kind::get) refuse_mixed_ranges(*kept);
  for (std::size_t i = 0; i < kept->matches.size(); ++i) {
    kept->matches[i].code = kept->codes[i];
  }
  count_end(*kept);
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
    for (const auto& session : sessions_) session->close();
  }
  tell_closed_when_over();
}

void ClientCore::node_closed() {
  sessions_open_ -= 1;
  tell_closed_when_over();
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
  const std::lock_guard lock(published_mutex_);
  const std::uint64_t id = health_[node].node;
  health_[node] = health;
  health_[node].node = id;
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
      break;
  }
}

void ClientCore::count_end(const Operation& operation) {
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

ClientStats ClientCore::stats() const {
  const std::lock_guard lock(published_mutex_);
  return stats_;
}

std::vector<NodeHealth> ClientCore::health() const {
  const std::lock_guard lock(published_mutex_);
  return health_;
}

}  // namespace memkv
