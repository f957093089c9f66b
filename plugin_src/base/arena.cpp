#include "base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <limits>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"

namespace memkv {
namespace {

constexpr std::size_t kHugePageBytes = 2 * kMiB;

class MappedArena final : public Arena {
 public:
  MappedArena(std::byte* start, std::size_t bytes, std::string kind)
      : start_(start), bytes_(bytes), kind_(std::move(kind)) {}
  ~MappedArena() override { ::munmap(start_, bytes_); }
  MappedArena(const MappedArena&) = delete;
  MappedArena& operator=(const MappedArena&) = delete;

  [[nodiscard]] std::span<std::byte> memory() override { return {start_, bytes_}; }
  [[nodiscard]] std::string kind() const override { return kind_; }

 private:
  std::byte* start_;
  std::size_t bytes_;
  std::string kind_;
};

// Gives every page its memory now. The kernel's way says so when there is none left; where it is
// too old to know that way, the pages are written to one by one.
bool touch(std::byte* start, std::size_t bytes) {
#if defined(MADV_POPULATE_WRITE)
  if (::madvise(start, bytes, MADV_POPULATE_WRITE) == 0) return true;
  if (errno != EINVAL) return false;
#endif
  for (std::size_t at = 0; at < bytes; at += kPageBytes) {
    *static_cast<volatile std::byte*>(start + at) = std::byte{0};
  }
  return true;
}

std::byte* map(std::size_t bytes, int more_flags) {
  void* const place = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | more_flags, -1, 0);
  return place == MAP_FAILED ? nullptr : static_cast<std::byte*>(place);
}

// `bytes` that begin at a huge page's boundary, so that the kernel can put whole huge pages behind
// them.
std::byte* map_aligned(std::size_t bytes) {
  std::byte* const wide = map(bytes + kHugePageBytes, 0);
  if (wide == nullptr) return nullptr;
  const auto address = reinterpret_cast<std::uintptr_t>(wide);
  const std::size_t before = round_up(address, kHugePageBytes) - address;
  if (before > 0) ::munmap(wide, before);
  ::munmap(wide + before + bytes, kHugePageBytes - before);
  return wide + before;
}

bool transparent_huge_pages() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) && line.find("[never]") == std::string::npos;
}

std::optional<std::uint64_t> number_in(const char* path) {
  std::ifstream file(path);
  std::uint64_t number = 0;
  return file >> number ? std::optional(number) : std::nullopt;
}

// What the machine and its container would still give, as far as they say it. Asked first, because
// a kernel that overcommits kills a process at the touch instead of refusing.
std::uint64_t available_bytes() {
  std::uint64_t available = std::numeric_limits<std::uint64_t>::max();
  std::ifstream file("/proc/meminfo");
  std::string name;
  std::uint64_t kib = 0;
  for (std::string unit; file >> name >> kib; std::getline(file, unit)) {
    if (name == "MemAvailable:") available = kib * kKiB;
  }
  // What the container uses now is left out: most of it may be cache that gives way.
  return std::min(available, number_in("/sys/fs/cgroup/memory.max").value_or(available));
}

std::unexpected<Status> refuse(std::size_t bytes, std::string_view why) {
  return fail(Code::no_space, "an arena of " + std::to_string(bytes / kMiB) +
                                  " MiB does not fit: " + std::string(why) +
                                  "; give the DRAM tier less");
}

}  // namespace

Result<std::unique_ptr<Arena>> map_arena(std::size_t bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() / 2)
    return refuse(bytes, "no machine has so much");
  const std::size_t small = round_up(bytes == 0 ? 1 : bytes, kArenaPageBytes);
  const std::size_t huge = round_up(small, kHugePageBytes);
  // Reserved huge pages are set aside for us and count as used, so they are tried before the free
  // memory is looked at.
  if (small >= kHugePageBytes) {
    if (std::byte* const start = map(huge, MAP_HUGETLB)) {
      if (touch(start, huge)) return std::make_unique<MappedArena>(start, huge, "huge pages");
      ::munmap(start, huge);
    }
  }
  if (const std::uint64_t available = available_bytes(); small > available) {
    return refuse(bytes, std::to_string(available / kMiB) + " MiB of memory are free");
  }
  const bool transparent = small >= kHugePageBytes && transparent_huge_pages();
  std::byte* const start = map_aligned(small);
  if (start == nullptr) return refuse(bytes, std::strerror(errno));
  if (transparent) ::madvise(start, small, MADV_HUGEPAGE);
  if (!touch(start, small)) {
    const int error = errno;
    ::munmap(start, small);
    return refuse(bytes, std::strerror(error));
  }
  return std::make_unique<MappedArena>(start, small,
                                       transparent ? "transparent huge pages" : "4 KiB pages");
}

}  // namespace memkv
