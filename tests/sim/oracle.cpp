#include "sim/oracle.h"

#include <algorithm>
#include <cstring>

#include "base/fingerprint.h"
#include "client/placement.h"

namespace memkv::sim {
namespace {

std::vector<std::byte> bytes_of(std::uint64_t seed, unsigned number, std::uint32_t length) {
  SeededRandom random(seed ^ (number * 0xd1342543de82ef95ULL));
  std::vector<std::byte> bytes(length);
  std::size_t at = 0;
  for (; at + sizeof(std::uint64_t) <= bytes.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
  for (; at < bytes.size(); ++at) bytes[at] = static_cast<std::byte>(random.next());
  return bytes;
}

bool holds(const Value& value, std::uint32_t offset, std::span<const std::byte> bytes) {
  return value.first_begin != 0 && offset <= value.bytes.size() &&
         bytes.size() <= value.bytes.size() - offset &&
         std::memcmp(value.bytes.data() + offset, bytes.data(), bytes.size()) == 0;
}

}  // namespace

std::string to_string(const Identity& id) {
  return "tenant " + std::to_string(id.tenant) + " space " + std::to_string(id.space) + " key " +
         std::to_string(id.key);
}

Value& Oracle::value_for(const Identity& id, bool fresh, std::uint32_t length) {
  History& history = histories_[id];
  if (!history.values.empty() && !history.dropped && !fresh) return *history.values.back();
  history.dropped = false;
  auto value = std::make_unique<Value>();
  value->number = next_value_++;
  value->id = id;
  value->bytes = bytes_of(plan_.seed, value->number, length);
  history.values.push_back(std::move(value));
  return *history.values.back();
}

std::uint32_t Oracle::likely_length(const Identity& id) const {
  const History* history = history_of(id);
  if (history == nullptr || history->values.empty()) return 0;
  return static_cast<std::uint32_t>(history->values.back()->bytes.size());
}

std::uint64_t Oracle::begin_put(Value& value) {
  tick();
  if (value.first_begin == 0) value.first_begin = now_;
  ++value.open;
  ++value.puts;
  return now_;
}

Finding Oracle::end_put(Value& value, std::uint64_t began, Code code) {
  value.last_end = tick();
  --value.open;
  History& history = histories_[value.id];
  if (code == Code::ok) history.puts.push_back({began, now_, value.number, code});
  if ((code == Code::ok || code == Code::exists) && is_over(value.id, began)) {
    return "put of " + to_string(value.id) + " says " + std::string(code_name(code)) +
           ", but its drop generation was over before it began";
  }
  if (plan_.collides() || (code != Code::exists && code != Code::conflict)) return {};
  const bool same = code == Code::exists;
  const bool possible = std::ranges::any_of(history.values, [&](const auto& other) {
    return other->puts > (other.get() == &value ? 1u : 0u) &&
           (other->bytes.size() == value.bytes.size()) == same;
  });
  if (possible) return {};
  return "put of " + to_string(value.id) + " says " + std::string(code_name(code)) + ", but no " +
         (same ? "value of this length" : "value of another length") + " was ever put there";
}

void Oracle::end_drop(const Identity& id, std::uint64_t began, Code code, bool everywhere) {
  tick();
  if (code != Code::ok && code != Code::not_found) return;
  History& history = histories_[id];
  history.drops.push_back({began, now_, 0, code, everywhere});
  history.dropped = true;
}

const Oracle::History* Oracle::history_of(const Identity& id) const {
  const auto found = histories_.find(id);
  return found == histories_.end() ? nullptr : &found->second;
}

unsigned Oracle::node_of(const Identity& id) const {
  std::array<PlacementNode, kNodes> nodes;
  for (unsigned i = 0; i < kNodes; ++i) {
    nodes[i] = {node_id_of(address_of(i)), 100};
  }
  const Namespace space = space_of(id.space);
  const auto group = group_fingerprint(space.id, key_bytes(id.key));
  return static_cast<unsigned>(place(group, nodes).value_or(0));
}

bool Oracle::restarted_since(const Identity& id, std::uint64_t then) const {
  for (unsigned node = 0; node < kNodes; ++node) {
    if (!plan_.published() && node != node_of(id)) continue;
    const auto& starts = starts_[node];
    if (!starts.empty() && starts.back() > then) return true;
  }
  return false;
}

std::uint64_t Oracle::tick() {
  when_ns_.push_back(clock_.now_ns());
  return ++now_;
}

void Oracle::end_generation(unsigned tenant, unsigned space) {
  over_.try_emplace({tenant, space}, tick());
}

bool Oracle::is_over(const Identity& id, std::uint64_t began) const {
  const auto since = over_.find({id.tenant, id.space});
  return since != over_.end() && since->second < began;
}

// A node counts whole seconds.
bool Oracle::outlived(const Value& value, std::uint64_t began) const {
  if (plan_.ttl_s == 0 || plan_.copies || value.id.space == 2) return false;
  const std::uint64_t most_ns = (plan_.ttl_s + std::uint64_t{1}) * 1000 * kNsPerMs;
  return when_ns_.at(began) > when_ns_.at(value.last_end) + most_ns;
}

Finding Oracle::why_dead(const History& history, const Value& value, std::uint64_t began) const {
  if (is_over(value.id, began)) return "their drop generation was over before the get began";
  if (value.open > 0) return {};
  if (outlived(value, began)) {
    return "value " + std::to_string(value.number) + " had outlived its TTL when the get began";
  }
  for (const Acknowledged& drop : history.drops) {
    if (!drop.everywhere || drop.began < value.last_end || drop.ended > began) continue;
    const bool restarted = restarted_since(value.id, drop.began);
    if (restarted && (drop.code == Code::not_found || disk_lied_)) continue;
    return "value " + std::to_string(value.number) + " was dropped (" +
           std::string(code_name(drop.code)) + ") before the get began";
  }
  for (const Acknowledged& put : history.puts) {
    if (plan_.published()) break;
    if (put.value == value.number || put.began < value.last_end || put.ended > began) continue;
    if (restarted_since(value.id, put.began)) continue;
    return "value " + std::to_string(value.number) + " was replaced by value " +
           std::to_string(put.value) + " before the get began";
  }
  return {};
}

Finding Oracle::check_get(const Identity& id, std::uint32_t offset,
                          std::span<const std::byte> bytes, std::uint64_t began,
                          std::set<unsigned>& values) const {
  const History* history = history_of(id);
  std::set<unsigned> possible;
  bool bytes_known = false;
  Finding dead;
  if (history != nullptr) {
    for (const auto& value : history->values) {
      if (!holds(*value, offset, bytes)) continue;
      bytes_known = true;
      if (Finding why = why_dead(*history, *value, began); !why.empty()) {
        dead = std::move(why);
      } else if (values.empty() || values.contains(value->number)) {
        possible.insert(value->number);
      }
    }
  }
  if (!possible.empty()) {
    values = std::move(possible);
    return {};
  }
  const std::string what = "get of " + to_string(id) + " from " + std::to_string(offset) + ", " +
                           std::to_string(bytes.size()) + " bytes, says ok, but ";
  if (!dead.empty()) return what + "these are stale: " + dead;
  if (bytes_known) return what + "its ranges are of different values";
  return what + explain(id, bytes, offset);
}

// Whose bytes they are, for whoever has to find out why.
Finding Oracle::explain(const Identity& id, std::span<const std::byte> bytes,
                        std::uint32_t offset) const {
  for (const auto& [other, history] : histories_) {
    for (const auto& value : history.values) {
      if (bytes.size() >= 8 && holds(*value, offset, bytes)) {
        return "these are the bytes of " + to_string(other) + " value " +
               std::to_string(value->number);
      }
    }
  }
  const History* history = history_of(id);
  if (history == nullptr) return "nothing was ever put there";
  for (const auto& value : history->values) {
    if (offset + bytes.size() > value->bytes.size()) continue;
    const auto wanted = std::span(value->bytes).subspan(offset, bytes.size());
    const auto first = std::ranges::mismatch(wanted, bytes).in1 - wanted.begin();
    if (first < 8) continue;
    return "these are bytes of value " + std::to_string(value->number) + " up to byte " +
           std::to_string(first) + " only";
  }
  return "these bytes were never put there";
}

Finding Oracle::check_match(const Identity& id, std::uint32_t length, std::uint64_t began) const {
  if (is_over(id, began)) {
    return "match of " + to_string(id) + " finds a block, but its drop generation was over before";
  }
  if (plan_.collides()) return {};
  const History* history = history_of(id);
  const bool possible =
      history != nullptr && std::ranges::any_of(history->values, [&](const auto& value) {
        return value->first_begin != 0 && value->bytes.size() == length;
      });
  if (possible) return {};
  return "match of " + to_string(id) + " finds a block of " + std::to_string(length) +
         " bytes; none was ever put there";
}

}  // namespace memkv::sim
