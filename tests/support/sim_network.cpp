// Connections of the simulated world: two bounded pipes each, whose bytes arrive late, in pieces,
// and perhaps not at all.
#include <algorithm>
#include <charconv>
#include <cstring>

#include "base/check.h"
#include "support/sim_inside.h"

namespace memkv::sim::inside {

// The bytes on their way from one end to the other.
struct Pipe {
  struct Mark {
    std::uint64_t total = 0;  // bytes up to here …
    std::uint64_t at = 0;     // … have arrived at that time
  };
  std::unique_ptr<std::byte[]> ring;
  std::size_t capacity = 0;
  std::uint64_t written = 0;
  std::uint64_t read = 0;
  std::uint64_t arrived = 0;
  std::uint64_t lost_from = kNever;  // bytes from here on never arrive
  std::deque<Mark> marks;

  void settle(std::uint64_t now) {
    while (!marks.empty() && marks.front().at <= now) {
      arrived = std::min(marks.front().total, lost_from);
      marks.pop_front();
    }
  }
  [[nodiscard]] std::uint64_t last_arrival() const { return marks.empty() ? 0 : marks.back().at; }
};

struct End {
  std::shared_ptr<Life> life;
  bool closed = false;
  std::uint64_t breaks_at = kNever;  // when this end hears that the connection is over
  Task on_readable, on_writable;
  std::uint64_t enough = 1;  // bytes that on_readable waits for
  std::uint64_t readable_event_at = kNever, writable_event_at = kNever;
};

struct Connection : std::enable_shared_from_this<Connection> {
  Core* core = nullptr;
  std::string addresses[2];
  End ends[2];
  Pipe pipes[2];  // pipes[i] carries what ends[i] writes

  [[nodiscard]] bool apart() const { return core->apart(ends[0].life->name, ends[1].life->name); }
  [[nodiscard]] bool over(int side) const {
    return ends[side].breaks_at <= core->now() && !apart();
  }
  [[nodiscard]] bool usable(int side) const { return !ends[side].closed && ends[side].life->alive; }
  [[nodiscard]] std::uint64_t latency() const { return 5 * kNsPerUs + core->below(60 * kNsPerUs); }

  IoStep read(int side, std::span<const iovec> pieces);
  [[nodiscard]] std::size_t unread(int side);
  // Some kernels listen to the wish, within half of what their buffer holds, and some do not.
  [[nodiscard]] std::uint64_t enough_of(int side, std::size_t wished);
  IoStep write(int side, std::span<const iovec> pieces);
  void shorten(std::size_t& count);
  void maybe_cut();
  void lose(int from, std::uint64_t peer_hears_at);
  void close(int side);
  void wake_reader(int side);
  void wake_writer(int side);
  [[nodiscard]] std::uint64_t readable_at(int side);
  [[nodiscard]] std::uint64_t writable_at(int side);
};

namespace {

std::size_t total_of(std::span<const iovec> pieces) {
  std::size_t total = 0;
  for (const iovec& piece : pieces) total += piece.iov_len;
  return total;
}

// Copies `count` bytes between the ring from `position` on and the first bytes of the pieces.
void copy_ring(Pipe& pipe, std::uint64_t position, std::span<const iovec> pieces, std::size_t count,
               bool into_ring) {
  for (const iovec& piece : pieces) {
    auto* memory = static_cast<std::byte*>(piece.iov_base);
    std::size_t left = std::min(piece.iov_len, count);
    count -= left;
    while (left > 0) {
      const std::size_t place = position % pipe.capacity;
      const std::size_t run = std::min(left, pipe.capacity - place);
      if (into_ring) {
        std::memcpy(pipe.ring.get() + place, memory, run);
      } else {
        std::memcpy(memory, pipe.ring.get() + place, run);
      }
      memory += run;
      position += run;
      left -= run;
    }
  }
}

void flip_bit(Core& core, std::span<const iovec> pieces, std::size_t count) {
  std::size_t at = core.below(count);
  for (const iovec& piece : pieces) {
    if (at < piece.iov_len) {
      static_cast<std::byte*>(piece.iov_base)[at] ^= std::byte{1} << core.below(8);
      return;
    }
    at -= piece.iov_len;
  }
}

class SimStream final : public Stream {
 public:
  SimStream(std::shared_ptr<Connection> connection, int side)
      : connection_(std::move(connection)), side_(side) {}
  ~SimStream() override { connection_->close(side_); }

