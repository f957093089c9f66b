// The face of the client: checks what is asked, carries it to the mind, and lets callers wait.
#include "client/client.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <future>
#include <set>
#include <string_view>
#include <thread>
#include <utility>

#include "base/event_loop.h"
#include "base/hands.h"
#include "client/client_core.h"
#include "client/operation.h"
#include "transport/transport.h"

namespace memkv {
namespace {

using Kind = Operation::Kind;

// The way from the caller's threads to the mind; shut before the mind ends.
class Gate {
 public:
  explicit Gate(Executor& executor) : executor_(executor) {}

  // False, and nothing happened, when it is shut.
  [[nodiscard]] bool post(Task task) {
    const std::lock_guard lock(mutex_);
    if (shut_) return false;
    executor_.post(std::move(task));
    return true;
  }
  void shut() {
    const std::lock_guard lock(mutex_);
    shut_ = true;
  }
  // After fork the mind's thread is not there, and its locks are in any state: touch nothing.
  [[nodiscard]] bool in_child() const { return getpid() != born_in_; }

  // The mind's thread, when it is the client's own; set before there is any request.
  std::thread::id own_mind;

 private:
  Executor& executor_;
  const pid_t born_in_ = getpid();
  std::mutex mutex_;
  bool shut_ = false;
};

class RequestHandle final : public HeldRequest {
 public:
  RequestHandle(std::shared_ptr<Operation> operation, std::weak_ptr<ClientCore> core,
                std::shared_ptr<Gate> gate)
      : operation_(std::move(operation)), core_(std::move(core)), gate_(std::move(gate)) {}

  ~RequestHandle() override {
    if (gate_->in_child()) {
      // What the parent's mind was doing with it when it forked, nobody ends here.
      (void)new std::shared_ptr<Operation>(std::move(operation_));
      return;
    }
    if (!done()) cancel();
    const bool own_thread = gate_->own_mind != std::thread::id();
    if (own_thread && gate_->own_mind != std::this_thread::get_id()) {
      while (!operation_->completion.wait(UINT64_MAX)) continue;
    }
  }

  bool done() const override {
    if (!operation_->completion.done() && gate_->in_child()) end_in_child();
    return operation_->completion.done();
  }
  bool wait(std::uint64_t timeout_ms) override {
    if (gate_->in_child()) return done();
    return operation_->completion.wait(timeout_ms);
  }
  void cancel() override {
    if (gate_->in_child()) return;
    // A shut gate means that everything is being cancelled already.
    (void)gate_->post([weak = core_, operation = operation_] {
      if (const auto core = weak.lock()) core->cancel(operation);
    });
  }
  bool wait_held(std::uint64_t timeout_ms) override {
    if (gate_->in_child()) return done();
    return operation_->completion.wait_reached(timeout_ms);
  }
  void release() override {
    if (gate_->in_child()) return;
    (void)gate_->post([weak = core_, operation = operation_] {
      if (const auto core = weak.lock()) core->release(operation);
    });
  }
  std::span<const Code> codes() const override { return operation_->codes; }
  std::span<const Match> matches() const override { return operation_->matches; }

 private:
  void end_in_child() const {
    std::ranges::fill(operation_->codes, Code::unreachable);
    std::ranges::fill(operation_->matches, Match{});
    operation_->completion.complete_in_child();
  }

  std::shared_ptr<Operation> operation_;
  std::weak_ptr<ClientCore> core_;  // the client's, and gone with it
  std::shared_ptr<Gate> gate_;
};

// ok, or why the block is not even asked for.
Code check_key(std::span<const std::byte> key) {
  if (key.empty()) return Code::invalid;
  return key.size() > kKeyBytesMax ? Code::too_large : Code::ok;
}
Code check_length(std::size_t length) {
  if (length == 0) return Code::invalid;
  return length > kBlockBytesMax ? Code::too_large : Code::ok;
}

Result<void> check_address(const std::string& address) {
  const std::size_t colon = address.rfind(':');
  const bool parts = colon != std::string::npos && colon > 0;
  const std::string_view port = parts ? std::string_view(address).substr(colon + 1) : "";
  unsigned number = 0;
  const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), number);
  const bool whole = error == std::errc() && end == port.data() + port.size();
  const bool printable = std::ranges::all_of(address, [](char c) { return c > ' ' && c <= '~'; });
  if (!whole || !printable || number < 1 || number > 65535 || address.size() > kAddressBytesMax) {
    return fail(Code::invalid, "'" + address + "' is no node address: write HOST:PORT");
  }
  return {};
}

