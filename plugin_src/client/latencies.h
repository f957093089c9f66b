// Latencies: how long a client's requests took, by what was asked and how that ended, and how many
// bytes they moved.
//
// The mind notes, with a few plain additions; whoever asks reads without holding it up, and may see
// a request that is just being noted in part. No lock, no allocation. Threads: note() the mind's
// alone, read() any.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "base/histogram.h"
#include "client/client.h"
#include "client/operation.h"

namespace memkv {

// How a request ended, by its blocks; nothing for one that is no get, match or put, and for one
// that its caller cancelled: that says nothing of the pool.
struct Ending {
  RequestKind kind{};
  Outcome outcome{};
  std::uint64_t bytes = 0;
};
[[nodiscard]] std::optional<Ending> ending_of(const Operation& operation);

class Latencies {
 public:
  void note(const Ending& ending, std::uint64_t took_ns);
  [[nodiscard]] RequestStats read() const;

 private:
  // One thread writes, so that no addition has to be atomic as a whole.
  class Number {
   public:
    void add(std::uint64_t more) {
      value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
    }
    [[nodiscard]] std::uint64_t get() const { return value_.load(std::memory_order_relaxed); }

   private:
    std::atomic<std::uint64_t> value_ = 0;
  };
  struct Cell {
    std::array<Number, Histogram::kBounds + 1> buckets;
    Number sum_ns;
    Number bytes;
  };

  std::array<std::array<Cell, kOutcomes>, kRequestKinds> cells_;
};

}  // namespace memkv
