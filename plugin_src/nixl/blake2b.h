// BLAKE2b (RFC 7693) with a digest of 16 bytes, no key, no salt and a personalisation: what the
// ids of namespaces are made with. Small rather than fast. Thread: any.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string_view>

namespace memkv::nixl {

// The digest of `bytes`; `person` has at most 16 bytes and is padded with zeros.
[[nodiscard]] std::array<std::byte, 16> blake2b_128(std::span<const std::byte> bytes,
                                                    std::string_view person);

}  // namespace memkv::nixl
