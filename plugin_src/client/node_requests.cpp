// The session's second half: what waits for the node and what is under way.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "client/asking.h"
#include "client/node_session.h"

namespace memkv {

void NodeSession::submit(const std::shared_ptr<Operation>& operation,
                         std::vector<std::uint32_t> items) {
  if (close_asked_ || health_.breaker_open) {
    const bool shut = close_asked_ && close_code_ == Code::cancelled;
    const Code code = shut ? Code::shutdown : Code::unreachable;
    for (const std::uint32_t item : items) owner_.item_over(operation, item, code);
    return;
  }
  const Operation::Kind kind = operation->kind;
  const std::size_t queue =
      kind == Operation::Kind::put ? 2 : (kind == Operation::Kind::get ? 1 : 0);
  waiting_[queue].push_back({.operation = operation, .items = std::move(items)});
  pump();
}

void NodeSession::abandon(const std::shared_ptr<Operation>& operation, Code code) {
  for (std::deque<Part>& queue : waiting_) {
    std::vector<std::uint32_t> given_up;
    std::erase_if(queue, [&](const Part& part) {
      if (part.operation != operation) return false;
      given_up.insert(given_up.end(), part.rest().begin(), part.rest().end());
      return true;
    });
    for (const std::uint32_t item : given_up) owner_.item_over(operation, item, code);
  }
  bool owed = false;  // the node had been asked and did not answer
  bool mute = false;
  for (const auto& [request, flight] : flights_) {
    if (flight->operation() != operation || flight->draining) continue;
    owed = true;
    mute = mute || mute_since(*flight);
    drain(*flight, code);
    std::array<std::byte, wire::kSmallBodyMax> body;
    send(wire::Type::cancel, request, std::span(body).first(wire::encode(wire::Cancel{}, body)));
  }
  if (code == Code::timeout && owed) {
    timeouts_in_row_ += 1;
    if (mute) {
      break_link(Status(Code::timeout, "the node is connected and says nothing"));
    } else if (timeouts_in_row_ >= kTimeoutsInRowMax) {
      break_link(Status(Code::timeout, "several requests in a row ran into their deadline"));
    }
  }
  pump();
}

void NodeSession::release(const std::shared_ptr<Operation>& operation) {
  for (const auto& [request, flight] : flights_) {
    if (flight->operation() == operation && !flight->draining) flight->on_released(*this);
  }
}

// No byte came since it was asked, and it is not our own bytes that keep the way busy.
bool NodeSession::mute_since(const Flight& flight) const {
  const std::uint64_t now = now_ns();
  const std::uint64_t waited_ns = now - flight.sent_ns();
  if (waited_ns < kMuteMsMin * kNsPerMs || link_->last_in_ns() >= flight.sent_ns()) return false;
  return link_->bytes_queued() == 0 || link_->last_out_ns() < now - waited_ns / 2;
}

std::deque<NodeSession::Part>* NodeSession::next_queue() {
  if (phase_ != Phase::welcome || renewing_) return nullptr;
  if (active_flights_ >= limits_.requests) return nullptr;
  // Half of what a node keeps of one peer's frames.
  if (active_body_bytes_ + kBodyBytesMax > kRequestBytesPerPeerMax / 2) return nullptr;
  if (!waiting_[0].empty()) return &waiting_[0];
  if (!waiting_[1].empty() && room_for_blocks(false) > 0) return &waiting_[1];
  if (!waiting_[2].empty() && room_for_blocks(true) > 0) return &waiting_[2];
  return nullptr;
}

// A node queues twice a batch for one peer and refuses more as busy. It counts a block until the
// last byte left, we until it came: hence the slack.
std::size_t NodeSession::room_for_blocks(bool put) const {
  const std::size_t all = 2 * limits_.batch - limits_.batch / 4;
  const std::size_t room = all - std::min(all, active_blocks_);
  return put ? std::min(room, limits_.batch - std::min(limits_.batch, active_puts_)) : room;
}

void NodeSession::pump() {
  while (std::deque<Part>* queue = next_queue()) {
    Part part = std::move(queue->front());
    queue->pop_front();
    launch(part);
    if (part.next < part.items.size()) queue->push_front(std::move(part));
  }
}

// Sends one frame for as many of the part's items as it takes.
void NodeSession::launch(Part& part) {
  const Operation::Kind kind = part.operation->kind;
  if (kind == Operation::Kind::put) refuse_oversized(part);
  if (part.rest().empty()) return;
  const bool moves = kind == Operation::Kind::put || kind == Operation::Kind::get;
  const std::size_t count_max =
      moves ? std::min(limits_.batch, room_for_blocks(kind == Operation::Kind::put))
            : limits_.items;
  const Asked asked = ask(*part.operation, part.rest(), count_max, owner_.frame_memory());
  MEMKV_CHECK(asked.count > 0, "one item of a checked request fits into a frame");
  if (asked.count == 0) {
    for (const std::uint32_t item : part.rest()) {
      owner_.item_over(part.operation, item, Code::internal);
    }
    part.next = part.items.size();
    return;
  }
  const auto items = part.rest().first(asked.count);
  part.next += asked.count;
  const std::uint64_t request = next_request_++;
  auto flight = make_flight(request, part.operation, {items.begin(), items.end()}, now_ns());
  flight->body_bytes = asked.body.size();
  active_flights_ += 1;
  active_body_bytes_ += flight->body_bytes;
  if (moves) active_blocks_ += asked.count;
  if (flight->is_put()) active_puts_ += asked.count;
  flights_.emplace(request, std::move(flight));
  send(asked.type, request, asked.body);
}

void NodeSession::refuse_oversized(Part& part) {
  const std::shared_ptr<Operation> operation = part.operation;
  std::vector<std::uint32_t> fitting;
  for (const std::uint32_t item : part.rest()) {
    if (operation->items[item].bytes.size() <= limits_.block_bytes) {
      fitting.push_back(item);
    } else {
      owner_.item_over(operation, item, Code::too_large);
    }
  }
  part.items = std::move(fitting);
  part.next = 0;
}

Flight* NodeSession::active(std::uint64_t request) {
  const auto found = flights_.find(request);
  return found != flights_.end() && !found->second->draining ? found->second.get() : nullptr;
}

void NodeSession::on_frame(const wire::Header& header, std::span<const std::byte> body) {
  if (phase_ == Phase::greeting || phase_ == Phase::proving) {
    on_greeting(header, body);
  } else if (phase_ == Phase::welcome) {
    on_reply(header, body);
  }
}

void NodeSession::on_reply(const wire::Header& header, std::span<const std::byte> body) {
  Flight* flight = active(header.request);
  if (header.type == wire::Type::refuse && (flight != nullptr || header.request == 0)) {
    on_refused(flight, body);
    return;
  }
  if (flight == nullptr) {
    // Replies to what was given up, or is over, may still be on their way.
    if (!ever_asked(header.request)) {
      break_link(Status(Code::protocol, std::string(wire::type_name(header.type)) +
                                            " for a request that was never made"));
    }
    return;
  }
  if (const Result<void> step = flight->on_frame(*this, header, body); !step) {
    break_link(step.error());
    return;
  }
  retire_if_over(*flight);
}

// Without a flight it is the connection that is refused.
void NodeSession::on_refused(Flight* flight, std::span<const std::byte> body) {
  const auto refuse = wire::decode_refuse(body);
  if (!refuse) {
    break_link(refuse.error());
    return;
  }
  if (flight == nullptr) {
    break_link(refusal(*refuse));
    return;
  }
  answered_ = true;
  timeouts_in_row_ = 0;
  drain(*flight, refuse->code);
  pump();
}

Landing NodeSession::on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  if (phase_ == Phase::closing) return {};
  Flight* flight = active(request);
  if (flight == nullptr) {
    if (phase_ != Phase::welcome || !ever_asked(request)) {
      break_link(Status(Code::protocol, "DATA for a request that was never made"));
    }
    return {};
  }
  Result<Landing> landing = flight->on_data(*this, data, bytes);
  if (landing) return *landing;
  break_link(landing.error());
  return {};
}

