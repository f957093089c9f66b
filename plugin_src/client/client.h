// Client: one pool of store nodes seen from an engine's process; the one header of the client.
//
// A request names many blocks; each has its own status. Blocks are spread over the nodes by their
// group (placement.h), each node's part goes out at once, and the request is over when every block
// has a status or the deadline has passed. A node that does not answer costs its blocks, never the
// others': they are `unreachable` at once while its breaker is open, `timeout` at the deadline.
//
// Never a wrong byte: `ok` for a get means that every byte in the caller's memory was checked
// against the writer's CRCs and belongs to one incarnation of the block. With any other status the
// memory is unspecified.
//
// The caller's memory (keys, buffers, status arrays) stays valid until the request is over; once
// `finished` is called or wait() returned true, no byte of it is read or written any more, also
// after a timeout or a cancel.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/executor.h"
#include "base/histogram.h"
#include "base/identity.h"
#include "base/random.h"
#include "base/result.h"
#include "base/stream.h"
#include "transport/tls.h"
#include "wire/wire.h"

namespace memkv {

struct ClientOptions {
  // "host:port". Where a control plane publishes a map these are but the first to be asked for it,
  // and the client follows it; elsewhere they are all there is, and must be spelled the same
  // everywhere, because placement hashes them.
  std::vector<std::string> nodes;
  // The file with the token and its key, read again when it changed (client/credentials.h); empty:
  // the built-in tenant. A file that is missing or wrong is no error here: the log says so, and the
  // nodes count as unreachable until there is a good one.
  std::string token_file;
  std::vector<std::byte> token;  // without a proof, for nodes of simulations; beside no file
  // With a `ca` every connection is TLS (transport/tls.h); without one none is. Files that are
  // missing or wrong count as a token_file's do.
  TlsSettings tls;
  std::string name = "memkv";    // for the nodes' logs
  std::uint64_t timeout_ms = 0;  // 0: kTimeoutMsDefault; of a request unless it brings its own
  bool follow = true;            // false: `nodes` are all there is, whatever map a node publishes
};

// What stands in for the world; a simulation brings its own.
struct ClientWorld {
  Executor& executor;
  Network& network;
  Random& random;
};

struct PutBlock {
  std::span<const std::byte> key;
  std::span<const std::byte> group;  // empty: the key is its own group
  std::span<const std::byte> bytes;  // the whole block
  std::uint32_t depth = 0;
  std::uint32_t recompute_cost = 0;
  std::optional<Fingerprint> group_print = {};  // instead of `group`, by whoever knows no more
  std::uint32_t age_s = 0;  // of a block that is moved: how long ago it was put first
};
struct GetBlock {
  std::span<const std::byte> key;
  std::span<const std::byte> group;
  std::uint32_t offset = 0;
  std::span<std::byte> target;  // exactly so many bytes are read from `offset` on
};
struct NamedBlock {
  std::span<const std::byte> key;
  std::span<const std::byte> group;
};
enum class Where : std::uint8_t { absent = 0, flash = 1, dram = 2 };
struct Match {
  Code code = Code::unreachable;  // ok: the node answered (also when absent); else why it did not
  Where where = Where::absent;
  std::uint32_t length = 0;
};

// LIST or MARK, docs/formats/wire.md.
struct Question {
  wire::Type asks{};
  wire::Type answers{};
  std::vector<std::byte> body;
};

struct NodeHealth {
  std::string address;
  std::uint64_t node = 0;
  bool connected = false;
  bool breaker_open = false;
  std::uint64_t boot = 0;
  std::uint64_t failures = 0;  // connections lost or refused
  std::string
      last_error;  // the sentence that goes with the last failure; empty when there was none
};
// How requests ended, those that their caller cancelled left out.
enum class RequestKind : std::uint8_t { get, match, put };
enum class Outcome : std::uint8_t {
  hit,    // a get: all blocks came; a match: some block is there; a put: all are in the pool
  miss,   // a get: some block is not there; a match: none is; a put: a node did not take some block
  error,  // some block has no answer, or no right one
};
inline constexpr std::size_t kRequestKinds = 3;
inline constexpr std::size_t kOutcomes = 3;
// "get"; "hit", or what that is called of a put.
[[nodiscard]] std::string_view kind_name(RequestKind kind);
[[nodiscard]] std::string_view outcome_name(RequestKind kind, Outcome outcome);

struct RequestStats {
  struct Ended {
    Histogram took;           // from the caller's call until the request was over
    std::uint64_t bytes = 0;  // of blocks that came or went with it
  };
  std::array<std::array<Ended, kOutcomes>, kRequestKinds> of{};  // by kind, then outcome
};

struct ClientStats {
  std::uint64_t puts = 0, gets = 0, matches = 0, drops = 0;  // blocks asked for
  std::uint64_t put_ok = 0, put_exists = 0, get_ok = 0, get_misses = 0, corrupt = 0, timeouts = 0,
                unreachable = 0;
  std::uint64_t bytes_put = 0, bytes_got = 0, reconnects = 0;
  std::uint64_t epoch = 0;  // of the map it places by; 0: the nodes it was given are the map
  std::uint64_t asked_older = 0, found_older = 0;  // blocks looked for at one more place
  std::uint64_t asked_copy = 0;                    // blocks whose second copy was asked for first
  RequestStats requests;
};

// One request under way. Thread: any. Destroying it cancels it and, where the client has a thread
// of its own, waits until it is quiet and `finished` has returned (not on that thread itself). In a
// given world destroying it cancels and does not wait: the caller's memory must outlive `finished`.
class Request {
 public:
  virtual ~Request() = default;
  [[nodiscard]] virtual bool done() const = 0;
  // Waits until the request is over, at most `timeout_ms`; true when it is. Not on the mind's
  // thread.
  [[nodiscard]] virtual bool wait(std::uint64_t timeout_ms) = 0;
  // Asks it to end soon: what is not over becomes `cancelled`. `finished` still comes.
  virtual void cancel() = 0;
  // Per block, in the order given; to be read when done().
  [[nodiscard]] virtual std::span<const Code> codes() const = 0;
  [[nodiscard]] virtual std::span<const Match> matches() const = 0;  // of a match only
};

// A put whose blocks stay invisible until release(): every byte is with its node, and no COMMIT is
// sent. A node waits for it kPeerStallMs at most.
class HeldRequest : public Request {
 public:
  // Waits until every block is with its node or has a status, at most `timeout_ms`; true when it is
  // so. Not on the mind's thread.
  [[nodiscard]] virtual bool wait_held(std::uint64_t timeout_ms) = 0;
  virtual void release() = 0;
};

using Finished = std::move_only_function<void()>;  // on the mind's thread, once, when the request
                                                   // is over; must not block

class Client {
 public:
  // Over a given world (its executor's mind runs everything). Connects in the background.
  // Statuses: invalid (no nodes, too many, one twice, an address that is none, a name that is not
  // printable or too long, a token that is too long, a TLS setting without the one it needs).
  [[nodiscard]] static Result<std::unique_ptr<Client>> open(const ClientOptions& options,
                                                            const ClientWorld& world);
  // With an event loop and a thread of its own, over TCP.
  [[nodiscard]] static Result<std::unique_ptr<Client>> open(const ClientOptions& options);

