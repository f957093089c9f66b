// Transport: frames and payloads over a Stream, both ends alike.
//
// A Link owns one Stream and moves frames through it. It reads headers and bodies, checks their
// form, and lets payload bytes land right where they belong, with the unit CRCs taken on the fly;
// it sends small frames ahead of payloads, and payloads straight from where they lie. The bytes are
// moved by hands in slices of kSliceBytes; the Link's own state belongs to the mind.
//
// Thread: everything here is the mind's, except what a job does with the memory it was given.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/result.h"
#include "base/stream.h"
#include "wire/wire.h"

namespace memkv {

// Takes the CRC32C of each unit of a run of bytes that is fed in order.
class UnitCrcs {
 public:
  // `length` bytes in units of `unit_bytes`; the run begins at a unit's first byte.
  UnitCrcs(std::uint32_t unit_bytes, std::uint64_t length);
  void feed(
      std::span<const std::byte> bytes);  // a hand may call it; bytes past `length` are ignored
  [[nodiscard]] bool complete() const { return fed_ == length_; }
  [[nodiscard]] std::span<const std::uint32_t> crcs() const { return crcs_; }

 private:
  std::uint32_t unit_bytes_;
  std::uint64_t length_;
  std::uint64_t fed_ = 0;
  std::vector<std::uint32_t> crcs_;
};

// Where the payload of one DATA frame goes: pieces in order, together exactly its bytes. No pieces:
// it is read and thrown away.
inline constexpr std::size_t kLandingPieces = 8;
struct Landing {
  std::array<iovec, kLandingPieces> pieces{};
  std::size_t count = 0;
  UnitCrcs* crcs = nullptr;  // fed with the bytes as they land; lives until the landing is over
};

// One block's (or range's) payload on its way out: sent as DATA frames of one item, in order.
struct Shipment {
  std::uint64_t request = 0;
  std::uint32_t item = 0;
  std::uint32_t offset = 0;   // in the block, of the first byte
  std::vector<iovec> pieces;  // stays valid until `sent` was called or the shipment was recalled
  UnitCrcs* crcs = nullptr;   // fed with the bytes as they leave; one step ahead
  std::move_only_function<void()> sent;  // all bytes are in the stream; may call send() and ship().
                                         // Not called after recall or close
};

class LinkHandler {
 public:
  virtual ~LinkHandler() = default;
  // A frame that is not DATA; `body` was checked against its CRC and lives until the call returns.
  // May close the link.
  virtual void on_frame(const wire::Header& header, std::span<const std::byte> body) = 0;
  // A DATA frame begins: where shall its `bytes` go?
  [[nodiscard]] virtual Landing on_data(std::uint64_t request, const wire::Data& data,
                                        std::uint32_t bytes) = 0;
  // Its last byte has landed. Not called for a landing without pieces or one that was recalled.
  virtual void on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) = 0;
  // The link is over, by either side or by a broken rule: no hand touches any landing or shipment
  // any more. Called once, from a task of its own; the Link may be destroyed in it.
  virtual void on_closed(const Status& why) = 0;
};

class Link {
 public:
  // Begins to read at once. `body_bytes_max` is what the peer may send in one body until
  // raise_body_limit().
  [[nodiscard]] static std::unique_ptr<Link> start(std::unique_ptr<Stream> stream,
                                                   Executor& executor, LinkHandler& handler,
                                                   std::uint32_t body_bytes_max);
  virtual ~Link() = default;  // only after on_closed, or when its executor will run nothing more

  virtual void raise_body_limit(std::uint32_t body_bytes_max) = 0;

  // Queues one small frame; it overtakes waiting payloads. Nothing happens on a closed link.
  virtual void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) = 0;
  // Queues a payload behind those that wait.
  virtual void ship(Shipment shipment) = 0;

  // Recalls every shipment and landing of `request` (of one `item`, or wire::kAllItems): from the
  // call of `quiet` on, no byte of them is read or written any more. What is left of a frame that
  // was begun is filled with zeros (out) or thrown away (in). `quiet` comes from a later task, also
  // when there was nothing to recall or the link is closed. A DATA frame of it that begins after
  // this call asks on_data() as ever, which answers without pieces.
  virtual void recall(std::uint64_t request, std::uint32_t item,
                      std::move_only_function<void()> quiet) = 0;

  // Ends the link: on_closed(why) follows when the hands are out. With `farewell`, tries once to
  // send what is queued first.
  virtual void close(Status why, bool farewell = false) = 0;

  [[nodiscard]] virtual std::uint64_t bytes_queued()
      const = 0;  // frames and payloads that wait to leave
  [[nodiscard]] virtual std::uint64_t bytes_in() const = 0;     // ever read
  [[nodiscard]] virtual std::uint64_t bytes_out() const = 0;    // ever written
  [[nodiscard]] virtual std::uint64_t payload_out() const = 0;  // of these, bytes of shipments
  // When the last byte moved in the direction, on the executor's clock.
  [[nodiscard]] virtual std::uint64_t last_in_ns() const = 0;
  [[nodiscard]] virtual std::uint64_t last_out_ns() const = 0;
  [[nodiscard]] virtual std::string peer() const = 0;
};

// TCP over the machine's sockets (TCP_NODELAY, keepalive), driven by an event loop.
class EventLoop;
[[nodiscard]] std::unique_ptr<Network> tcp_network(EventLoop& loop);

}  // namespace memkv
