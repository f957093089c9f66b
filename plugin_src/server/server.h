// Server: a store node's face to its peers. Speaks docs/formats/wire.md over any Network, on top of
// a Store.
//
// Who a peer is, and what it may do, its token says (trust.h); whose token is wrong in whatever way
// hears one sentence. Every peer is bounded (limits.h): requests, blocks and bytes in flight,
// frames it has not read. Over a bound it waits where waiting is the protocol's way (no grant yet,
// no GET_BLOCK yet), else it is refused with `busy`. A peer that owes bytes and moves none for
// kPeerStallMs, that is not welcome within kHelloDeadlineMs, or that breaks the protocol, is told
// why (REFUSE 0) and dropped; whatever it had begun is undone.
//
// No peer's slowness delays another for long. Links take turns of one slice each, so a large batch
// does not hold up a small request. What peers share is the store's memory: a few slow ones may
// hold all of it, for one may have 128 MiB granted and 64 MiB pinned. While the store is short of
// memory, therefore, a peer must move what it holds (pace.h). Where those that are too slow
// together hold a kPacePart-th of the arena, one of them is dropped every kLookMs, who holds most
// first, until nobody waits; its client begins anew. And nobody's blocks wait for more than
// kAskedBytesWhileShort of it at a time, so that others are not behind all that he wants. A slow
// peer is kept while nobody waits, and while what the slow ones hold would help nobody.
//
// Thread: the mind.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/executor.h"
#include "base/identity.h"
#include "base/random.h"
#include "base/result.h"
#include "base/stream.h"
#include "engine/store.h"
#include "server/map_file.h"
#include "server/trust.h"

namespace memkv {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";
  std::string advertise;  // the address clients know this node by; empty: the one it listens on
  std::uint32_t weight = 100;
  std::vector<std::string> also_known_as;  // more addresses that clients may know it by
  Anonymous anonymous = Anonymous::yes;
  // In place of the map's tokens: for simulations, which have no keys. Empty: the tokens.
  Authenticator authenticate;
  std::function<std::uint64_t()> wall_s = system_wall_s;  // for the times of tokens
};

class Server {
 public:
  // Listens. Statuses: invalid, unreachable.
  [[nodiscard]] static Result<std::unique_ptr<Server>> start(ServerOptions options, Store& store,
                                                             Network& network, Executor& executor,
                                                             Random& random);
  virtual ~Server() =
      default;  // after stop()'s `stopped`, or when its executor will run nothing more

  // The address really bound.
  [[nodiscard]] virtual std::string address() const = 0;
  // Takes no new peers, lets begun requests end until `grace_ms`, closes every link, then calls
  // `stopped`. The store is untouched.
  virtual void stop(std::uint64_t grace_ms, std::move_only_function<void()> stopped) = 0;
  // Holds this map from now on when it is newer than the one it holds, and has its store go by what
  // is settled there; believes whom it says from now on unless it is older, and drops open
  // connections that are not believed any more. Or hears why there is no map: what is refused is
  // counted.
  virtual void take_map(Result<MapFile> file) = 0;
  // What STAT answers whoever may hear of all tenants: lines of `name value`, the store's numbers
  // among them.
  [[nodiscard]] virtual std::string stats_text() const = 0;
};

}  // namespace memkv
