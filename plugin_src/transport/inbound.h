// Inbound: what a Link has read, and where the next bytes go.
//
// The bytes are frames, one after another: a header, a body, and with DATA a payload. Headers and
// small bodies are parsed in a small inbox; a large body gets a buffer that grows as its bytes
// really come; a payload is read right into its landing, and the same step brings the beginning of
// the next frame into the inbox.
//
// Thread: the mind. Between plan() and took() a hand writes into the planned memory.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "transport/io_job.h"
#include "transport/transport.h"

namespace memkv {

class Inbound {
 public:
  Inbound(LinkHandler& handler, std::uint32_t body_bytes_max);

  void raise_body_limit(std::uint32_t body_bytes_max) { body_bytes_max_ = body_bytes_max; }

  // Fills `job` with where the next bytes go: at least one piece, at most about kSliceBytes.
  void plan(IoJob& job);
  // `bytes` of what was planned have come: gives the handler all that is complete, until it is done
  // or stop() was called. Statuses: protocol, unsupported, too_large: the peer broke a rule.
  [[nodiscard]] Result<void> took(std::size_t bytes);

  // The landing, when it is one of these, is thrown away from here on (a planned step may still
  // write to it).
  void recall(std::uint64_t request, std::uint32_t item);
  // The handler is not called any more. Thread: the mind, also from inside the handler.
  void stop() { stopped_ = true; }

  // The frame in work needs so many bytes more, at least 1.
  [[nodiscard]] std::size_t bytes_sure() const;
  // True in the middle of a frame: an end of the stream here loses something.
  [[nodiscard]] bool inside_frame() const { return state_ != State::header || inbox_size() > 0; }

 private:
  enum class State : std::uint8_t { header, body, payload };

  [[nodiscard]] std::size_t inbox_size() const { return inbox_end_ - inbox_begin_; }
  [[nodiscard]] std::span<const std::byte> take_from_inbox(std::size_t bytes);
  void plan_inbox(IoJob& job, std::size_t bytes_max);
  // One step of the parser each. False when more bytes have to come first.
  [[nodiscard]] Result<bool> parse();
  [[nodiscard]] Result<bool> parse_header();
  [[nodiscard]] Result<bool> parse_body();
  [[nodiscard]] bool parse_payload();
  [[nodiscard]] Result<void> body_complete(std::span<const std::byte> body);
  [[nodiscard]] Result<void> data_begins(std::span<const std::byte> body);
  void data_ends();
  [[nodiscard]] bool body_is_large() const { return header_.body_bytes > inbox_.size(); }
  void grow_body();
  void advance_landing(std::size_t bytes);

  static constexpr std::size_t kInboxBytes = 16 * 1024;

  LinkHandler& handler_;
  std::uint32_t body_bytes_max_;
  bool stopped_ = false;
  State state_ = State::header;
  wire::Header header_;  // of the frame in work, from State::body on

  std::vector<std::byte> inbox_;
  std::size_t inbox_begin_ = 0;
  std::size_t inbox_end_ = 0;

  std::vector<std::byte> body_;  // of a body too large for the inbox
  std::size_t body_filled_ = 0;

  wire::Data data_;  // these four in State::payload
  Landing landing_;  // without pieces: thrown away
  std::size_t landing_piece_ = 0;
  std::size_t landing_piece_used_ = 0;
  std::size_t payload_left_ = 0;

  std::size_t planned_direct_ = 0;  // of the planned bytes, those that do not go into the inbox
};

}  // namespace memkv
