#include "nixl/registry.h"

#include <algorithm>
#include <limits>
#include <string>

namespace memkv::nixl {
namespace {

// A key for a person: as it stands where that can be printed, else in hexadecimal digits.
std::string shown(std::string_view key) {
  constexpr std::size_t kShown = 48;
  const std::string_view head = key.substr(0, kShown);
  const bool printable = std::ranges::all_of(head, [](char c) { return c >= ' ' && c <= '~'; });
  std::string out;
  if (printable) {
    out = "'" + std::string(head) + "'";
  } else {
    constexpr std::string_view kDigits = "0123456789abcdef";
    out = "0x";
    for (const char c : head) {
      const auto byte = static_cast<unsigned char>(c);
      out += kDigits[byte >> 4];
      out += kDigits[byte & 15];
    }
  }
  return out + (head.size() < key.size() ? "…" : "");
}

}  // namespace

Result<std::unique_ptr<Registration>> Registry::add(abi::MemoryKind kind,
                                                    const abi::DescribedPlace& place) {
  if (kind == abi::MemoryKind::dram) return add_memory(place);
  if (kind == abi::MemoryKind::object) return add_object(place);
  return fail(Code::unsupported, "MEMKV takes DRAM and OBJ, not memory of kind " +
                                     std::to_string(static_cast<int>(kind)));
}

Result<std::unique_ptr<Registration>> Registry::add_memory(const abi::DescribedPlace& place) {
  const bool wraps = place.length > std::numeric_limits<std::uintptr_t>::max() - place.address;
  if (place.address == 0 || place.length == 0 || wraps) {
    return fail(Code::invalid, "memory at " + std::to_string(place.address) + " of " +
                                   std::to_string(place.length) + " bytes cannot be registered");
  }
  const std::lock_guard lock(mutex_);
  return std::make_unique<LocalMemory>(next_memory_++, place.address, place.length);
}

Result<std::unique_ptr<Registration>> Registry::add_object(const abi::DescribedPlace& place) {
  auto named = name_of(dialect_, place.device, place.info);
  if (!named) {
    return fail(named.error().code, "device id " + std::to_string(place.device) +
                                        " cannot be registered: " + named.error().text);
  }
  auto name = std::make_shared<const ObjectName>(std::move(*named));
  const std::lock_guard lock(mutex_);
  const auto known = devices_.find(place.device);
  if (known != devices_.end()) {
    if (*known->second.name != *name) {
      return fail(Code::conflict, "device id " + std::to_string(place.device) +
                                      " cannot be registered for the key " + shown(name->key) +
                                      ": it is registered for " + shown(known->second.name->key) +
                                      ", and one id means one block. Use another device id, or "
                                      "deregister the first");
    }
    name = known->second.name;
  }
  auto object = std::make_unique<StoredObject>(place.device, name);
  devices_.try_emplace(place.device, Holder{.name = std::move(name)}).first->second.times += 1;
  return object;
}

void Registry::remove(std::unique_ptr<Registration> registration) {
  if (registration->kind != abi::MemoryKind::object) return;
  const auto& object = static_cast<const StoredObject&>(*registration);
  const std::lock_guard lock(mutex_);
  const auto known = devices_.find(object.device);
  if (known == devices_.end()) return;
  known->second.times -= 1;
  if (known->second.times == 0) devices_.erase(known);
}

}  // namespace memkv::nixl
