// Stream and Network: bytes to a peer and back, never waiting.
//
// A Stream is an ordered, reliable byte pipe that may break at any byte. read_some and write_some
// move what can be moved now and may be called from a hand, one reader and one writer at a time;
// everything else belongs to the mind.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace memkv {

// What one step moved. `bytes` > 0 only with ok; a full or empty pipe is `busy`; an end or a broken
// pipe `unreachable`.
struct IoStep {
  Code code = Code::ok;
  std::size_t bytes = 0;
};

class Stream {
 public:
  virtual ~Stream() = default;  // closes

  // Moves bytes into / out of the pieces, in their order, as many as fit now. Thread: one reader,
  // one writer.
  [[nodiscard]] virtual IoStep read_some(std::span<const iovec> pieces) = 0;
  [[nodiscard]] virtual IoStep write_some(std::span<const iovec> pieces) = 0;

  // Calls `ready` once, on the mind, when a read (write) may move bytes or would report the end.
  // One pending call per direction; close() forgets both. Thread: the mind.
  //
  // A reader that is sure of `enough` bytes more may be left asleep until so many are there: to be
  // woken for every packet costs both ends more than the bytes.
  virtual void when_readable(std::move_only_function<void()> ready, std::size_t enough = 1) = 0;
  virtual void when_writable(std::move_only_function<void()> ready) = 0;

  // Bytes that have come and were not read. Thread: the mind, while no hand reads.
  [[nodiscard]] virtual std::size_t unread() const = 0;

  // Breaks the pipe at once: pending calls are forgotten, later steps answer `unreachable`. The
  // caller makes sure that no hand is inside a step. Thread: the mind.
  virtual void close() = 0;

  // A sentence on why a step answered `unreachable`, where the stream knows more than that it did;
  // else empty. Thread: the mind.
  [[nodiscard]] virtual std::string why() const { return {}; }

  // "10.0.0.7:9900", for logs.
  [[nodiscard]] virtual std::string peer() const = 0;
};

class Listener {
 public:
  virtual ~Listener() = default;  // stops listening
  // The address really bound, with its port.
  [[nodiscard]] virtual std::string address() const = 0;
};

class Network {
 public:
  virtual ~Network() = default;

  // Connects to "host:port" and calls `done` on the mind with the stream or why not; within
  // `timeout_ns`. Statuses: invalid (address), unreachable, timeout.
  virtual void connect(std::string_view address, std::uint64_t timeout_ns,
                       std::move_only_function<void(Result<std::unique_ptr<Stream>>)> done) = 0;

  // Listens on "host:port" (port 0: any) and calls `accepted` on the mind for each peer.
  // Statuses: invalid (address), unreachable (in use, no such address).
  [[nodiscard]] virtual Result<std::unique_ptr<Listener>> listen(
      std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) = 0;
};

}  // namespace memkv
