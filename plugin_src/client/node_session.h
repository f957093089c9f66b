// NodeSession: one node as the client sees it: its connection, its breaker, what waits for it and
// what is under way.
//
// It connects, greets (HELLO, CHALLENGE, AUTH, WELCOME), and connects again for as long as the
// client lives, with a growing, jittered pause between kBackoffMsMin and kBackoffMsMax. A failed
// connect or greeting, a lost link, a mute node or kTimeoutsInRowMax requests in a row that ran
// into their deadline open the breaker; only the next WELCOME closes it. While it is open new
// blocks are `unreachable` at once. Blocks that were not asked for yet when a link broke wait for
// one more connection. When there is another token to show it lets requests end, holds others back
// meanwhile, and connects again.
//
// Thread: the mind.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/random.h"
#include "base/stream.h"
#include "client/credentials.h"
#include "client/flight.h"
#include "client/operation.h"
#include "transport/transport.h"

namespace memkv {

// The client behind a session.
class NodeOwner {
 public:
  virtual ~NodeOwner() = default;
  [[nodiscard]] virtual const ClientWorld& world() = 0;
  [[nodiscard]] virtual const ClientOptions& options() const = 0;
  [[nodiscard]] virtual Credentials& credentials() = 0;
  [[nodiscard]] virtual std::uint64_t next_connection() = 0;  // never the same twice
  // Memory to build one frame in; kBodyBytesMax long.
  [[nodiscard]] virtual std::span<std::byte> frame_memory() = 0;
  virtual void item_over(const std::shared_ptr<Operation>& operation, std::size_t item,
                         Code code) = 0;
  virtual void node_changed(std::size_t node, const NodeHealth& health) = 0;
  virtual void node_reconnected() = 0;
  // The node said which map it holds: with WELCOME, and with its answers.
  virtual void epoch_seen(std::size_t node, std::uint32_t epoch) = 0;
  // After close(): nothing of the session is left to run.
  virtual void node_closed(std::size_t node) = 0;
};

class NodeSession final : public LinkHandler,
                          public FlightDeck,
                          public std::enable_shared_from_this<NodeSession> {
 public:
  NodeSession(NodeOwner& owner, std::size_t index, std::string address);
  ~NodeSession() override = default;

  // Begins to connect.
  void start();
  // Asks the node for these items of the operation. Each gets its item_over().
  void submit(const std::shared_ptr<Operation>& operation, std::vector<std::uint32_t> items);
  // Ends what is not over of the operation with `code`, as soon as its memory is quiet.
  void abandon(const std::shared_ptr<Operation>& operation, Code code);
  // A held put goes on.
  void release(const std::shared_ptr<Operation>& operation);
  // Shows the token that there is now in a connection of its own, unless it did.
  void show_token();
  // Ends everything with `code` where it can still be said, then node_closed().
  void close(Code code);

 private:
  enum class Phase : std::uint8_t {
    resting,
    connecting,
    greeting,
    proving,
    welcome,
    closing,
    closed
  };
  // Items of one operation that were not asked for yet.
  struct Part {
    std::shared_ptr<Operation> operation;
    std::vector<std::uint32_t> items;
    std::size_t next = 0;
    [[nodiscard]] std::span<const std::uint32_t> rest() const {
      return std::span(items).subspan(next);
    }
  };
  struct Limits {
    std::size_t batch = 0;
    std::size_t items = 0;
    std::size_t requests = 0;
    std::uint64_t block_bytes = 0;
  };

  // LinkHandler
  void on_frame(const wire::Header& header, std::span<const std::byte> body) override;
  Landing on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override;
  void on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override;
  void on_closed(const Status& why) override;

  // FlightDeck
  void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) override;
  void ship(Flight& flight, std::uint32_t item, std::span<const std::byte> bytes,
            UnitCrcs& crcs) override;
  void recall(Flight& flight, std::uint32_t item) override;
  void item_over(Flight& flight, std::uint32_t item, Code code) override;
  std::span<std::byte> scratch() override;
  void saw_epoch(std::uint32_t epoch) override { owner_.epoch_seen(index_, epoch); }
  std::uint64_t connection() const override { return connection_; }

  // the connection
  void connect();
  void rest_and_connect();
  void connected(std::unique_ptr<Stream> stream);
  void greet();
  void on_greeting(const wire::Header& header, std::span<const std::byte> body);
  Result<void> on_challenge(std::span<const std::byte> body);
  Result<void> on_welcome(std::span<const std::byte> body);
  void renew_when_idle();
  void break_link(Status why);
  void failed(const Status& why);
  void refuse_waiting(Code code);
  [[nodiscard]] static Status refusal(const wire::Refuse& refuse);
  void publish();
  [[nodiscard]] std::uint64_t now_ns() const;

  // the flights
  void pump();
  [[nodiscard]] std::deque<Part>* next_queue();
  // How many blocks may be asked for now; puts always leave a batch to gets.
  [[nodiscard]] std::size_t room_for_blocks(bool put) const;
  void launch(Part& part);
  void refuse_oversized(Part& part);
  void on_reply(const wire::Header& header, std::span<const std::byte> body);
  void on_refused(Flight* flight, std::span<const std::byte> body);
  void drain(Flight& flight, Code code);
  void drained(std::uint64_t request);
  void settle_flights(Code code);
  [[nodiscard]] Flight* active(std::uint64_t request);
  // False for a number that was never given to a request of this connection.
  [[nodiscard]] bool ever_asked(std::uint64_t request) const {
    return request >= first_request_ && request < next_request_;
  }
  void retire_if_over(Flight& flight);
  [[nodiscard]] bool mute_since(const Flight& flight) const;

  NodeOwner& owner_;
  const std::size_t index_;
  NodeHealth health_;  // published by copy
  Phase phase_ = Phase::resting;
  bool close_asked_ = false;
  Code close_code_ = Code::cancelled;
  TimerId timer_ = 0;          // until the next connect, the greeting's end, or the end of patience
  std::uint64_t session_ = 0;  // of HELLO
  std::uint64_t shown_ = 0;    // the version of the token that this connection showed
  bool renewing_ = false;      // no new requests until it is connected again

  std::unique_ptr<Link> link_;
  std::uint64_t connection_ = 0;  // the number of the connection, or of the try
  bool welcomed_ = false;         // this connection was welcome
  std::uint64_t welcome_ns_ = 0;  // when
  bool answered_ = false;         // this connection answered a request
  unsigned failures_in_row_ = 0;  // of connections that were good for nothing
  unsigned timeouts_in_row_ = 0;  // of requests
  Limits limits_;

  std::array<std::deque<Part>, 3> waiting_;  // questions, gets, puts: the sooner goes first
  std::map<std::uint64_t, std::unique_ptr<Flight>> flights_;
  std::size_t active_flights_ = 0;  // that are not draining
  std::size_t active_blocks_ = 0;   // not over, in the active flights of PUT and GET
  std::size_t active_puts_ = 0;     // those of PUT
  std::uint64_t active_body_bytes_ = 0;
  std::uint64_t first_request_ = 1;  // of this connection
  std::uint64_t next_request_ = 1;   // goes on over connections
  std::vector<std::byte> scratch_;
};

}  // namespace memkv