  // Ends every request (cancelled), closes the links. In a given world: when the executor will run
  // nothing more, or after close(). Not on the mind's thread of a client that has its own.
  //
  // After fork the child's copy of a client answers everything with `unreachable`, at once and from
  // the call itself, whatever was under way; its destructors wait for nothing and leave what was
  // the parent's alone. The child opens a client of its own.
  virtual ~Client() = default;
  // Cancels every request and closes the links; `closed` comes on the mind when nothing of it is
  // left to run. Requests made after it are `shutdown` at once, `finished` comes from the call
  // itself.
  virtual void close(std::move_only_function<void()> closed) = 0;

  // Thread: any, for all four. The request is refused as a whole by codes of `invalid` /
  // `too_large` per block (a key of 0 or 513 bytes, an empty or too long block); other blocks go
  // on. `timeout_ms` 0: the client's. `finished` may be empty.
  [[nodiscard]] virtual std::unique_ptr<Request> put(const Namespace& space,
                                                     std::span<const PutBlock> blocks,
                                                     std::uint64_t timeout_ms = 0,
                                                     Finished finished = {}) = 0;
  [[nodiscard]] virtual std::unique_ptr<Request> get(const Namespace& space,
                                                     std::span<const GetBlock> blocks,
                                                     std::uint64_t timeout_ms = 0,
                                                     Finished finished = {}) = 0;
  [[nodiscard]] virtual std::unique_ptr<Request> match(const Namespace& space,
                                                       std::span<const NamedBlock> blocks,
                                                       std::uint32_t hold_ms = 0,
                                                       std::uint64_t timeout_ms = 0,
                                                       Finished finished = {}) = 0;
  [[nodiscard]] virtual std::unique_ptr<Request> drop(const Namespace& space,
                                                      std::span<const NamedBlock> blocks,
                                                      std::uint64_t timeout_ms = 0,
                                                      Finished finished = {}) = 0;

  // put(), held. For whoever moves blocks between nodes.
  [[nodiscard]] virtual std::unique_ptr<HeldRequest> put_held(const Namespace& space,
                                                              std::span<const PutBlock> blocks,
                                                              std::uint64_t timeout_ms = 0,
                                                              Finished finished = {}) = 0;

  // A question to one node (an index into `nodes`): the frame, and the one that answers it. `got`
  // comes on the mind with the body of the answer. Thread: any.
  virtual void ask(std::size_t node, const Question& question, std::uint64_t timeout_ms,
                   std::move_only_function<void(Result<std::string>)> got) = 0;

  // Asks one node (an index into `nodes`) for its STAT text; `got` comes on the mind. Thread: any.
  virtual void stat(std::size_t node, std::uint64_t timeout_ms,
                    std::move_only_function<void(Result<std::string>)> got) = 0;

  // Thread: any.
  [[nodiscard]] virtual std::vector<NodeHealth> health() const = 0;
  [[nodiscard]] virtual ClientStats stats() const = 0;
};

}  // namespace memkv
