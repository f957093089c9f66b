// Index: where every block of the node is, by fingerprint. All of it is in RAM.
//
// Open addressing with linear probing in shards that grow one by one, so that no single insert
// moves more than a shard. The order of everything follows from the calls alone. An Entry pointer
// lives until the next insert or erase. Thread: the mind.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/fingerprint.h"
#include "engine/accounts.h"

namespace memkv::engine {

inline constexpr std::uint32_t kNone = 0xffffffff;  // no segment, no resident

struct Entry {
  Fingerprint fingerprint;
  std::uint64_t incarnation = 0;
  std::uint64_t held_until_ns = 0;
  std::uint32_t length = 0;  // 0: an empty cell of the table
  std::uint32_t depth = 0;
  std::uint32_t segment = kNone;  // kNone: not on flash (yet)
  std::uint32_t page = 0;
  std::uint32_t resident = kNone;      // its slot in Residents; kNone: not in DRAM
  AccountId account = kNoAccount;      // whose quota it counts against
  std::uint32_t put_s = 0;             // when it was put, by the wall clock; kept when it moves
  std::uint8_t read_failures : 7 = 0;  // in a row
  bool hit : 1 = false;                // since it was written
  std::uint8_t mark = 0;               // whatever store.h's mark() said last
  std::uint8_t reads = 0;              // as of `reads_at`; see reads_by()
  std::uint8_t reads_at = 0;           // in half-lives of a read, modulo 256

  [[nodiscard]] bool on_flash() const { return segment != kNone; }
  [[nodiscard]] bool wanted(std::uint64_t now_ns) const { return hit || held_until_ns > now_ns; }
  // How often it was read lately: each read counts half after kReadsHalfMs. Who is not looked at
  // for 256 of them may seem read as often as then.
  [[nodiscard]] std::uint8_t reads_by(std::uint64_t now_ns) const;
  void count_read(std::uint64_t now_ns);
};
static_assert(sizeof(Entry) <= 64);

class Index {
 public:
  explicit Index(std::uint64_t entries_max);

  // nullptr when there is none.
  [[nodiscard]] Entry* find(const Fingerprint& fingerprint);
  [[nodiscard]] const Entry* find(const Fingerprint& fingerprint) const;
  // The entry with this fingerprint, made when it was not there, without a mark. `length` is at
  // least 1. The caller looks at full() before.
  Entry& insert(const Fingerprint& fingerprint, std::uint32_t length,
                AccountId account = kNoAccount);
  // The entry's block carries this mark from now on.
  void mark(Entry& entry, std::uint8_t mark);
  // The entry's block is its account's newest.
  void line_up(const Entry& entry);
  // The block counts for another account from now on, and stands last there.
  void move_to(Entry& entry, AccountId account);
  // True when it was there.
  bool erase(const Fingerprint& fingerprint);
  void clear();

  // Shows `see` the entries from `cursor` on (0: the first), in at most `cells_max` cells of the
  // table, until it says false. The cursor to go on with; 0: that was all. What is inserted or
  // erased between two calls may move others, which are then missed or seen twice.
  [[nodiscard]] std::uint64_t walk(std::uint64_t cursor, std::size_t cells_max,
                                   const std::function<bool(const Entry&)>& see) const;

  [[nodiscard]] std::uint64_t size() const { return size_; }
  [[nodiscard]] std::uint64_t entries_max() const { return entries_max_; }
  [[nodiscard]] bool full() const { return size_ >= entries_max_; }
  // Sum of the lengths of all blocks.
  [[nodiscard]] std::uint64_t block_bytes() const { return block_bytes_; }
  [[nodiscard]] std::uint64_t memory_bytes() const;

  // Who has how many of these bytes.
  [[nodiscard]] Accounts& accounts() { return accounts_; }
  [[nodiscard]] const Accounts& accounts() const { return accounts_; }

 private:
  struct Shard {
    std::vector<Entry> cells;  // a power of two, or none
    std::size_t used = 0;
  };

  [[nodiscard]] Accounts::Lives lives_in(AccountId account) const;
  [[nodiscard]] Shard& shard_of(const Fingerprint& fingerprint);
  static void grow(Shard& shard);

  std::vector<Shard> shards_;
  std::uint64_t entries_max_;
  std::uint64_t size_ = 0;
  std::uint64_t block_bytes_ = 0;
  Accounts accounts_;
};

}  // namespace memkv::engine
