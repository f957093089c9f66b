#include "engine/pages.h"

#include <algorithm>

#include "base/check.h"

namespace memkv::engine {

std::uint32_t pages_of(const Memory& memory) {
  std::uint32_t count = 0;
  for (const PageRun& run : memory) count += run.count;
  return count;
}

Pages::Pages(std::span<std::byte> arena) : arena_(arena) {
  total_ = static_cast<std::uint32_t>(arena.size() / kArenaPageBytes);
  free_ = total_;
  if (total_ > 0) add({0, total_});
}

void Pages::add(PageRun run) {
  by_place_.emplace(run.first, run.count);
  by_count_.emplace(run.count, run.first);
}

void Pages::remove(PageRun run) {
  by_place_.erase(run.first);
  by_count_.erase({run.count, run.first});
}

std::optional<Memory> Pages::take(std::uint32_t count) {
  if (count == 0 || count > free_) return std::nullopt;
  Memory memory;
  std::uint32_t missing = count;
  while (missing > 0) {
    auto best = by_count_.lower_bound({missing, 0});
    if (best == by_count_.end()) --best;
    const PageRun run{best->second, best->first};
    remove(run);
    const PageRun taken{run.first, std::min(run.count, missing)};
    if (taken.count < run.count) add({run.first + taken.count, run.count - taken.count});
    memory.push_back(taken);
    missing -= taken.count;
  }
  free_ -= count;
  return memory;
}

void Pages::give_back(const Memory& memory) {
  for (PageRun run : memory) {
    free_ += run.count;
    auto next = by_place_.lower_bound(run.first);
    MEMKV_CHECK(next == by_place_.end() || next->first >= run.first + run.count,
                "pages are given back once");
    if (next != by_place_.end() && next->first == run.first + run.count) {
      const PageRun behind{next->first, next->second};
      remove(behind);
      run.count += behind.count;
    }
    const auto after = by_place_.lower_bound(run.first);
    if (after != by_place_.begin()) {
      const auto before = std::prev(after);
      const PageRun front{before->first, before->second};
      MEMKV_CHECK(front.first + front.count <= run.first, "pages are given back once");
      if (front.first + front.count == run.first) {
        remove(front);
        run = {front.first, front.count + run.count};
      }
    }
    add(run);
  }
}

std::vector<iovec> Pages::pieces(const Memory& memory, std::uint64_t offset,
                                 std::uint64_t length) const {
  std::vector<iovec> out;
  for (const PageRun& run : memory) {
    const std::uint64_t run_bytes = run.count * kArenaPageBytes;
    if (length == 0) break;
    if (offset >= run_bytes) {
      offset -= run_bytes;
      continue;
    }
    const std::uint64_t taken = std::min(length, run_bytes - offset);
    out.push_back({arena_.data() + run.first * kArenaPageBytes + offset, taken});
    length -= taken;
    offset = 0;
  }
  MEMKV_CHECK(length == 0, "the bytes lie in the memory");
  return out;
}

}  // namespace memkv::engine
