// ClientCore: the client on its mind: places blocks, hands them to the nodes' sessions, keeps the
// deadlines, follows the map, and decides what became of each request.
//
// A block that is not where the map in force has it is asked for where former maps had it, so that
// growing does not cost hits. A group that is known to lie on two nodes is read from the one that
// answers sooner, and from the other when that fails. A drop goes to all places, one after another,
// and then round again until it finds the block nowhere, so that none that moves meanwhile escapes
// it (docs/formats/wire.md, section 6); one that it finds in every round is busy. It goes to every
// node, when this client did not see every map of the
// last ten minutes; and begins again when a node says that there is a newer map.
// Requests wait for the first node that says which map it holds, or until all have failed.
//
// Thread: the mind, but for stats() and health(). Everything it does follows from its world, so
// that a simulation replays it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "client/client.h"
#include "client/client_map.h"
#include "client/copies.h"
#include "client/latencies.h"
#include "client/node_session.h"
#include "client/operation.h"

namespace memkv {

class ClientCore final : public NodeOwner, public std::enable_shared_from_this<ClientCore> {
 public:
  ClientCore(const ClientOptions& options, const ClientWorld& world);
  ~ClientCore() override = default;

  // Begins to connect.
  void start();
  // Takes a checked operation; its completion follows.
  void begin(const std::shared_ptr<Operation>& operation);
  // What is not over becomes `cancelled`, when it is quiet.
  void cancel(const std::shared_ptr<Operation>& operation);
  // A held put goes on.
  void release(const std::shared_ptr<Operation>& operation);
  // Cancels everything, ends every connection; `closed` comes from a task of its own, after the
  // last.
  void close(Task closed);

  [[nodiscard]] ClientStats stats() const;               // Thread: any
  [[nodiscard]] std::vector<NodeHealth> health() const;  // Thread: any

 private:
  // NodeOwner
  const ClientWorld& world() override { return world_; }
  const ClientOptions& options() const override { return options_; }
  Credentials& credentials() override { return credentials_; }
  std::uint64_t next_connection() override { return ++connections_; }
  std::span<std::byte> frame_memory() override;
  void item_over(const std::shared_ptr<Operation>& operation, std::size_t item, Code code) override;
  void node_changed(std::size_t node, const NodeHealth& health) override;
  void node_reconnected() override;
  void epoch_seen(std::size_t node, std::uint32_t epoch) override;
  void node_closed(std::size_t node) override;

  void look_at_token();

  // the map
  void orient();
  void ask_map(std::size_t node);
  void map_came(const Operation& asked);
  void adopt();
  void forget_outlived();
  void look_for_map();
  [[nodiscard]] bool any_unreachable() const;
  [[nodiscard]] std::optional<std::size_t> next_connected();

  // one block, at several places
  [[nodiscard]] bool ask_older(const std::shared_ptr<Operation>& operation, std::size_t index,
                               Code code);
  void submit_older();
  [[nodiscard]] std::optional<ClientMap::Place> next_place(const Operation& operation,
                                                           std::size_t index, Code code);
  void plan_reads(Operation& operation);
  void plan_drop(Operation::Item& item, const Fingerprint& group) const;
  static void go_round(Operation::Item& item, Code code);
  void count_answer(const Operation& operation, std::size_t index, Code code);
  [[nodiscard]] bool drop_again(const std::shared_ptr<Operation>& operation);
  static void doubt(Operation& operation, Code code);
  void end_waiting_drops();

  void place_and_submit(const std::shared_ptr<Operation>& operation);
  void place_items(Operation& operation);
  void set_deadline(Operation& operation);
  void submit(const std::shared_ptr<Operation>& operation);
  void submit_to(std::uint32_t node, const std::shared_ptr<Operation>& operation,
                 std::vector<std::uint32_t> items);
  void end_early(const std::shared_ptr<Operation>& operation, Code code);
  void finish(const std::shared_ptr<Operation>& operation);
  void count_begin(const Operation& operation);
  void count_end(const Operation& operation);
  void note_latency(const Operation& operation);
  void tell_closed_when_over();

  const ClientOptions options_;
  const ClientWorld world_;
  Credentials credentials_;
  TimerId looking_at_token_ = 0;  // while there is a file of one
  ClientMap map_;
  Copies copies_;
  std::uint32_t newest_epoch_ = 0;                      // that any node said it holds
  std::vector<std::shared_ptr<NodeSession>> sessions_;  // by the nodes' indices; none of forgotten
  std::map<std::uint64_t, std::shared_ptr<Operation>> operations_;  // under way, by their number
  std::size_t blocks_under_way_ = 0;
  std::uint64_t last_operation_ = 0;
  std::uint64_t connections_ = 0;
  std::vector<std::byte> frame_memory_;

  bool oriented_ = false;                             // a node said which map it holds, or none can
  std::vector<std::shared_ptr<Operation>> unplaced_;  // until then
  bool asking_map_ = false;
  std::uint64_t next_ask_ns_ = 0;  // after a question for a map that came to nothing
  TimerId looking_ = 0;            // for a map, while a node is unreachable
  TimerId outliving_ = 0;          // until the oldest map goes
  std::size_t last_asked_ = 0;     // when looking
  struct Older {
    std::shared_ptr<Operation> operation;
    std::size_t index = 0;
  };
  std::vector<std::shared_ptr<Operation>> waiting_drops_;  // for a newer map
  std::vector<Older> older_;  // to be asked for at their older places, by a task that is posted

  bool closing_ = false;
  std::size_t sessions_open_ = 0;
  std::vector<Task> when_closed_;

  Latencies latencies_;
  mutable std::mutex published_mutex_;  // of the two below
  ClientStats stats_;
  std::vector<NodeHealth> health_;
};

}  // namespace memkv
