#include "engine/index.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"

namespace memkv::engine {
namespace {

constexpr std::uint64_t kEntriesPerShard = 16 * 1024;
constexpr std::size_t kCellsMin = 16;

// Where a fingerprint would like to lie; fingerprints are as good as random, except in tests with
// narrow ones.
std::size_t home_of(const Fingerprint& print, std::size_t cells) {
  return print.low & (cells - 1);
}

// The cell of `print`, or the empty cell where it belongs. There always is an empty cell.
std::size_t probe(const std::vector<Entry>& cells, const Fingerprint& print) {
  std::size_t at = home_of(print, cells.size());
  while (cells[at].length != 0 && cells[at].fingerprint != print)
    at = (at + 1) & (cells.size() - 1);
  return at;
}

// Half-lives of a read since the clock began.
std::uint8_t half_lives(std::uint64_t now_ns) {
  return static_cast<std::uint8_t>(now_ns / (kReadsHalfMs * kNsPerMs));
}

}  // namespace

std::uint8_t Entry::reads_by(std::uint64_t now_ns) const {
  const auto passed = static_cast<std::uint8_t>(half_lives(now_ns) - reads_at);
  return passed < 8 ? static_cast<std::uint8_t>(reads >> passed) : 0;
}

void Entry::count_read(std::uint64_t now_ns) {
  const std::uint8_t before = reads_by(now_ns);
  reads = before == 255 ? before : static_cast<std::uint8_t>(before + 1);
  reads_at = half_lives(now_ns);
}

Index::Index(std::uint64_t entries_max) : entries_max_(entries_max) {
  const std::uint64_t wanted = std::bit_ceil(entries_max / kEntriesPerShard + 1);
  shards_.resize(std::min(wanted, kIndexShardsMax));
}

Index::Shard& Index::shard_of(const Fingerprint& fingerprint) {
  return shards_[fingerprint.high & (shards_.size() - 1)];
}

Entry* Index::find(const Fingerprint& fingerprint) {
  Shard& shard = shard_of(fingerprint);
  if (shard.cells.empty()) return nullptr;
  Entry& cell = shard.cells[probe(shard.cells, fingerprint)];
  return cell.length == 0 ? nullptr : &cell;
}

const Entry* Index::find(const Fingerprint& fingerprint) const {
  return const_cast<Index*>(this)->find(fingerprint);
}

void Index::grow(Shard& shard) {
  std::vector<Entry> cells(std::max(kCellsMin, shard.cells.size() * 2));
  for (const Entry& entry : shard.cells) {
    if (entry.length != 0) cells[probe(cells, entry.fingerprint)] = entry;
  }
  shard.cells = std::move(cells);
}

Entry& Index::insert(const Fingerprint& fingerprint, std::uint32_t length, AccountId account) {
  MEMKV_CHECK(length != 0, "a block has at least one byte");
  Shard& shard = shard_of(fingerprint);
  if ((shard.used + 1) * 4 > shard.cells.size() * 3) grow(shard);
  Entry& cell = shard.cells[probe(shard.cells, fingerprint)];
  if (cell.length == 0) {
    cell = Entry{.fingerprint = fingerprint};
    ++shard.used;
    ++size_;
  }
  block_bytes_ += length;
  block_bytes_ -= cell.length;
  accounts_.add(account, length);
  if (cell.length != 0) mark(cell, 0);
  const AccountId account_before = std::exchange(cell.account, account);
  const std::uint32_t length_before = std::exchange(cell.length, length);
  if (length_before != 0) {
    accounts_.remove(account_before, length_before, lives_in(account_before));
  }
  return cell;
}

Accounts::Lives Index::lives_in(AccountId account) const {
  return [this, account](const Placard& of) {
    const Entry* known = find(of.fingerprint);
    return known != nullptr && known->incarnation == of.incarnation && known->account == account;
  };
}

void Index::mark(Entry& entry, std::uint8_t mark) {
  const bool was = entry.mark == kMarkOfCopied;
  const bool is = mark == kMarkOfCopied;
  if (was != is) accounts_.count_copied(entry.account, is);
  entry.mark = mark;
}

void Index::line_up(const Entry& entry) {
  accounts_.line_up(entry.account, {entry.fingerprint, entry.incarnation}, lives_in(entry.account));
}

void Index::move_to(Entry& entry, AccountId account) {
  const std::uint8_t marked = entry.mark;
  mark(entry, 0);  // which the former account counts
  accounts_.add(account, entry.length);
  const AccountId before = std::exchange(entry.account, account);
  accounts_.remove(before, entry.length, lives_in(before));
  mark(entry, marked);
  line_up(entry);
}

bool Index::erase(const Fingerprint& fingerprint) {
  Shard& shard = shard_of(fingerprint);
  if (shard.cells.empty()) return false;
  std::vector<Entry>& cells = shard.cells;
  std::size_t hole = probe(cells, fingerprint);
  if (cells[hole].length == 0) return false;
  --shard.used;
  --size_;
  mark(cells[hole], 0);
  const AccountId account = cells[hole].account;
  const std::uint32_t length = cells[hole].length;
  block_bytes_ -= length;
  // Close the gap: what lies behind it and could not be found across it any more moves into it.
  const std::size_t mask = cells.size() - 1;
  for (std::size_t at = (hole + 1) & mask; cells[at].length != 0; at = (at + 1) & mask) {
    const std::size_t home = home_of(cells[at].fingerprint, cells.size());
    if (((at - home) & mask) >= ((at - hole) & mask)) {
      cells[hole] = cells[at];
      hole = at;
    }
  }
  cells[hole] = Entry{};
  accounts_.remove(account, length, lives_in(account));
  return true;
}

std::uint64_t Index::walk(std::uint64_t cursor, std::size_t cells_max,
                          const std::function<bool(const Entry&)>& see) const {
  std::uint64_t number = cursor >> 32;
  std::uint64_t at = cursor & 0xffffffff;
  for (; number < shards_.size(); ++number, at = 0) {
    const std::vector<Entry>& cells = shards_[number].cells;
    for (; at < cells.size(); ++at) {
      if (cells_max == 0) return number << 32 | at;
      --cells_max;
      if (cells[at].length != 0 && !see(cells[at])) return number << 32 | (at + 1);
    }
  }
  return 0;
}

void Index::clear() {
  for (Shard& shard : shards_) shard = Shard{};
  size_ = 0;
  block_bytes_ = 0;
  accounts_.clear();
}

std::uint64_t Index::memory_bytes() const {
  std::uint64_t bytes = 0;
  for (const Shard& shard : shards_) bytes += shard.cells.capacity() * sizeof(Entry);
  return bytes;
}

}  // namespace memkv::engine
