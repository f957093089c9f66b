// Transfer: what prepXfer makes of two descriptor lists, to be posted again and again.
//
// Each local piece of DRAM is paired with one object. A READ fills it with the block's bytes from
// the object's address, taken as an offset, on; a WRITE puts it as the whole block. A transfer owns
// the names of its blocks, so that deregistering an object does not pull them away under a posting.
// Thread: one at a time, as NIXL uses a handle.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/client.h"
#include "nixl/abi.h"
#include "nixl/flight.h"
#include "nixl/registry.h"

namespace memkv::nixl {

class Transfer final : public abi::Handle {
 public:
  // Statuses: invalid with the sentence: no descriptors, two lists of different length, another
  // kind of memory, pieces of different length or of length 0, a piece outside of its registered
  // memory, a range that no block has, a WRITE at another offset than 0, what is not registered.
  [[nodiscard]] static Result<std::unique_ptr<Transfer>> plan(const Registry& registry,
                                                              abi::Direction direction,
                                                              const abi::RegisteredList& local,
                                                              const abi::RegisteredList& remote,
                                                              const abi::Options* options);

  // One posting's plan: `options` may bring a new notification.
  [[nodiscard]] Flight::Plan flight_plan(const abi::Options* options) const;
  [[nodiscard]] std::unique_ptr<Request> submit(Client& client, const Namespace& space,
                                                Finished finished) const;
  // Is it the transfer that was prepared?
  [[nodiscard]] bool matches(abi::Direction direction, std::size_t blocks) const {
    return direction == direction_ && blocks == names_.size();
  }
  [[nodiscard]] abi::Direction direction() const { return direction_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

  std::shared_ptr<Flight> flight;  // the last posting; null before the first

 private:
  Transfer(abi::Direction direction, const abi::Options* options);
  [[nodiscard]] Result<void> add(const Registry& registry, const abi::RegisteredPlace& local,
                                 const abi::RegisteredPlace& remote);

  const abi::Direction direction_;
  const std::optional<std::string> notice_;
  std::uint64_t bytes_ = 0;
  std::vector<std::uint64_t> memories_;  // sorted
  std::vector<std::shared_ptr<const ObjectName>> names_;
  std::vector<PutBlock> puts_;  // one of the two is empty
  std::vector<GetBlock> gets_;
};

}  // namespace memkv::nixl
