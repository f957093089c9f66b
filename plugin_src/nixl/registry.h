// Registry: the memory and the objects that NIXL registered with a backend.
//
// NIXL finds its way back to a registration by the Metadata pointer it was given; it hands none out
// that was not made here, and none after it was removed. Objects are also known by their device id:
// NIXL resolves two registrations of one id to the first, so an id must mean one name only.
// Thread: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "base/result.h"
#include "nixl/abi.h"
#include "nixl/object_name.h"

namespace memkv::nixl {

class Registration : public abi::Metadata {
 public:
  explicit Registration(abi::MemoryKind registered_kind) : Metadata(true), kind(registered_kind) {}
  const abi::MemoryKind kind;
};

struct LocalMemory final : Registration {
  LocalMemory(std::uint64_t memory_id, std::uintptr_t first, std::size_t bytes)
      : Registration(abi::MemoryKind::dram), id(memory_id), begin(first), length(bytes) {}
  [[nodiscard]] bool holds(std::uintptr_t address, std::size_t bytes) const {
    return address >= begin && bytes <= length && address - begin <= length - bytes;
  }

  const std::uint64_t id;  // never the same twice in a backend
  const std::uintptr_t begin;
  const std::size_t length;
};

struct StoredObject final : Registration {
  StoredObject(std::uint64_t device_id, std::shared_ptr<const ObjectName> object_name)
      : Registration(abi::MemoryKind::object), device(device_id), name(std::move(object_name)) {}

  const std::uint64_t device;
  const std::shared_ptr<const ObjectName> name;
};

class Registry {
 public:
  explicit Registry(Dialect dialect) : dialect_(dialect) {}

  // The caller owns what comes back until remove().
  // Statuses: invalid (the metaInfo breaks the dialect's rules, the memory is none), too_large
  // (the key), conflict (the device id means another name).
  [[nodiscard]] Result<std::unique_ptr<Registration>> add(abi::MemoryKind kind,
                                                          const abi::DescribedPlace& place);
  void remove(std::unique_ptr<Registration> registration);

 private:
  struct Holder {
    std::shared_ptr<const ObjectName> name;
    std::uint64_t times = 0;
  };
  [[nodiscard]] Result<std::unique_ptr<Registration>> add_memory(const abi::DescribedPlace& place);
  [[nodiscard]] Result<std::unique_ptr<Registration>> add_object(const abi::DescribedPlace& place);

  const Dialect dialect_;
  std::mutex mutex_;
  std::uint64_t next_memory_ = 1;
  std::map<std::uint64_t, Holder> devices_;
};

}  // namespace memkv::nixl
