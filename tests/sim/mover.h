// Mover: what a node's agent does in memkv_nixl/store/_block_mover.py, in a process of its own:
// copies blocks of its node to their second place, or all of them to where they belong while the
// node drains, a block at a time, and crashes.
//
//     MAP, LIST here → GET here → PUT there, held → MARK here → COMMIT there
//
// A pass goes through the list from its first block on: of all blocks, or of those that a rule
// wants on two nodes, which never happens while the node drains; of these also the ones that have
// the mark when the map's nodes changed since such a pass began, or the mover is new.
//
// It goes by the map that its node holds when it begins with a block; nobody stops it when there is
// another one by its end.
// It is in no hurry between the steps, so that drops and crashes come between them.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "client/client.h"
#include "client/placement.h"
#include "sim/plan.h"
#include "support/sim.h"

namespace memkv::sim {

class Mover {
 public:
  // Of node `number`, for the blocks of one tenant.
  Mover(World& world, unsigned number, unsigned tenant);
  ~Mover();

  // With `settled` only what a rule wants on two nodes.
  void boot(bool settled = false);
  void crash();  // nothing happens when it is down
  [[nodiscard]] bool down() const { return process_ == nullptr; }
  // Copies that became visible, of nodes that drained and of others; and of these others the ones
  // that a rule wants.
  [[nodiscard]] std::uint64_t drained() const { return drained_; }
  [[nodiscard]] std::uint64_t copied() const { return copied_; }
  [[nodiscard]] std::uint64_t settled() const { return settled_; }
  // Its last pass over all that a rule wants on two nodes found nothing but what the other node
  // refuses for good: it has the key with another length.
  [[nodiscard]] bool done() const { return done_; }

 private:
  // One block on its way; its memory outlives the requests about it.
  struct Memory;
  struct Move;
  [[nodiscard]] Client& client(unsigned node);
  [[nodiscard]] std::optional<unsigned> target_of(const Fingerprint& group) const;
  void ask(const Question& question, std::function<void(Result<std::string>)> got);
  void look();
  void look_later();
  void learn(const std::string& text);
  void begin_pass();
  void list();
  void listed(const std::string& text);
  void read();
  void hold();
  void await_held(unsigned looks);
  void look_again();
  void mark(std::uint8_t mark, std::function<void(bool)> told);
  void end();
  // Runs `what` after a while, unless the mover crashed.
  void later(std::uint64_t most_us, void (Mover::*what)());

  World& world_;
  unsigned number_;
  unsigned tenant_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Random> random_;
  std::array<std::unique_ptr<Client>, kNodes> clients_;  // of the nodes, as they are wanted
  std::vector<PlacementNode> nodes_;                     // by the node's map, in their order
  bool draining_ = false;                                // the node, by its map
  std::uint8_t mark_ = 0;                                // of what is where it is wanted
  std::unique_ptr<Move> move_;
  std::uint64_t cursor_ = 0;
  // The pass that is under way.
  bool settles_ = false;
  bool in_dram_ = false;
  bool marked_too_ = false;
  bool found_ = true;  // something to copy
  bool settles_only_ = false;
  bool nodes_changed_ = true;  // since the last pass over those that have the mark, too
  bool done_ = false;
  std::uint64_t copied_ = 0;
  std::uint64_t settled_ = 0;
  std::uint64_t drained_ = 0;
};

}  // namespace memkv::sim
