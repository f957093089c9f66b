// Flight: one request on the wire, from the frame that asks until every block it names is over.
//
// It is a state machine over what the node says. The node is not trusted: whatever it may not say
// now is answered with `protocol`, and the caller closes the link. Thread: the mind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/result.h"
#include "client/operation.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace memkv {

class Flight;

// What a flight may do on its link.
class FlightDeck {
 public:
  virtual ~FlightDeck() = default;
  virtual void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) = 0;
  // Ships all `bytes` as the flight's `item`; on_sent() follows unless it is recalled.
  virtual void ship(Flight& flight, std::uint32_t item, std::span<const std::byte> bytes,
                    UnitCrcs& crcs) = 0;
  // on_recalled() follows when no byte of the item's is touched any more.
  virtual void recall(Flight& flight, std::uint32_t item) = 0;
  // The operation's item is over.
  virtual void item_over(Flight& flight, std::uint32_t item, Code code) = 0;
  // Memory for bytes nobody asked for, shared by all landings of the link; kDataBytesMax long.
  [[nodiscard]] virtual std::span<std::byte> scratch() = 0;
  // The node holds the map of this epoch.
  virtual void saw_epoch(std::uint32_t epoch) = 0;
  // Which connection of this client this is.
  [[nodiscard]] virtual std::uint64_t connection() const = 0;
};

class Flight {
 public:
  // `items` are indices into the operation's; their order is the order in the frame.
  Flight(std::uint64_t request, std::shared_ptr<Operation> operation,
         std::vector<std::uint32_t> items, std::uint64_t sent_ns);
  virtual ~Flight() = default;
  Flight(const Flight&) = delete;
  Flight& operator=(const Flight&) = delete;

  // A frame for this request that is neither REFUSE nor DATA. Statuses: protocol.
  [[nodiscard]] virtual Result<void> on_frame(FlightDeck& deck, const wire::Header& header,
                                              std::span<const std::byte> body) = 0;
  // Statuses: protocol.
  [[nodiscard]] virtual Result<Landing> on_data(FlightDeck& deck, const wire::Data& data,
                                                std::uint32_t bytes);
  virtual void on_landed(FlightDeck&, const wire::Data&, std::uint32_t) {}
  virtual void on_sent(FlightDeck&, std::uint32_t) {}
  virtual void on_recalled(FlightDeck&, std::uint32_t) {}
  // A held put goes on.
  virtual void on_released(FlightDeck&) {}

  // Every item that is not over gets `code`. Only when none of its bytes can move any more.
  void end(FlightDeck& deck, Code code);

  [[nodiscard]] std::uint64_t request() const { return request_; }
  [[nodiscard]] const std::shared_ptr<Operation>& operation() const { return operation_; }
  [[nodiscard]] bool moves_blocks() const {
    return operation_->kind == Operation::Kind::put || operation_->kind == Operation::Kind::get;
  }
  [[nodiscard]] bool is_put() const { return operation_->kind == Operation::Kind::put; }
  [[nodiscard]] std::size_t open() const { return open_; }
  [[nodiscard]] std::uint64_t sent_ns() const { return sent_ns_; }
  [[nodiscard]] std::size_t index_of(std::uint32_t item) const { return items_[item]; }

  // Set while it waits to be quiet: what its items will be then. It hears nothing any more.
  std::optional<Code> draining;
  std::size_t body_bytes = 0;  // of the frame that asked

 protected:
  [[nodiscard]] std::size_t size() const { return items_.size(); }
  [[nodiscard]] Operation::Item& item(std::uint32_t index) const {
    return operation_->items[items_[index]];
  }
  // Of this flight: the operation's item may go on elsewhere.
  [[nodiscard]] bool over(std::uint32_t index) const { return over_[index]; }
  // Only the first one counts.
  void finish(FlightDeck& deck, std::uint32_t index, Code code);

 private:
  std::uint64_t request_;
  std::shared_ptr<Operation> operation_;
  std::vector<std::uint32_t> items_;
  std::vector<bool> over_;
  std::uint64_t sent_ns_;
  std::size_t open_;
};

// The flight that belongs to the operation's kind.
[[nodiscard]] std::unique_ptr<Flight> make_flight(std::uint64_t request,
                                                  std::shared_ptr<Operation> operation,
                                                  std::vector<std::uint32_t> items,
                                                  std::uint64_t sent_ns);

// For make_flight(): get_flight.cpp and put_flight.cpp.
[[nodiscard]] std::unique_ptr<Flight> make_get_flight(std::uint64_t request,
                                                      std::shared_ptr<Operation> operation,
                                                      std::vector<std::uint32_t> items,
                                                      std::uint64_t sent_ns);
[[nodiscard]] std::unique_ptr<Flight> make_put_flight(std::uint64_t request,
                                                      std::shared_ptr<Operation> operation,
                                                      std::vector<std::uint32_t> items,
                                                      std::uint64_t sent_ns);

}  // namespace memkv
