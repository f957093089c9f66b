// Recovery: from the index pages on the device to the index in RAM. docs/formats/segment.md,
// "Recovery".
//
// Thread: the mind. `done` comes from a later task.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/executor.h"
#include "engine/device_io.h"
#include "engine/format.h"
#include "engine/index.h"
#include "engine/segment_log.h"

namespace memkv::engine {

// A segment with records, to be adopted by the log.
struct ClosedSegment {
  std::uint32_t number = 0;
  std::uint64_t generation = 0;
  std::vector<Placed> blocks;
};

struct Recovered {
  Index index;
  std::vector<ClosedSegment> closed;  // by generation
};

// The index goes by `rules`: a namespace that has one has an account of its own, however many
// others lie on the device. What takes long says every kRecoveryTellMs in the log how far it is.
// `io` outlives the call to `done`. Statuses: device_error.
void recover(DeviceIo& io, const Superblock& super, std::uint64_t index_entries_max,
             const StoreRules& rules, std::move_only_function<void(Result<Recovered>)> done);

}  // namespace memkv::engine