  IoStep read_some(std::span<const iovec> pieces) override {
    return connection_->read(side_, pieces);
  }
  IoStep write_some(std::span<const iovec> pieces) override {
    return connection_->write(side_, pieces);
  }
  void when_readable(std::move_only_function<void()> ready, std::size_t enough) override {
    if (!connection_->usable(side_)) return;
    MEMKV_CHECK(!connection_->ends[side_].on_readable, "one pending when_readable a stream");
    connection_->ends[side_].enough = connection_->enough_of(side_, enough);
    connection_->ends[side_].on_readable = std::move(ready);
    connection_->wake_reader(side_);
  }
  void when_writable(std::move_only_function<void()> ready) override {
    if (!connection_->usable(side_)) return;
    MEMKV_CHECK(!connection_->ends[side_].on_writable, "one pending when_writable a stream");
    connection_->ends[side_].on_writable = std::move(ready);
    connection_->wake_writer(side_);
  }
  std::size_t unread() const override { return connection_->unread(side_); }
  void close() override { connection_->close(side_); }
  std::string peer() const override { return connection_->addresses[1 - side_]; }

 private:
  std::shared_ptr<Connection> connection_;
  int side_;
};

class SimListener final : public Listener {
 public:
  SimListener(Core& core, std::string address, std::uint64_t number)
      : core_(core), address_(std::move(address)), number_(number) {}
  ~SimListener() override {
    const auto place = core_.listeners.find(address_);
    if (place != core_.listeners.end() && place->second.number == number_) {
      core_.listeners.erase(place);
    }
  }
  std::string address() const override { return address_; }

 private:
  Core& core_;
  std::string address_;
  std::uint64_t number_;
};

struct Address {
  std::string host;
  unsigned port = 0;
};

Result<Address> parse(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  Address address;
  if (colon != std::string_view::npos && colon > 0) {
    address.host = text.substr(0, colon);
    const std::string_view port = text.substr(colon + 1);
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), address.port);
    if (error == std::errc() && end == port.data() + port.size() && address.port <= 65535) {
      return address;
    }
  }
  return fail(Code::invalid, "no address: " + std::string(text) + "; write NAME:PORT");
}

using Connected = std::move_only_function<void(Result<std::unique_ptr<Stream>>)>;

class SimNetwork final : public Network {
 public:
  SimNetwork(Core& core, std::shared_ptr<Life> life) : core_(core), life_(std::move(life)) {}

  void connect(std::string_view address, std::uint64_t timeout_ns, Connected done) override;
  Result<std::unique_ptr<Listener>> listen(
      std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) override;

 private:
  void answer(std::uint64_t delay_ns, Connected done, Status why);
  void shake_hands(const std::string& address, Connected done);

  Core& core_;
  std::shared_ptr<Life> life_;
};

void SimNetwork::answer(std::uint64_t delay_ns, Connected done, Status why) {
  core_.queue(
      life_, Kind::connect, core_.now() + delay_ns,
      [done = std::move(done), why = std::move(why)]() mutable { done(fail(std::move(why))); });
}

