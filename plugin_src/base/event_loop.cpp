#include "base/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <deque>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/hands.h"
#include "base/timers.h"

namespace memkv {
namespace {

// How long tasks run before descriptors and timers are looked at again. A task may move 256 KiB, so
// one more may take about as long; a device or a peer that is ready waits no longer than that.
constexpr std::uint64_t kTurnNs = 100'000;
constexpr int kEventsPerTurn = 64;
constexpr std::uint64_t kWakeTag = 0;

std::unexpected<Status> kernel_refused(const char* what) {
  return fail(Code::internal, std::string(what) + ": " + std::strerror(errno));
}

class EpollLoop final : public EventLoop {
 public:
  EpollLoop(int epoll_fd, int wake_fd) : epoll_fd_(epoll_fd), wake_fd_(wake_fd) {}
  ~EpollLoop() override;

  void start_hands(unsigned count) {
    if (count > 0) hands_.emplace(count, [this](Task done) { post(std::move(done)); });
  }

  void run() override;
  void stop() override;
  [[nodiscard]] bool on_mind() const override {
    const std::thread::id mind = mind_.load(std::memory_order_relaxed);
    return mind == std::thread::id{} || mind == std::this_thread::get_id();
  }
  Result<void> watch(int fd, unsigned events, std::function<void(unsigned)> ready) override;
  void unwatch(int fd) override;

  void post(Task task) override { put({std::move(task), nullptr}); }
  [[nodiscard]] TimerId after(std::uint64_t delay_ns, Task task) override {
    return timers_.add(clock().now_ns() + delay_ns, std::move(task));
  }
  void cancel(TimerId timer) override { timers_.take(timer); }
  void offload(Task job, Task done) override {
    if (hands_) {
      hands_->give(std::move(job), std::move(done));
    } else {
      put({std::move(job), std::move(done)});
    }
  }
  [[nodiscard]] unsigned hands() const override { return hands_ ? hands_->count() : 1; }
  [[nodiscard]] Clock& clock() override { return system_clock(); }

 private:
  // A task, and what is put behind the others when it has run: the two halves of an offload without
  // hands.
  struct Turn {
    Task task;
    Task then;
  };
  struct Watch {
    unsigned events = 0;
    std::uint32_t life = 0;  // tells this watch from an earlier one of the same descriptor
    std::function<void(unsigned)> ready;
  };

  void put(Turn turn);
  void wake();
  void wait_for_events();
  [[nodiscard]] int wait_ms();
  void run_events(std::span<const epoll_event> events);
  void run_timers();
  void run_turns();
  [[nodiscard]] bool take_turn(Turn& turn);

  const int epoll_fd_;
  const int wake_fd_;
  std::atomic<std::thread::id> mind_{};
  std::atomic<bool> stopping_{false};

  // Other threads put turns here; the mind takes them all at once.
  std::mutex mutex_;
  std::vector<Turn> inbox_;
  bool asleep_ = false;  // the mind waits in epoll, or is about to, and has to be woken

