// Gets: every GET of one peer.
//
// Its blocks wait in the order they came until the bytes pinned for the peer allow the next one,
// are asked for at the store, and what is ready first is sent first: GET_BLOCK, then the pinned
// pieces as DATA. At most kGetBytesInFlightPerPeer are asked for or pinned at a time; one block
// always may be. Thread: the mind.
#pragma once

#include <map>
#include <vector>

#include "server/session.h"

namespace memkv {

class Gets {
 public:
  explicit Gets(Session& session) : session_(session) {}

  // A GET came. Statuses: protocol, too_large (its body's form).
  [[nodiscard]] Result<void> begin(std::uint64_t request, std::span<const std::byte> body);
  void cancel(std::uint64_t request, std::uint32_t item);
  void resume();

  void forget_waiting();  // as in Puts
  void forget_all();

  [[nodiscard]] bool has(std::uint64_t request) const { return requests_.contains(request); }
  [[nodiscard]] std::size_t requests() const { return requests_.size(); }
  [[nodiscard]] std::size_t items() const { return items_; }
  [[nodiscard]] std::uint64_t body_bytes() const { return body_bytes_; }
  [[nodiscard]] std::uint64_t bytes_pinned() const { return bytes_pinned_; }
  [[nodiscard]] std::size_t blocks_pinned() const { return blocks_pinned_; }
  [[nodiscard]] std::size_t queued() const { return queue_.size(); }
  // Handed to the link and not sent whole: an upper bound of the payload among the link's queued
  // bytes.
  [[nodiscard]] std::uint64_t bytes_shipping() const { return bytes_shipping_; }

 private:
  enum class State : std::uint8_t { queued, asked, shipping, recalled, over };
  struct Item {
    wire::GetItem what;  // its key lies in the request's body
    State state = State::queued;
    GetId get = 0;
    std::uint64_t cost = 0;  // its part of bytes_pinned_
    std::uint64_t asked_ns = 0;
  };
  struct Request {
    std::vector<std::byte> body;
    Namespace space;
    std::vector<Item> items;
    std::size_t open = 0;
    std::uint64_t taken_ns = 0;
  };

  [[nodiscard]] Item* find(std::uint64_t request, std::uint32_t item, State state);
  void ask(std::uint64_t request, std::uint32_t index);
  void got(std::uint64_t request, std::uint32_t index, Result<Pinned> pinned);
  void answer_failure(std::uint64_t request, std::uint32_t index, Code code);
  void ship(std::uint64_t request, std::uint32_t index, Pinned pinned);
  void sent(std::uint64_t request, std::uint32_t index);
  // A shipment is over, sent or recalled: its block is unpinned.
  void unpin(std::uint64_t request, std::uint32_t index, State state);
  [[nodiscard]] bool cancel_item(std::uint64_t request, std::uint32_t index);
  // The recalled items are over when the link says that they are quiet.
  void recall(std::uint64_t request, std::uint32_t item);
  void end(std::uint64_t request, Item& item);
  void count_delay(std::uint64_t delay_ns);
  void count_hit(const Request& whole, std::uint64_t bytes);
  void count_failure(const Request& whole, Code code);

  Session& session_;
  std::map<std::uint64_t, Request> requests_;
  ItemQueue queue_;
  std::size_t items_ = 0;
  std::uint64_t body_bytes_ = 0;
  std::uint64_t bytes_pinned_ = 0;
  std::uint64_t bytes_asked_ = 0;  // of these, not pinned yet
  std::uint64_t bytes_shipping_ = 0;
  std::size_t blocks_pinned_ = 0;
};

}  // namespace memkv
