// The map file: how the agent of a node hands memkvd the map, what is settled about namespaces, and
// whom to believe; docs/formats/map-file.md.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/store.h"

namespace memkv {

// The bodies of the file's frames, whose form was checked; what they say was not.
struct MapFile {
  std::vector<std::byte> map;                   // of MAP_REPLY
  std::vector<std::byte> rules;                 // of RULES; empty: nothing is settled
  std::optional<std::vector<std::byte>> trust;  // of TRUST, where there is one

  MapFile() = default;
  MapFile(std::vector<std::byte> body) : map(std::move(body)) {}  // NOLINT: a map alone is a file
};

// What the file at `path` holds; nothing when there is no file. Blocking, and reads no more than
// its frames can have. Statuses: invalid (it cannot be read), protocol, too_large.
[[nodiscard]] Result<std::optional<MapFile>> read_map_file(const std::string& path);

// A node's weight beside the sum of all.
struct Portion {
  std::uint64_t weight = 1;
  std::uint64_t weights = 1;  // at least `weight`, which is at least 1
};
// The node with this id among those of `map`, the body of a MAP_REPLY; `weight` is its own where
// the map gives it none.
[[nodiscard]] Result<Portion> portion_of(std::span<const std::byte> map, std::uint64_t node,
                                         std::uint32_t weight);

// What the body of a RULES frame means for a node with this portion of the pool; no rules for an
// empty one. Statuses: protocol, too_large.
[[nodiscard]] Result<StoreRules> decode_rules(std::span<const std::byte> body, std::uint32_t epoch,
                                              const Portion& mine);

// The rules of the map file at `path` for a store that is to be opened, before it is known which
// node this is: with the whole pool's quotas. None when there is no file or it cannot be used:
// whoever takes the map says so.
[[nodiscard]] StoreRules rules_before_the_map(const std::string& path);

}  // namespace memkv
