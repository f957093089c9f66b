#include "nixl/object_name.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

#include "base/limits.h"
#include "nixl/blake2b.h"

namespace memkv::nixl {
namespace {

constexpr std::string_view kMagic = "MKVK";
constexpr std::uint8_t kRecordVersion = 1;
constexpr std::size_t kRecordHeadBytes = 20;
constexpr std::size_t kCmxDigits = 32;

// The bytes that an even number of hexadecimal digits spells, in either case.
std::optional<std::string> unhex(std::string_view digits) {
  if (digits.size() % 2 != 0) return std::nullopt;
  std::string out;
  for (std::size_t i = 0; i < digits.size(); i += 2) {
    std::uint8_t byte = 0;
    const char* const end = digits.data() + i + 2;
    const auto [stop, error] = std::from_chars(digits.data() + i, end, byte, 16);
    if (error != std::errc() || stop != end) return std::nullopt;
    out += static_cast<char>(byte);
  }
  return out;
}

Result<ObjectName> named(std::string_view key) {
  if (key.empty()) {
    return fail(Code::invalid,
                "metaInfo is empty, and key_dialect raw takes the key from it: pass "
                "the key as metaInfo, or choose key_dialect obj");
  }
  if (key.size() > kKeyBytesMax) {
    return fail(Code::too_large, "a key of " + std::to_string(key.size()) +
                                     " bytes; the limit is " + std::to_string(kKeyBytesMax));
  }
  return ObjectName{.key = std::string(key)};
}

Result<ObjectName> cmx_name(std::uint64_t device, std::string_view info) {
  if (info.empty()) {
    std::string key(sizeof device, '\0');
    std::memcpy(key.data(), &device, sizeof device);
    return ObjectName{.key = std::move(key)};
  }
  const auto key = info.size() <= kCmxDigits ? unhex(info) : std::nullopt;
  if (!key) {
    return fail(Code::invalid, "metaInfo of " + std::to_string(info.size()) +
                                   " bytes is not what key_dialect cmx takes: an even number of "
                                   "hexadecimal digits, at most " +
                                   std::to_string(kCmxDigits) + ", or nothing");
  }
  return ObjectName{.key = *key};
}

Result<ObjectName> refuse_record(const std::string& why) {
  return fail(Code::invalid, "metaInfo is no record of key_dialect full: " + why +
                                 "; memkv_nixl.agent writes such records "
                                 "(docs/formats/object-key.md)");
}

Result<ObjectName> full_name(std::string_view info) {
  ByteReader in(as_bytes_of(info));
  if (as_text_of(in.raw(kMagic.size())) != kMagic) {
    return refuse_record("it does not begin with " + std::string(kMagic));
  }
  const std::uint8_t version = in.u8();
  if (in.ok() && version != kRecordVersion) {
    return refuse_record("it has version " + std::to_string(version) + ", this side speaks " +
                         std::to_string(kRecordVersion));
  }
  in.zeros(1);
  const std::size_t key_bytes = in.u16();
  const std::size_t group_bytes = in.u16();
  in.zeros(2);
  ObjectName name{.depth = in.u32(), .recompute_cost = in.u32()};
  if (!in.ok()) return refuse_record("it is cut short, or holds something where zeros belong");
  if (key_bytes < 1 || key_bytes > kKeyBytesMax || group_bytes > kKeyBytesMax) {
    return refuse_record("its key has " + std::to_string(key_bytes) + " bytes and its group " +
                         std::to_string(group_bytes) + "; the limit is " +
                         std::to_string(kKeyBytesMax));
  }
  name.key = as_text_of(in.raw(key_bytes));
  name.group = as_text_of(in.raw(group_bytes));
  if (!in.finished()) return refuse_record("it has another length than its key and group give");
  return name;
}

// LMCache's static pool writes its slots, obj_N_hhhh, again and again; a block is put once.
bool is_slot(std::string_view info) {
  constexpr std::string_view kHead = "obj_";
  if (!info.starts_with(kHead)) return false;
  info.remove_prefix(kHead.size());
  const std::size_t digits = std::min(info.find_first_not_of("0123456789"), info.size());
  info.remove_prefix(digits);
  return digits > 0 && info.size() == 5 && info[0] == '_' &&
         info.find_first_not_of("0123456789abcdef", 1) == std::string_view::npos;
}

Result<ObjectName> obj_name(std::uint64_t device, std::string_view info) {
  if (is_slot(info)) {
    return fail(Code::invalid, "'" + std::string(info) +
                                   "' is a slot of LMCache's static pool, which is written over, "
                                   "and a block is put once: set nixl_pool_size: 0 in LMCache");
  }
  return info.empty() ? named(std::to_string(device)) : named(info);
}

}  // namespace

Result<ObjectName> name_of(Dialect dialect, std::uint64_t device, std::string_view info) {
  switch (dialect) {
    case Dialect::raw:
      return named(info);
    case Dialect::obj:
      return obj_name(device, info);
    case Dialect::cmx:
      return cmx_name(device, info);
    case Dialect::full:
      return full_name(info);
  }
  return fail(Code::internal);
}

std::string record_of(const ObjectName& name) {
  std::string out(kRecordHeadBytes + name.key.size() + name.group.size(), '\0');
  ByteWriter writer(std::as_writable_bytes(std::span(out)));
  writer.raw(as_bytes_of(kMagic));
  writer.u8(kRecordVersion);
  writer.zeros(1);
  writer.u16(static_cast<std::uint16_t>(name.key.size()));
  writer.u16(static_cast<std::uint16_t>(name.group.size()));
  writer.zeros(2);
  writer.u32(name.depth);
  writer.u32(name.recompute_cost);
  writer.raw(name.key_bytes());
  writer.raw(name.group_bytes());
  return out;
}

Result<Namespace> space_of(std::string_view name, Dialect dialect) {
  Namespace space;
  if (name.starts_with(kHexPrefix)) {
    const auto bytes = unhex(name.substr(kHexPrefix.size()));
    if (!bytes || bytes->size() != space.id.size()) {
      return fail(Code::invalid, "'" + std::string(name) +
                                     "' is no namespace: write a name, or hex: and 32 digits");
    }
    std::memcpy(space.id.data(), bytes->data(), space.id.size());
  } else if (name.empty()) {
    return fail(Code::invalid, "the name is empty; write one, say llama-70b");
  } else {
    space.id = blake2b_128(as_bytes_of(name), "memkv.namespace");
  }
  if (dialect == Dialect::obj || dialect == Dialect::cmx) {
    const std::string_view word = kDialectWords[static_cast<std::size_t>(dialect)];
    std::vector<std::byte> bytes(space.id.begin(), space.id.end());
    bytes.insert(bytes.end(), as_bytes_of(word).begin(), as_bytes_of(word).end());
    space.id = blake2b_128(bytes, "memkv.dialect");
  }
  return space;
}

}  // namespace memkv::nixl
