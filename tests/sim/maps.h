// Maps: what a control plane publishes in a schedule: which nodes are in the pool and how much of
// it each has, which of them drain, and what is settled about namespaces; and who knows of it.
//
// Each map is the one before with something else about one node (`Plan::moves`), and with quotas
// drawn anew; its former weights are those of the ones before.
// Namespace 7 may come to a new drop generation, for good; its TTL is that of the plan, from the
// first map to the last. Where blocks have copies, namespace 8 is to lie on two nodes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/map_file.h"
#include "sim/plan.h"
#include "support/sim.h"

namespace memkv::sim {

class Maps {
 public:
  Maps(const Plan& plan, Random& random);

  // Every node in the pool, but for the last where the pool changes.
  [[nodiscard]] MapFile first();
  [[nodiscard]] MapFile next();
  // All nodes with equal shares, and every block taken: nothing changes any more.
  [[nodiscard]] MapFile last();
  [[nodiscard]] std::uint32_t epoch() const { return epoch_; }
  [[nodiscard]] std::string sentence() const;  // what the newest one says

  // This node goes by the map of this epoch from now on, also when it is down.
  void node_holds(unsigned node, std::uint32_t epoch);
  // A client that has this epoch's map has the newest that any node can have told it, and no node
  // is out of its sight.
  [[nodiscard]] bool knows_all(std::uint32_t epoch) const;
  // Every node knows that the namespace's generation is over.
  [[nodiscard]] bool is_over(unsigned tenant, unsigned space) const;

  // What the newest map grants a tenant on a node, all its namespaces together, and in namespace
  // 8; nothing where it has no limit.
  [[nodiscard]] std::optional<std::uint64_t> tenant_share(unsigned tenant, unsigned node) const;
  [[nodiscard]] std::optional<std::uint64_t> space_share(unsigned tenant, unsigned node) const;

 private:
  struct Member {
    bool named = true;
    bool draining = false;
    std::uint32_t weight = 100;
  };
  struct Settled {
    std::optional<std::uint32_t> generation;  // of namespace 7; none: it has no rule
    std::uint32_t over_since = 0;             // the epoch that ended generation 0; 0: none did
    std::uint64_t space_quota = 0;            // of namespace 8
    std::uint64_t quota = 0;
    bool second_touch = false;  // in namespace 8
  };
  void change_a_node();
  void remember();
  void settle(bool calm);
  [[nodiscard]] MapFile publish();
  [[nodiscard]] std::vector<std::byte> rules() const;
  [[nodiscard]] std::optional<std::uint64_t> share(std::uint64_t quota, unsigned node) const;

  const Plan& plan_;
  Random& random_;
  std::uint32_t epoch_;
  std::array<Member, kNodes> members_;
  std::array<std::array<std::uint32_t, kNodes>, kFormersMax> formers_{};  // weights
  std::array<Settled, kTenants> settled_;
  std::array<std::uint32_t, kNodes> held_{};
  std::set<std::uint32_t> whole_;  // epochs of maps that name every node
};

}  // namespace memkv::sim