void SimNetwork::connect(std::string_view address, std::uint64_t timeout_ns, Connected done) {
  const std::string to(address);
  const auto what = [&] { return life_->name + " to " + to; };
  const auto parsed = parse(address);
  const std::uint64_t delay = 10 * kNsPerUs + core_.below(200 * kNsPerUs);
  if (!parsed) return answer(delay, std::move(done), parsed.error());
  if (core_.fires(core_.faults.refuse_connect, "refuse_connect", what)) {
    return answer(delay, std::move(done), Status(Code::unreachable, "refused: " + to));
  }
  if (core_.apart(life_->name, parsed->host) || delay >= timeout_ns ||
      core_.fires(core_.faults.hang_connect, "hang_connect", what)) {
    return answer(timeout_ns, std::move(done), Status(Code::timeout, "no answer: " + to));
  }
  core_.queue(life_, Kind::connect, core_.now() + delay,
              [this, to, done = std::move(done)]() mutable { shake_hands(to, std::move(done)); });
}

void SimNetwork::shake_hands(const std::string& address, Connected done) {
  const auto place = core_.listeners.find(address);
  if (place == core_.listeners.end()) {
    return done(fail(Code::unreachable, "refused: nobody listens on " + address));
  }
  auto connection = std::make_shared<Connection>();
  connection->core = &core_;
  connection->ends[0].life = life_;
  connection->ends[1].life = place->second.life;
  connection->addresses[0] = life_->name + ":" + std::to_string(50'000 + core_.next_number++);
  connection->addresses[1] = address;
  for (Pipe& pipe : connection->pipes) {
    pipe.capacity = std::size_t{16 * 1024} << core_.below(5);
    pipe.ring = std::make_unique_for_overwrite<std::byte[]>(pipe.capacity);
  }
  std::erase_if(core_.connections, [](const auto& known) { return known.expired(); });
  core_.connections.push_back(connection);
  core_.tell("connect " + connection->addresses[0] + " to " + address);

  auto theirs = std::make_unique<SimStream>(connection, 1);
  core_.queue(place->second.life, Kind::accept, core_.now() + connection->latency(),
              [&core = core_, address, number = place->second.number,
               stream = std::move(theirs)]() mutable {
                const auto still = core.listeners.find(address);
                if (still == core.listeners.end() || still->second.number != number) return;
                const auto accepted = still->second.accepted;  // it may stop listening
                accepted(std::move(stream));
              });
  done(std::make_unique<SimStream>(std::move(connection), 0));
}

Result<std::unique_ptr<Listener>> SimNetwork::listen(
    std::string_view address, std::function<void(std::unique_ptr<Stream>)> accepted) {
  auto parsed = parse(address);
  if (!parsed) return fail(parsed.error());
  if (parsed->host != life_->name) {
    return fail(Code::unreachable, "no such address: this process is " + life_->name);
  }
  if (!life_->alive) return fail(Code::unreachable, "the process is dead");
  std::string real(address);
  for (unsigned port = 40'000; parsed->port == 0 || core_.listeners.contains(real); ++port) {
    if (parsed->port != 0) return fail(Code::unreachable, "in use: " + real);
    real = parsed->host + ":" + std::to_string(port);
    if (!core_.listeners.contains(real)) break;
  }
  const std::uint64_t number = core_.next_number++;
  core_.listeners[real] = {number, life_, std::move(accepted)};
  return std::make_unique<SimListener>(core_, real, number);
}

}  // namespace

// ---- one connection

void Connection::shorten(std::size_t& count) {
  const std::uint32_t chance = core->faults.short_steps;
  if (count < 2 || chance == 0 || core->below(1'000'000) >= chance) return;
  count = 1 + core->below(core->below(8) == 0 ? std::min<std::size_t>(count, 48) : count);
}

// Each direction loses what is behind a byte of the seed's choice; each end hears of it now, or
// when its keepalive does.
void Connection::maybe_cut() {
  if (ends[0].breaks_at != kNever || ends[1].breaks_at != kNever) return;
  if (!core->fires(core->faults.cut_connection, "cut_connection",
                   [&] { return addresses[0] + " to " + addresses[1]; })) {
    return;
  }
  for (int side = 0; side < 2; ++side) {
    const std::uint64_t late = core->below(2) == 0 ? 0 : core->below(1500 * kNsPerMs);
    lose(1 - side, core->now() + late);
  }
}