Result<void> check_tls(const TlsSettings& tls) {
  if (tls.cert.empty() != tls.key.empty()) {
    return fail(Code::invalid, "tls_cert and tls_key go together: name both files, or none");
  }
  if (tls.ca.empty() && !(tls.cert.empty() && tls.server_name.empty())) {
    return fail(Code::invalid,
                "tls_cert and tls_server_name are for TLS: name the nodes' CA with tls_ca, too");
  }
  return {};
}

Result<void> check_options(const ClientOptions& options) {
  if (options.nodes.empty()) {
    return fail(Code::invalid, "a client needs at least one node: name it as HOST:PORT");
  }
  if (options.nodes.size() > kSeedsMax) {
    return fail(Code::invalid, "a client takes at most " + std::to_string(kSeedsMax) + " nodes");
  }
  if (options.token.size() > kTokenBytesMax) {
    return fail(Code::invalid, "a token has at most " + std::to_string(kTokenBytesMax) + " bytes");
  }
  if (options.name.size() > kNameBytesMax ||
      !std::ranges::all_of(options.name, [](char c) { return c >= ' ' && c <= '~'; })) {
    return fail(Code::invalid, "a client's name has at most " + std::to_string(kNameBytesMax) +
                                   " printable characters");
  }
  if (auto tls = check_tls(options.tls); !tls) return tls;
  std::set<std::string_view> seen;
  for (const std::string& address : options.nodes) {
    if (const auto checked = check_address(address); !checked) return checked;
    if (!seen.insert(address).second) {
      return fail(Code::invalid, "the node " + address + " is named twice");
    }
  }
  return {};
}

// The event loop and the thread of a client that has its own.
struct OwnWorld {
  std::unique_ptr<EventLoop> loop;
  std::unique_ptr<Network> network;
  std::thread mind;
};

// Over the world's own, when it is asked for.
std::unique_ptr<Network> secured(const ClientOptions& options, const ClientWorld& world) {
  if (options.tls.ca.empty()) return nullptr;
  return tls_network(world.network, world.executor, options.tls);
}

class ClientFace final : public Client {
 public:
  ClientFace(const ClientOptions& options, const ClientWorld& world,
             std::unique_ptr<OwnWorld> own_world)
      : options_(options),
        executor_(world.executor),
        tls_(secured(options, world)),
        core_(std::make_shared<ClientCore>(options,
                                           ClientWorld{.executor = world.executor,
                                                       .network = tls_ ? *tls_ : world.network,
                                                       .random = world.random})),
        gate_(std::make_shared<Gate>(world.executor)),
        own_world_(std::move(own_world)) {
    post([](ClientCore& core) { core.start(); });
    if (own_world_) start_mind();
  }

  ~ClientFace() override {
    if (gate_->in_child()) {
      // The thread is not there to be joined, the locks are as they were, and the epoll descriptor
      // is the parent's as well: leave all of it alone.
      (void)own_world_.release();
      (void)tls_.release();
      (void)new std::shared_ptr<ClientCore>(std::move(core_));
      return;
    }
    if (own_world_) {
      std::promise<void> closed;
      close([&closed] { closed.set_value(); });
      closed.get_future().wait();
      own_world_->loop->stop();
      own_world_->mind.join();
    }
    gate_->shut();
  }

