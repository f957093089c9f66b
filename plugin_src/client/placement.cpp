#include "client/placement.h"

#include <algorithm>
#include <array>
#include <bit>

namespace memkv {

namespace {

__extension__ using u128 = unsigned __int128;

constexpr int kFractionBits = 56;
constexpr int kRowBits = 10;
constexpr std::size_t kRows = std::size_t{1} << kRowBits;
using LogTable = std::array<std::uint64_t, kRows + 1>;

// Section 5: log2 by repeated squaring. y is a number in [1, 2) with 63 fractional bits.
constexpr std::uint64_t log2_of_row(std::size_t row) {
  std::uint64_t y = (kRows + row) << (63 - kRowBits);
  std::uint64_t log = 0;
  for (int bit = 0; bit < kFractionBits; ++bit) {
    const u128 square = static_cast<u128>(y) * y >> 63;
    const auto carry = static_cast<std::uint64_t>(square >> 64);  // 1 when the square is 2 or more
    y = static_cast<std::uint64_t>(square >> carry);
    log = log << 1 | carry;
  }
  return log;
}

constexpr LogTable make_log_table() {
  LogTable table{};
  for (std::size_t row = 0; row < kRows; ++row) table[row] = log2_of_row(row);
  table[kRows] = std::uint64_t{1} << kFractionBits;
  return table;
}
constexpr LogTable kLog = make_log_table();

constexpr std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
  z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
  return z ^ (z >> 31);
}

inline std::uint64_t hash_of(const Fingerprint& group, std::uint64_t node_id) {
  return mix(mix(group.high ^ node_id) ^ group.low);
}

inline std::uint64_t distance_of(std::uint64_t hash) {
  const std::uint64_t middle = hash | 1;
  const int zeros = std::countl_zero(middle);
  const std::uint64_t fraction = middle << zeros << 1;
  const std::size_t row = fraction >> (64 - kRowBits);
  const std::uint64_t into_row = fraction << kRowBits;
  const u128 step = static_cast<u128>(kLog[row + 1] - kLog[row]) * into_row;
  const std::uint64_t log = kLog[row] + static_cast<std::uint64_t>(step >> 64);
  return (static_cast<std::uint64_t>(zeros + 1) << kFractionBits) - log;
}

struct Draw {
  std::uint64_t distance;
  PlacementNode node;
  std::size_t index;
};

inline Draw draw(const Fingerprint& group, std::span<const PlacementNode> nodes,
                 std::size_t index) {
  return {distance_of(hash_of(group, nodes[index].id)), nodes[index], index};
}

// Section 4. Both nodes have a weight.
inline bool before(const Draw& a, const Draw& b) {
  const u128 left = static_cast<u128>(a.distance) * b.node.weight;
  const u128 right = static_cast<u128>(b.distance) * a.node.weight;
  if (left != right) return left < right;
  return a.node.id != b.node.id ? a.node.id < b.node.id : a.index < b.index;
}

constexpr std::uint64_t kLn2 = 0xb17217f7d1cf79ac;  // ln(2) * 2^64, rounded up

// How far below 2^64 the hash of a node that comes before `best` may be, for each unit of its
// weight. Its distance d would be at most D = best.distance / best.weight * weight, and a hash is
// 2^64 * 2^-d or more (section 3 rounds distances up), which is at least 2^64 * (1 - D * ln(2)).
// Everything here is rounded up, so that nobody is passed over who would have won.
inline std::uint64_t reach_of(const Draw& best) {
  const u128 reach = (static_cast<u128>(best.distance) * kLn2 >> kFractionBits) + 1;
  const u128 each = reach / best.node.weight + 1;
  return static_cast<std::uint64_t>(std::min<u128>(each, UINT64_MAX));
}

}  // namespace

// Most nodes are passed over by their hash alone: of n of equal weight about ln(n) come into reach.
std::optional<std::size_t> place(const Fingerprint& group, std::span<const PlacementNode> nodes) {
  std::optional<Draw> best;
  std::uint64_t reach = UINT64_MAX;  // everybody
  for (std::size_t index = 0; index < nodes.size(); ++index) {
    const PlacementNode& node = nodes[index];
    const std::uint64_t hash = hash_of(group, node.id);
    const std::uint64_t below = ~(hash | 1);
    if (below >= static_cast<u128>(reach) * node.weight) continue;  // also a weight of 0
    const Draw next{distance_of(hash), node, index};
    if (best && !before(next, *best)) continue;
    best = next;
    reach = reach_of(next);
  }
  if (!best) return std::nullopt;
  return best->index;
}

std::size_t place_ranked(const Fingerprint& group, std::span<const PlacementNode> nodes,
                         std::span<std::size_t> out) {
  std::size_t found = 0;
  std::optional<Draw> last;  // the worst of those in a full `out`
  for (std::size_t index = 0; index < nodes.size() && !out.empty(); ++index) {
    if (nodes[index].weight == 0) continue;
    const Draw next = draw(group, nodes, index);
    if (last && !before(next, *last)) continue;
    std::size_t at = std::min(found, out.size() - 1);
    for (; at > 0 && before(next, draw(group, nodes, out[at - 1])); --at) out[at] = out[at - 1];
    out[at] = index;
    found = std::min(found + 1, out.size());
    if (found == out.size()) last = draw(group, nodes, out.back());
  }
  return found;
}

std::optional<std::size_t> place_copy(const Fingerprint& group,
                                      std::span<const PlacementNode> nodes) {
  const auto first = place(group, nodes);
  if (!first) return std::nullopt;
  const std::uint64_t domain = nodes[*first].domain;
  std::optional<Draw> best;
  bool best_apart = false;
  for (std::size_t index = 0; index < nodes.size(); ++index) {
    if (nodes[index].weight == 0 || nodes[index].id == nodes[*first].id) continue;
    const bool apart = domain == 0 || nodes[index].domain != domain;
    const Draw next = draw(group, nodes, index);
    if (!best || (apart && !best_apart) || (apart == best_apart && before(next, *best))) {
      best = next;
      best_apart = apart;
    }
  }
  if (!best) return std::nullopt;
  return best->index;
}

std::uint64_t placement_hash(const Fingerprint& group, std::uint64_t node_id) {
  return hash_of(group, node_id);
}

std::uint64_t placement_distance(std::uint64_t hash) {
  return distance_of(hash);
}

}  // namespace memkv
