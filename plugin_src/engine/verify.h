// Verifying bytes against the CRCs of their units, on hands, in slices of kSliceBytes.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <vector>

#include "base/executor.h"

namespace memkv::engine {

// `pieces` hold whole units of `unit_bytes` (the last may be short), one for each of `crcs`.
// `done(good)` comes on the mind from a later task; until then the memory stays as it is. Thread:
// the mind.
void verify_units(Executor& executor, std::vector<iovec> pieces, std::uint32_t unit_bytes,
                  std::vector<std::uint32_t> crcs, std::move_only_function<void(bool)> done);

}  // namespace memkv::engine
