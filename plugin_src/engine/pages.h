// Pages: hands out the arena's memory in pages of kArenaPageBytes, neighbours where it can.
//
// Free memory is kept as runs of neighbouring pages that grow together again when they meet. A
// block gets the smallest run that holds it; when none does, the largest runs. Thread: the mind.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "base/limits.h"

namespace memkv::engine {

struct PageRun {
  std::uint32_t first = 0;
  std::uint32_t count = 0;
  friend bool operator==(const PageRun&, const PageRun&) = default;
};
using Memory = std::vector<PageRun>;  // one block's memory, in the block's order

[[nodiscard]] constexpr std::uint32_t arena_pages(std::uint64_t bytes) {
  return static_cast<std::uint32_t>((bytes + kArenaPageBytes - 1) / kArenaPageBytes);
}
[[nodiscard]] std::uint32_t pages_of(const Memory& memory);

class Pages {
 public:
  // `arena` outlives this and everything it handed out.
  explicit Pages(std::span<std::byte> arena);

  // Exactly `count` pages (at least 1), or nothing when fewer are free.
  [[nodiscard]] std::optional<Memory> take(std::uint32_t count);
  void give_back(const Memory& memory);

  [[nodiscard]] std::uint32_t free() const { return free_; }
  [[nodiscard]] std::uint32_t total() const { return total_; }

  // Bytes [offset, offset + length) of a block that lies in `memory`.
  [[nodiscard]] std::vector<iovec> pieces(const Memory& memory, std::uint64_t offset,
                                          std::uint64_t length) const;

 private:
  void add(PageRun run);
  void remove(PageRun run);

  std::span<std::byte> arena_;
  std::map<std::uint32_t, std::uint32_t> by_place_;             // first page → count
  std::set<std::pair<std::uint32_t, std::uint32_t>> by_count_;  // (count, first page)
  std::uint32_t free_ = 0;
  std::uint32_t total_ = 0;
};

}  // namespace memkv::engine
