#include <algorithm>
#include <array>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "transport/inbound.h"
#include "transport/io_job.h"
#include "transport/outbound.h"
#include "transport/transport.h"

namespace memkv {
namespace {

// Ties the two directions to a stream and an executor. In each direction there is at most one job,
// and between two jobs the link either has the next one at once or waits for the stream to be
// ready.
//
// `this` is captured by tasks freely: every job and task of ours is counted in pending_, the
// stream's calls end with its close(), and on_closed is the last task of all.
class StreamLink final : public Link {
 public:
  StreamLink(std::unique_ptr<Stream> stream, Executor& executor, LinkHandler& handler,
             std::uint32_t body_bytes_max)
      : stream_(std::move(stream)),
        executor_(executor),
        handler_(handler),
        inbound_(handler, body_bytes_max),
        last_in_ns_(executor.clock().now_ns()),
        last_out_ns_(last_in_ns_) {
    wait_readable();
  }

  void raise_body_limit(std::uint32_t body_bytes_max) override {
    inbound_.raise_body_limit(body_bytes_max);
  }
  void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) override;
  void ship(Shipment shipment) override;
  void recall(std::uint64_t request, std::uint32_t item,
              std::move_only_function<void()> quiet) override;
  void close(Status why, bool farewell) override;

  [[nodiscard]] std::uint64_t bytes_queued() const override { return outbound_.bytes_queued(); }
  [[nodiscard]] std::uint64_t bytes_in() const override { return bytes_in_; }
  [[nodiscard]] std::uint64_t bytes_out() const override { return bytes_out_; }
  [[nodiscard]] std::uint64_t payload_out() const override { return outbound_.payload_out(); }
  [[nodiscard]] std::uint64_t last_in_ns() const override;
  [[nodiscard]] std::uint64_t last_out_ns() const override { return last_out_ns_; }
  [[nodiscard]] std::string peer() const override { return stream_->peer(); }

 private:
  // open: bytes move. farewell, closing: nothing new begins; a farewell has one more write to try.
  // closed: the stream is.
  enum class Phase : std::uint8_t { open, farewell, closing, closed };

  [[nodiscard]] Status broken(const char* how) const;
  void wait_readable();
  void read_more();
  void read_done();
  void refuse(const Status& why);
  void write_soon();
  void write_more();
  void write_done();
  void release_recalled();
  void end_when_quiet();
  void closed();

  std::unique_ptr<Stream> stream_;
  Executor& executor_;
  LinkHandler& handler_;
  Inbound inbound_;
  Outbound outbound_;

  IoJob read_;   // a hand's while reading_
  IoJob write_;  // a hand's while writing_
  bool reading_ = false;
  bool writing_ = false;
  bool waiting_writable_ = false;
  bool write_posted_ = false;
  unsigned pending_ = 0;  // jobs and tasks that will call us

  Phase phase_ = Phase::open;
  Status why_;

  // Recalls that wait for the jobs that were out when they came.
  struct Recall {
    bool reads;
    bool writes;
    std::move_only_function<void()> quiet;
  };
  std::vector<Recall> recalls_;

  std::uint64_t bytes_in_ = 0;
  std::uint64_t bytes_out_ = 0;
  mutable std::uint64_t last_in_ns_;
  mutable std::size_t unread_seen_ = 0;  // when last_in_ns() asked last
  std::uint64_t last_out_ns_;
};

// ---- in

// A stream may keep what has come until it is enough: a slow peer is not a silent one.
std::uint64_t StreamLink::last_in_ns() const {
  if (phase_ != Phase::open || reading_) return last_in_ns_;
  const std::size_t unread = stream_->unread();
  if (unread != unread_seen_) last_in_ns_ = executor_.clock().now_ns();
  unread_seen_ = unread;
  return last_in_ns_;
}

// The stream knows best.
Status StreamLink::broken(const char* how) const {
  const std::string why = stream_->why();
  return {Code::unreachable, peer() + ": " + (why.empty() ? how : why)};
}

void StreamLink::wait_readable() {
  unread_seen_ = 0;
  stream_->when_readable([this] { read_more(); }, inbound_.bytes_sure());
}

void StreamLink::read_more() {
  if (phase_ != Phase::open) return;
  inbound_.plan(read_);
  reading_ = true;
  ++pending_;
  executor_.offload([this] { read_.read(*stream_); }, [this] { read_done(); });
}

void StreamLink::read_done() {
  reading_ = false;
  --pending_;
  release_recalled();
  if (phase_ != Phase::open) return end_when_quiet();
  const IoStep step = read_.step();
  if (step.code == Code::busy) return wait_readable();
  if (step.code != Code::ok) {
    return close(broken(inbound_.inside_frame() ? "the connection ended inside a frame"
                                                : "the connection ended"),
                 false);
  }
  bytes_in_ += step.bytes;
  last_in_ns_ = executor_.clock().now_ns();
  const auto good = inbound_.took(step.bytes);
  if (phase_ != Phase::open) return;
  if (!good) return refuse(good.error());
  // A step that came up short has emptied the stream; what comes later comes in larger pieces for
  // having waited.
  if (read_.filled()) {
    read_more();
  } else {
    wait_readable();
  }
}

// The peer broke a rule: it is told which, and the connection ends.
void StreamLink::refuse(const Status& why) {
  std::array<std::byte, wire::kSmallBodyMax> body;
  const std::size_t bytes = wire::encode(wire::Refuse{.code = why.code, .text = why.text}, body);
  if (bytes > 0) outbound_.send(wire::Type::refuse, 0, std::span(body).first(bytes));
  close(Status(why.code, peer() + ": " + why.text), true);
}

// ---- out

void StreamLink::send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
  if (phase_ != Phase::open) return;
  outbound_.send(type, request, body);
  write_soon();
}

