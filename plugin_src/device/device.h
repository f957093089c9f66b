// Device: where blocks lie when the power is off; a raw block device or a preallocated file behind
// io_uring, or the simulation's.
//
// All offsets and lengths are multiples of kPageBytes and all memory is aligned to it. An operation
// either moves every byte or fails: short and negative completions are device_error. Operations may
// finish in any order; a write is torn at page granularity by a crash before its `done`. Thread:
// the mind.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/result.h"

namespace memkv {

using DeviceDone = std::move_only_function<void(Result<void>)>;

class Device {
 public:
  virtual ~Device() = default;  // only when nothing is in flight

  [[nodiscard]] virtual std::uint64_t capacity_bytes() const = 0;
  [[nodiscard]] virtual std::string name() const = 0;

  // Reads into / writes from the pieces (any number; split inside at the device's limit). The
  // memory stays valid until `done`, which comes from a later task. Statuses of done: device_error
  // with the kernel's word, the offset and the length.
  virtual void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) = 0;
  virtual void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) = 0;
  // What was written before is on stable storage when `done` comes.
  virtual void flush(DeviceDone done) = 0;

  // Operations submitted and not done.
  [[nodiscard]] virtual std::size_t in_flight() const = 0;
};

struct DeviceOptions {
  std::string path;  // a block device, or a file (made when it is not there and capacity is given)
  std::uint64_t capacity_bytes = 0;  // of a file to make or grow; 0: as large as it is
  bool direct =
      true;  // O_DIRECT; false only where the file system has none, and then it is said in the log
};

class EventLoop;

// Opens, preallocates and locks. A second open of the same device, by any process, is refused.
// Statuses, each with the sentence that helps: invalid (no such path, not a file or block device,
// capacity too small or larger than the device), busy (another process holds it), no_space (the
// file system is too full), device_error, unsupported (no io_uring).
[[nodiscard]] Result<std::unique_ptr<Device>> open_uring_device(const DeviceOptions& options,
                                                                EventLoop& loop);

}  // namespace memkv
