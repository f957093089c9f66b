#include "device/block_file.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <system_error>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv {
namespace {

// Large enough for full speed, small enough to be fair; a block's header is a page before it and
// shall not need a part of its own.
constexpr std::uint64_t kFileIoBytes = 2 * kMiB + kPageBytes;

constexpr int kHeldLookMs = 10;  // how often it is looked whether who holds the device lets go

[[nodiscard]] std::string quoted(const std::string& path) {
  return "'" + path + "'";
}

[[nodiscard]] Status open_failed(const std::string& path, int error, bool direct, bool block) {
  const std::string why = quoted(path) + " cannot be opened (" + errno_text(error) + ")";
  switch (error) {
    case EBUSY:
      return {Code::busy,
              quoted(path) +
                  " is in use: it is mounted, part of a RAID or LVM, or another process holds it. "
                  "Stop what uses it, or name another device"};
    case EACCES:
    case EPERM:
    case EROFS:
      return {Code::invalid, why + ": run as a user who may read and write it"};
    case EINVAL:
      if (direct) {
        return {
            Code::unsupported,
            quoted(path) +
                " lies on a file system without O_DIRECT (tmpfs, some overlays). Put it on ext4, "
                "XFS or a raw device, or say --buffered to go through the page cache"};
      }
      break;
    case ENOENT:
    case ENOTDIR:
      return {Code::invalid, why + ": its directory does not exist; make it first"};
    case EISDIR:
      return {Code::invalid, why + ": name a file in it, for example " + path + "/memkv.data"};
    case ENOSPC:
    case EDQUOT:
      return {Code::no_space, why + ": free some space or name another place"};
    default:
      break;
  }
  return {block ? Code::device_error : Code::invalid, why};
}

// What stands at the path before it is opened.
struct Place {
  bool there = false;
  bool block = false;
};

[[nodiscard]] Result<Place> look_at(const DeviceOptions& options) {
  const std::string& path = options.path;
  if (path.empty())
    return fail(Code::invalid, "the device has no path; name a block device or a file");
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno != ENOENT) return fail(open_failed(path, errno, false, false));
    if (options.capacity_bytes == 0) {
      return fail(Code::invalid,
                  quoted(path) + " does not exist; give --capacity to make a file there");
    }
    return Place{};
  }
  if (S_ISDIR(found.st_mode)) return fail(open_failed(path, EISDIR, false, false));
  if (!S_ISREG(found.st_mode) && !S_ISBLK(found.st_mode)) {
    return fail(Code::invalid,
                quoted(path) + " is neither a file nor a block device; name one of these");
  }
  return Place{.there = true, .block = S_ISBLK(found.st_mode) != 0};
}

[[nodiscard]] Result<Descriptor> open_and_lock(const DeviceOptions& options, const Place& place) {
  int flags = O_RDWR | O_CLOEXEC;
  if (options.direct) flags |= O_DIRECT;
  if (place.block)
    flags |= O_EXCL;  // refused by the kernel while it is mounted or somebody else has it so
  if (!place.there) flags |= O_CREAT;
  Descriptor fd(::open(options.path.c_str(), flags, 0600));
  if (fd.get() < 0) return fail(open_failed(options.path, errno, options.direct, place.block));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) {
      return fail(Code::busy,
                  quoted(options.path) +
                      " is held by another process. One memkvd serves one device: stop the "
                      "other, or give this one a device of its own");
    }
    return fail(Code::device_error,
                quoted(options.path) + " cannot be locked: " + errno_text(errno));
  }
  return fd;
}

[[nodiscard]] Result<Descriptor> await_and_lock(const DeviceOptions& options, const Place& place,
                                                const Pause& pause) {
  for (int waited_ms = 0;; waited_ms += kHeldLookMs) {
    auto fd = open_and_lock(options, place);
    if (fd || fd.error().code != Code::busy || waited_ms >= kDeviceHeldMs) return fd;
    pause(kHeldLookMs);
  }
}

