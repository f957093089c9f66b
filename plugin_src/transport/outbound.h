// Outbound: what a Link still has to write, and in which order.
//
// Small frames wait in a lane of their own and go first; shipments go one after another, cut into
// DATA frames. A frame whose first byte was written goes out to its end before anything else.
// plan() says what comes next and changes nothing that matters, so that only what wrote() reports
// has happened, at whatever byte a step ended.
//
// Thread: the mind. Between plan() and wrote() a hand reads the planned memory: small frames and
// shipments that are added meanwhile wait behind it, and what is recalled is let go in wrote().
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <vector>

#include "transport/io_job.h"
#include "transport/transport.h"

namespace memkv {

class Outbound {
 public:
  using Sent = std::vector<std::move_only_function<void()>>;

  void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body);
  void ship(Shipment shipment);

  // Fills `job` with what goes next, at most about kSliceBytes; without `payloads` no new DATA
  // frame is begun. False when there is nothing.
  [[nodiscard]] bool plan(IoJob& job, bool payloads);
  // The first `bytes` of what was planned are in the stream. Appends the `sent` of shipments that
  // are complete.
  void wrote(std::size_t bytes, Sent& sent);

  // The matching shipments are let go: at once, or in wrote() when something is planned.
  void recall(std::uint64_t request, std::uint32_t item);
  // Everything is let go and nothing goes out any more; nothing may be planned.
  void clear();

  [[nodiscard]] std::uint64_t bytes_queued() const { return bytes_queued_; }
  [[nodiscard]] std::uint64_t payload_out() const { return payload_out_; }

 private:
  static constexpr std::size_t kDataHeadBytes = wire::kHeaderBytes + wire::kDataBodyBytes;
  static constexpr std::size_t kFramesPerJob = 24;

  // A place in the bytes of a shipment.
  struct Cursor {
    std::uint64_t left = 0;  // bytes from here to the end
    std::size_t piece = 0;
    std::size_t piece_used = 0;
    void advance(const Shipment& shipment, std::uint64_t bytes);
    // Adds up to `bytes` from here on, of which the CRCs had the first `fed`; returns how many the
    // job could take.
    [[nodiscard]] std::size_t add_to(IoJob& job, const Shipment& shipment, std::size_t bytes,
                                     std::uint64_t fed) const;
  };
  struct Waiting {
    Shipment shipment;
    std::uint64_t total = 0;
    Cursor at;              // what is not in the stream yet
    std::uint64_t fed = 0;  // bytes the CRCs have had: what was ever planned
    bool recalled = false;
  };
  // The DATA frame whose first byte was written and whose last was not. Its payload is the front
  // shipment's, or zeros.
  struct OpenFrame {
    std::array<std::byte, kDataHeadBytes> head{};
    std::size_t head_left = 0;
    std::size_t payload_left = 0;
    bool zeros = false;
    [[nodiscard]] bool open() const { return head_left + payload_left > 0; }
  };

  void plan_open_frame(IoJob& job, std::size_t& budget);
  [[nodiscard]] static std::size_t plan_piece(IoJob& job, Waiting& waiting, const Cursor& at,
                                              std::size_t bytes);
  void plan_lane(IoJob& job, std::size_t& budget);
  void plan_payloads(IoJob& job, std::size_t& budget);
  void open_next_frame();
  [[nodiscard]] std::size_t write_open_frame(std::size_t bytes, Sent& sent);
  void let_go_recalled();

  std::vector<std::byte> lane_;      // small frames that wait
  std::vector<std::byte> lane_out_;  // small frames that go out now
  std::size_t lane_written_ = 0;     // of lane_out_
  std::deque<Waiting> shipments_;    // the front one goes out now
  OpenFrame open_;
  std::array<std::array<std::byte, kDataHeadBytes>, kFramesPerJob> heads_{};  // of planned frames
  std::uint64_t bytes_queued_ =
      0;                           // small frames, payloads and zeros; not the heads of DATA frames
  std::uint64_t payload_out_ = 0;  // of shipments, ever written
  bool planned_ = false;
};

}  // namespace memkv
