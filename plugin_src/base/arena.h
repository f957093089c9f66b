// Arena: the DRAM that blocks land in and are served from; one contiguous piece, page aligned.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"

namespace memkv {

class Arena {
 public:
  virtual ~Arena() = default;
  // The whole memory; its size is a multiple of kArenaPageBytes. It does not move while the arena
  // lives.
  [[nodiscard]] virtual std::span<std::byte> memory() = 0;
  // "huge pages", "transparent huge pages", "4 KiB pages": for status and doctor.
  [[nodiscard]] virtual std::string kind() const = 0;
};

// Anonymous memory of `bytes` (rounded up), in huge pages where the machine has any free, touched
// before it is returned so that no block pays for the first touch. Statuses: no_space.
[[nodiscard]] Result<std::unique_ptr<Arena>> map_arena(std::size_t bytes);

}  // namespace memkv