  void close(std::move_only_function<void()> closed) override {
    if (gate_->in_child()) {
      if (closed) closed();
      return;
    }
    gate_->shut();
    if (!closed) closed = [] {};
    post([told = std::move(closed)](ClientCore& core) mutable { core.close(std::move(told)); });
  }

  std::unique_ptr<Request> put(const Namespace& space, std::span<const PutBlock> blocks,
                               std::uint64_t timeout_ms, Finished finished) override;
  std::unique_ptr<Request> get(const Namespace& space, std::span<const GetBlock> blocks,
                               std::uint64_t timeout_ms, Finished finished) override;
  std::unique_ptr<Request> match(const Namespace& space, std::span<const NamedBlock> blocks,
                                 std::uint32_t hold_ms, std::uint64_t timeout_ms,
                                 Finished finished) override;
  std::unique_ptr<Request> drop(const Namespace& space, std::span<const NamedBlock> blocks,
                                std::uint64_t timeout_ms, Finished finished) override;
  std::unique_ptr<HeldRequest> put_held(const Namespace& space, std::span<const PutBlock> blocks,
                                        std::uint64_t timeout_ms, Finished finished) override;
  void ask(std::size_t node, const Question& question, std::uint64_t timeout_ms,
           std::move_only_function<void(Result<std::string>)> got) override;
  void stat(std::size_t node, std::uint64_t timeout_ms,
            std::move_only_function<void(Result<std::string>)> got) override;
  std::vector<NodeHealth> health() const override;
  ClientStats stats() const override;

 private:
  void start_mind();
  // Past the gate: for the first and the last task of the client.
  void post(std::move_only_function<void(ClientCore&)> task) {
    executor_.post([weak = std::weak_ptr(core_), told = std::move(task)]() mutable {
      if (const auto core = weak.lock()) told(*core);
    });
  }
  [[nodiscard]] std::shared_ptr<Operation> make(Kind kind, const Namespace& space,
                                                std::size_t blocks, std::uint64_t timeout_ms,
                                                Finished finished) const;
  [[nodiscard]] std::shared_ptr<Operation> make_named(Kind kind, const Namespace& space,
                                                      std::span<const NamedBlock> blocks,
                                                      std::uint64_t timeout_ms,
                                                      Finished finished) const;
  void begin(const std::shared_ptr<Operation>& operation);
  void begin_asking(const std::shared_ptr<Operation>& operation, std::size_t node,
                    std::move_only_function<void(Result<std::string>)> got);
  [[nodiscard]] std::shared_ptr<Operation> make_put(const Namespace& space,
                                                    std::span<const PutBlock> blocks,
                                                    std::uint64_t timeout_ms,
                                                    Finished finished) const;
  [[nodiscard]] std::unique_ptr<HeldRequest> handle(std::shared_ptr<Operation> operation);

  const ClientOptions options_;
  Executor& executor_;
  std::unique_ptr<Network> tls_;  // empty: without
  std::shared_ptr<ClientCore> core_;
  std::shared_ptr<Gate> gate_;
  std::unique_ptr<OwnWorld> own_world_;
};

void ClientFace::start_mind() {
  own_world_->mind =
      start_quiet_thread("memkv-client", [loop = own_world_->loop.get()] { loop->run(); });
  gate_->own_mind = own_world_->mind.get_id();
}

std::shared_ptr<Operation> ClientFace::make(Kind kind, const Namespace& space, std::size_t blocks,
                                            std::uint64_t timeout_ms, Finished finished) const {
  auto operation = std::make_shared<Operation>();
  operation->kind = kind;
  operation->space = space;
  if (timeout_ms == 0) timeout_ms = options_.timeout_ms;
  if (timeout_ms == 0) timeout_ms = kTimeoutMsDefault;
  const std::uint64_t patience_ms = std::min(timeout_ms, kTimeoutMsMax);
  operation->asked_ns = executor_.clock().now_ns();
  operation->deadline_ns = operation->asked_ns + patience_ms * kNsPerMs;
  operation->finished = std::move(finished);
  operation->resize(blocks);
  return operation;
}