// What ends[from] wrote is lost from some byte on, and its peer hears of the end at that time.
void Connection::lose(int from, std::uint64_t peer_hears_at) {
  Pipe& pipe = pipes[from];
  pipe.settle(core->now());
  const std::uint64_t there = std::max(pipe.read, pipe.arrived);
  pipe.lost_from = std::min(pipe.lost_from, there + core->below(pipe.written - there + 1));
  End& peer = ends[1 - from];
  peer.breaks_at = std::min(peer.breaks_at, peer_hears_at);
  if (!usable(1 - from)) return;
  wake_reader(1 - from);
  wake_writer(1 - from);
}

IoStep Connection::read(int side, std::span<const iovec> pieces) {
  if (!usable(side)) return {Code::unreachable, 0};
  maybe_cut();
  Pipe& pipe = pipes[1 - side];
  if (!apart()) pipe.settle(core->now());
  std::size_t count = std::min<std::size_t>(pipe.arrived - pipe.read, total_of(pieces));
  if (count == 0) {
    if (total_of(pieces) == 0) return {Code::ok, 0};
    return {over(side) ? Code::unreachable : Code::busy, 0};
  }
  shorten(count);
  copy_ring(pipe, pipe.read, pieces, count, false);
  if (core->fires(core->faults.flip_network, "flip_network", [&] {
        return "from " + addresses[1 - side] + " near byte " + std::to_string(pipe.read);
      })) {
    flip_bit(*core, pieces, count);
  }
  pipe.read += count;
  core->mix(count);
  wake_writer(1 - side);
  return {Code::ok, count};
}

std::size_t Connection::unread(int side) {
  Pipe& pipe = pipes[1 - side];
  if (!apart()) pipe.settle(core->now());
  return pipe.arrived - pipe.read;
}

std::uint64_t Connection::enough_of(int side, std::size_t wished) {
  if (wished <= 1 || core->below(4) == 0) return 1;
  return std::min<std::uint64_t>(wished, pipes[1 - side].capacity / 2);
}

IoStep Connection::write(int side, std::span<const iovec> pieces) {
  if (!usable(side)) return {Code::unreachable, 0};
  maybe_cut();
  if (over(side)) return {Code::unreachable, 0};
  Pipe& pipe = pipes[side];
  std::size_t count =
      std::min<std::size_t>(pipe.capacity - (pipe.written - pipe.read), total_of(pieces));
  if (count == 0) return {total_of(pieces) == 0 ? Code::ok : Code::busy, 0};
  shorten(count);
  copy_ring(pipe, pipe.written, pieces, count, true);
  pipe.written += count;
  std::uint64_t at = core->now() + latency();
  if (core->fires(core->faults.stall_network, "stall_network",
                  [&] { return addresses[side] + " to " + addresses[1 - side]; })) {
    at += core->below(400 * kNsPerMs);
  }
  pipe.marks.push_back({pipe.written, std::max(at, pipe.last_arrival())});
  core->mix(count);
  wake_reader(1 - side);
  return {Code::ok, count};
}

// A clean end: what was written still arrives, then the peer hears of it.
void Connection::close(int side) {
  End& end = ends[side];
  if (end.closed) return;
  end.closed = true;
  const Task forgotten[2] = {std::move(end.on_readable), std::move(end.on_writable)};
  end.on_readable = nullptr;
  end.on_writable = nullptr;
  if (!end.life->alive) return;  // break_connections() told the peer
  const std::uint64_t at = std::max(core->now() + latency(), pipes[side].last_arrival());
  ends[1 - side].breaks_at = std::min(ends[1 - side].breaks_at, at);
  wake_reader(1 - side);
  wake_writer(1 - side);
}

