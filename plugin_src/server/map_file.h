// The map file: how the agent of a node hands memkvd the map, and whom to believe;
// docs/formats/map-file.md.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace memkv {

// The bodies of the file's frames, whose form was checked; what they say was not.
struct MapFile {
  std::vector<std::byte> map;                   // of MAP_REPLY
  std::optional<std::vector<std::byte>> trust;  // of TRUST, where there is one

  MapFile(std::vector<std::byte> body) : map(std::move(body)) {}  // NOLINT: a map alone is a file
};

// What the file at `path` holds; nothing when there is no file. Blocking, and reads no more than
// its frames can have. Statuses: invalid (it cannot be read), protocol, too_large.
[[nodiscard]] Result<std::optional<MapFile>> read_map_file(const std::string& path);

}  // namespace memkv
