#include "client/client_map.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/clock.h"
#include "base/limits.h"
#include "base/mutant.h"
#include "wire/wire.h"

namespace memkv {
namespace {

constexpr std::uint32_t kWeightOfAll = 100;  // until there is a map that says otherwise
// Between the numbers of two maps there is room for those of the later one's former ones.
constexpr std::uint64_t kNumberStep = 1 + kFormersMax;

// Without the nodes that are never chosen, in one order.
std::vector<PlacementNode> that_matters(std::vector<PlacementNode> nodes) {
  std::erase_if(nodes, [](const PlacementNode& node) { return node.weight == 0; });
  std::ranges::sort(nodes, {}, &PlacementNode::id);
  return nodes;
}

void put_at(std::vector<PlacementNode>& nodes, std::size_t index, PlacementNode node,
            std::uint32_t weight) {
  node.weight = weight;
  nodes.resize(std::max(nodes.size(), index + 1));
  nodes[index] = node;
}

struct Record {
  std::string address;
  std::uint32_t weight = 0;
  std::array<std::uint32_t, kFormersMax> former_weights{};
  std::uint64_t domain = 0;
  bool draining = false;
};

Result<std::vector<Record>> checked_records(wire::MapReplyReader& reply) {
  std::vector<Record> records;
  std::set<std::string> seen;
  while (const auto node = reply.next()) {
    std::string address(node->address);
    if (node->node != node_id_of(address)) {
      return fail(Code::protocol, "a map in which the id of " + address + " is another node's");
    }
    if (!seen.insert(address).second) {
      return fail(Code::protocol, "a map in which " + address + " stands twice");
    }
    records.push_back({.address = std::move(address),
                       .weight = node->weight,
                       .former_weights = node->former_weights,
                       .domain = node->domain,
                       .draining = node->draining == 1});
  }
  return records;
}

}  // namespace

ClientMap::ClientMap(const std::vector<std::string>& seeds) : maps_(1) {
  maps_.front().number = kNumberStep;
  for (const std::string& address : seeds) {
    nodes_.push_back({.address = address, .seed = true});
    maps_.front().nodes.push_back({.id = node_id_of(address), .weight = kWeightOfAll});
  }
}

// A place for a new node: that of a forgotten one, or one more.
std::size_t ClientMap::index_of(const std::string& address) {
  const auto known = std::ranges::find(nodes_, address, &Node::address);
  if (known != nodes_.end()) return static_cast<std::size_t>(known - nodes_.begin());
  const auto free = std::ranges::find(nodes_, std::string(), &Node::address);
  const auto index = static_cast<std::size_t>(free - nodes_.begin());
  if (free == nodes_.end()) nodes_.emplace_back();
  nodes_[index] = {.address = address};
  return index;
}

Result<bool> ClientMap::take(std::span<const std::byte> body, std::uint64_t now_ns) {
  auto reply = wire::MapReplyReader::open(body);
  if (!reply) return fail(reply.error());
  const std::uint32_t epoch = reply->head().epoch;
  if (epoch <= std::max(epoch_, kStaticEpoch)) return false;
  if (epoch_ > kStaticEpoch && epoch - epoch_ > kEpochLeapMax) {
    return fail(Code::protocol, "a map of epoch " + std::to_string(epoch) + " behind one of " +
                                    std::to_string(epoch_) + ": of another pool");
  }
  const auto records = checked_records(*reply);
  if (!records) return fail(records.error());
  Map map{.number = maps_.front().number + kNumberStep, .published = true, .nodes = {}};
  std::array<Map, kFormersMax> formers;
  draining_.clear();
  for (const Record& record : *records) {
    const std::size_t index = index_of(record.address);
    const PlacementNode node{
        .id = node_id_of(record.address), .weight = record.weight, .domain = record.domain};
    put_at(map.nodes, index, node, record.weight);
    for (std::size_t i = 0; i < kFormersMax; ++i) {
      put_at(formers[i].nodes, index, node, record.former_weights[i]);
    }
    if (record.draining) draining_.push_back(static_cast<std::uint32_t>(index));
  }
  if (epoch_ <= kStaticEpoch || epoch != epoch_ + 1) missed_ns_ = now_ns;
  epoch_ = epoch;
  take_places(std::move(map), now_ns);
  take_formers(std::move(formers));
  return true;
}

void ClientMap::take_formers(std::array<Map, kFormersMax> formers) {
  formers_.clear();
  for (Map& former : formers) {
    const std::vector<PlacementNode> places = that_matters(former.nodes);
    if (places.empty() || places == that_matters(maps_.front().nodes)) continue;
    formers_.push_back(std::move(former));
    formers_.back().number = maps_.front().number - formers_.size();
    formers_.back().published = true;
  }
}

void ClientMap::take_places(Map map, std::uint64_t now_ns) {
  const std::vector<PlacementNode> places = that_matters(map.nodes);
  // All are drained, or nobody sees them: the former places are as good as any.
  if (places.empty()) return;
  if (places == that_matters(maps_.front().nodes)) {
    maps_.front().nodes = std::move(map.nodes);
    maps_.front().published = true;
  } else {
    put_in_force(std::move(map), now_ns);
  }
}

void ClientMap::put_in_force(Map map, std::uint64_t now_ns) {
  maps_.front().replaced_ns = now_ns;
  maps_.push_front(std::move(map));
  if (maps_.size() <= kOldMapsMax + 1) return;
  missed_ns_ = std::max(missed_ns_, maps_.back().replaced_ns);
  maps_.pop_back();
}

std::optional<ClientMap::Place> ClientMap::place(const Fingerprint& group) const {
  const Map& map = maps_.front();
  const auto node = memkv::place(group, map.nodes);
  if (!node) return std::nullopt;
  return Place{.node = static_cast<std::uint32_t>(*node), .map = map.number};
}

std::optional<ClientMap::Place> ClientMap::copy_place(const Fingerprint& group) const {
  return copy_place(group, maps_.front().number);
}

std::optional<ClientMap::Place> ClientMap::copy_place(const Fingerprint& group,
                                                      std::uint64_t map) const {
  const Map* known = map_of(map);
  if (known == nullptr || !known->published) return std::nullopt;
  const auto node = place_copy(group, known->nodes);
  if (!node) return std::nullopt;
  return Place{.node = static_cast<std::uint32_t>(*node), .map = map};
}

const ClientMap::Map* ClientMap::map_of(std::uint64_t number) const {
  for (const Map& former : formers_) {
    if (former.number == number) return &former;
  }
  const auto known = std::ranges::find(maps_, number, &Map::number);
  return known == maps_.end() ? nullptr : &*known;
}

std::optional<ClientMap::Place> ClientMap::older_place(const Fingerprint& group, std::uint64_t map,
                                                       std::span<const std::uint32_t> asked,
                                                       std::uint64_t now_ns) const {
  const auto elsewhere = [&](const Map& old) -> std::optional<Place> {
    if (old.number >= map) return std::nullopt;
    const auto node = memkv::place(group, old.nodes);
    if (!node || std::ranges::find(asked, *node) != asked.end()) return std::nullopt;
    return Place{.node = static_cast<std::uint32_t>(*node), .map = old.number};
  };
  for (const Map& former : formers_) {
    if (const auto found = elsewhere(former)) return found;
  }
  for (const Map& old : maps_) {
    if (&old == &maps_.front() || old.published) continue;
    if (now_ns - old.replaced_ns >= kOldMapMs * kNsPerMs) return std::nullopt;
    if (const auto found = elsewhere(old)) return found;
  }
  return std::nullopt;
}

std::vector<std::uint32_t> ClientMap::every_place(const Fingerprint& group,
                                                  std::uint64_t now_ns) const {
  std::vector<std::uint32_t> places;
  const auto add = [&places](std::size_t node) {
    const auto index = static_cast<std::uint32_t>(node);
    if (std::ranges::find(places, index) == places.end()) places.push_back(index);
  };
  const auto add_by = [&](const Map& map) {
    if (const auto first = memkv::place(group, map.nodes)) add(*first);
    if (!map.published) return;  // what the client was given: nobody made copies by that
    if (const auto copy = place_copy(group, map.nodes)) add(*copy);
  };
  for (const Map& map : maps_) {
    const bool old = &map != &maps_.front();
    if (old && mutant(Mutant::drop_newest_only)) return places;
    if (old && now_ns - map.replaced_ns >= kOldMapMs * kNsPerMs) break;
    add_by(map);
  }
  for (const Map& former : formers_) add_by(former);
  for (const std::uint32_t node : draining_) add(node);
  const bool knows = epoch_ <= kStaticEpoch || now_ns - missed_ns_ >= kOldMapMs * kNsPerMs;
  if (knows || mutant(Mutant::believe_history)) return places;
  const std::vector<PlacementNode>& all = maps_.front().nodes;
  for (std::size_t node = 0; node < all.size(); ++node) {
    if (all[node].id != 0) add(node);
  }
  return places;
}

bool ClientMap::named(std::size_t node) const {
  const auto names = [node](const Map& map) {
    return node < map.nodes.size() && map.nodes[node].id != 0;
  };
  if (std::ranges::any_of(formers_, names)) return true;
  return std::ranges::any_of(maps_, [&](const Map& map) {
    const bool current = &map == &maps_.front();
    return names(map) && (current || map.nodes[node].weight > 0);
  });
}

std::vector<std::size_t> ClientMap::outlived(std::uint64_t now_ns) {
  while (maps_.size() > 1 && now_ns - maps_.back().replaced_ns >= kOldMapMs * kNsPerMs) {
    maps_.pop_back();
  }
  std::vector<std::size_t> found;
  for (std::size_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i].address.empty() && !nodes_[i].seed && !named(i)) found.push_back(i);
  }
  return found;
}

void ClientMap::forget(std::size_t node) {
  nodes_[node] = {};
}

}  // namespace memkv
