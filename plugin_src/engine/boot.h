// Boot: is this device ours, what is its geometry, and the boot count that makes generations and
// incarnations unique. docs/formats/segment.md, "Superblock".
//
// Thread: the mind. Callbacks come from a later task; the caller sees to it that what they touch
// still lives.
#pragma once

#include <functional>
#include <memory>

#include "base/executor.h"
#include "base/random.h"
#include "engine/device_io.h"
#include "engine/format.h"
#include "engine/store.h"

namespace memkv::engine {

// Reads `bytes` at `offset`, three times before it gives up. Statuses: device_error.
void read_stubbornly(DeviceIo& io, std::uint64_t offset, std::shared_ptr<AlignedBuffer> into,
                     DeviceDone done);

// Writes both copies, one after the other, flushed. Statuses: device_error.
void write_superblock(DeviceIo& io, const Superblock& super, DeviceDone done);

// Reads the superblock, or makes one for a blank device or when options.format is set; its boot
// count is one higher than ever and on the device when `done` comes. Statuses: invalid with the
// sentence that helps, device_error.
void boot(const StoreOptions& options, DeviceIo& io, Random& random,
          std::move_only_function<void(Result<Superblock>)> done);

}  // namespace memkv::engine