// When the end may find something new to read; kNever when that needs something to happen first.
std::uint64_t Connection::readable_at(int side) {
  if (apart()) return kNever;
  Pipe& pipe = pipes[1 - side];
  pipe.settle(core->now());
  const std::uint64_t wanted = pipe.read + ends[side].enough;
  if (pipe.arrived >= wanted) return core->now();
  std::uint64_t at = ends[side].breaks_at;
  const auto mark = std::ranges::find_if(
      pipe.marks, [&](const auto& one) { return std::min(one.total, pipe.lost_from) >= wanted; });
  if (mark != pipe.marks.end()) at = std::min(at, mark->at);
  return at == kNever ? kNever : std::max(at, core->now());
}

std::uint64_t Connection::writable_at(int side) {
  const Pipe& pipe = pipes[side];
  if (pipe.written - pipe.read < pipe.capacity) return core->now();
  if (apart() || ends[side].breaks_at == kNever) return kNever;
  return std::max(ends[side].breaks_at, core->now());
}

void Connection::wake_reader(int side) {
  End& end = ends[side];
  if (!end.on_readable || !usable(side)) return;
  const std::uint64_t due = readable_at(side);
  if (due == kNever) return;
  const std::uint64_t at = due + core->below(2 * kNsPerUs);
  if (end.readable_event_at <= at) return;
  end.readable_event_at = at;
  core->queue(end.life, Kind::readable, at, [self = shared_from_this(), side, at] {
    End& woken = self->ends[side];
    if (woken.readable_event_at == at) woken.readable_event_at = kNever;
    if (!woken.on_readable) return;
    if (self->readable_at(side) > self->core->now()) return self->wake_reader(side);
    std::exchange(woken.on_readable, nullptr)();
  });
}

void Connection::wake_writer(int side) {
  End& end = ends[side];
  if (!end.on_writable || !usable(side)) return;
  const std::uint64_t due = writable_at(side);
  if (due == kNever) return;
  const std::uint64_t at = due + core->below(2 * kNsPerUs);
  if (end.writable_event_at <= at) return;
  end.writable_event_at = at;
  core->queue(end.life, Kind::writable, at, [self = shared_from_this(), side, at] {
    End& woken = self->ends[side];
    if (woken.writable_event_at == at) woken.writable_event_at = kNever;
    if (!woken.on_writable) return;
    if (self->writable_at(side) > self->core->now()) return self->wake_writer(side);
    std::exchange(woken.on_writable, nullptr)();
  });
}

// ---- what the core asks for

std::unique_ptr<Network> make_network(Core& core, std::shared_ptr<Life> life) {
  return std::make_unique<SimNetwork>(core, std::move(life));
}

void break_connections(Core& core, const Life& life, std::vector<Task>& remains) {
  for (const auto& known : std::vector(core.connections)) {
    const auto connection = known.lock();
    if (!connection) continue;
    for (int side = 0; side < 2; ++side) {
      End& end = connection->ends[side];
      if (end.life.get() != &life) continue;
      remains.push_back(std::exchange(end.on_readable, nullptr));
      remains.push_back(std::exchange(end.on_writable, nullptr));
      if (end.closed) continue;
      const std::uint64_t late = core.below(2) == 0 ? 0 : core.below(1500 * kNsPerMs);
      connection->lose(side, core.now() + connection->latency() + late);
    }
  }
}

void wake_connections(Core& core) {
  for (const auto& known : std::vector(core.connections)) {
    const auto connection = known.lock();
    if (!connection) continue;
    for (int side = 0; side < 2; ++side) {
      connection->wake_reader(side);
      connection->wake_writer(side);
    }
  }
}

void forget_callbacks(Core& core) {
  for (const auto& known : std::vector(core.connections)) {
    const auto connection = known.lock();
    if (!connection) continue;
    for (End& end : connection->ends) {
      end.closed = true;
      const Task forgotten[2] = {std::exchange(end.on_readable, nullptr),
                                 std::exchange(end.on_writable, nullptr)};
    }
  }
}

}  // namespace memkv::sim::inside
