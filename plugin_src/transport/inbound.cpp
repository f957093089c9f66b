#include "transport/inbound.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"
#include "base/limits.h"

namespace memkv {
namespace {

// What a step may bring beyond the payload or body it is for: a few frames, and so few bytes of the
// next payload that copying them costs less than another step.
constexpr std::size_t kTailBytes = 4096;
constexpr std::size_t kBodyBytesAtFirst = 64 * kKiB;

}  // namespace

Inbound::Inbound(LinkHandler& handler, std::uint32_t body_bytes_max)
    : handler_(handler), body_bytes_max_(body_bytes_max), inbox_(kInboxBytes) {}

// ---- planning

void Inbound::plan(IoJob& job) {
  job.clear();
  planned_direct_ = 0;
  if (state_ == State::payload && landing_.count > 0) {
    std::size_t used = landing_piece_used_;
    for (std::size_t i = landing_piece_; i < landing_.count; ++i, used = 0) {
      const iovec& piece = landing_.pieces[i];
      job.add(static_cast<std::byte*>(piece.iov_base) + used, piece.iov_len - used, landing_.crcs);
    }
    planned_direct_ = payload_left_;
    plan_inbox(job, kTailBytes);
  } else if (state_ == State::body && body_is_large()) {
    grow_body();
    const std::size_t part = std::min(body_.size() - body_filled_, kSliceBytes);
    job.add(body_.data() + body_filled_, part);
    planned_direct_ = part;
    if (body_filled_ + part == header_.body_bytes) plan_inbox(job, kTailBytes);
  } else {
    plan_inbox(job, inbox_.size());
  }
}

std::size_t Inbound::bytes_sure() const {
  if (state_ == State::payload) return payload_left_;
  if (state_ == State::body && body_is_large()) return header_.body_bytes - body_filled_;
  return 1;
}

void Inbound::plan_inbox(IoJob& job, std::size_t bytes_max) {
  if (inbox_begin_ > 0) {
    std::memmove(inbox_.data(), inbox_.data() + inbox_begin_, inbox_size());
    inbox_end_ -= inbox_begin_;
    inbox_begin_ = 0;
  }
  job.add(inbox_.data() + inbox_end_, std::min(inbox_.size() - inbox_end_, bytes_max));
}

// A peer that announces a large body pays for its memory with bytes.
void Inbound::grow_body() {
  if (body_filled_ < body_.size()) return;
  const std::size_t wanted = std::max(kBodyBytesAtFirst, 2 * body_filled_);
  body_.resize(std::min<std::size_t>(wanted, header_.body_bytes));
}

// ---- taking

Result<void> Inbound::took(std::size_t bytes) {
  // What the landing was planned for counts as its bytes also when it was recalled since.
  const std::size_t direct = std::min(bytes, planned_direct_);
  if (state_ == State::payload) {
    advance_landing(direct);
    payload_left_ -= direct;
  } else {
    body_filled_ += direct;
  }
  bytes -= direct;
  inbox_end_ += bytes;
  while (!stopped_) {
    const Result<bool> went_on = parse();
    if (!went_on) return fail(went_on.error());
    if (!*went_on) break;
  }
  return {};
}

Result<bool> Inbound::parse() {
  switch (state_) {
    case State::header:
      return parse_header();
    case State::body:
      return parse_body();
    case State::payload:
      return parse_payload();
  }
  return false;
}

std::span<const std::byte> Inbound::take_from_inbox(std::size_t bytes) {
  const std::span taken(inbox_.data() + inbox_begin_, bytes);
  inbox_begin_ += bytes;
  return taken;
}

Result<bool> Inbound::parse_header() {
  if (inbox_size() < wire::kHeaderBytes) return false;
  const Result<wire::Header> header =
      wire::decode_header(take_from_inbox(wire::kHeaderBytes).first<wire::kHeaderBytes>());
  if (!header) return fail(header.error());
  if (header->body_bytes > body_bytes_max_) {
    return fail(Code::too_large, std::string(wire::type_name(header->type)) + ": a body of " +
                                     std::to_string(header->body_bytes) + " bytes where at most " +
                                     std::to_string(body_bytes_max_) + " are allowed");
  }
  header_ = *header;
  body_filled_ = 0;
  state_ = State::body;
  return true;
}

Result<bool> Inbound::parse_body() {
  if (!body_is_large()) {
    if (inbox_size() < header_.body_bytes) return false;
    if (const auto good = body_complete(take_from_inbox(header_.body_bytes)); !good) {
      return fail(good.error());
    }
    return true;
  }
  while (inbox_size() > 0 && body_filled_ < header_.body_bytes) {
    grow_body();
    const std::size_t part = std::min(inbox_size(), body_.size() - body_filled_);
    std::memcpy(body_.data() + body_filled_, take_from_inbox(part).data(), part);
    body_filled_ += part;
  }
  if (body_filled_ < header_.body_bytes) return false;
  const auto good = body_complete(body_);
  body_ = {};
  if (!good) return fail(good.error());
  return true;
}

Result<void> Inbound::body_complete(std::span<const std::byte> body) {
  if (const auto good = wire::check_body(header_, body); !good) return fail(good.error());
  if (header_.type == wire::Type::data) return data_begins(body);
  state_ = State::header;
  handler_.on_frame(header_, body);
  return {};
}

// ---- payloads

Result<void> Inbound::data_begins(std::span<const std::byte> body) {
  const Result<wire::Data> data = wire::decode_data(body);
  if (!data) return fail(data.error());
  data_ = *data;
  landing_ = handler_.on_data(header_.request, data_, header_.payload_bytes);
  landing_piece_ = 0;
  landing_piece_used_ = 0;
  payload_left_ = header_.payload_bytes;
  state_ = State::payload;
  std::size_t landing_bytes = 0;
  landing_.count = std::min(landing_.count, kLandingPieces);
  for (std::size_t i = 0; i < landing_.count; ++i) landing_bytes += landing_.pieces[i].iov_len;
  const bool fits = landing_.count == 0 || landing_bytes == payload_left_;
  MEMKV_CHECK(fits, "a landing is as long as its payload");
  if (!fits) landing_.count = 0;
  return {};
}

bool Inbound::parse_payload() {
  while (payload_left_ > 0) {
    std::size_t part = std::min(payload_left_, inbox_size());
    if (part == 0) return false;
    if (landing_.count > 0) {
      const iovec& piece = landing_.pieces[landing_piece_];
      part = std::min(part, piece.iov_len - landing_piece_used_);
      const auto bytes = take_from_inbox(part);
      std::memcpy(static_cast<std::byte*>(piece.iov_base) + landing_piece_used_, bytes.data(),
                  part);
      if (landing_.crcs != nullptr) landing_.crcs->feed(bytes);
      advance_landing(part);
    } else {
      inbox_begin_ += part;
    }
    payload_left_ -= part;
  }
  data_ends();
  return true;
}

void Inbound::advance_landing(std::size_t bytes) {
  while (landing_piece_ < landing_.count) {
    const std::size_t rest = landing_.pieces[landing_piece_].iov_len - landing_piece_used_;
    if (bytes < rest) {
      landing_piece_used_ += bytes;
      return;
    }
    bytes -= rest;
    ++landing_piece_;
    landing_piece_used_ = 0;
  }
}

void Inbound::data_ends() {
  const bool landed = landing_.count > 0;
  landing_ = {};
  state_ = State::header;
  if (landed) handler_.on_landed(header_.request, data_, header_.payload_bytes);
}

void Inbound::recall(std::uint64_t request, std::uint32_t item) {
  if (state_ != State::payload || header_.request != request) return;
  if (item == wire::kAllItems || item == data_.item) landing_ = {};
}

}  // namespace memkv
