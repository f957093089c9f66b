// Reader: brings blocks from flash, verified. Nothing that it hands out is other than what the
// writer's CRCs in a header of the wanted place, generation and incarnation say.
//
// It also draws the consequences: a block that fails a check is taken out and counted, as is one
// that cannot be read twice in a row. Whose block it is the caller compares (BlockMeta::identity):
// the Reader knows fingerprints only.
//
// Thread: the mind. Callbacks come from a later task.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/core.h"

namespace memkv::engine {

// ok: `meta` is the block's. Otherwise corrupt, device_error, or not_found when it left the index
// meanwhile.
using FetchDone = std::move_only_function<void(Code, BlockMeta meta)>;
// ok: `slot` is a clean resident with one use for the receiver. Otherwise as above.
using LoadDone = std::move_only_function<void(Code, std::uint32_t slot)>;

class Reader {
 public:
  explicit Reader(Core& core) : core_(core) {}  // outlives this

  // Reads header and `units` units from `first_unit` on of a block on flash into `memory`, which
  // stays the caller's; 0 units read the header only.
  void fetch(const Entry& entry, std::uint32_t first_unit, std::uint32_t units,
             const Memory& memory, FetchDone done);

  // Makes a resident of a block that is on flash and not in DRAM. `memory` was taken for
  // `taken_for`.
  void load(Entry& entry, Share taken_for, Memory memory, LoadDone done);
  // Waits for the load of a resident that is loading.
  void join(std::uint32_t slot, LoadDone done) { waiting_.at(slot).push_back(std::move(done)); }

  [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

 private:
  struct Fetch;
  void submit(const std::shared_ptr<Fetch>& fetch);
  void arrived(const std::shared_ptr<Fetch>& fetch);
  [[nodiscard]] bool header_holds(const Fetch& fetch, const BlockHeader& header) const;
  void finish(Fetch& fetch, Code code);
  void loaded(std::uint32_t slot, Code code, BlockMeta meta);

  Core& core_;
  std::size_t in_flight_ = 0;
  std::map<std::uint32_t, std::vector<LoadDone>> waiting_;  // by slot of a loading resident
};

}  // namespace memkv::engine
