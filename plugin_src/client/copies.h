// Copies: which groups are known to lie on two nodes, and which of two nodes answers sooner.
//
// A node says with its answers that a block's second place has it, too. That is believed for
// kCopiedMs and then asked again, by going to the first place. Of the groups that are known few are
// remembered, the latest.
//
// How soon a node answers is what its last answers took for each byte that was wanted of it then;
// so a node that is slow is avoided where there is another. Who is avoided is not measured: what is
// known of a node therefore counts half after every kSpeedHalfMs without an answer, until it looks
// as fast as the other and is tried: a hundred times slower, about every thirteen seconds. The
// longer a node was not seen, the more its next answer says.
//
// Thread: the mind. No I/O, no clock of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/fingerprint.h"

namespace memkv {

class Copies {
 public:
  Copies() : groups_(kGroups) {}

  // The group's first place said whether its second has it, too; or the second had it not.
  void heard(const Fingerprint& group, bool copied, std::uint64_t now_ns);
  [[nodiscard]] bool known(const Fingerprint& group, std::uint64_t now_ns) const;

  // So many bytes are wanted of the node now; what is wanted of it with them.
  std::uint64_t wanted(std::size_t node, std::uint64_t bytes);
  // Bytes that are not wanted any more.
  void over(std::size_t node, std::uint64_t bytes);
  // They came after so long, when `queued` were wanted of the node.
  void came(std::size_t node, std::uint64_t queued, std::uint64_t took_ns, std::uint64_t now_ns);
  // They did not come in so long: the node is at least so slow, and not faster than was known.
  void failed(std::size_t node, std::uint64_t queued, std::uint64_t took_ns, std::uint64_t now_ns);
  // The node was forgotten: another one will have its index.
  void forget(std::size_t node);
  // Which of the two would answer sooner, when so many bytes more are wanted of it; the first when
  // they are alike.
  [[nodiscard]] std::size_t sooner(std::size_t first, std::uint64_t first_bytes, std::size_t second,
                                   std::uint64_t second_bytes, std::uint64_t now_ns) const;

 private:
  static constexpr std::size_t kGroups = 4096;
  struct Group {
    Fingerprint group;
    std::uint64_t until_ns = 0;
  };
  struct Load {
    std::uint64_t bytes = 0;
    double ns_per_byte = 0;     // 0: nothing came yet
    std::uint64_t seen_ns = 0;  // when that was learnt
  };
  [[nodiscard]] Load& load(std::size_t node);
  // How much of what is known of the node counts still, 0 … 1.
  [[nodiscard]] static double fresh(const Load& load, std::uint64_t now_ns);
  [[nodiscard]] double wait_ns(std::size_t node, std::uint64_t bytes, std::uint64_t now_ns) const;

  std::vector<Group> groups_;  // each at one place, the later one stays
  std::vector<Load> loads_;    // by node
};

}  // namespace memkv