std::shared_ptr<Operation> ClientFace::make_named(Kind kind, const Namespace& space,
                                                  std::span<const NamedBlock> blocks,
                                                  std::uint64_t timeout_ms,
                                                  Finished finished) const {
  auto operation = make(kind, space, blocks.size(), timeout_ms, std::move(finished));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    operation->items[i].key = blocks[i].key;
    operation->items[i].group = blocks[i].group;
    if (const Code code = check_key(blocks[i].key); code != Code::ok) operation->settle(i, code);
  }
  return operation;
}

void ClientFace::begin(const std::shared_ptr<Operation>& operation) {
  const bool in_child = gate_->in_child();
  if (!in_child && gate_->post([weak = std::weak_ptr(core_), operation] {
        if (const auto core = weak.lock()) core->begin(operation);
      })) {
    return;
  }
  operation->settle_all(in_child ? Code::unreachable : Code::shutdown);
  for (std::size_t i = 0; i < operation->matches.size(); ++i) {
    operation->matches[i].code = operation->codes[i];
  }
  operation->completion.complete(std::move(operation->finished));
}

std::unique_ptr<HeldRequest> ClientFace::handle(std::shared_ptr<Operation> operation) {
  // Nothing that can fail comes after its beginning; when that itself fails, it is over.
  auto made = std::make_unique<RequestHandle>(operation, core_, gate_);
  try {
    begin(operation);
  } catch (...) {
    operation->finished = {};
    operation->settle_all(Code::internal);
    operation->completion.complete({});
    throw;
  }
  return made;
}

std::shared_ptr<Operation> ClientFace::make_put(const Namespace& space,
                                                std::span<const PutBlock> blocks,
                                                std::uint64_t timeout_ms, Finished finished) const {
  auto operation = make(Kind::put, space, blocks.size(), timeout_ms, std::move(finished));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const PutBlock& block = blocks[i];
    Operation::Item& item = operation->items[i];
    item.key = block.key;
    item.group = block.group;
    item.bytes = block.bytes;
    item.traits.depth = block.depth;
    item.traits.recompute_cost = block.recompute_cost;
    item.traits.age_s = block.age_s;
    item.group_given = block.group_print.has_value();
    item.traits.group = block.group_print.value_or(Fingerprint{});
    Code code = check_key(block.key);
    if (code == Code::ok) code = check_length(block.bytes.size());
    if (code != Code::ok) operation->settle(i, code);
  }
  return operation;
}

std::unique_ptr<Request> ClientFace::put(const Namespace& space, std::span<const PutBlock> blocks,
                                         std::uint64_t timeout_ms, Finished finished) {
  return handle(make_put(space, blocks, timeout_ms, std::move(finished)));
}

std::unique_ptr<HeldRequest> ClientFace::put_held(const Namespace& space,
                                                  std::span<const PutBlock> blocks,
                                                  std::uint64_t timeout_ms, Finished finished) {
  auto operation = make_put(space, blocks, timeout_ms, std::move(finished));
  operation->hold = true;
  return handle(std::move(operation));
}

std::unique_ptr<Request> ClientFace::get(const Namespace& space, std::span<const GetBlock> blocks,
                                         std::uint64_t timeout_ms, Finished finished) {
  auto operation = make(Kind::get, space, blocks.size(), timeout_ms, std::move(finished));
  for (std::size_t i = 0; i < blocks.size(); ++i) {
    const GetBlock& block = blocks[i];
    Operation::Item& item = operation->items[i];
    item.key = block.key;
    item.group = block.group;
    item.target = block.target;
    item.offset = block.offset;
    Code code = check_key(block.key);
    if (code == Code::ok) code = check_length(block.target.size());
    // No block has such a range, whatever its length.
    if (code == Code::ok && block.offset + block.target.size() > kBlockBytesMax) {
      code = Code::invalid;
    }
    if (code != Code::ok) operation->settle(i, code);
  }
  return handle(std::move(operation));
}

