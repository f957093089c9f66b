// Asking: the frames that open a request, filled with as many items as one frame and the node take.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "client/operation.h"
#include "wire/wire.h"

namespace memkv {

struct Asked {
  wire::Type type{};
  std::span<const std::byte> body;  // in the memory that was given
  std::size_t count = 0;            // how many of the items it names, from the first on
};

// Encodes a request for the first of `items`, at most `count_max` of them. At least one fits into
// kBodyBytesMax when its key keeps the limits. Pure.
[[nodiscard]] Asked ask(const Operation& operation, std::span<const std::uint32_t> items,
                        std::size_t count_max, std::span<std::byte> memory);

}  // namespace memkv
