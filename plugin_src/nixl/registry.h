// Registry: the memory and the objects that NIXL registered with a backend.
//
// Whatever NIXL hands back is looked up here before it is believed: a NIXL may keep the Metadata
// pointer of what was deregistered (1.0 does, of objects), and may deregister one pointer twice.
// A local descriptor is found by its pointer, an object by its device id: NIXL resolves two
// registrations of one id to the first, so an id means one name only.
// Thread: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/result.h"
#include "nixl/abi.h"
#include "nixl/flight.h"
#include "nixl/object_name.h"

namespace memkv::nixl {

class Registration : public abi::Metadata {
 public:
  explicit Registration(abi::MemoryKind registered_kind) : Metadata(true), kind(registered_kind) {}
  const abi::MemoryKind kind;
  std::uint64_t times = 0;  // that it is registered; the registry's
};

// A piece of registered DRAM.
struct Memory {
  std::uint64_t id = 0;  // never the same twice in a backend
  std::uintptr_t begin = 0;
  std::size_t length = 0;

  [[nodiscard]] bool holds(std::uintptr_t address, std::size_t bytes) const {
    return address >= begin && bytes <= length && address - begin <= length - bytes;
  }
};

class Registry {
 public:
  // The tower, which outlives it, knows the memory that is live as open.
  Registry(Dialect dialect, Tower& tower) : dialect_(dialect), tower_(tower) {}

  // It is live until remove(), and the registry's own. What is live already is given again, and
  // is to be removed once more: NIXL itself deregisters what it was given first.
  // Statuses: invalid (the metaInfo breaks the dialect's rules, the memory is none), too_large
  // (the key), conflict (the device id means another name).
  [[nodiscard]] Result<Registration*> add(abi::MemoryKind kind, const abi::DescribedPlace& place);
  // The first half of a removal, which may come again. When it is the last registration, nothing
  // finds it any more, and the tower's memory is closed; before remove() whoever moves bytes of it
  // is to be ended. False, and nothing happened: it is not live.
  [[nodiscard]] bool begin_removal(const abi::Metadata* metadata);
  // One registration of it goes; of what is live, and of each piece one at a time.
  void remove(const abi::Metadata* metadata);

  // Nothing: it is not live, or no DRAM.
  [[nodiscard]] std::optional<Memory> memory_of(const abi::Metadata* metadata) const;
  // Null: no object is live under this device id.
  [[nodiscard]] std::shared_ptr<const ObjectName> object_of(std::uint64_t device) const;

 private:
  struct LocalMemory;
  struct StoredObject;
  using Range = std::pair<std::uintptr_t, std::size_t>;
  [[nodiscard]] Result<Registration*> add_memory(const abi::DescribedPlace& place);
  [[nodiscard]] Result<Registration*> add_object(const abi::DescribedPlace& place);
  void forget(const Registration& registration);

  const Dialect dialect_;
  Tower& tower_;
  mutable std::mutex mutex_;
  // By the address that NIXL hands back; never walked through.
  std::unordered_map<std::uintptr_t, std::unique_ptr<Registration>> live_;
  std::map<Range, const LocalMemory*> ranges_;
  std::unordered_map<std::uint64_t, const StoredObject*> devices_;
};

}  // namespace memkv::nixl