  std::vector<Turn> taken_;  // empty between uses; keeps its memory
  std::deque<Turn> turns_;
  Timers timers_;
  std::unordered_map<int, std::shared_ptr<Watch>> watches_;  // looked up only, never walked
  std::uint32_t lives_ = 0;
  std::optional<Hands> hands_;
};

EpollLoop::~EpollLoop() {
  if (hands_) hands_->stop();
  // Destroying a task may destroy a stream, which unwatches, or post: all of that still works here.
  while (true) {
    std::vector<Turn> rest;
    {
      const std::lock_guard lock(mutex_);
      rest.swap(inbox_);
    }
    if (rest.empty() && turns_.empty() && timers_.empty()) break;
    turns_.clear();
    while (!timers_.empty()) timers_.take_due(UINT64_MAX, timers_.next_id());
  }
  watches_.clear();
  ::close(wake_fd_);
  ::close(epoll_fd_);
}

void EpollLoop::put(Turn turn) {
  bool must_wake = false;
  {
    const std::lock_guard lock(mutex_);
    inbox_.push_back(std::move(turn));
    must_wake = std::exchange(asleep_, false);
  }
  if (must_wake) wake();
}

void EpollLoop::wake() {
  // The descriptor is watched edge triggered: every write is an event of its own and nobody needs
  // to read it empty.
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = ::write(wake_fd_, &one, sizeof one);
}

void EpollLoop::stop() {
  stopping_.store(true, std::memory_order_release);
  wake();
}

void EpollLoop::run() {
  mind_.store(std::this_thread::get_id(), std::memory_order_relaxed);
  if (hands_) hands_->resume();
  while (!stopping_.load(std::memory_order_acquire)) {
    wait_for_events();
    run_timers();
    run_turns();
  }
  // Whoever called run() may now take apart what the jobs work on.
  if (hands_) hands_->rest();
  stopping_.store(false, std::memory_order_relaxed);
  mind_.store(std::thread::id{}, std::memory_order_relaxed);
}

int EpollLoop::wait_ms() {
  {
    const std::lock_guard lock(mutex_);
    if (!turns_.empty() || !inbox_.empty()) return 0;
    asleep_ = true;
  }
  if (timers_.empty()) return -1;
  const std::uint64_t now_ns = clock().now_ns();
  const std::uint64_t first_ns = timers_.first_deadline_ns();
  if (first_ns <= now_ns) return 0;
  // Rounded up, so that the timer is due when epoll comes back.
  return static_cast<int>(std::min<std::uint64_t>((first_ns - now_ns) / kNsPerMs + 1, 3'600'000));
}

void EpollLoop::wait_for_events() {
  std::array<epoll_event, kEventsPerTurn> events;
  const int count = ::epoll_wait(epoll_fd_, events.data(), kEventsPerTurn, wait_ms());
  {
    const std::lock_guard lock(mutex_);
    asleep_ = false;
  }
  if (count > 0) run_events({events.data(), static_cast<std::size_t>(count)});
}

void EpollLoop::run_events(std::span<const epoll_event> events) {
  for (const epoll_event& event : events) {
    if (event.data.u64 == kWakeTag) continue;
    const auto found = watches_.find(static_cast<int>(event.data.u64 & 0xffffffff));
    if (found == watches_.end()) continue;
    const std::shared_ptr<Watch> watch = found->second;  // may be unwatched by what it calls
    if (watch->life != event.data.u64 >> 32) continue;
    const unsigned wanted = event.events & (watch->events | EPOLLERR | EPOLLHUP);
    if (wanted == 0) continue;
    const auto ready = watch->ready;  // may be replaced by what it calls
    ready(wanted);
    if (stopping_.load(std::memory_order_relaxed)) return;
  }
}

void EpollLoop::run_timers() {
  if (timers_.empty()) return;
  const std::uint64_t now_ns = clock().now_ns();
  const TimerId bound = timers_.next_id();
  while (!stopping_.load(std::memory_order_relaxed)) {
    Task task = timers_.take_due(now_ns, bound);
    if (!task) return;
    task();
  }
}

bool EpollLoop::take_turn(Turn& turn) {
  if (turns_.empty()) {
    {
      const std::lock_guard lock(mutex_);
      if (inbox_.empty()) return false;
      taken_.swap(inbox_);
    }
    for (Turn& one : taken_) turns_.push_back(std::move(one));
    taken_.clear();
  }
  turn = std::move(turns_.front());
  turns_.pop_front();
  return true;
}

void EpollLoop::run_turns() {
  Turn turn;
  const std::uint64_t until_ns = clock().now_ns() + kTurnNs;
  while (!stopping_.load(std::memory_order_relaxed) && take_turn(turn)) {
    turn.task();
    turn.task = nullptr;
    if (turn.then) put({std::move(turn.then), nullptr});
    if (clock().now_ns() >= until_ns) return;
  }
}

Result<void> EpollLoop::watch(int fd, unsigned events, std::function<void(unsigned)> ready) {
  std::shared_ptr<Watch>& watch = watches_[fd];
  const bool known = watch != nullptr;
  if (!known) {
    watch = std::make_shared<Watch>();
    watch->life = ++lives_ == 0 ? ++lives_ : lives_;  // 0 is the wake-up's
  }
  watch->events = events;
  watch->ready = std::move(ready);
  epoll_event event{};
  event.events = events;
  event.data.u64 = std::uint64_t{watch->life} << 32 | static_cast<std::uint32_t>(fd);
  if (::epoll_ctl(epoll_fd_, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event) == 0) return {};
  const auto refused = kernel_refused("the kernel cannot watch a descriptor");
  if (!known) watches_.erase(fd);
  return refused;
}

void EpollLoop::unwatch(int fd) {
  if (watches_.erase(fd) > 0) ::epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr);
}

}  // namespace

Result<std::unique_ptr<EventLoop>> EventLoop::create(unsigned hands) {
  const int epoll_fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) return kernel_refused("the kernel gives no epoll");
  const int wake_fd = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_fd < 0) {
    const auto refused = kernel_refused("the kernel gives no eventfd");
    ::close(epoll_fd);
    return refused;
  }
  auto loop = std::make_unique<EpollLoop>(epoll_fd, wake_fd);
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = kWakeTag;
  if (::epoll_ctl(epoll_fd, EPOLL_CTL_ADD, wake_fd, &event) != 0) {
    return kernel_refused("the kernel cannot watch an eventfd");
  }
  loop->start_hands(hands);
  return loop;
}

}  // namespace memkv