// Blocks are allocated now, so that no write finds the file system full later.
[[nodiscard]] Result<void> preallocate(int fd, const std::string& path, const struct stat& before,
                                       std::uint64_t capacity) {
  const std::uint64_t allocated = static_cast<std::uint64_t>(before.st_blocks) * 512;
  struct statvfs room{};
  if (capacity > allocated && ::fstatvfs(fd, &room) == 0) {
    const std::uint64_t free_bytes = static_cast<std::uint64_t>(room.f_bavail) * room.f_frsize;
    if (capacity - allocated > free_bytes) {
      return fail(Code::no_space, quoted(path) + " needs " + size_text(capacity - allocated) +
                                      " more, but its file system has only " +
                                      size_text(free_bytes) +
                                      " free: ask for a smaller --capacity or free some space");
    }
  }
  int result = 0;
  do {
    result = ::fallocate(fd, 0, 0, static_cast<off_t>(capacity));
  } while (result != 0 && errno == EINTR);
  if (result == 0) return {};
  const int error = errno;
  if (error == EOPNOTSUPP && ::ftruncate(fd, static_cast<off_t>(capacity)) == 0) {
    log(LogLevel::warning,
        quoted(path) + " cannot be preallocated on this file system; writes fail when it is full");
    return {};
  }
  // What a refused call allocated is given back; the file was never longer than this with anything
  // in it.
  if (::ftruncate(fd, before.st_size) != 0) {
    log(LogLevel::warning,
        quoted(path) + " could not be brought back to its old length: " + errno_text(errno));
  }
  const std::string why = quoted(path) + " cannot be preallocated with " + size_text(capacity) +
                          ": " + errno_text(error);
  if (error == ENOSPC || error == EDQUOT)
    return fail(Code::no_space, why + "; ask for a smaller --capacity");
  if (error == EFBIG) return fail(Code::invalid, why + "; ask for a smaller --capacity");
  return fail(Code::device_error, why);
}

[[nodiscard]] Result<void> measure_file(const DeviceOptions& options, BlockFile& file) {
  struct stat found{};
  if (::fstat(file.fd.get(), &found) != 0) {
    return fail(Code::device_error,
                quoted(options.path) + " cannot be measured: " + errno_text(errno));
  }
  const auto length = static_cast<std::uint64_t>(found.st_size);
  file.length_before = length;
  std::uint64_t capacity = options.capacity_bytes;
  if (capacity == 0) capacity = length;
  capacity -= capacity % kPageBytes;
  if (capacity == 0) {
    return fail(Code::invalid,
                quoted(options.path) + " is empty; give --capacity to say how large it shall be");
  }
  if (capacity < length - length % kPageBytes) {
    return fail(Code::invalid,
                quoted(options.path) + " has " + size_text(length) +
                    ", more than the capacity of " + size_text(capacity) +
                    " asked for, and is never shrunk: leave --capacity out to use it "
                    "as it is, or delete it");
  }
  if (auto done = preallocate(file.fd.get(), options.path, found, capacity); !done) return done;
  file.grown = capacity > length;
  file.capacity_bytes = capacity;
  file.io_bytes_max = kFileIoBytes;
  return {};
}

// queue/max_sectors_kb of the whole disk, also for a partition of it.
[[nodiscard]] std::uint64_t io_bytes_max_of(dev_t device) {
  const std::string folder =
      "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  for (const char* queue : {"/queue/max_sectors_kb", "/../queue/max_sectors_kb"}) {
    std::ifstream in(folder + queue);
    std::uint64_t kib = 0;
    if (in >> kib && kib > 0) {
      const std::uint64_t bytes = std::min<std::uint64_t>(kib, kBlockBytesMax / kKiB) * kKiB;
      return std::max(bytes - bytes % kPageBytes, kPageBytes);
    }
  }
  return kFileIoBytes;
}