std::unique_ptr<Request> ClientFace::match(const Namespace& space,
                                           std::span<const NamedBlock> blocks,
                                           std::uint32_t hold_ms, std::uint64_t timeout_ms,
                                           Finished finished) {
  auto operation = make_named(Kind::match, space, blocks, timeout_ms, std::move(finished));
  operation->hold_ms = hold_ms;
  operation->matches.resize(blocks.size());
  return handle(std::move(operation));
}

std::unique_ptr<Request> ClientFace::drop(const Namespace& space,
                                          std::span<const NamedBlock> blocks,
                                          std::uint64_t timeout_ms, Finished finished) {
  return handle(make_named(Kind::drop, space, blocks, timeout_ms, std::move(finished)));
}

void ClientFace::stat(std::size_t node, std::uint64_t timeout_ms,
                      std::move_only_function<void(Result<std::string>)> got) {
  if (gate_->in_child()) {  // the core's lock is in any state
    return got(
        fail(Code::unreachable, "the process forked: open a client of its own in the child"));
  }
  begin_asking(make(Kind::stat, {}, 1, timeout_ms, {}), node, std::move(got));
}

void ClientFace::ask(std::size_t node, const Question& question, std::uint64_t timeout_ms,
                     std::move_only_function<void(Result<std::string>)> got) {
  if (gate_->in_child()) {
    return got(
        fail(Code::unreachable, "the process forked: open a client of its own in the child"));
  }
  const std::shared_ptr<Operation> operation = make(Kind::question, {}, 1, timeout_ms, {});
  operation->question = question;
  begin_asking(operation, node, std::move(got));
}

void ClientFace::begin_asking(const std::shared_ptr<Operation>& operation, std::size_t node,
                              std::move_only_function<void(Result<std::string>)> got) {
  // The core holds the operation: not the other way round, too.
  operation->finished = [asked = operation.get(), weak = std::weak_ptr(core_), node,
                         told = std::move(got)]() mutable {
    const Code code = asked->codes[0];
    if (code == Code::ok) return told(std::move(asked->text));
    const auto core = weak.lock();
    const std::vector<NodeHealth> health = core ? core->health() : std::vector<NodeHealth>();
    told(fail(code, node < health.size() ? health[node].last_error : "there is no such node"));
  };
  if (node < options_.nodes.size()) {
    operation->items[0].node = static_cast<std::uint32_t>(node);
  } else {
    operation->settle(0, Code::invalid);
  }
  begin(operation);
}

std::vector<NodeHealth> ClientFace::health() const {
  if (!gate_->in_child()) return core_->health();
  std::vector<NodeHealth> all(options_.nodes.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].address = options_.nodes[i];
    all[i].node = node_id_of(options_.nodes[i]);
    all[i].breaker_open = true;
    all[i].last_error = "the process forked: open a client of its own in the child";
  }
  return all;
}

ClientStats ClientFace::stats() const {
  return gate_->in_child() ? ClientStats{} : core_->stats();
}

}  // namespace

Result<std::unique_ptr<Client>> Client::open(const ClientOptions& options,
                                             const ClientWorld& world) {
  if (const auto checked = check_options(options); !checked) return fail(checked.error());
  return std::make_unique<ClientFace>(options, world, nullptr);
}

Result<std::unique_ptr<Client>> Client::open(const ClientOptions& options) {
  if (const auto checked = check_options(options); !checked) return fail(checked.error());
  auto own_world = std::make_unique<OwnWorld>();
  auto loop = EventLoop::create(0);
  if (!loop) return fail(loop.error());
  own_world->loop = std::move(*loop);
  own_world->network = tcp_network(*own_world->loop);
  const ClientWorld world{
      .executor = *own_world->loop, .network = *own_world->network, .random = system_random()};
  return std::make_unique<ClientFace>(options, world, std::move(own_world));
}

}  // namespace memkv
