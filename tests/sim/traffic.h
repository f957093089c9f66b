// Traffic: the requests of all clients, and the oracle's word on each answer.
//
// A client has a few lanes; a lane makes one request after another, of a few blocks each, some with
// hardly any time, some cancelled or abandoned. Held against every request, whatever the world does
// to it:
//   - it is over within its time and kLateMs;
//   - a get that says ok brought what the oracle allows, and touched no byte outside of its
//   targets;
//   - when it is over, its memory is left alone (it is filled with a pattern and looked at once
//   more, some time later).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "sim/hosts.h"
#include "sim/journal.h"
#include "sim/oracle.h"
#include "sim/plan.h"

namespace memkv::sim {

inline constexpr std::uint64_t kLateMs = 100;

struct Item {
  Identity id;
  std::vector<std::byte> key;
  std::vector<std::byte> memory;  // of a put or get, and kGuardBytes behind it
  std::uint32_t offset = 0;
  std::uint32_t length = 0;
  Value* value = nullptr;   // of a put
  std::uint64_t began = 0;  // on the oracle's clock
  Code code = Code::cancelled;
};

struct Operation {
  enum class What : std::uint8_t { put, get, match, drop };
  unsigned number = 0;
  What what{};
  ClientHost* client = nullptr;
  std::vector<Item> items;
  std::unique_ptr<Request> request;  // none once it was abandoned
  std::uint64_t timeout_ms = 0;
  bool over = false;       // `finished` was called
  bool everywhere = true;  // of a drop: it reached all places, when it was over
  bool settled = false;    // the oracle has heard of it
  bool crashed = false;
};

class Traffic {
 public:
  Traffic(World& world, const Plan& plan, Oracle& oracle, Journal& journal, Totals& totals);

  // Calls `made` before each request of a lane, and `dropped` when a drop was acknowledged.
  // `everywhere` tells of a drop by a client with the map of this epoch whether no node can have
  // the block without the client knowing.
  void observe(std::function<void()> made, std::function<void(const Identity&)> dropped,
               std::function<bool(std::uint32_t epoch)> everywhere) {
    everywhere_ = std::move(everywhere);
    made_ = std::move(made);
    dropped_ = std::move(dropped);
  }
  // Starts the lanes of a client that was booted; they go on until all requests of the plan are
  // made.
  void start(ClientHost& client);
  // The client's process is dead: what it had under way ends without an answer.
  void forget(ClientHost& client);
  [[nodiscard]] bool done() const { return left_ == 0 && open_ == 0; }

  // One put or get of one block, outside of any lane.
  std::shared_ptr<Operation> put_one(ClientHost& client, const Identity& id, std::uint32_t length);
  std::shared_ptr<Operation> get_one(ClientHost& client, const Identity& id);

  void found(const Finding& finding);  // the first one counts
  [[nodiscard]] const Finding& finding() const { return finding_; }

 private:
  using OperationPtr = std::shared_ptr<Operation>;
  void next(ClientHost& client, std::uint64_t life, bool was_lost);
  OperationPtr draw(ClientHost& client);
  void add_put(Operation& operation, const Identity& id);
  void add_get(Operation& operation, const Identity& id);
  void submit(const OperationPtr& operation, std::function<void()> then);
  void send(Operation& operation, Finished finished);
  void disturb(const OperationPtr& operation);
  void settle(const OperationPtr& operation);
  void settle_put(Item& item);
  void settle_drop(const Operation& operation, const Item& item);
  void settle_match(const Operation& operation, std::size_t index);
  void settle_gets(Operation& operation);
  void retire(const OperationPtr& operation);
  [[nodiscard]] std::string describe(const Operation& operation) const;

  World& world_;
  const Plan& plan_;
  Oracle& oracle_;
  Journal& journal_;
  Totals& totals_;
  unsigned left_;
  unsigned open_ = 0;
  unsigned next_number_ = 1;
  std::map<std::string, std::uint64_t> lives_;  // of clients, by name
  std::vector<OperationPtr> running_;
  Finding finding_;
  std::function<void()> made_;
  std::function<void(const Identity&)> dropped_;
  std::function<bool(std::uint32_t)> everywhere_;
};

}  // namespace memkv::sim
