#include "transport/outbound.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/crc32c.h"
#include "base/limits.h"

namespace memkv {
namespace {

constexpr std::size_t kLaneBytesKept = 64 * kKiB;  // an empty lane gives more than this back
constexpr std::size_t kZeroBytes = 64 * kKiB;
constexpr std::array<std::byte, kZeroBytes> kZeros{};

void encode_data_head(std::span<std::byte, wire::kHeaderBytes + wire::kDataBodyBytes> out,
                      const Shipment& shipment, std::uint64_t begins, std::size_t payload_bytes) {
  const auto body = out.subspan<wire::kHeaderBytes>();
  const wire::Data data{.item = shipment.item,
                        .offset = shipment.offset + static_cast<std::uint32_t>(begins)};
  const std::size_t body_bytes = wire::encode(data, body);
  MEMKV_CHECK(body_bytes == wire::kDataBodyBytes, "a DATA body has its size");
  wire::encode_header({.type = wire::Type::data,
                       .request = shipment.request,
                       .body_bytes = wire::kDataBodyBytes,
                       .payload_bytes = static_cast<std::uint32_t>(payload_bytes),
                       .body_crc = crc32c(body)},
                      out.first<wire::kHeaderBytes>());
}

std::size_t frame_payload(std::uint64_t shipment_left) {
  return std::min<std::uint64_t>(shipment_left, kDataBytesMax);
}

bool matches(const Shipment& shipment, std::uint64_t request, std::uint32_t item) {
  return shipment.request == request && (item == wire::kAllItems || shipment.item == item);
}

}  // namespace

void Outbound::send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
  std::array<std::byte, wire::kHeaderBytes> head;
  wire::encode_header({.type = type,
                       .request = request,
                       .body_bytes = static_cast<std::uint32_t>(body.size()),
                       .payload_bytes = 0,
                       .body_crc = crc32c(body)},
                      head);
  lane_.insert(lane_.end(), head.begin(), head.end());
  lane_.insert(lane_.end(), body.begin(), body.end());
  bytes_queued_ += head.size() + body.size();
}

void Outbound::ship(Shipment shipment) {
  Waiting waiting{.shipment = std::move(shipment)};
  for (const iovec& piece : waiting.shipment.pieces) waiting.total += piece.iov_len;
  MEMKV_CHECK(waiting.total > 0, "a shipment has bytes");
  if (waiting.total == 0) return;
  waiting.at.left = waiting.total;
  bytes_queued_ += waiting.total;
  shipments_.push_back(std::move(waiting));
}

void Outbound::Cursor::advance(const Shipment& shipment, std::uint64_t bytes) {
  left -= bytes;
  while (bytes > 0) {
    const std::size_t rest = shipment.pieces[piece].iov_len - piece_used;
    if (bytes < rest) {
      piece_used += bytes;
      return;
    }
    bytes -= rest;
    ++piece;
    piece_used = 0;
  }
}

std::size_t Outbound::Cursor::add_to(IoJob& job, const Shipment& shipment, std::size_t bytes,
                                     std::uint64_t fed) const {
  std::size_t added = 0;
  for (std::size_t i = piece, used = piece_used; added < bytes; ++i, used = 0) {
    const iovec& from = shipment.pieces[i];
    const std::size_t part = std::min(bytes - added, from.iov_len - used);
    const auto* const start = static_cast<const std::byte*>(from.iov_base) + used;
    const std::size_t part_fed = std::min<std::uint64_t>(part, fed);
    if (!job.add(start, part, shipment.crcs, part_fed)) break;
    added += part;
    fed -= part_fed;
  }
  return added;
}

// ---- planning

std::size_t Outbound::plan_piece(IoJob& job, Waiting& waiting, const Cursor& at,
                                 std::size_t bytes) {
  const std::uint64_t begins = waiting.total - at.left;
  const std::uint64_t fed = std::max(waiting.fed, begins);
  const std::size_t added = at.add_to(job, waiting.shipment, bytes, fed - begins);
  waiting.fed = std::max(fed, begins + added);
  return added;
}

bool Outbound::plan(IoJob& job, bool payloads) {
  job.clear();
  std::size_t budget = kSliceBytes;
  plan_open_frame(job, budget);
  plan_lane(job, budget);
  if (payloads) plan_payloads(job, budget);
  planned_ = !job.empty();
  return planned_;
}

