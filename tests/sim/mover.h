// Mover: what a node's agent does in memkv_nixl/store/_block_mover.py, in a process of its own:
// copies blocks of its node to their second place, a block at a time, and crashes.
//
//     LIST here → GET here → PUT there, held → MARK here → COMMIT there
//
// It is in no hurry between the steps, so that drops and crashes come between them.
#pragma once

#include <cstdint>
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

  void boot();
  void crash();  // nothing happens when it is down
  [[nodiscard]] bool down() const { return process_ == nullptr; }
  // Copies that became visible.
  [[nodiscard]] std::uint64_t copied() const { return copied_; }

 private:
  // One block on its way; its memory outlives the requests about it.
  struct Memory;
  struct Move;
  [[nodiscard]] std::unique_ptr<Client> open(unsigned node);
  [[nodiscard]] bool belongs_there(const Fingerprint& group) const;
  void ask(const Question& question, std::function<void(Result<std::string>)> got);
  void look();
  void listed(const std::string& text);
  void read();
  void hold();
  void await_held(unsigned looks);
  void mark();
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
  std::uint64_t copied_ = 0;
};

}  // namespace memkv::sim
