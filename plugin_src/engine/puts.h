// Puts: blocks on their way in, from begin_put to commit or abort. Contracts: store.h.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>

#include "engine/admittance.h"
#include "engine/core.h"
#include "engine/memory_queue.h"
#include "engine/writer.h"

namespace memkv::engine {

class Puts {
 public:
  using Granted = std::move_only_function<void(Result<Grant>)>;

  Puts(Core& core, MemoryQueue& memory, Writer& writer)
      : core_(core),
        memory_(memory),
        writer_(writer),  // all outlive this
        budget_(core.options.write_budget != 0 ? core.options.write_budget
                                               : core.super.device_bytes) {}

  PutId begin(const BlockId& id, std::uint32_t length, const BlockTraits& traits, Granted granted);
  [[nodiscard]] Result<std::uint64_t> commit(PutId put, std::span<const std::uint32_t> arrived,
                                             std::span<const std::uint32_t> written);
  void abort(PutId put);
  // Everybody who waits is answered shutdown, and whoever comes from now on.
  void shut_down();

  // The first put of this fingerprint is in flight.
  [[nodiscard]] bool has(const Fingerprint& print) const { return by_print_.contains(print); }
  // As many blocks as the index takes are there or have their memory.
  [[nodiscard]] bool index_is_full() const {
    return core_.index.size() + granted_ >= core_.index.entries_max();
  }
  // From begin of the drop until it is durable, the block cannot be put: a restart could bring the
  // old one back over it.
  void set_dropping(const Fingerprint& print, bool dropping);
  [[nodiscard]] bool is_dropping(const Fingerprint& print) const {
    return dropping_.contains(print);
  }

 private:
  struct Put {
    Fingerprint print;
    BlockMeta meta;  // without CRCs and incarnation
    std::uint32_t put_s = 0;
    Granted granted;
    MemoryQueue::Ticket ticket = 0;  // not 0: it waits for memory
    Memory memory;                   // not empty: it was granted,
    std::uint64_t granted_ns = 0;    // and its bytes came after that
    bool owns_print = false;
  };

  // Why it is refused, or ok.
  [[nodiscard]] Status look(const BlockId& id, std::uint32_t length, const Fingerprint& print);
  [[nodiscard]] Status look_at_form(const BlockId& id, std::uint32_t length) const;
  [[nodiscard]] Status look_at_generation(const BlockId& id) const;
  // Whether the rules take a block that is not here.
  [[nodiscard]] Status look_at_rules(const BlockId& id, std::uint32_t length,
                                     const Fingerprint& print);
  void answer(PutId put, Status status);
  void grant(PutId put, Memory memory);
  void zero_tail(const Put& put) const;
  void erase(std::map<PutId, Put>::iterator at);

  Core& core_;
  MemoryQueue& memory_;
  Writer& writer_;
  std::map<PutId, Put> puts_;
  std::map<Fingerprint, PutId> by_print_;
  std::map<Fingerprint, std::uint32_t> dropping_;
  Touches touches_;
  WriteBudget budget_;
  PutId next_put_ = 1;
  std::uint64_t granted_ = 0;
  bool shut_ = false;
};

}  // namespace memkv::engine
