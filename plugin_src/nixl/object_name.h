// ObjectName: which block a NIXL object descriptor names (docs/formats/object-key.md).
//
// A key dialect turns a descriptor's device id and metaInfo into a key; the dialect `full` also
// carries what the writer says about the block. Input is a user's: what breaks the dialect's rules
// is `invalid` or `too_large` with the sentence that says why. Thread: any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/identity.h"
#include "base/result.h"

namespace memkv::nixl {

enum class Dialect : std::uint8_t { raw, obj, cmx, full };
inline constexpr std::string_view kHexPrefix = "hex:";
inline constexpr std::array<std::string_view, 4> kDialectWords = {"raw", "obj", "cmx", "full"};

struct ObjectName {
  std::string key;    // 1 to kKeyBytesMax bytes of any value
  std::string group;  // at most kKeyBytesMax; empty: the key is its own group
  std::uint32_t depth = 0;
  std::uint32_t recompute_cost = 0;

  [[nodiscard]] std::span<const std::byte> key_bytes() const { return as_bytes_of(key); }
  [[nodiscard]] std::span<const std::byte> group_bytes() const { return as_bytes_of(group); }
  friend bool operator==(const ObjectName&, const ObjectName&) = default;
};

[[nodiscard]] Result<ObjectName> name_of(Dialect dialect, std::uint64_t device,
                                         std::string_view info);

// The record of the dialect `full` for a name that keeps the limits above.
[[nodiscard]] std::string record_of(const ObjectName& name);

// The namespace that blocks of this dialect live in, from the parameter `namespace`: a name, or
// `hex:` and 32 digits. Statuses: invalid.
[[nodiscard]] Result<Namespace> space_of(std::string_view name, Dialect dialect);

}  // namespace memkv::nixl
