#include "nixl/transfer.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/limits.h"

namespace memkv::nixl {
namespace {

std::optional<std::string> notice_in(const abi::Options* options) {
  if (options == nullptr || !options->has_notice) return std::nullopt;
  return options->notice;
}

}  // namespace

Transfer::Transfer(abi::Direction direction, const abi::Options* options)
    : direction_(direction), notice_(notice_in(options)) {}

Result<std::unique_ptr<Transfer>> Transfer::plan(const Registry& registry, abi::Direction direction,
                                                 const abi::RegisteredList& local,
                                                 const abi::RegisteredList& remote,
                                                 const abi::Options* options) {
  if (direction != abi::Direction::read && direction != abi::Direction::write) {
    return fail(Code::invalid, "the operation is neither READ nor WRITE");
  }
  if (local.kind != abi::MemoryKind::dram || remote.kind != abi::MemoryKind::object) {
    return fail(Code::invalid, "MEMKV moves bytes between local DRAM and remote OBJ descriptors");
  }
  if (local.places.empty() || local.places.size() != remote.places.size()) {
    return fail(Code::invalid, std::to_string(local.places.size()) + " local and " +
                                   std::to_string(remote.places.size()) +
                                   " remote descriptors: as many of both are needed, at least one");
  }
  std::unique_ptr<Transfer> transfer(new Transfer(direction, options));
  transfer->names_.reserve(local.places.size());
  for (std::size_t i = 0; i < local.places.size(); ++i) {
    if (auto added = transfer->add(registry, local.places[i], remote.places[i]); !added) {
      return fail(added.error().code,
                  "descriptor " + std::to_string(i) + ": " + added.error().text);
    }
  }
  auto& memories = transfer->memories_;
  std::ranges::sort(memories);
  memories.erase(std::unique(memories.begin(), memories.end()), memories.end());
  return transfer;
}

Result<void> Transfer::add(const Registry& registry, const abi::RegisteredPlace& local,
                           const abi::RegisteredPlace& remote) {
  const auto memory = registry.memory_of(local.metadata);
  if (!memory) return fail(Code::invalid, "its local memory is not registered with MEMKV");
  auto name = registry.object_of(remote.device);
  if (!name) {
    return fail(Code::invalid,
                "no object is registered with the device id " + std::to_string(remote.device));
  }
  if (local.length == 0 || local.length != remote.length) {
    return fail(Code::invalid, std::to_string(local.length) + " local and " +
                                   std::to_string(remote.length) +
                                   " remote bytes: the two must be one length, and not 0");
  }
  if (!memory->holds(local.address, local.length)) {
    return fail(Code::invalid, "its local bytes are not inside the memory that was registered");
  }
  if (remote.length > kBlockBytesMax || remote.address > kBlockBytesMax - remote.length) {
    return fail(Code::invalid, "a block has at most " + std::to_string(kBlockBytesMax) +
                                   " bytes; none reaches to " + std::to_string(remote.address) +
                                   " + " + std::to_string(remote.length));
  }
  auto* const bytes = reinterpret_cast<std::byte*>(local.address);
  if (direction_ == abi::Direction::write) {
    if (remote.address != 0) {
      return fail(Code::invalid, "a WRITE puts a whole block, so its address must be 0, not " +
                                     std::to_string(remote.address));
    }
    puts_.push_back({.key = name->key_bytes(),
                     .group = name->group_bytes(),
                     .bytes = {bytes, local.length},
                     .depth = name->depth,
                     .recompute_cost = name->recompute_cost});
  } else {
    gets_.push_back({.key = name->key_bytes(),
                     .group = name->group_bytes(),
                     .offset = static_cast<std::uint32_t>(remote.address),
                     .target = {bytes, local.length}});
  }
  names_.push_back(std::move(name));
  bytes_ += local.length;
  if (memories_.empty() || memories_.back() != memory->id) memories_.push_back(memory->id);
  return {};
}

Flight::Plan Transfer::flight_plan(const abi::Options* options) const {
  auto notice = notice_in(options);
  return {.direction = direction_,
          .bytes = bytes_,
          .memories = memories_,
          .notice = notice ? std::move(notice) : notice_};
}

std::unique_ptr<Request> Transfer::submit(Client& client, const Namespace& space,
                                          Finished finished) const {
  if (direction_ == abi::Direction::write) {
    return client.put(space, puts_, 0, std::move(finished));
  }
  return client.get(space, gets_, 0, std::move(finished));
}

}  // namespace memkv::nixl
