// ClientMap: the nodes that a client knows, and the maps by which it places blocks. The one in
// force says itself how blocks were placed before (its former maps), as long as they may lie there;
// so whoever begins in the middle of a move or a drain finds them, too, and all who hold one map
// look at the same places. The maps that a client saw itself are kept for kOldMapMs, for drops:
// what is dropped must be gone also for those who hold an older map.
//
// Until a node handed out a map, the nodes that the client was given are the map, all of one
// weight. A node keeps its index for as long as it is known.
//
// Thread: the mind. No I/O, no clock of its own.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/fingerprint.h"
#include "base/limits.h"
#include "base/result.h"
#include "client/placement.h"

namespace memkv {

class ClientMap {
 public:
  struct Node {
    std::string address;  // empty: forgotten, the index is free
    bool seed = false;    // the client was given it; never forgotten
  };
  // Where a block may lie, and by which map.
  struct Place {
    std::uint32_t node = 0;
    std::uint64_t map = 0;
  };

  explicit ClientMap(const std::vector<std::string>& seeds);

  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  [[nodiscard]] const std::vector<Node>& nodes() const { return nodes_; }

  // The body of a MAP_REPLY. True when it is newer than the one in force, and in force now: nodes()
  // may have grown. Statuses: protocol (it is none, an id is not its address's, an address stands
  // there twice, or its epoch is further ahead than any control plane goes). One in which no node
  // has a weight changes no place.
  [[nodiscard]] Result<bool> take(std::span<const std::byte> body, std::uint64_t now_ns);

  // Where the group's blocks belong.
  [[nodiscard]] std::optional<Place> place(const Fingerprint& group) const;
  // Where a second copy of them belongs; none without a published map: then nobody makes copies.
  [[nodiscard]] std::optional<Place> copy_place(const Fingerprint& group) const;
  // The same by the map of this number, in force or kept; none when it is neither.
  [[nodiscard]] std::optional<Place> copy_place(const Fingerprint& group, std::uint64_t map) const;
  // Where they belonged by a map before `map` that had them on none of the nodes `asked`: the
  // former maps of the one in force, the newest first, then what the client was given, for
  // kOldMapMs. None when there is no such map.
  [[nodiscard]] std::optional<Place> older_place(const Fingerprint& group, std::uint64_t map,
                                                 std::span<const std::uint32_t> asked,
                                                 std::uint64_t now_ns) const;

  // Every node that may have a block of the group, each once: the first and second places by all
  // maps that are kept and by the former maps, and the nodes that drain. Whoever began less than
  // kOldMapMs ago, or missed a map since (or more came than are kept), does not know where others
  // put blocks: then all nodes of the map in force, too. Without a published map the one place.
  [[nodiscard]] std::vector<std::uint32_t> every_place(const Fingerprint& group,
                                                       std::uint64_t now_ns) const;

  // Whether the map in force names the node, or a former one has blocks on it.
  [[nodiscard]] bool named(std::size_t node) const;
  // Lets old maps go; the indices of nodes that nothing names any more.
  [[nodiscard]] std::vector<std::size_t> outlived(std::uint64_t now_ns);
  // Frees the index of a node that outlived() named.
  void forget(std::size_t node);

 private:
  struct Map {
    std::uint64_t number = 0;          // the later the greater
    bool published = false;            // not what the client was given
    std::vector<PlacementNode> nodes;  // by the nodes' indices, and shorter where some came later
    std::uint64_t replaced_ns = 0;     // of an old one
  };
  [[nodiscard]] std::size_t index_of(const std::string& address);
  [[nodiscard]] const Map* map_of(std::uint64_t number) const;
  void take_places(Map map, std::uint64_t now_ns);
  void take_formers(std::array<Map, kFormersMax> formers);
  void put_in_force(Map map, std::uint64_t now_ns);

  std::uint32_t epoch_ = 0;
  std::uint64_t missed_ns_ = 0;  // when a map was in force last that is not, or no more, known here
  std::vector<Node> nodes_;
  std::deque<Map> maps_;                 // the newest first
  std::vector<Map> formers_;             // of the one in force, as it says itself
  std::vector<std::uint32_t> draining_;  // nodes, by the map in force
};

}  // namespace memkv
