// Schedule: one simulated life of a small cluster, from its seed to its last check.
//
//   chaos    clients work while the world's faults fire, nodes and clients crash and come back, the
//   network parts and heals healing  no faults any more: every client can put and get new blocks on
//   every node within kHealMs rest     nothing is left behind in a node: no put or get waiting,
//   nothing dirty, granted or pinned stop     both nodes stop cleanly and start again: what they
//   served before, they serve still
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "sim/journal.h"
#include "sim/oracle.h"

namespace memkv::sim {

inline constexpr std::uint64_t kHealMs = 15'000;
inline constexpr std::uint64_t kStopMs = 15'000;

struct Outcome {
  Finding finding;  // empty: nothing was found
  std::uint64_t events = 0;
  std::uint64_t trace = 0;
  std::vector<std::string> last;  // what happened last
};

[[nodiscard]] Outcome run_schedule(std::uint64_t seed, std::uint64_t number, bool verbose,
                                   Totals& totals);

}  // namespace memkv::sim