void NodeSession::on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  Flight* flight = active(request);
  if (flight == nullptr || phase_ != Phase::welcome) return;
  flight->on_landed(*this, data, bytes);
  retire_if_over(*flight);
}

void NodeSession::send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
  if (link_ != nullptr) link_->send(type, request, body);
}

void NodeSession::ship(Flight& flight, std::uint32_t item, std::span<const std::byte> bytes,
                       UnitCrcs& crcs) {
  Shipment shipment;
  shipment.request = flight.request();
  shipment.item = item;
  shipment.crcs = &crcs;
  // The stream only reads from it; iovec has no const.
  shipment.pieces = {iovec{const_cast<std::byte*>(bytes.data()), bytes.size()}};
  shipment.sent = [weak = weak_from_this(), request = flight.request(), item] {
    const auto self = weak.lock();
    Flight* shipped = self ? self->active(request) : nullptr;
    if (shipped != nullptr) shipped->on_sent(*self, item);
  };
  link_->ship(std::move(shipment));
}

void NodeSession::recall(Flight& flight, std::uint32_t item) {
  link_->recall(flight.request(), item,
                [weak = weak_from_this(), request = flight.request(), item] {
                  const auto self = weak.lock();
                  Flight* recalled = self ? self->active(request) : nullptr;
                  if (recalled == nullptr) return;
                  recalled->on_recalled(*self, item);
                  self->retire_if_over(*recalled);
                });
}

