#include "server/peer.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/limits.h"
#include "base/log.h"

namespace memkv {
namespace {

constexpr std::uint64_t kNsPerSecond = 1000 * kNsPerMs;
// A peer over its reply limit is looked at again so often.
constexpr std::uint64_t kUnreadRetryNs = 10 * kNsPerMs;

[[nodiscard]] bool is_request(wire::Type type) {
  switch (type) {
    case wire::Type::match:
    case wire::Type::put:
    case wire::Type::get:
    case wire::Type::drop:
    case wire::Type::stat:
    case wire::Type::map:
    case wire::Type::list:
    case wire::Type::mark:
      return true;
    default:
      return false;
  }
}

[[nodiscard]] std::unexpected<Status> not_legal(wire::Type type, const char* when) {
  return fail(Code::protocol, std::string(wire::type_name(type)) + " is not legal " + when);
}

// What every stranger hears who may not come in, whatever the reason: those are in the node's log.
constexpr const char* kNotWelcome =
    "this node takes no such token; the node's log says why, and whoever issues tokens has a "
    "better one";

constexpr const char* kPassOver =
    "the time of the token, or of the key that signed it, is over: connect with a fresh one";

[[nodiscard]] std::uint32_t right_for(wire::Type type) {
  switch (type) {
    case wire::Type::match:
    case wire::Type::get:
    case wire::Type::list:
      return kRightRead;
    case wire::Type::put:
    case wire::Type::mark:
      return kRightWrite;
    case wire::Type::drop:
      return kRightDrop;
    default:
      return 0;
  }
}

// Has it been so since `since` without a byte moving after it? `since` 0: it is not so.
[[nodiscard]] bool stalled(std::uint64_t now, std::uint64_t since, std::uint64_t moved) {
  return since != 0 && now - std::min(now, std::max(since, moved)) > kPeerStallMs * kNsPerMs;
}

}  // namespace

Peer::Peer(ServerContext& context, std::unique_ptr<Stream> stream, PeerHooks hooks)
    : Session(context),
      hooks_(std::move(hooks)),
      puts_(*this),
      gets_(*this),
      scans_(*this),
      lists_(*this),
      began_ns_(context.now_ns()) {
  ++server.greeting;
  link = Link::start(std::move(stream), server.executor, *this, kBodyBytesBeforeHello);
}

Peer::~Peer() {
  greeted();
}

void Peer::greeted() {
  if (std::exchange(greeting_, false)) --server.greeting;
}

// ---- frames

void Peer::on_frame(const wire::Header& header, std::span<const std::byte> body) {
  frame_bytes_in_ += wire::kHeaderBytes + body.size();
  Result<void> taken;
  switch (phase_) {
    case Phase::hello:
      taken = on_hello(header, body);
      break;
    case Phase::auth:
      taken = on_auth(header, body);
      break;
    case Phase::open:
      taken = on_open(header, body);
      break;
    case Phase::dropping:
      return;
  }
  if (!taken) drop(taken.error());
}

Result<void> Peer::on_hello(const wire::Header& header, std::span<const std::byte> body) {
  if (header.type != wire::Type::hello || header.request != 0)
    return not_legal(header.type, "before HELLO");
  const auto hello = wire::decode_hello(body);
  if (!hello) return fail(hello.error());
  if ((hello->transports & wire::kTransportTcp) == 0) {
    return fail(Code::unsupported,
                "this node moves bytes over TCP only, which the client does not offer");
  }
  name_ = hello->name;
  session_ = hello->session;
  for (std::size_t i = 0; i < nonce_.size(); i += sizeof(std::uint64_t)) {
    const std::uint64_t word = server.random.next();
    std::memcpy(nonce_.data() + i, &word, sizeof word);
  }
  send(wire::Type::challenge, 0,
       wire::Challenge{.version = std::min(hello->version_max, wire::kVersionMax),
                       .auth = server.takes_strangers() ? wire::kAuthOpen : 0,
                       .nonce = nonce_});
  phase_ = Phase::auth;
  return {};
}

Result<void> Peer::on_auth(const wire::Header& header, std::span<const std::byte> body) {
  if (header.type != wire::Type::auth || header.request != 0)
    return not_legal(header.type, "before WELCOME");
  const auto auth = wire::decode_auth(body);
  if (!auth) return fail(auth.error());
  auto pass = admit(*auth);
  if (!pass) return fail(pass.error());
  pass_ = std::move(*pass);
  tenant = pass_.tenant;
  greeted();
  link->raise_body_limit(kBodyBytesMax);
  phase_ = Phase::open;
  ++server.counters.peers_welcome;
  send(wire::Type::welcome, 0,
       wire::Welcome{.node = server.node,
                     .boot = server.store.stats().boot,
                     .epoch = server.epoch,
                     .transports = wire::kTransportTcp,
                     .batch_max = kBatchMax,
                     .items_max = kItemsMax,
                     .requests_max = static_cast<std::uint32_t>(kRequestsPerPeerMax),
                     .block_bytes_max = static_cast<std::uint32_t>(kBlockBytesMax),
                     .put_bytes_granted_max = kPutBytesGrantedPerPeer,
                     .software = "memkvd " MEMKV_VERSION});
  return {};
}

Result<Pass> Peer::admit(const wire::Auth& auth) const {
  auto pass = server.admit(
      {.token = auth.token, .proof = auth.proof, .nonce = nonce_, .session = session_});
  if (pass) return pass;
  server.lines.not_let_in.log(server.now_ns(), label() + " is not let in: " + pass.error().text);
  return fail(Code::denied, kNotWelcome);
}

Result<void> Peer::on_open(const wire::Header& header, std::span<const std::byte> body) {
  if (is_request(header.type)) return on_request(header, body);
  switch (header.type) {
    case wire::Type::commit: {
      const auto commit = wire::decode_commit(body);
      return commit ? puts_.commit(header.request, *commit) : fail(commit.error());
    }
    case wire::Type::cancel: {
      const auto cancel = wire::decode_cancel(body);
      if (!cancel) return fail(cancel.error());
      on_cancel(header.request, cancel->item);
      return {};
    }
    case wire::Type::report: {
      const auto report = wire::decode_report(body);
      if (!report) return fail(report.error());
      on_report(*report);
      return {};
    }
    default:
      return not_legal(header.type, "here");
  }
}

Result<void> Peer::on_request(const wire::Header& header, std::span<const std::byte> body) {
  const std::uint64_t request = header.request;
  if (request == 0 || puts_.has(request) || gets_.has(request) || scans_.has(request) ||
      lists_.has(request)) {
    return fail(Code::protocol, std::string(wire::type_name(header.type)) + " has the number " +
                                    std::to_string(request) + ", which is not free");
  }
  if (pass_.over(server.options.wall_s())) return fail(Code::denied, kPassOver);
  Status why = forbidden(header, body);
  if (why.good()) why = full(header, body);
  if (!why.good()) {
    refuse(request, why);
    if (reply_bytes_queued() > 2 * kReplyBytesQueuedPerPeer) {
      return fail(Code::busy, "asks for more and more and does not read the answers");
    }
    return {};
  }
  return begin_request(header, body);
}

Status Peer::forbidden(const wire::Header& header, std::span<const std::byte> body) const {
  if (!pass_.allows(right_for(header.type))) {
    return {Code::denied,
            "the token gives no right to " + std::string(wire::type_name(header.type))};
  }
  if (pass_.spaces.empty() || right_for(header.type) == 0) return {};
  if (header.type == wire::Type::list) {
    return {Code::denied, "the token is for some namespaces, and LIST names those of all"};
  }
  // Every body that names blocks begins with their namespace; one too short is refused as such.
  NamespaceId space{};
  if (body.size() < space.size()) return {};
  std::ranges::copy(body.first(space.size()), space.begin());
  if (pass_.allows(space)) return {};
  return {Code::denied, "the token is not for this namespace"};
}

Status Peer::full(const wire::Header& header, std::span<const std::byte> body) const {
  if (server.stopping) return {Code::shutdown, "this node is stopping"};
  if (requests() >= kRequestsPerPeerMax) {
    return {Code::busy, "more than " + std::to_string(kRequestsPerPeerMax) + " requests at a time"};
  }
  if ((header.type == wire::Type::put || header.type == wire::Type::get) &&
      items() >= kItemsPerPeerMax) {
    return {Code::busy, "more than " + std::to_string(kItemsPerPeerMax) + " blocks wait"};
  }
  if (puts_.body_bytes() + gets_.body_bytes() + scans_.body_bytes() + body.size() >
      kRequestBytesPerPeerMax) {
    return {Code::busy, "more than " + std::to_string(kRequestBytesPerPeerMax) +
                            " bytes of requests at a time"};
  }
  if (reply_bytes_queued() > kReplyBytesQueuedPerPeer) {
    return {Code::busy, "more than " + std::to_string(kReplyBytesQueuedPerPeer) +
                            " bytes of answers were not read"};
  }
  return {};
}

Result<void> Peer::begin_request(const wire::Header& header, std::span<const std::byte> body) {
  ServerCounters& counters = server.counters;
  switch (header.type) {
    case wire::Type::match:
      ++counters.requests_match;
      return scans_.begin_match(header.request, body);
    case wire::Type::drop:
      ++counters.requests_drop;
      return scans_.begin_drop(header.request, body);
    case wire::Type::put:
      ++counters.requests_put;
      return puts_.begin(header.request, body);
    case wire::Type::get:
      ++counters.requests_get;
      return gets_.begin(header.request, body);
    case wire::Type::list:
      ++counters.requests_list;
      return lists_.begin_list(header.request, body);
    case wire::Type::mark:
      ++counters.requests_mark;
      return lists_.answer_mark(header.request, body);
    default:
      break;
  }
  if (!body.empty()) {
    return fail(Code::protocol, std::string(wire::type_name(header.type)) + " has a body");
  }
  if (header.type == wire::Type::stat) {
    ++counters.requests_stat;
    answer_stat(header.request);
  } else {
    ++counters.requests_map;
    answer_map(header.request);
  }
  return {};
}

void Peer::answer_stat(std::uint64_t request) {
  const std::string text = hooks_.stats_text(pass_);
  link->send(wire::Type::stat_reply, request, as_bytes_of(text));
}

void Peer::answer_map(std::uint64_t request) {
  if (!server.map.empty()) {
    link->send(wire::Type::map_reply, request, server.map);
    return;
  }
  std::array<std::byte, wire::kSmallBodyMax> buffer;
  wire::MapReplyWriter writer(buffer, wire::MapHead{.epoch = server.epoch});
  const wire::MapNode self{
      .node = server.node, .weight = server.options.weight, .address = server.address};
  if (!writer.add(self)) log(LogLevel::error, "the address '" + server.address + "' fits no MAP");
  link->send(wire::Type::map_reply, request, writer.body());
}

void Peer::on_cancel(std::uint64_t request, std::uint32_t item) {
  ++server.counters.cancels;
  puts_.cancel(request, item);
  gets_.cancel(request, item);
  if (item != wire::kAllItems) return;
  scans_.forget(request);
  lists_.forget(request);
}

void Peer::on_report(const wire::Report& report) {
  const std::uint64_t now = server.now_ns();
  if (now - reports_since_ns_ > kNsPerSecond) {
    reports_since_ns_ = now;
    reports_ = 0;
  }
  if (++reports_ > kReportsPerPeerPerSecond) {
    ++server.counters.reports_ignored;
    return;
  }
  if (!pass_.allows(kRightRead) || !pass_.allows(report.space.id)) {
    ++server.counters.reports_ignored;
    return;
  }
  ++server.counters.reports;
  server.store.report(BlockId{.tenant = tenant, .space = report.space, .key = report.key},
                      report.incarnation);
}

Landing Peer::on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  frame_bytes_in_ += wire::kHeaderBytes + wire::kDataBodyBytes + bytes;
  if (phase_ == Phase::dropping) return {};
  if (phase_ != Phase::open) {
    drop({Code::protocol, "DATA is not legal before WELCOME"});
    return {};
  }
  auto landing = puts_.data(request, data, bytes);
  if (landing) return *landing;
  drop(landing.error());
  return {};
}

