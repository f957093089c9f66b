// Mover: what a node's agent does in memkv_nixl/store/_block_mover.py, in a process of its own:
// copies blocks of its node to their second place, a block at a time, and crashes.
//
//     LIST here → GET here → PUT there, held → MARK here → COMMIT there
//
// Now of all blocks, now of those that a rule wants on two nodes; these it also copies from their
// second place to their first.
//
// It is in no hurry between the steps, so that drops and crashes come between them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
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
  // Copies that became visible, and of these the ones that a rule wants.
  [[nodiscard]] std::uint64_t copied() const { return copied_; }
  [[nodiscard]] std::uint64_t settled() const { return settled_; }
  // Its last pass over all that a rule wants on two nodes found nothing but what the other node
  // refuses for good: it has the key with another length.
  [[nodiscard]] bool done() const { return done_; }

 private:
  // One block on its way; its memory outlives the requests about it.
  struct Memory;
  struct Move;
  [[nodiscard]] std::unique_ptr<Client> open(unsigned node);
  [[nodiscard]] bool belongs_there(const Fingerprint& group) const;
  void ask(const Question& question, std::function<void(Result<std::string>)> got);
  void look();
  void begin_pass();
  void listed(const std::string& text);
  void read();
  void hold();
  void await_held(unsigned looks);
  void mark();
  void say_copied(std::function<void(bool)> said);
  void end();
  // Runs `what` after a while, unless the mover crashed.
  void later(std::uint64_t most_us, void (Mover::*what)());

  World& world_;
  unsigned number_;
  unsigned tenant_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Random> random_;
  std::unique_ptr<Client> own_;
  std::unique_ptr<Client> other_;
  std::unique_ptr<Move> move_;
  std::uint64_t cursor_ = 0;
  // The pass that is under way, through the list from its first block on.
  bool settles_ = false;
  bool in_dram_ = false;
  bool found_ = true;  // something to copy
  bool settles_only_ = false;
  bool done_ = false;
  std::uint64_t copied_ = 0;
  std::uint64_t settled_ = 0;
};

}  // namespace memkv::sim
