// Scans: every MATCH and DROP of one peer: long lists of keys, worked off one request at a time,
// kMatchKeysPerSlice keys a task, so that nobody else waits for them. Thread: the mind.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "server/session.h"

namespace memkv {

class Scans {
 public:
  explicit Scans(Session& session) : session_(session) {}

  // A MATCH or DROP came. Statuses: protocol, too_large (its body's form).
  [[nodiscard]] Result<void> begin_match(std::uint64_t request, std::span<const std::byte> body);
  [[nodiscard]] Result<void> begin_drop(std::uint64_t request, std::span<const std::byte> body);
  // A request is over or was cancelled.
  void forget(std::uint64_t request);
  // Works off one slice of the oldest request, and asks for a later turn when there is more.
  void resume();
  void forget_all();

  [[nodiscard]] bool has(std::uint64_t request) const { return scans_.contains(request); }
  [[nodiscard]] std::size_t requests() const { return scans_.size(); }
  [[nodiscard]] std::uint64_t body_bytes() const { return body_bytes_; }

 private:
  struct Scan {
    std::uint64_t serial = 0;  // never the same twice; a peer may give a number again
    std::vector<std::byte> body;
    std::vector<std::byte> reply;
    // One of the two; both readers look into `body`.
    std::optional<wire::MatchReader> match;
    std::optional<wire::DropReader> drop;
    std::optional<wire::MatchReplyWriter> found;  // into `reply`
    std::vector<Code> dropped;
    std::uint32_t next = 0;       // the first key that was not looked at
    std::uint32_t present = 0;    // keys of MATCH that are here
    std::uint32_t absent = 0;     // in a row, behind one that is here
    std::uint32_t holes = 0;      // of these, with another one behind them that is here
    std::uint32_t answering = 0;  // drops the store has not answered
  };

  void add(std::uint64_t request, std::unique_ptr<Scan> scan);
  void match_slice(std::uint64_t request, Scan& scan);
  static void count_key(Scan& scan, bool present);
  void count_match(const Scan& scan);
  void drop_slice(std::uint64_t request, Scan& scan);
  void dropped(std::uint64_t request, std::uint64_t serial, std::uint32_t index, Code code);
  void send_dropped(std::uint64_t request, const Scan& scan);

  Session& session_;
  std::map<std::uint64_t, std::unique_ptr<Scan>> scans_;
  std::deque<std::uint64_t> order_;
  std::uint64_t last_serial_ = 0;
  std::uint64_t body_bytes_ = 0;
};

}  // namespace memkv