void Peer::on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  puts_.landed(request, data, bytes);
}

// ---- limits and time

bool Peer::may_begin() {
  if (phase_ != Phase::open) return false;
  if (reply_bytes_queued() <= kReplyBytesQueuedPerPeer) return true;
  if (!unread_retry_) {
    unread_retry_ = true;
    [[maybe_unused]] const TimerId timer =
        server.executor.after(kUnreadRetryNs, [this, living = std::weak_ptr<bool>(alive)] {
          if (living.expired()) return;
          unread_retry_ = false;
          resume();
        });
  }
  return false;
}

std::uint64_t Peer::reply_bytes_queued() const {
  const std::uint64_t queued = link->bytes_queued();
  return queued - std::min(queued, gets_.bytes_shipping());
}

void Peer::resume_later() {
  if (resume_posted_) return;
  resume_posted_ = true;
  server.executor.post([this, living = std::weak_ptr<bool>(alive)] {
    if (!living.expired()) resume();
  });
}

void Peer::resume() {
  resume_posted_ = false;
  if (phase_ != Phase::open) return;
  scans_.resume();
  gets_.resume();
  puts_.resume();
}

void Peer::tick() {
  const std::uint64_t now = server.now_ns();
  if (phase_ == Phase::dropping) return;
  if (phase_ != Phase::open) {
    if (now - began_ns_ > kHelloDeadlineMs * kNsPerMs) {
      ++server.counters.peers_stalled;
      drop({Code::timeout, "no HELLO and AUTH within " + std::to_string(kHelloDeadlineMs) + " ms"});
    }
    return;
  }
  if (pass_.over(server.options.wall_s())) {
    drop({Code::denied, kPassOver});
    return;
  }
  look_at_deadlines();
  look_at_pace();
}