void StreamLink::ship(Shipment shipment) {
  if (phase_ != Phase::open) return;
  outbound_.ship(std::move(shipment));
  write_soon();
}

// After the task that is running, so that all it sends leaves in one step.
void StreamLink::write_soon() {
  if (writing_ || waiting_writable_ || write_posted_) return;
  write_posted_ = true;
  ++pending_;
  executor_.post([this] {
    write_posted_ = false;
    --pending_;
    if (phase_ != Phase::open) return end_when_quiet();
    write_more();
  });
}

void StreamLink::write_more() {
  const bool payloads = phase_ == Phase::open;
  if (writing_ || waiting_writable_ || !outbound_.plan(write_, payloads)) return;
  writing_ = true;
  ++pending_;
  executor_.offload([this] { write_.write(*stream_); }, [this] { write_done(); });
}

void StreamLink::write_done() {
  writing_ = false;
  --pending_;
  const IoStep step = write_.step();
  Outbound::Sent sent;
  outbound_.wrote(step.bytes, sent);
  release_recalled();
  if (step.bytes > 0) {
    bytes_out_ += step.bytes;
    last_out_ns_ = executor_.clock().now_ns();
  }
  for (auto& call : sent) {
    if (phase_ == Phase::open) call();
  }
  if (phase_ != Phase::open) return end_when_quiet();
  if (step.code != Code::ok && step.code != Code::busy) {
    return close(broken("the connection broke"), false);
  }
  if (write_.filled()) return write_more();
  waiting_writable_ = true;
  stream_->when_writable([this] {
    waiting_writable_ = false;
    if (phase_ == Phase::open) write_more();
  });
}

// ---- letting go, and the end

void StreamLink::recall(std::uint64_t request, std::uint32_t item,
                        std::move_only_function<void()> quiet) {
  inbound_.recall(request, item);
  outbound_.recall(request, item);
  if (reading_ || writing_) {
    recalls_.push_back({reading_, writing_, std::move(quiet)});
  } else {
    executor_.post(std::move(quiet));
  }
}

void StreamLink::release_recalled() {
  for (Recall& recall : recalls_) {
    if (!reading_) recall.reads = false;
    if (!writing_) recall.writes = false;
    if (!recall.reads && !recall.writes) executor_.post(std::move(recall.quiet));
  }
  std::erase_if(recalls_, [](const Recall& recall) { return !recall.reads && !recall.writes; });
}

void StreamLink::close(Status why, bool farewell) {
  if (phase_ != Phase::open) return;
  phase_ = farewell ? Phase::farewell : Phase::closing;
  why_ = std::move(why);
  inbound_.stop();
  end_when_quiet();
}

void StreamLink::end_when_quiet() {
  if (pending_ > 0 || phase_ == Phase::open || phase_ == Phase::closed) return;
  if (phase_ == Phase::farewell) {
    phase_ = Phase::closing;
    waiting_writable_ = false;  // the last try asks nobody
    write_more();
    if (writing_) return;
  }
  phase_ = Phase::closed;
  stream_->close();
  outbound_.clear();
  executor_.post([this] { closed(); });
}

void StreamLink::closed() {
  const Status why = std::move(why_);
  handler_.on_closed(why);  // `this` may be gone
}

}  // namespace

std::unique_ptr<Link> Link::start(std::unique_ptr<Stream> stream, Executor& executor,
                                  LinkHandler& handler, std::uint32_t body_bytes_max) {
  return std::make_unique<StreamLink>(std::move(stream), executor, handler, body_bytes_max);
}

}  // namespace memkv
