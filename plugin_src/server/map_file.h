// The map file: how the agent of a node hands memkvd the map; docs/formats/map-file.md.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"

namespace memkv {

// The body of MAP_REPLY that the file at `path` holds; nothing when there is no file. Blocking, and
// reads no more than a frame can have. Statuses: invalid (it cannot be read), protocol, too_large.
[[nodiscard]] Result<std::optional<std::vector<std::byte>>> read_map_file(const std::string& path);

}  // namespace memkv
