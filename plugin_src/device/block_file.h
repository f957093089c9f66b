// BlockFile: the descriptor under a device: a raw block device or a preallocated file, opened,
// locked and measured.
//
// Everything that can be wrong with the path a person gave is found and said here; io_uring comes
// afterwards.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "device/device.h"

namespace memkv {

// A descriptor that is closed when its owner goes.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  ~Descriptor();
  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] int release();

 private:
  int fd_ = -1;
};

struct BlockFile {
  Descriptor fd;  // holds the lock as long as it is open
  std::string path;
  std::uint64_t capacity_bytes = 0;  // a multiple of kPageBytes
  std::uint64_t io_bytes_max = 0;    // of one operation; a multiple of kPageBytes
  bool created = false;              // this open made the file,
  std::uint64_t length_before = 0;   // or found it with this length,
  bool grown = false;                // and made it longer
};

// Nothing was ever written: a file that this open made is removed, one that it grew gets its old
// length back. So a file that turns out to be somebody else's is left as it was.
void give_back(const BlockFile& file);

// Statuses: invalid, busy, no_space, device_error, unsupported, each with the sentence that helps.
// A file that was made for this call and then could not be preallocated is removed again.
//
// What another process holds is waited for, kDeviceHeldMs at most: the kernel lets go of a killed
// memkvd's device only when it has ended its reads and writes, which may be after that process.
using Pause = std::function<void(int milliseconds)>;
void pause_thread(int milliseconds);
[[nodiscard]] Result<BlockFile> open_block_file(const DeviceOptions& options,
                                                const Pause& pause = pause_thread);

// "512 MiB", "1.5 GiB", "4097 bytes": sizes as a person reads them.
[[nodiscard]] std::string size_text(std::uint64_t bytes);
// The kernel's word for an errno: "Input/output error".
[[nodiscard]] std::string errno_text(int number);

}  // namespace memkv
