// Status and Result: how every part of the store says what happened.
//
// Errors are values. A Code is one byte, the same on the wire, in Python, in metrics and in the
// docs; its numbers never change their meaning. A Status adds a sentence for a person where there
// is something to say that the code does not; on the data path the sentence is empty and costs
// nothing.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace memkv {

enum class Code : std::uint8_t {
  ok = 0,
  exists = 1,        // put: the key is there with the same length; a success that moved no bytes
  not_found = 2,     // the block is not here (or not yours: the two are one answer)
  conflict = 3,      // put: the key is there with another length
  busy = 4,          // the first put of the key is in flight, or a limit is reached: try later
  corrupt = 5,       // a check failed; the block was taken out and may be put again
  device_error = 6,  // the device refused, failed or came up short
  no_space = 7,      // the block does not fit here, or by a rule it is not taken: it is not stored
  invalid = 8,       // the request breaks the rules; the sentence says which
  too_large = 9,     // over a limit of limits.h
  unsupported = 10,  // a version or feature this side does not speak
  denied = 11,       // the token gives no right to this, or the drop generation is over
  timeout = 12,      // the deadline passed
  unreachable = 13,  // no connection to the node, or its breaker is open
  cancelled = 14,    // the caller gave up
  shutdown = 15,     // this side is stopping
  protocol = 16,     // the peer sent what the protocol forbids
  internal = 17,     // a broken invariant of ours; the log says which
};
inline constexpr std::uint8_t kCodeMax = 17;

// The code's word, as it stands in the enum; "unknown" for a number that is none.
[[nodiscard]] std::string_view code_name(Code code);

struct [[nodiscard]] Status {
  Code code = Code::ok;
  std::string text;  // empty, or what was wrong, where, and what to do

  Status() = default;
  Status(Code c) : code(c) {}  // NOLINT: a bare code is a status
  Status(Code c, std::string t) : code(c), text(std::move(t)) {}

  // True for ok and exists: the caller has what it asked for.
  [[nodiscard]] bool good() const { return code == Code::ok || code == Code::exists; }
  // "conflict: the sentence", or the word alone.
  [[nodiscard]] std::string message() const;
};

template <typename T>
using Result = std::expected<T, Status>;

[[nodiscard]] inline std::unexpected<Status> fail(Code code, std::string text = {}) {
  return std::unexpected<Status>(Status(code, std::move(text)));
}
[[nodiscard]] inline std::unexpected<Status> fail(Status status) {
  return std::unexpected<Status>(std::move(status));
}

}  // namespace memkv
