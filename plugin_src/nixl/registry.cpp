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

std::uintptr_t token_of(const abi::Metadata* metadata) {
  return reinterpret_cast<std::uintptr_t>(metadata);
}

// The registration that is live under `key`, made now if there is none, and once more.
template <typename Live, typename Known, typename Make>
Registration* counted(Live& live, Known& known, const typename Known::key_type& key, Make make) {
  auto found = known.find(key);
  if (found == known.end()) {
    auto made = make();
    const auto at = live.emplace(token_of(made.get()), nullptr).first;
    try {
      found = known.emplace(key, made.get()).first;
    } catch (...) {
      live.erase(at);
      throw;
    }
    at->second = std::move(made);
  }
  Registration* const registration = live.at(token_of(found->second)).get();
  registration->times += 1;
  return registration;
}

}  // namespace

struct Registry::LocalMemory final : Registration {
  explicit LocalMemory(const Memory& memory) : Registration(abi::MemoryKind::dram), place(memory) {}
  const Memory place;
};

struct Registry::StoredObject final : Registration {
  StoredObject(std::uint64_t device_id, std::shared_ptr<const ObjectName> object_name)
      : Registration(abi::MemoryKind::object), device(device_id), name(std::move(object_name)) {}
  const std::uint64_t device;
  const std::shared_ptr<const ObjectName> name;
};

Result<Registration*> Registry::add(abi::MemoryKind kind, const abi::DescribedPlace& place) {
  if (kind == abi::MemoryKind::dram) return add_memory(place);
  if (kind == abi::MemoryKind::object) return add_object(place);
  return fail(Code::unsupported, "MEMKV takes DRAM and OBJ, not memory of kind " +
                                     std::to_string(static_cast<int>(kind)));
}

Result<Registration*> Registry::add_memory(const abi::DescribedPlace& place) {
  const bool wraps = place.length > std::numeric_limits<std::uintptr_t>::max() - place.address;
  if (place.address == 0 || place.length == 0 || wraps) {
    return fail(Code::invalid, "memory at " + std::to_string(place.address) + " of " +
                                   std::to_string(place.length) + " bytes cannot be registered");
  }
  const std::lock_guard lock(mutex_);
  return counted(live_, ranges_, Range(place.address, place.length), [&] {
    return std::make_unique<LocalMemory>(
        Memory{.id = tower_.open(), .begin = place.address, .length = place.length});
  });
}

Result<Registration*> Registry::add_object(const abi::DescribedPlace& place) {
  auto named = name_of(dialect_, place.device, place.info);
  if (!named) {
    return fail(named.error().code, "device id " + std::to_string(place.device) +
                                        " cannot be registered: " + named.error().text);
  }
  auto name = std::make_shared<const ObjectName>(std::move(*named));
  const std::lock_guard lock(mutex_);
  const auto known = devices_.find(place.device);
  if (known != devices_.end() && *known->second->name != *name) {
    return fail(Code::conflict, "device id " + std::to_string(place.device) +
                                    " cannot be registered for the key " + shown(name->key) +
                                    ": it is registered for " + shown(known->second->name->key) +
                                    ", and one id means one block. Use another device id, or "
                                    "deregister the first");
  }
  return counted(live_, devices_, place.device,
                 [&] { return std::make_unique<StoredObject>(place.device, std::move(name)); });
}

bool Registry::begin_removal(const abi::Metadata* metadata) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(token_of(metadata));
  if (found == live_.end()) return false;
  if (found->second->times == 1) forget(*found->second);
  return true;
}

// What is registered at its place from now on is another.
void Registry::forget(const Registration& registration) {
  const auto erase = [&registration](auto& known, const auto& key) {
    const auto found = known.find(key);
    if (found != known.end() && found->second == &registration) known.erase(found);
  };
  if (registration.kind == abi::MemoryKind::object) {
    erase(devices_, static_cast<const StoredObject&>(registration).device);
    return;
  }
  const Memory& memory = static_cast<const LocalMemory&>(registration).place;
  tower_.close(memory.id);
  erase(ranges_, Range(memory.begin, memory.length));
}

void Registry::remove(const abi::Metadata* metadata) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(token_of(metadata));
  if (--found->second->times == 0) live_.erase(found);
}

std::optional<Memory> Registry::memory_of(const abi::Metadata* metadata) const {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(token_of(metadata));
  if (found == live_.end() || found->second->kind != abi::MemoryKind::dram) return std::nullopt;
  return static_cast<const LocalMemory&>(*found->second).place;
}

std::shared_ptr<const ObjectName> Registry::object_of(std::uint64_t device) const {
  const std::lock_guard lock(mutex_);
  const auto found = devices_.find(device);
  return found != devices_.end() ? found->second->name : nullptr;
}

}  // namespace memkv::nixl
