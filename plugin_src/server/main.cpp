// memkvd: one store node. Puts the parts together (event loop, arena, device, store, server),
// serves until SIGTERM or SIGINT, and takes them apart in the other order.
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/arena.h"
#include "base/clock.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/log_json.h"
#include "device/block_file.h"
#include "device/device.h"
#include "engine/store.h"
#include "server/flags.h"
#include "server/map_file.h"
#include "server/server.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace memkv {
namespace {

constexpr int kExitRefused = 1;
constexpr int kExitUsage = 2;
constexpr std::uint64_t kStopGraceMs = 5000;  // for requests that were begun when the signal came

// Members are destroyed from the last to the first: who serves goes before what it serves from, and
// the device, which waits for the kernel, before the memory that the kernel writes to.
class Daemon {
 public:
  explicit Daemon(Flags flags) : flags_(std::move(flags)) {}
  [[nodiscard]] int run();

 private:
  [[nodiscard]] Result<void> prepare();
  [[nodiscard]] Result<void> watch_signals();
  void opened(Result<std::unique_ptr<Store>> store);
  [[nodiscard]] Result<void> serve();
  [[nodiscard]] Result<void> announce();
  void read_map();
  void on_signal();
  void give_up(const Status& why);

  Flags flags_;
  int exit_code_ = 0;
  bool stopping_ = false;
  std::unique_ptr<EventLoop> loop_;
  Descriptor signals_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Network> tls_;  // over it, where there is a certificate
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
};

int Daemon::run() {
  if (auto prepared = prepare(); !prepared) {
    give_up(prepared.error());
    return exit_code_;
  }
  StoreOptions options{.format = flags_.format,
                       .segment_bytes = flags_.segment_bytes,
                       .index_entries_max = 0,
                       .index_flush_ms = flags_.index_flush_ms,
                       .rewrite_percent = flags_.rewrite_percent,
                       .write_budget = flags_.write_budget};
  options.rules = rules_before_the_map(flags_.map_file);
  Store::open(options, *device_, *arena_, *loop_, system_random(),
              [this](Result<std::unique_ptr<Store>> store) { opened(std::move(store)); });
  loop_->run();
  return exit_code_;
}

Result<void> Daemon::prepare() {
  auto loop = EventLoop::create(flags_.hands);
  if (!loop) return fail(loop.error());
  loop_ = std::move(*loop);
  if (auto watching = watch_signals(); !watching) return watching;

  // The device first: what is wrong with it is found before time is spent on touching memory.
  auto device = open_uring_device(
      {.path = flags_.device, .capacity_bytes = flags_.capacity_bytes, .direct = !flags_.buffered},
      *loop_);
  if (!device) return fail(device.error());
  device_ = std::move(*device);
  log(LogLevel::info, "takes " + size_text(flags_.dram_bytes) + " of memory for blocks");
  auto arena = map_arena(flags_.dram_bytes);
  if (!arena) return fail(arena.error());
  arena_ = std::move(*arena);
  network_ = tcp_network(*loop_);
  if (!flags_.tls.cert.empty()) tls_ = tls_network(*network_, *loop_, flags_.tls);
  log(LogLevel::info, "memkvd " MEMKV_VERSION " opens '" + device_->name() + "' (" +
                          size_text(device_->capacity_bytes()) + ") with " +
                          size_text(arena_->memory().size()) + " of DRAM in " + arena_->kind() +
                          " and " + std::to_string(flags_.hands) + " hands");
  return {};
}

Result<void> Daemon::watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  if (!flags_.map_file.empty()) ::sigaddset(&set, SIGHUP);
  signals_ = Descriptor(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (signals_.get() < 0) return fail(Code::internal, "no signalfd: " + errno_text(errno));
  return loop_->watch(signals_.get(), EPOLLIN, [this](unsigned) { on_signal(); });
}

void Daemon::opened(Result<std::unique_ptr<Store>> store) {
  if (!store) {
    give_up(store.error());
    return;
  }
  store_ = std::move(*store);
  if (stopping_) return;
  if (auto serving = serve(); !serving) give_up(serving.error());
}

Result<void> Daemon::serve() {
  ServerOptions options;
  options.listen = flags_.listen;
  options.advertise = flags_.advertise;
  options.weight = flags_.weight;
  options.also_known_as = flags_.also_known_as;
  options.anonymous = flags_.anonymous.value_or(Anonymous::no);
  auto server =
      Server::start(std::move(options), *store_, tls_ ? *tls_ : *network_, *loop_, system_random());
  if (!server) return fail(server.error());
  server_ = std::move(*server);
  if (flags_.log_json)
    log_as_json(flags_.advertise.empty() ? server_->address() : flags_.advertise);
  read_map();
  const StoreStats stats = store_->stats();
  log(LogLevel::info,
      "serves on " + server_->address() +
          (flags_.advertise.empty() ? "" : " as " + flags_.advertise) +
          (tls_ ? " with TLS: " : ": ") + size_text(stats.capacity_bytes) + " in " +
          std::to_string(stats.segments) + " segments of " + size_text(stats.segment_bytes) + ", " +
          std::to_string(stats.recovered_blocks) + " blocks recovered in " +
          std::to_string(stats.recovery_ms) + " ms",
      {{"listen", server_->address()},
       {"capacity_bytes", std::to_string(stats.capacity_bytes)},
       {"blocks", std::to_string(stats.recovered_blocks)},
       {"recovery_ms", std::to_string(stats.recovery_ms)}});
  if (flags_.insecure && !tls_) {
    log(LogLevel::warning,
        "--insecure: nothing is encrypted: everybody who sees the packets of " +
            server_->address() + " may read every block, and whoever has no token " +
            (flags_.anonymous == Anonymous::no ? "is refused"
                                               : "may write those of the built-in tenant"));
  }
  return announce();
}

void Daemon::read_map() {
  if (flags_.map_file.empty() || server_ == nullptr) return;
  auto found = read_map_file(flags_.map_file);
  if (!found) {
    server_->take_map(fail(found.error()));
  } else if (*found) {
    server_->take_map(std::move(**found));
  }
}

Result<void> Daemon::announce() {
  if (flags_.ready_fd < 0) return {};
  const std::string line = "{\"address\": " + json_text(server_->address()) +
                           ", \"pid\": " + std::to_string(::getpid()) + "}\n";
  const ssize_t wrote = ::write(flags_.ready_fd, line.data(), line.size());
  if (wrote != static_cast<ssize_t>(line.size())) {
    return fail(Code::invalid, "--ready-fd: descriptor " + std::to_string(flags_.ready_fd) +
                                   " cannot be written to: " + errno_text(errno));
  }
  if (flags_.ready_fd > STDERR_FILENO) ::close(flags_.ready_fd);  // whoever reads it sees the end
  return {};
}

void Daemon::on_signal() {
  signalfd_siginfo info{};
  if (::read(signals_.get(), &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return;
  if (info.ssi_signo == SIGHUP) {
    read_map();
    return;
  }
  if (stopping_) {
    log(LogLevel::warning, "a second signal: ends at once");
    std::_Exit(kExitRefused);
  }
  stopping_ = true;
  if (server_ == nullptr) {  // still opening: there is nothing that a restart would miss
    loop_->stop();
    return;
  }
  log(LogLevel::info,
      "stops: no new requests; those that were begun have " + std::to_string(kStopGraceMs) + " ms");
  server_->stop(kStopGraceMs, [this] {
    store_->close([this](Result<void> closed) {
      if (closed) {
        log(LogLevel::info, "stopped");
        loop_->stop();
      } else {
        give_up(closed.error());
      }
    });
  });
}

void Daemon::give_up(const Status& why) {
  log(LogLevel::error, "memkvd cannot go on: " + why.message());
  exit_code_ = kExitRefused;
  if (loop_ != nullptr) loop_->stop();
}

// A peer is a descriptor; the usual limit of 1024 would end before kPeersMax.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) {
    log(LogLevel::warning, "the limit of open descriptors stays low: " + errno_text(errno));
  }
}

// Before any thread starts, so that all of them inherit it.
void block_signals(const Flags& flags) {
  std::signal(SIGPIPE, SIG_IGN);
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  ::sigaddset(&set, SIGINT);
  if (!flags.map_file.empty()) ::sigaddset(&set, SIGHUP);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
}

[[nodiscard]] int run_memkvd(std::span<const char* const> arguments) {
  auto flags = parse_flags(arguments, std::thread::hardware_concurrency());
  if (!flags) {
    std::fprintf(stderr, "memkvd: %s\nmemkvd --help lists the flags.\n",
                 flags.error().text.c_str());
    return kExitUsage;
  }
  if (flags->help) {
    std::fputs(help_text().c_str(), stdout);
    return 0;
  }
  if (flags->version) {
    std::puts("memkvd " MEMKV_VERSION);
    return 0;
  }
  set_log_level(flags->log_level);
  if (flags->log_json) log_as_json(flags->advertise.empty() ? flags->listen : flags->advertise);
  block_signals(*flags);
  raise_descriptor_limit();
  return Daemon(std::move(*flags)).run();
}

}  // namespace
}  // namespace memkv

int main(int argc, char** argv) {
  return memkv::run_memkvd(
      std::span<const char* const>(argv + 1, static_cast<std::size_t>(argc - 1)));
}
