// The session's first half: the connection and its breaker.
#include "client/node_session.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"

namespace memkv {

NodeSession::NodeSession(NodeOwner& owner, std::size_t index, std::string address)
    : owner_(owner), index_(index) {
  health_.address = std::move(address);
}

Status NodeSession::refusal(const wire::Refuse& refuse) {
  return Status(refuse.code, "the node refused: " + std::string(refuse.text));
}

void NodeSession::start() {
  if (phase_ == Phase::resting && !close_asked_) connect();
}

std::uint64_t NodeSession::now_ns() const {
  return owner_.world().executor.clock().now_ns();
}

void NodeSession::publish() {
  owner_.node_changed(index_, health_);
}

void NodeSession::connect() {
  timer_ = 0;
  phase_ = Phase::connecting;
  connection_ = owner_.next_connection();
  welcomed_ = false;
  answered_ = false;
  first_request_ = next_request_;
  if (Status why = owner_.credentials().ready(); !why.good()) {
    // From a task of its own, as a connect that fails.
    timer_ = owner_.world().executor.after(0, [this, why = std::move(why)] {
      timer_ = 0;
      failed(why);
      refuse_waiting(Code::unreachable);
      rest_and_connect();
    });
    return;
  }
  // The network may answer long after close(): it finds nobody then.
  owner_.world().network.connect(
      health_.address, kConnectTimeoutMs * kNsPerMs,
      [weak = weak_from_this(), number = connection_](Result<std::unique_ptr<Stream>> stream) {
        const auto self = weak.lock();
        if (!self || self->connection_ != number || self->phase_ != Phase::connecting) return;
        if (stream) {
          self->connected(std::move(*stream));
          return;
        }
        self->failed(stream.error());
        self->refuse_waiting(Code::unreachable);
        self->rest_and_connect();
      });
}

void NodeSession::connected(std::unique_ptr<Stream> stream) {
  phase_ = Phase::greeting;
  Executor& executor = owner_.world().executor;
  link_ = Link::start(std::move(stream), executor, *this, kBodyBytesBeforeHello);
  timer_ = executor.after(kConnectTimeoutMs * kNsPerMs, [this] {
    timer_ = 0;
    break_link(Status(Code::timeout, "the node accepted the connection and did not greet"));
  });
  greet();
}

void NodeSession::greet() {
  session_ = owner_.world().random.next();
  const wire::Hello hello{.session = session_, .name = owner_.options().name};
  std::array<std::byte, wire::kSmallBodyMax> body;
  link_->send(wire::Type::hello, 0, std::span(body).first(wire::encode(hello, body)));
}

void NodeSession::on_greeting(const wire::Header& header, std::span<const std::byte> body) {
  Result<void> step;
  if (header.request != 0) {
    step = fail(Code::protocol, "a reply before the connection was welcome");
  } else if (header.type == wire::Type::refuse) {
    const auto refuse = wire::decode_refuse(body);
    Status why = refuse ? refusal(*refuse) : refuse.error();
    if (why.code == Code::denied) why.text += owner_.credentials().hint();
    step = fail(std::move(why));
  } else if (header.type == wire::Type::challenge && phase_ == Phase::greeting) {
    step = on_challenge(body);
  } else if (header.type == wire::Type::welcome && phase_ == Phase::proving) {
    step = on_welcome(body);
  } else {
    step = fail(Code::protocol,
                std::string(wire::type_name(header.type)) + " is no step of the greeting");
  }
  if (!step) break_link(step.error());
}

Result<void> NodeSession::on_challenge(std::span<const std::byte> body) {
  const auto challenge = wire::decode_challenge(body);
  if (!challenge) return fail(challenge.error());  // also of a version that was not offered
  const Credentials& credentials = owner_.credentials();
  const std::span<const std::byte> token = credentials.token();
  if (token.empty() && (challenge->auth & wire::kAuthOpen) == 0) {
    return fail(Code::denied,
                "the node wants a token and this client has none: name its file with token_file");
  }
  shown_ = credentials.version();
  const auto proof = credentials.proof(challenge->nonce, session_, health_.address);
  std::array<std::byte, wire::kSmallBodyMax> reply;
  const std::size_t bytes = wire::encode(wire::Auth{.token = token, .proof = proof}, reply);
  link_->send(wire::Type::auth, 0, std::span(reply).first(bytes));
  phase_ = Phase::proving;
  return {};
}

Result<void> NodeSession::on_welcome(std::span<const std::byte> body) {
  const auto welcome = wire::decode_welcome(body);
  if (!welcome) return fail(welcome.error());
  if ((welcome->transports & wire::kTransportTcp) == 0) {
    return fail(Code::unsupported, "the node and this client have no transport in common");
  }
  limits_ = {.batch = welcome->batch_max,
             .items = welcome->items_max,
             .requests = welcome->requests_max,
             .block_bytes =
                 std::min<std::uint64_t>(welcome->block_bytes_max, welcome->put_bytes_granted_max)};
  Executor& executor = owner_.world().executor;
  executor.cancel(std::exchange(timer_, 0));
  link_->raise_body_limit(kBodyBytesMax);
  phase_ = Phase::welcome;
  welcomed_ = true;
  welcome_ns_ = now_ns();
  timeouts_in_row_ = 0;
  if (health_.failures > 0) {
    owner_.node_reconnected();
    log(LogLevel::info, "client: node " + health_.address + " is back");
  }
  health_.connected = true;
  health_.breaker_open = false;
  health_.boot = welcome->boot;
  publish();
  owner_.epoch_seen(index_, welcome->epoch);
  pump();
  return {};
}

// What goes wrong with a node goes through here once a connection.
void NodeSession::failed(const Status& why) {
  if (!health_.breaker_open) {
    log(LogLevel::warning, "client: node " + health_.address + ": " + why.message());
  }
  health_.failures += 1;
  health_.last_error = why.message();
  health_.connected = false;
  health_.breaker_open = true;
  timeouts_in_row_ = 0;
  publish();
}

void NodeSession::show_token() {
  if (phase_ != Phase::welcome || renewing_) return;
  if (shown_ == owner_.credentials().version()) return;
  renewing_ = true;
  timer_ = owner_.world().executor.after(kRenewPatienceMs * kNsPerMs, [this] {
    timer_ = 0;
    break_link(Status(Code::timeout, "requests did not end in time for a fresh token"));
  });
  renew_when_idle();
}

void NodeSession::renew_when_idle() {
  if (!renewing_ || phase_ != Phase::welcome || !flights_.empty()) return;
  phase_ = Phase::closing;
  owner_.world().executor.cancel(std::exchange(timer_, 0));
  health_.connected = false;
  publish();
  link_->close(Status(Code::cancelled, "connects again with a fresh token"), true);
}

void NodeSession::break_link(Status why) {
  if (link_ == nullptr || phase_ == Phase::closing) return;
  phase_ = Phase::closing;
  renewing_ = false;
  owner_.world().executor.cancel(std::exchange(timer_, 0));
  failed(why);
  link_->close(std::move(why));
}

void NodeSession::on_closed(const Status& why) {
  owner_.world().executor.cancel(std::exchange(timer_, 0));
  const bool renewed = std::exchange(renewing_, false) && phase_ == Phase::closing;
  if (phase_ != Phase::closing) failed(why);
  phase_ = Phase::resting;
  link_.reset();
  settle_flights(close_asked_ ? close_code_ : Code::unreachable);
  if (close_asked_) {
    phase_ = Phase::closed;
    owner_.node_closed(index_);
    return;
  }
  if (renewed) {
    connect();
    return;
  }
  if (!welcomed_) refuse_waiting(Code::unreachable);
  rest_and_connect();
}

void NodeSession::rest_and_connect() {
  // A node that greets and hangs up at once does not count as one that worked.
  const bool lasted = now_ns() - welcome_ns_ >= kBackoffMsMax * kNsPerMs;
  if (welcomed_ && (answered_ || lasted)) failures_in_row_ = 0;
  std::uint64_t pause_ms = kBackoffMsMin;
  for (unsigned i = 0; i < failures_in_row_ && pause_ms < kBackoffMsMax; ++i) pause_ms *= 2;
  failures_in_row_ += 1;
  const std::uint64_t half_ns = std::min(pause_ms, kBackoffMsMax) * kNsPerMs / 2;
  const std::uint64_t pause_ns = half_ns + owner_.world().random.below(half_ns + 1);
  phase_ = Phase::resting;
  timer_ = owner_.world().executor.after(pause_ns, [this] { connect(); });
}

void NodeSession::refuse_waiting(Code code) {
  for (std::deque<Part>& queue : waiting_) {
    for (const Part& part : std::exchange(queue, {})) {
      for (const std::uint32_t item : part.rest()) owner_.item_over(part.operation, item, code);
    }
  }
}

void NodeSession::close(Code code) {
  if (close_asked_) return;
  close_asked_ = true;
  close_code_ = code;
  owner_.world().executor.cancel(std::exchange(timer_, 0));
  refuse_waiting(code);
  health_.connected = false;
  publish();
  if (link_ == nullptr) {
    phase_ = Phase::closed;
    owner_.node_closed(index_);
  } else if (phase_ != Phase::closing) {
    phase_ = Phase::closing;
    link_->close(Status(Code::shutdown, "the client was closed"), true);
  }
}

}  // namespace memkv
