// Lister: names blocks of the index, a slice of it a task. Contract: store.h, list().
//
// What is in DRAM is named from there, what is only on flash by its header, of which few are read
// at a time: whoever lists has no hurry. One list looks at kCellsPerList cells of the index at
// most.
//
// Thread: the mind.
#pragma once

#include <functional>
#include <memory>

#include "engine/core.h"
#include "engine/reader.h"

namespace memkv::engine {

class Lister {
 public:
  using Listed = std::move_only_function<void(Result<Listing>)>;

  Lister(Core& core, Reader& reader) : core_(core), reader_(reader) {}  // both outlive this

  void begin(const Wish& wish, Listed listed);
  // Lists under way end with shutdown, and no header is read any more.
  void shut_down() { shut_ = true; }

 private:
  // One list under way; lives in the callbacks it waits for.
  struct Walk;
  using WalkPtr = std::shared_ptr<Walk>;

  void choose(const WalkPtr& walk);
  void name(const WalkPtr& walk);
  void named(Walk& walk, const Fingerprint& print, const BlockMeta& meta);

  Core& core_;
  Reader& reader_;
  bool shut_ = false;
};

}  // namespace memkv::engine
