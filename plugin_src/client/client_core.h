// ClientCore: the client on its mind: places blocks, hands them to the nodes' sessions, keeps the
// deadlines, and decides what became of each request.
//
// Thread: the mind, but for stats() and health(). Everything it does follows from its world, so
// that a simulation replays it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "client/client.h"
#include "client/node_session.h"
#include "client/operation.h"
#include "client/placement.h"

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
  // Cancels everything, ends every connection; `closed` comes from a task of its own, after the
  // last.
  void close(Task closed);

  [[nodiscard]] ClientStats stats() const;               // Thread: any
  [[nodiscard]] std::vector<NodeHealth> health() const;  // Thread: any

 private:
  // NodeOwner
  const ClientWorld& world() override { return world_; }
  const ClientOptions& options() const override { return options_; }
  std::uint64_t next_connection() override { return ++connections_; }
  std::span<std::byte> frame_memory() override;
  void item_over(const std::shared_ptr<Operation>& operation, std::size_t item, Code code) override;
  void node_changed(std::size_t node, const NodeHealth& health) override;
  void node_reconnected() override;
  void node_closed() override;

  void place_items(Operation& operation);
  void set_deadline(Operation& operation);
  void submit(const std::shared_ptr<Operation>& operation);
  void end_early(const std::shared_ptr<Operation>& operation, Code code);
  void finish(const std::shared_ptr<Operation>& operation);
  void count_begin(const Operation& operation);
  void count_end(const Operation& operation);
  void tell_closed_when_over();

  const ClientOptions options_;
  const ClientWorld world_;
  std::vector<PlacementNode> map_;
  std::vector<std::shared_ptr<NodeSession>> sessions_;
  std::map<std::uint64_t, std::shared_ptr<Operation>> operations_;  // under way, by their number
  std::size_t blocks_under_way_ = 0;
  std::uint64_t last_operation_ = 0;
  std::uint64_t connections_ = 0;
  std::vector<std::byte> frame_memory_;

  bool closing_ = false;
  std::size_t sessions_open_ = 0;
  std::vector<Task> when_closed_;

  mutable std::mutex published_mutex_;  // of the two below
  ClientStats stats_;
  std::vector<NodeHealth> health_;
};

}  // namespace memkv
