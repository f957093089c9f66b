// The core's second half: the map, and blocks that lie where a former map had them.
#include <algorithm>
#include <span>
#include <utility>

#include "base/bytes.h"
#include "base/log.h"
#include "client/client_core.h"
#include "client/places.h"

namespace memkv {

// ---- the map

// Lets those go that waited for a map.
void ClientCore::orient() {
  if (oriented_) return;
  oriented_ = true;
  for (const auto& operation : std::exchange(unplaced_, {})) place_and_submit(operation);
}

void ClientCore::epoch_seen(std::size_t node, std::uint32_t epoch) {
  // A map further ahead is none that anybody would follow.
  if (epoch <= std::uint64_t{map_.epoch()} + kEpochLeapMax) {
    newest_epoch_ = std::max(newest_epoch_, epoch);
  }
  if (options_.follow && epoch > std::max(map_.epoch(), kStaticEpoch)) {
    ask_map(node);
  } else {
    orient();  // there is no map to wait for, or it is known
  }
}

void ClientCore::ask_map(std::size_t node) {
  const std::uint64_t now = world_.executor.clock().now_ns();
  if (asking_map_ || closing_ || now < next_ask_ns_) return;
  asking_map_ = true;
  const auto operation = std::make_shared<Operation>();
  operation->kind = Operation::Kind::map;
  operation->deadline_ns = now + kConnectTimeoutMs * kNsPerMs;
  operation->resize(1);
  operation->items[0].node = static_cast<std::uint32_t>(node);
  operation->finished = [weak = weak_from_this(), asked = operation.get()] {
    if (const auto self = weak.lock()) self->map_came(*asked);
  };
  // Whoever saw the epoch is in the middle of a frame.
  world_.executor.post([weak = weak_from_this(), operation] {
    if (const auto self = weak.lock()) self->begin(operation);
  });
}

void ClientCore::map_came(const Operation& asked) {
  asking_map_ = false;
  if (closing_) return;
  const std::uint64_t now = world_.executor.clock().now_ns();
  Result<bool> taken = false;
  if (asked.codes[0] == Code::ok) taken = map_.take(as_bytes_of(asked.text), now);
  if (!taken) log(LogLevel::error, "client: keeps its map: " + taken.error().message());
  if (taken && *taken) {
    adopt();
    log(LogLevel::info,
        "client: places blocks by the map of epoch " + std::to_string(map_.epoch()));
  } else {
    next_ask_ns_ = now + kMapAskMs / 2 * kNsPerMs;  // the look for one comes later
  }
  orient();
  end_waiting_drops();
}

// Begins to connect to the nodes that it did not know.
void ClientCore::adopt() {
  const std::vector<ClientMap::Node>& nodes = map_.nodes();
  sessions_.resize(std::max(sessions_.size(), nodes.size()));
  {
    const std::lock_guard lock(published_mutex_);
    stats_.epoch = map_.epoch();
    health_.resize(sessions_.size());
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      if (sessions_[i] == nullptr) health_[i] = unknown_health(nodes[i].address);
    }
  }
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (sessions_[i] != nullptr || nodes[i].address.empty()) continue;
    sessions_[i] = std::make_shared<NodeSession>(*this, i, nodes[i].address);
    sessions_open_ += 1;
    sessions_[i]->start();
  }
  forget_outlived();
}

void ClientCore::forget_outlived() {
  for (const std::size_t node : map_.outlived(world_.executor.clock().now_ns())) {
    if (sessions_[node] != nullptr) sessions_[node]->close(Code::unreachable);
  }
  if (map_.epoch() <= kStaticEpoch) return;
  world_.executor.cancel(outliving_);
  outliving_ = world_.executor.after(kOldMapMs * kNsPerMs, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->outliving_ = 0;
    self->forget_outlived();
  });
}

// A node that is gone is seldom named in the newest map, and its blocks go to others by it; but
// whoever asks that node only would not hear of it.
void ClientCore::look_for_map() {
  if (looking_ != 0 || closing_ || map_.epoch() <= kStaticEpoch || !any_unreachable()) return;
  looking_ = world_.executor.after(kMapAskMs * kNsPerMs, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->looking_ = 0;
    if (const auto node = self->next_connected()) self->ask_map(*node);
    self->look_for_map();
  });
}