// Each of these leaves no budget when what it planned does not end in this job: nothing may follow
// it then.
void Outbound::plan_open_frame(IoJob& job, std::size_t& budget) {
  if (!open_.open()) return;
  job.add(open_.head.data() + open_.head.size() - open_.head_left, open_.head_left);
  std::size_t added = 0;
  if (open_.zeros) {
    const std::size_t wanted = std::min(open_.payload_left, budget);
    while (added < wanted) {
      const std::size_t part = std::min(wanted - added, kZeros.size());
      if (!job.add(kZeros.data(), part)) break;
      added += part;
    }
  } else {
    Waiting& front = shipments_.front();
    added = plan_piece(job, front, front.at, std::min(open_.payload_left, budget));
  }
  budget = added == open_.payload_left ? budget - added : 0;
}

void Outbound::plan_lane(IoJob& job, std::size_t& budget) {
  if (budget == 0) return;
  if (lane_written_ == lane_out_.size()) {
    lane_out_.clear();
    if (lane_out_.capacity() > kLaneBytesKept) lane_out_ = {};
    lane_written_ = 0;
    lane_out_.swap(lane_);
  }
  const std::size_t left = lane_out_.size() - lane_written_;
  const std::size_t part = std::min(left, budget);
  const bool added = job.add(lane_out_.data() + lane_written_, part);
  // No payload overtakes the frames that came while a step ended inside this lane: one of them may
  // be what announces it.
  budget = added && part == left && lane_.empty() ? budget - part : 0;
}

void Outbound::plan_payloads(IoJob& job, std::size_t& budget) {
  std::size_t frames = 0;
  for (std::size_t i = 0; i < shipments_.size(); ++i) {
    Waiting& waiting = shipments_[i];
    Cursor at = waiting.at;
    const bool frame_is_planned = i == 0 && open_.open() && !open_.zeros;
    if (frame_is_planned) at.advance(waiting.shipment, open_.payload_left);
    while (at.left > 0) {
      if (budget == 0 || frames == kFramesPerJob) return;
      const std::size_t payload = frame_payload(at.left);
      encode_data_head(heads_[frames], waiting.shipment, waiting.total - at.left, payload);
      if (!job.add(heads_[frames].data(), kDataHeadBytes)) return;
      ++frames;
      const std::size_t added = plan_piece(job, waiting, at, std::min(payload, budget));
      if (added < payload) return;
      budget -= added;
      at.advance(waiting.shipment, payload);
    }
  }
}

// ---- what happened

void Outbound::wrote(std::size_t bytes, Sent& sent) {
  planned_ = false;
  bytes -= write_open_frame(bytes, sent);
  const std::size_t small = std::min(bytes, lane_out_.size() - lane_written_);
  lane_written_ += small;
  bytes_queued_ -= small;
  bytes -= small;
  while (bytes > 0) {
    MEMKV_CHECK(!shipments_.empty(), "no more is written than was planned");
    if (shipments_.empty()) break;
    open_next_frame();
    bytes -= write_open_frame(bytes, sent);
  }
  let_go_recalled();
}

// The same frame that plan_payloads() cut.
void Outbound::open_next_frame() {
  const Waiting& front = shipments_.front();
  open_.payload_left = frame_payload(front.at.left);
  open_.head_left = kDataHeadBytes;
  open_.zeros = false;
  encode_data_head(open_.head, front.shipment, front.total - front.at.left, open_.payload_left);
}

std::size_t Outbound::write_open_frame(std::size_t bytes, Sent& sent) {
  const std::size_t head = std::min(bytes, open_.head_left);
  open_.head_left -= head;
  const std::size_t payload = std::min(bytes - head, open_.payload_left);
  open_.payload_left -= payload;
  bytes_queued_ -= payload;
  if (payload > 0 && !open_.zeros) {
    payload_out_ += payload;
    Waiting& front = shipments_.front();
    front.at.advance(front.shipment, payload);
    if (front.at.left == 0) {
      if (!front.recalled && front.shipment.sent) sent.push_back(std::move(front.shipment.sent));
      shipments_.pop_front();
    }
  }
  return head + payload;
}

// ---- letting go

void Outbound::recall(std::uint64_t request, std::uint32_t item) {
  for (Waiting& waiting : shipments_) {
    if (matches(waiting.shipment, request, item)) waiting.recalled = true;
  }
  if (!planned_) let_go_recalled();
}

void Outbound::let_go_recalled() {
  if (open_.open() && !open_.zeros && shipments_.front().recalled) {
    // The peer was told how long the frame is; zeros keep what follows in its place.
    open_.zeros = true;
    bytes_queued_ += open_.payload_left;
  }
  for (const Waiting& waiting : shipments_) {
    if (waiting.recalled) bytes_queued_ -= waiting.at.left;
  }
  std::erase_if(shipments_, [](const Waiting& waiting) { return waiting.recalled; });
}

void Outbound::clear() {
  lane_ = {};
  lane_out_ = {};
  lane_written_ = 0;
  shipments_.clear();
  open_ = {};
  bytes_queued_ = 0;
  planned_ = false;
}

}  // namespace memkv
