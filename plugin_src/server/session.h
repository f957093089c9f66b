// What the parts of one peer (puts, gets, scans) share: the link, the tenant, the store, and the
// server's counters.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/histogram.h"
#include "base/limits.h"
#include "base/log_pace.h"
#include "engine/store.h"
#include "server/server.h"
#include "server/spaces.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace memkv {

struct ServerCounters {
  std::uint64_t peers_accepted = 0, peers_welcome = 0, peers_stalled = 0, peers_slow = 0,
                peers_broke_protocol = 0;
  std::uint64_t requests_match = 0, requests_put = 0, requests_get = 0, requests_drop = 0,
                requests_stat = 0, requests_map = 0, requests_list = 0, requests_mark = 0;
  std::uint64_t cancels = 0, reports = 0, reports_ignored = 0;
  std::uint64_t match_keys = 0, match_found = 0, match_holes = 0;
  std::uint64_t put_blocks = 0, get_blocks = 0, drop_keys = 0, get_bytes = 0;
  std::uint64_t bytes_in_closed = 0, bytes_out_closed = 0;  // of links that are over
  std::array<std::uint64_t, kCodeMax + 1> refused{};        // REFUSE frames sent, by code
  // From taking the GET to handing a block to its link, and until that has sent it; from GRANT to
  // PUT_DONE. Of blocks that went well.
  Histogram get_first_byte, get_whole, put;
};

// Lines of the log that peers cause; whoever connects in a loop must not fill a disk.
struct PeerLines {
  LogPace not_let_in{LogLevel::warning, "peers that were not let in"};
  LogPace dropped{LogLevel::warning, "peers that were dropped"};
  LogPace broke{LogLevel::warning, "peers that broke the protocol"};
  LogPace gone{LogLevel::debug, "peers that are gone"};

  // Tells what was left out.
  void tell(std::uint64_t now_ns) {
    for (LogPace* const pace : {&not_let_in, &dropped, &broke, &gone}) pace->tell(now_ns);
  }
};

// What all peers of a server share.
struct ServerContext {
  ServerOptions options;
  Store& store;
  Executor& executor;
  Random& random;
  ServerCounters counters;
  PeerLines lines;
  Spaces spaces;
  std::string address;     // the one clients know this node by
  std::uint64_t node = 0;  // node_id_of(address)
  std::uint64_t get_delay_ns =
      0;  // from asking the store for a block to having it; a moving average
  bool stopping = false;
  std::uint64_t arena_bytes = 0;  // of the store
  std::uint64_t held_bytes = 0;   // of it by all peers together, and
  MemoryWanted wanted;            // whose somebody waits for: at the last tick
  std::uint32_t epoch = kStaticEpoch;
  std::vector<std::byte> map;  // the body of MAP_REPLY; empty: this node alone
  std::uint32_t map_nodes = 1;
  std::uint64_t maps_refused = 0;
  Trust trust;
  std::vector<std::string> names;  // that this node goes by, in tokens' proofs
  std::size_t greeting = 0;        // peers that are not welcome yet
  std::uint64_t namespaces_settled = 0;

  [[nodiscard]] bool takes_strangers() const;
  // What the peer who claims this may do. Statuses: denied; the sentence is for the log alone.
  [[nodiscard]] Result<Pass> admit(const Claim& claim) const;
  // Whether a pass is good still; what it knows of its end may change.
  [[nodiscard]] bool upholds(Pass& pass) const;
  // Whether it may hear of every tenant and namespace: the node's agent may, and whoever comes
  // without a token where no tenant has a key.
  [[nodiscard]] bool sees_all(const Pass& pass) const;
  [[nodiscard]] std::uint64_t now_ns() const { return executor.clock().now_ns(); }
};

class Session {
 public:
  explicit Session(ServerContext& context) : server(context) {}
  virtual ~Session() = default;

  // Tells the peer why and ends the link; nothing more of what it asked for begins.
  virtual void drop(Status why) = 0;
  // Runs resume() of every part soon: something was over a limit and may not be any more, or a
  // slice ended.
  virtual void resume_later() = 0;
  // False while the peer does not read its replies (every part's resume() comes when it does), and
  // when it is being dropped.
  [[nodiscard]] virtual bool may_begin() = 0;

  // May one more block of `bytes` be asked for at the store, where the peer waits for `asked`
  // already? The store serves first come first served, so where it is short of memory nobody may
  // come first with all that he wants. False only while the answer to a block comes, after which
  // it is worth asking again.
  [[nodiscard]] bool may_ask(std::uint64_t asked, std::uint64_t bytes) const {
    return asked == 0 || asked + bytes <= kAskedBytesWhileShort ||
           !server.store.memory_wanted().any();
  }

  template <typename Body>
  void send(wire::Type type, std::uint64_t request, const Body& body) {
    std::array<std::byte, wire::kSmallBodyMax> buffer;
    const std::size_t bytes = wire::encode(body, buffer);
    link->send(type, request, std::span<const std::byte>(buffer.data(), bytes));
  }
  void refuse(std::uint64_t request, const Status& why) {
    ++server.counters.refused[static_cast<std::size_t>(why.code)];
    std::string text = why.text.substr(0, kTextBytesMax);
    std::ranges::replace_if(text, [](char c) { return c < ' ' || c > '~'; }, '?');
    send(wire::Type::refuse, request, wire::Refuse{.code = why.code, .text = text});
  }

  ServerContext& server;
  std::unique_ptr<Link> link;
  TenantId tenant = 0;  // of its pass
  // Expires with the peer: for callbacks that nobody can call back.
  std::shared_ptr<bool> alive = std::make_shared<bool>(true);
};

static_assert(kMarkOfCopied == wire::kMarkCopied);
// The mark as the wire's answers say it.
[[nodiscard]] constexpr std::uint8_t copied(std::uint8_t mark) {
  return mark == wire::kMarkCopied ? 1 : 0;
}

// One block of one request, waiting for its turn.
struct QueuedItem {
  std::uint64_t request = 0;
  std::uint32_t item = 0;
};
using ItemQueue = std::deque<QueuedItem>;

inline void remove_from(ItemQueue& queue, std::uint64_t request, std::uint32_t item) {
  std::erase_if(queue, [&](const QueuedItem& waiting) {
    return waiting.request == request && (item == wire::kAllItems || waiting.item == item);
  });
}

}  // namespace memkv