bool ClientCore::any_unreachable() const {
  const std::lock_guard lock(published_mutex_);
  return std::ranges::any_of(health_, &NodeHealth::breaker_open);
}

std::optional<std::size_t> ClientCore::next_connected() {
  const std::lock_guard lock(published_mutex_);
  for (std::size_t i = 1; i <= health_.size(); ++i) {
    const std::size_t node = (last_asked_ + i) % health_.size();
    if (health_[node].connected) return last_asked_ = node;
  }
  return std::nullopt;
}

// ---- one block, at several places

// Whether the block may still be where a former map had it: that node is asked next.
bool ClientCore::ask_older(const std::shared_ptr<Operation>& operation, std::size_t index,
                           Code code) {
  Operation::Item& item = operation->items[index];
  if (closing_ || operation->ending || !worth_asking_on(*operation, index, code)) return false;
  if (item.times_asked == 0) return false;
  go_round(item, code);
  const auto place = next_place(*operation, index, code);
  if (!place) return false;
  item.first = told(*operation, index, code);
  send_to(item, *place);
  // By a task: the caller is in the middle of a frame, whose other items may want the same.
  older_.push_back({.operation = operation, .index = index});
  if (older_.size() > 1) return true;
  world_.executor.post([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->submit_older();
  });
  return true;
}

// What a drop finds after its first round came while it went on, and may have been copied from
// there to a place that it had just left: so one more round follows, until one finds nothing.
void ClientCore::go_round(Operation::Item& item, Code code) {
  if (item.round == 0) return;
  item.found = item.found || (item.times_asked > item.round && code == Code::ok);
  if (item.times_asked < item.plan.size() || !std::exchange(item.found, false)) return;
  if (item.plan.size() == kDropRoundsMax * item.round) {
    item.first = Code::busy;
    return;
  }
  for (std::size_t i = 0; i < item.round; ++i) item.plan.push_back(item.plan[i]);
}

// The planned places first, then those of former maps. What lay on a node that cannot be reached
// may have a second copy, where the map says by which it was looked for there.
std::optional<ClientMap::Place> ClientCore::next_place(const Operation& operation,
                                                       std::size_t index, Code code) {
  const Operation::Item& item = operation.items[index];
  if (item.times_asked < item.plan.size()) {
    return ClientMap::Place{.node = item.plan[item.times_asked], .map = item.map};
  }
  if (operation.kind == Operation::Kind::drop || item.times_asked >= kPlacesMax) {
    return std::nullopt;
  }
  const auto asked = std::span(item.asked).first(item.times_asked);
  if (code == Code::unreachable) {
    const auto copy = map_.copy_place(item.traits.group, item.map);
    if (copy && std::ranges::find(asked, copy->node) == asked.end()) return copy;
  }
  if (code != Code::not_found && code != Code::unreachable && code != Code::ok) return std::nullopt;
  return map_.older_place(item.traits.group, item.map, asked, world_.executor.clock().now_ns());
}

// Of groups that are known to lie on two nodes: the one that answers sooner, then the other. All of
// one group go the same way, for ranges of one block must come from one node.
void ClientCore::plan_reads(Operation& operation) {
  const std::uint64_t now = world_.executor.clock().now_ns();
  struct Group {
    std::uint64_t bytes = 0;
    std::vector<std::uint32_t> plan;
  };
  std::map<Fingerprint, Group> groups;
  for (const Operation::Item& item : operation.items) {
    if (item.over || !copies_.known(item.traits.group, now)) continue;
    groups[item.traits.group].bytes += item.target.size();
  }
  if (groups.empty()) return;
  std::map<std::uint32_t, std::uint64_t> more;  // bytes that go to a node with this request
  std::uint64_t asked_copy = 0;
  for (auto& [print, group] : groups) {
    const auto first = map_.place(print);
    const auto copy = map_.copy_place(print);
    if (!first || !copy) continue;
    const bool swap = copies_.sooner(first->node, more[first->node] + group.bytes, copy->node,
                                     more[copy->node] + group.bytes, now) == copy->node;
    group.plan = swap ? std::vector{copy->node, first->node} : std::vector{first->node, copy->node};
    more[group.plan[0]] += group.bytes;
    asked_copy += swap ? 1 : 0;
  }
  for (Operation::Item& item : operation.items) {
    if (item.over) continue;
    const auto found = groups.find(item.traits.group);
    if (found != groups.end()) item.plan = found->second.plan;
  }
  const std::lock_guard lock(published_mutex_);
  stats_.asked_copy += asked_copy;
}