void Peer::look_at_deadlines() {
  const std::uint64_t now = server.now_ns();
  const bool in_frame = link->bytes_in() != frame_bytes_in_;
  if (!in_frame) reading_since_ns_ = 0;
  if (in_frame && reading_since_ns_ == 0) reading_since_ns_ = now;
  const bool unsent = link->bytes_queued() > 0;
  if (!unsent) writing_since_ns_ = 0;
  if (unsent && writing_since_ns_ == 0) writing_since_ns_ = now;

  const char* owes = nullptr;
  if (stalled(now, reading_since_ns_, link->last_in_ns())) owes = "the rest of a frame";
  if (stalled(now, writing_since_ns_, link->last_out_ns()))
    owes = "the reading of what was sent to it";
  if (stalled(now, puts_.owed_since_ns(), in_frame ? link->last_in_ns() : 0))
    owes = "bytes of a block it was granted";
  if (owes == nullptr) return;
  ++server.counters.peers_stalled;
  drop({Code::timeout, "owes " + std::string(owes) + " and moved none for " +
                           std::to_string(kPeerStallMs) + " ms"});
}

void Peer::look_at_pace() {
  // What many peers are sent at once is held once by each of them.
  const std::uint64_t all = std::max(server.arena_bytes, server.held_bytes);
  if (server.wanted.of_puts) {
    put_pace_.look(puts_.bytes_held(), puts_.bytes_landed(), all);
  } else {
    put_pace_.forget();
  }
  if (server.wanted.of_gets) {
    get_pace_.look(gets_.bytes_shipping(), link->payload_out(), all);
  } else {
    get_pace_.forget();
  }
}