[[nodiscard]] Result<void> measure_block_device(const DeviceOptions& options, BlockFile& file) {
  struct stat found{};
  std::uint64_t length = 0;
  int sector = 0;
  const int fd = file.fd.get();
  if (::fstat(fd, &found) != 0 || ::ioctl(fd, BLKGETSIZE64, &length) != 0 ||
      ::ioctl(fd, BLKSSZGET, &sector) != 0) {
    return fail(Code::device_error,
                quoted(options.path) + " cannot be measured: " + errno_text(errno));
  }
  if (static_cast<std::uint64_t>(sector) > kPageBytes) {
    return fail(Code::unsupported, quoted(options.path) + " has sectors of " +
                                       std::to_string(sector) + " bytes; at most " +
                                       std::to_string(kPageBytes) + " are supported");
  }
  std::uint64_t capacity = options.capacity_bytes == 0 ? length : options.capacity_bytes;
  capacity -= capacity % kPageBytes;
  if (options.capacity_bytes > length) {
    return fail(Code::invalid, quoted(options.path) + " has only " + size_text(length) +
                                   ", less than the capacity of " +
                                   size_text(options.capacity_bytes) +
                                   " asked for: leave --capacity out to use all of it");
  }
  if (capacity == 0)
    return fail(Code::invalid, quoted(options.path) + " has no room; name another device");
  file.capacity_bytes = capacity;
  file.io_bytes_max = io_bytes_max_of(found.st_rdev);
  return {};
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = other.release();
  }
  return *this;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

int Descriptor::release() {
  return std::exchange(fd_, -1);
}

std::string errno_text(int number) {
  return std::generic_category().message(number);
}

std::string size_text(std::uint64_t bytes) {
  static constexpr std::array<std::pair<std::uint64_t, const char*>, 4> kUnits = {
      {{1024 * kGiB, "TiB"}, {kGiB, "GiB"}, {kMiB, "MiB"}, {kKiB, "KiB"}}};
  for (const auto& [unit, name] : kUnits) {
    if (bytes < unit) continue;
    std::array<char, 48> text{};
    if (bytes % unit == 0) {
      std::snprintf(text.data(), text.size(), "%llu %s",
                    static_cast<unsigned long long>(bytes / unit), name);
    } else {
      std::snprintf(text.data(), text.size(), "%.1f %s",
                    static_cast<double>(bytes) / static_cast<double>(unit), name);
    }
    return text.data();
  }
  return std::to_string(bytes) + " bytes";
}

void give_back(const BlockFile& file) {
  if (file.created) {
    ::unlink(file.path.c_str());
  } else if (file.grown &&
             ::ftruncate(file.fd.get(), static_cast<off_t>(file.length_before)) != 0) {
    log(LogLevel::warning,
        quoted(file.path) + " could not be brought back to its old length: " + errno_text(errno));
  }
}

void pause_thread(int milliseconds) {
  ::poll(nullptr, 0, milliseconds);
}

Result<BlockFile> open_block_file(const DeviceOptions& options, const Pause& pause) {
  auto place = look_at(options);
  if (!place) return fail(place.error());
  auto fd = await_and_lock(options, *place, pause);
  if (!fd) {
    // A file system without O_DIRECT refuses the open after it has made the file.
    if (!place->there && fd.error().code == Code::unsupported) ::unlink(options.path.c_str());
    return fail(fd.error());
  }
  BlockFile file;
  file.fd = std::move(*fd);
  file.path = options.path;
  file.created = !place->there;
  const auto measured =
      place->block ? measure_block_device(options, file) : measure_file(options, file);
  if (!measured) {
    give_back(file);
    return fail(measured.error());
  }
  if (!options.direct) {
    log(LogLevel::warning, quoted(options.path) +
                               " goes through the page cache (--buffered): slower, and memory the "
                               "kernel holds is not counted in --dram");
  }
  return file;
}

}  // namespace memkv