void NodeSession::item_over(Flight& flight, std::uint32_t item, Code code) {
  if (!flight.draining) {
    if (flight.moves_blocks()) active_blocks_ -= 1;
    if (flight.is_put()) active_puts_ -= 1;
  }
  owner_.item_over(flight.operation(), flight.index_of(item), code);
}

std::span<std::byte> NodeSession::scratch() {
  scratch_.resize(kDataBytesMax);
  return scratch_;
}

void NodeSession::retire_if_over(Flight& flight) {
  if (flight.open() > 0) return;
  active_flights_ -= 1;
  active_body_bytes_ -= flight.body_bytes;
  answered_ = true;
  timeouts_in_row_ = 0;
  flights_.erase(flight.request());
  pump();
  renew_when_idle();
}

// From here on the flight hears nothing; it ends with `code` when its memory is quiet.
void NodeSession::drain(Flight& flight, Code code) {
  active_flights_ -= 1;
  active_body_bytes_ -= flight.body_bytes;
  if (flight.moves_blocks()) active_blocks_ -= flight.open();
  if (flight.is_put()) active_puts_ -= flight.open();
  flight.draining = code;
  link_->recall(flight.request(), wire::kAllItems,
                [weak = weak_from_this(), request = flight.request()] {
                  if (const auto self = weak.lock()) self->drained(request);
                });
}

void NodeSession::drained(std::uint64_t request) {
  const auto node = flights_.extract(request);  // none when the link closed first
  if (node.empty()) return;
  Flight& flight = *node.mapped();
  flight.end(*this, flight.draining.value_or(Code::internal));
  renew_when_idle();
}

// The link is gone and no hand touches anything any more.
void NodeSession::settle_flights(Code code) {
  active_flights_ = 0;
  active_blocks_ = 0;
  active_puts_ = 0;
  active_body_bytes_ = 0;
  for (const auto& [request, flight] : std::exchange(flights_, {})) {
    if (!flight->draining) flight->draining = code;
    flight->end(*this, *flight->draining);
  }
}

}  // namespace memkv
