// DeviceIo: the engine's only way to its device. Counts what is under way, bytes, times and errors,
// and forgets callbacks whose store is gone: what a callback owns (buffers) lives until the device
// is done with it in any case.
//
// Thread: the mind.
#pragma once

#include <sys/uio.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/limits.h"
#include "base/result.h"
#include "device/device.h"
#include "engine/store.h"

namespace memkv::engine {

// Page-aligned memory outside of the arena; zeroed.
class AlignedBuffer {
 public:
  explicit AlignedBuffer(std::size_t bytes = kPageBytes);
  [[nodiscard]] std::span<std::byte> all() { return {memory_.get(), bytes_}; }
  [[nodiscard]] std::span<std::byte, kPageBytes> page(std::size_t number = 0) {
    return all().subspan(number * kPageBytes).first<kPageBytes>();
  }
  [[nodiscard]] iovec piece() { return {memory_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };
  std::unique_ptr<std::byte, Free> memory_;
  std::size_t bytes_;
};

class DeviceIo {
 public:
  // All outlive this.
  DeviceIo(Device& device, StoreStats& stats, Clock& clock)
      : device_(device), stats_(stats), clock_(clock) {}

  void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done);
  void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done);
  void flush(DeviceDone done);

  [[nodiscard]] std::size_t in_flight() const { return in_flight_; }
  [[nodiscard]] Device& device() { return device_; }
  [[nodiscard]] Clock& clock() { return clock_; }

 private:
  // `took` is null for what is not measured.
  [[nodiscard]] DeviceDone counted(DeviceDone done, Histogram* took);

  Device& device_;
  StoreStats& stats_;
  Clock& clock_;
  std::size_t in_flight_ = 0;
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace memkv::engine
