// Oracle: knows every value that was ever put under every identity, and says what a node may
// answer.
//
// A value's bytes follow from the schedule's seed and the value's number, so no two have the same
// (but for the shortest). Time here is a count of what the oracle was told: "A was over before B
// began" is what all rules are made of. A request that ended without an answer may have happened or
// not, but not after its end: a node holds a key that is being put until the put is over or its
// peer is gone, and refuses drops and other puts of it meanwhile.
//
// A get that says ok must have the bytes of a value that
//   - was put under this very identity before the get ended;
//   - was not dropped since: no drop that began after the value's last put was over was
//   acknowledged before the get began
//     (`ok` holds for good, `not_found` until the node starts anew; a disk that lies may bring a
//     block back at a restart: the index page with the drop may be the one it damaged; nor where
//     there was a newer map than the dropping client's, or a node that it could not know of);
//   - is not of a drop generation that every node knew to be over before the get began;
//   - had not outlived its TTL when the get began, but where movers give blocks a new age;
//   - was not replaced since, by a put of another value that was acknowledged, in the same life of
//   the node.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "sim/plan.h"

namespace memkv::sim {

struct Identity {
  unsigned tenant = 0, space = 0, key = 0;
  friend auto operator<=>(const Identity&, const Identity&) = default;
};
[[nodiscard]] std::string to_string(const Identity& id);

struct Value {
  unsigned number = 0;
  Identity id;
  std::vector<std::byte> bytes;
  std::uint64_t first_begin = 0;  // 0: never put
  std::uint64_t last_end = 0;     // of its last put
  unsigned open = 0;              // puts of it under way
  unsigned puts = 0;              // puts of it ever begun
};

using Finding = std::string;  // empty: all is well

class Oracle {
 public:
  // Where blocks move or have copies, a node that has one again may serve what was replaced
  // elsewhere, but nothing dropped.
  Oracle(const Plan& plan, Clock& clock) : plan_(plan), clock_(clock) {}

  // What the writer believes the key's value to be; a new one after a drop, or with `fresh`.
  [[nodiscard]] Value& value_for(const Identity& id, bool fresh, std::uint32_t length);
  // The length a reader would ask for; 0 when nothing was ever put.
  [[nodiscard]] std::uint32_t likely_length(const Identity& id) const;

  [[nodiscard]] std::uint64_t begin_put(Value& value);
  [[nodiscard]] Finding end_put(Value& value, std::uint64_t began, Code code);
  [[nodiscard]] std::uint64_t begin_get() { return tick(); }
  // May these bytes, from `offset` on, be what a get of `id` that began then answers now? Narrows
  // `values` down to the numbers of the values they can be of; an empty set as input is every
  // value.
  [[nodiscard]] Finding check_get(const Identity& id, std::uint32_t offset,
                                  std::span<const std::byte> bytes, std::uint64_t began,
                                  std::set<unsigned>& values) const;
  [[nodiscard]] Finding check_match(const Identity& id, std::uint32_t length,
                                    std::uint64_t began) const;
  [[nodiscard]] std::uint64_t begin_drop() { return tick(); }
  // `everywhere`: it reached all places that the block can have been at.
  void end_drop(const Identity& id, std::uint64_t began, Code code, bool everywhere);
  // Every node knows that the drop generation of this namespace of the tenant is over.
  void end_generation(unsigned tenant, unsigned space);

  [[nodiscard]] unsigned node_of(const Identity& id) const;
  void node_started(unsigned node) { starts_[node].push_back(tick()); }
  void disk_lied() { disk_lied_ = true; }

 private:
  struct Acknowledged {
    std::uint64_t began = 0, ended = 0;
    unsigned value = 0;  // of a put
    Code code = Code::ok;
    bool everywhere = true;  // of a drop
  };
  struct History {
    std::vector<std::unique_ptr<Value>> values;
    std::vector<Acknowledged> puts, drops;
    bool dropped = false;  // since the last new value
  };
  std::uint64_t tick();
  [[nodiscard]] bool is_over(const Identity& id, std::uint64_t began) const;
  [[nodiscard]] bool outlived(const Value& value, std::uint64_t began) const;
  [[nodiscard]] const History* history_of(const Identity& id) const;
  [[nodiscard]] bool restarted_since(const Identity& id, std::uint64_t then) const;
  // Why a get of this value that began then is wrong; empty when it is not.
  [[nodiscard]] Finding why_dead(const History& history, const Value& value,
                                 std::uint64_t began) const;
  [[nodiscard]] Finding explain(const Identity& id, std::span<const std::byte> bytes,
                                std::uint32_t offset) const;

  const Plan& plan_;
  Clock& clock_;
  std::uint64_t now_ = 0;
  std::vector<std::uint64_t> when_ns_{0};                        // by what `now_` was
  std::map<std::pair<unsigned, unsigned>, std::uint64_t> over_;  // since when, by tenant and space
  unsigned next_value_ = 1;
  bool disk_lied_ = false;
  std::map<Identity, History> histories_;
  std::array<std::vector<std::uint64_t>, kNodes> starts_;
};

}  // namespace memkv::sim
