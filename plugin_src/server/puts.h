// Puts: every PUT of one peer.
//
// Its blocks wait in the order they came until the peer's granted bytes allow the next one, are
// asked for at the store, granted, filled by DATA right in the arena, and end with COMMIT. At most
// kPutBytesGrantedPerPeer are asked for or granted at a time; one block always may be. Thread: the
// mind.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "server/session.h"

namespace memkv {

class Puts {
 public:
  explicit Puts(Session& session) : session_(session) {}

  // A PUT came. Statuses: protocol, too_large (its body's form).
  [[nodiscard]] Result<void> begin(std::uint64_t request, std::span<const std::byte> body);
  // DATA came; for what is over it lands nowhere. Statuses: protocol (never granted, another offset
  // than the next, more than the block).
  [[nodiscard]] Result<Landing> data(std::uint64_t request, const wire::Data& data,
                                     std::uint32_t bytes);
  void landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes);
  // COMMIT came. Statuses: protocol (never granted, bytes are missing).
  [[nodiscard]] Result<void> commit(std::uint64_t request, const wire::Commit& commit);
  // The peer gave up one item or wire::kAllItems; what is not here any more is none of our
  // business.
  void cancel(std::uint64_t request, std::uint32_t item);
  // Begins what may begin, a slice of it.
  void resume();

  // The peer is being dropped: nothing begins any more. What hands may be inside of stays.
  void forget_waiting();
  // No hand is inside of anything any more: every put that is not over is aborted.
  void forget_all();

  [[nodiscard]] bool has(std::uint64_t request) const { return requests_.contains(request); }
  [[nodiscard]] std::size_t requests() const { return requests_.size(); }
  [[nodiscard]] std::size_t items() const { return items_; }
  [[nodiscard]] std::uint64_t body_bytes() const { return body_bytes_; }
  [[nodiscard]] std::uint64_t bytes_granted() const { return bytes_granted_; }
  [[nodiscard]] std::size_t queued() const { return queue_.size(); }
  // Of blocks that are granted and not committed; and of their bytes those that ever came.
  [[nodiscard]] std::uint64_t bytes_held() const { return bytes_held_; }
  [[nodiscard]] std::uint64_t bytes_landed() const { return bytes_landed_; }
  // Since when the peer owes bytes and has not sent any of them; 0 when it owes none.
  [[nodiscard]] std::uint64_t owed_since_ns() const { return granted_ == 0 ? 0 : progress_ns_; }

 private:
  enum class State : std::uint8_t { queued, asked, granted, recalled, over };
  struct Item {
    wire::PutItem what;  // its key lies in the request's body
    State state = State::queued;
    bool was_granted = false;
    PutId put = 0;
    std::vector<iovec> pieces;
    std::optional<UnitCrcs> crcs;
    std::uint32_t arrived = 0;
    std::uint64_t granted_ns = 0;
    std::size_t piece = 0;  // the next byte's place
    std::size_t piece_at = 0;
  };
  struct Request {
    std::vector<std::byte> body;
    Namespace space;
    std::vector<Item> items;
    std::size_t open = 0;  // items that are not over
  };

  [[nodiscard]] Item* find(std::uint64_t request, std::uint32_t item, State state);
  [[nodiscard]] Result<Item*> granted_item(std::uint64_t request, std::uint32_t item,
                                           const char* frame);
  void ask(std::uint64_t request, std::uint32_t index);
  void granted(std::uint64_t request, std::uint32_t index, Result<Grant> grant);
  void done(std::uint64_t request, std::uint32_t index, Code code, std::uint64_t incarnation = 0);
  void count_put(const Request& whole, const Item& item);
  [[nodiscard]] bool cancel_item(std::uint64_t request, std::uint32_t index);
  // The recalled items are over when the link says that they are quiet.
  void recall(std::uint64_t request, std::uint32_t item);
  void give_back(std::uint64_t request, std::uint32_t index);
  // The item is over; its request too with its last one.
  void end(std::uint64_t request, Item& item);

  Session& session_;
  std::map<std::uint64_t, Request> requests_;
  ItemQueue queue_;
  std::size_t items_ = 0;
  std::uint64_t body_bytes_ = 0;
  std::uint64_t bytes_granted_ = 0;  // asked for or granted
  std::uint64_t bytes_asked_ = 0;    // of these, not granted yet
  std::size_t granted_ = 0;          // blocks whose bytes or COMMIT the peer owes
  std::uint64_t bytes_held_ = 0;     // of these
  std::uint64_t bytes_landed_ = 0;
  std::uint64_t progress_ns_ = 0;
};

}  // namespace memkv
