// Placement: which node of the map holds a group; weighted rendezvous hashing in integers, one
// result on every machine.
//
// docs/formats/placement.md is the algorithm, step by step; memkv_nixl/_placement.py is its twin
// and tests/golden/placement.json holds the two together. Change none of them alone.
//
// Pure functions: no state, no allocation, no failure. Thread: any. The nodes may stand in any
// order; an id should stand there once (of two that share one, the first wins where their weights
// are equal).
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/fingerprint.h"  // group_fingerprint(), node_id_of()

namespace memkv {

struct PlacementNode {
  std::uint64_t id = 0;  // node_id_of() its address
  std::uint32_t weight =
      0;  // its share, in a unit that is the same for all nodes; 0 is never chosen
  std::uint64_t domain = 0;  // what fails together has one number; 0: only itself
  friend bool operator==(const PlacementNode&, const PlacementNode&) = default;
};

// The index of the node that holds the group; none when no node has a weight.
[[nodiscard]] std::optional<std::size_t> place(const Fingerprint& group,
                                               std::span<const PlacementNode> nodes);

// Writes the indices of the best out.size() nodes, the best first, and returns how many there were:
// fewer than asked for when fewer nodes have a weight. The first is place()'s; the second takes
// over when the first leaves the map. Made for few places: its time grows with the square of
// out.size().
[[nodiscard]] std::size_t place_ranked(const Fingerprint& group,
                                       std::span<const PlacementNode> nodes,
                                       std::span<std::size_t> out);

// The index of the node for a second copy: the best in another failure domain than place()'s; when
// there is none, the best of the others; none when there is no other with a weight. When the holder
// leaves the map, the copy lies on the new holder or on the new second place.
[[nodiscard]] std::optional<std::size_t> place_copy(const Fingerprint& group,
                                                    std::span<const PlacementNode> nodes);

// The two steps of the page, public so that tests can hold each against it: the number that the
// group has on the node (section 2), and -log2 of that number read as one in (0, 1), with 56
// fractional bits (section 3), 1 to 2^62.
[[nodiscard]] std::uint64_t placement_hash(const Fingerprint& group, std::uint64_t node_id);
[[nodiscard]] std::uint64_t placement_distance(std::uint64_t hash);

}  // namespace memkv