void ClientCore::plan_drop(Operation::Item& item, const Fingerprint& group) const {
  item.plan = map_.every_place(group, world_.executor.clock().now_ns());
  if (item.plan.size() < 2) return;
  item.round = item.plan.size();
  for (std::size_t i = 0; i < item.round; ++i) item.plan.push_back(item.plan[i]);
}

// What an answer tells of the group's copies and of its node.
void ClientCore::count_answer(const Operation& operation, std::size_t index, Code code) {
  const Operation::Item& item = operation.items[index];
  if (item.queued > 0) copies_.over(item.node, item.target.size());
  if (!operation.reads()) return;
  const std::uint64_t now = world_.executor.clock().now_ns();
  const bool found = code == Code::ok && !absent(operation, index);
  const bool failed = code == Code::timeout || code == Code::unreachable;
  const std::uint64_t took = now - item.sent_ns;
  if (found && item.queued > 0) copies_.came(item.node, item.queued, took, now);
  if (failed && item.queued > 0) copies_.failed(item.node, item.queued, took, now);
  if (!item.copied && item.plan.empty()) return;
  const auto first = map_.place(item.traits.group);
  if (first && first->node == item.node) {
    if (found) copies_.heard(item.traits.group, item.copied, now);
  } else if (!found && !item.plan.empty()) {
    copies_.heard(item.traits.group, false, now);
  }
}

// A drop that was answered by a node which holds a newer map may have missed where that has the
// blocks: it begins again when the map is here, and is in doubt when it does not come. False: it is
// over.
bool ClientCore::drop_again(const std::shared_ptr<Operation>& operation) {
  if (operation->kind != Operation::Kind::drop || operation->ending) return false;
  const std::uint32_t newest = options_.follow ? newest_epoch_ : 0;
  if (newest <= std::max(operation->epoch, kStaticEpoch)) return false;
  const bool here = map_.epoch() > operation->epoch;
  if (closing_ || operation->times_begun == kDropsMax || (!here && !asking_map_)) {
    doubt(*operation, closing_ ? Code::cancelled : Code::unreachable);
    return false;
  }
  if (!here) {
    waiting_drops_.push_back(operation);
    return true;
  }
  operation->times_begun += 1;
  for (std::size_t i = 0; i < operation->items.size(); ++i) {
    Operation::Item& item = operation->items[i];
    if (item.times_asked == 0) continue;
    const Code before = operation->codes[i];
    item = {.key = item.key,
            .group = item.group,
            .traits = item.traits,
            .group_given = item.group_given,
            .first = before};
    operation->open += 1;
  }
  place_and_submit(operation);
  return true;
}

// What was answered may not be all there is to ask.
void ClientCore::doubt(Operation& operation, Code code) {
  for (std::size_t i = 0; i < operation.items.size(); ++i) {
    if (operation.items[i].times_asked > 0) operation.codes[i] = code;
  }
}

// The map came, or did not.
void ClientCore::end_waiting_drops() {
  for (const auto& operation : std::exchange(waiting_drops_, {})) finish(operation);
}

void ClientCore::submit_older() {
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::vector<std::uint32_t>> parts;
  std::map<std::uint64_t, std::shared_ptr<Operation>> asking;
  const std::vector<Older> older = std::exchange(older_, {});
  for (const Older& one : older) {
    if (one.operation->ending || one.operation->items[one.index].over) continue;
    const std::uint32_t node = one.operation->items[one.index].node;
    parts[{one.operation->number, node}].push_back(static_cast<std::uint32_t>(one.index));
    asking.emplace(one.operation->number, one.operation);
  }
  {
    const std::lock_guard lock(published_mutex_);
    stats_.asked_older += older.size();
  }
  for (auto& [where, items] : parts) {
    const auto& operation = asking.at(where.first);
    const std::uint32_t node = where.second;
    if (std::ranges::find(operation->nodes, node) == operation->nodes.end()) {
      operation->nodes.push_back(node);
    }
    submit_to(node, operation, std::move(items));
  }
  for (const Older& one : older) {
    if (one.operation->ending && !one.operation->items[one.index].over) {
      item_over(one.operation, one.index, one.operation->ending_code);
    }
  }
}

}  // namespace memkv
