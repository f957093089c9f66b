// Gets: blocks on their way out, from begin_get to end_get, and what readers report. Contracts:
// store.h.
//
// A block in DRAM is pinned where it is. A whole block from flash becomes a resident that all who
// want it share; a range of one gets memory of its own that ends with the get.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "engine/core.h"
#include "engine/memory_queue.h"
#include "engine/reader.h"

namespace memkv::engine {

class Gets {
 public:
  using Got = std::move_only_function<void(Result<Pinned>)>;

  Gets(Core& core, MemoryQueue& memory, Reader& reader)
      : core_(core), memory_(memory), reader_(reader) {}  // all outlive this

  GetId begin(const BlockId& id, std::uint32_t offset, std::uint32_t length, Got got);
  void end(GetId get);
  void report(const BlockId& id, std::uint64_t incarnation);
  // Everybody who waits for memory is answered shutdown, and whoever comes from now on.
  void shut_down();

 private:
  struct Get {
    Identity identity;
    Fingerprint print;
    std::uint32_t offset = 0;
    std::uint32_t length = 0;
    Got got;
    MemoryQueue::Ticket ticket = 0;  // not 0: it waits for memory
    std::uint32_t slot = kNone;      // the resident it uses
    Memory memory;                   // of a range
    BlockMeta meta;                  // of a range
    std::uint32_t first_unit = 0, units = 0;
    std::uint8_t mark = 0;

    [[nodiscard]] BlockId id() const { return {identity.tenant, identity.space, identity.key}; }
  };

  void start(GetId get);
  void start_from_dram(GetId get, const Entry& entry);
  void start_from_flash(GetId get, const Entry& entry);
  void with_memory(GetId get, Memory memory);
  void header_only(GetId get, const Entry& entry);
  void load_range(GetId get, const Entry& entry, Memory memory);
  void loaded(GetId get, Code code, std::uint32_t slot);
  [[nodiscard]] bool cover(Get& get, std::uint32_t block_length) const;
  [[nodiscard]] Status range_error(const Get& get, std::uint32_t block_length) const;
  [[nodiscard]] bool is_foreign(const Get& get, const BlockMeta& meta);
  void pin(GetId get);
  void answer(GetId get, Status status);
  void erase(std::map<GetId, Get>::iterator at);

  void report_dram(const Fingerprint& print, std::uint64_t incarnation, std::uint32_t slot);
  void report_flash(const Fingerprint& print, std::uint64_t incarnation);
  void report_done(const Fingerprint& print) { reports_.erase(print); }

  Core& core_;
  MemoryQueue& memory_;
  Reader& reader_;
  std::map<GetId, Get> gets_;
  std::set<Fingerprint> reports_;
  GetId next_get_ = 1;
  bool shut_ = false;
};

}  // namespace memkv::engine