std::uint64_t Peer::bytes_held() const {
  return puts_.bytes_held() + gets_.bytes_shipping();
}

std::uint64_t Peer::slow_bytes() const {
  return phase_ == Phase::open ? put_pace_.slow_bytes() + get_pace_.slow_bytes() : 0;
}

void Peer::drop_slow() {
  ++server.counters.peers_slow;
  drop({Code::timeout, "holds " + std::to_string(slow_bytes()) +
                           " bytes of this node's memory and is too slow with them while others "
                           "wait for some"});
}

void Peer::trust_changed() {
  if (phase_ == Phase::open && !server.upholds(pass_)) {
    drop({Code::denied, "what it showed when it came is not trusted any more"});
  }
}

bool Peer::idle() const {
  return requests() == 0 && link->bytes_queued() == 0;
}

// ---- the end

void Peer::drop(Status why) {
  if (phase_ == Phase::dropping) return;
  phase_ = Phase::dropping;
  if (why.code == Code::protocol || why.code == Code::too_large)
    ++server.counters.peers_broke_protocol;
  end_told_ = why.code != Code::shutdown;
  if (end_told_) log_end(server.lines.dropped, " is dropped: ", why);
  refuse(0, why);
  scans_.forget_all();
  lists_.forget_all();
  puts_.forget_waiting();
  gets_.forget_waiting();
  link->close(std::move(why), true);
}

void Peer::on_closed(const Status& why) {
  // Also of one that was to go with the node, when its link had ended by itself before.
  if (!end_told_ && why.code != Code::shutdown) {
    const bool broke =
        why.code == Code::protocol || why.code == Code::too_large || why.code == Code::unsupported;
    if (broke) ++server.counters.peers_broke_protocol;
    log_end(broke ? server.lines.broke : server.lines.gone, " is gone: ", why);
  }
  phase_ = Phase::dropping;
  scans_.forget_all();
  lists_.forget_all();
  puts_.forget_all();
  gets_.forget_all();
  server.counters.bytes_in_closed += link->bytes_in();
  server.counters.bytes_out_closed += link->bytes_out();
  const auto over = std::move(hooks_.over);
  over();
}

void Peer::log_end(LogPace& lines, const char* how, const Status& why) const {
  lines.log(server.now_ns(), label() + how + why.message(),
            {{"peer", link->peer()}, {"name", name_}, {"code", code_name(why.code)}});
}

std::string Peer::label() const {
  return "peer " + link->peer() + (name_.empty() ? "" : " (" + name_ + ")");
}

}  // namespace memkv
