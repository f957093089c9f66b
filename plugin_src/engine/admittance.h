// Admittance: whether a new block is taken where not every one is: at its second put, or within the
// device's budget of writes. Bounded memory, no time at all.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <vector>

#include "base/fingerprint.h"

namespace memkv::engine {

// Fingerprints of puts that were turned away a while ago: one that comes back is let in. Each has
// one place, where the next one that belongs there takes its turn; so what is remembered is bounded
// and the longest there are forgotten.
class Touches {
 public:
  // True when it was here before and is not forgotten.
  [[nodiscard]] bool again(const Fingerprint& print);

 private:
  std::vector<std::uint64_t> places_;  // made at the first call
};

// So many bytes a day may be written to the device; an hour's worth may be saved up, and a day's
// worth owed: whatever was written, a day without a write is enough.
class WriteBudget {
 public:
  explicit WriteBudget(std::uint64_t bytes_a_day);

  // False while more was written than the time allowed. `written` is all that was written to the
  // device so far, whoever wrote it.
  [[nodiscard]] bool allows(std::uint64_t now_ns, std::uint64_t written);

 private:
  double bytes_per_ns_;
  double saved_max_;
  double owed_max_;
  double saved_;
  std::uint64_t seen_ns_ = 0;
  std::uint64_t seen_written_ = 0;
};

}  // namespace memkv::engine
