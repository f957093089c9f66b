// Between the files of the simulated world only: the event queue, and what the network and the
// disks keep in it.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "support/sim.h"

namespace memkv::sim::inside {

inline constexpr std::uint64_t kNsPerUs = 1000;
inline constexpr std::uint64_t kNever = ~std::uint64_t{0};

enum class Kind : std::uint8_t {
  script,
  mind,
  timer,
  job,
  job_done,
  connect,
  accept,
  readable,
  writable,
  disk
};

class Core;
struct Connection;
struct DiskQueue;

// What is left to know about a process after it died.
struct Life {
  std::uint32_t number = 0;  // 0 is the world itself
  std::string name;
  bool alive = true;
  std::deque<Task> posted;  // run in their order, one per mind event
};

struct ListenerPlace {
  std::uint64_t number = 0;
  std::shared_ptr<Life> life;
  std::function<void(std::unique_ptr<Stream>)> accepted;
};

class VirtualClock final : public Clock {
 public:
  [[nodiscard]] std::uint64_t now_ns() const override { return now; }
  [[nodiscard]] std::uint32_t unix_s() const override {
    return static_cast<std::uint32_t>(wall_s + static_cast<std::int64_t>(now / 1'000'000'000));
  }
  std::uint64_t now = 1'000'000'000;
  std::int64_t wall_s = 1'700'000'000;  // what the wall clock says at `now` == 0
};

class Core final : public World {
 public:
  Core(std::uint64_t seed, const Faults& faults);
  ~Core() override;

  [[nodiscard]] std::unique_ptr<Process> spawn(const std::string& name) override;
  bool step() override;
  bool run_until(const std::function<bool()>& done, std::uint64_t virtual_ms) override;
  void after(std::uint64_t delay_ns, Task task) override;
  void partition(const std::string& a, const std::string& b, bool apart) override;
  void set_faults(const Faults& new_faults) override { faults = new_faults; }
  [[nodiscard]] const Fired& fired() const override { return fired_; }
  [[nodiscard]] Random& random() override { return user_random_; }
  [[nodiscard]] Clock& clock() override { return clock_; }
  void step_wall_clock(std::int64_t seconds) override { clock_.wall_s += seconds; }
  [[nodiscard]] std::uint64_t events() const override { return events_; }
  [[nodiscard]] std::uint64_t trace() const override { return trace_; }
  void observe(std::function<void(const std::string&)> seen) override { seen_ = std::move(seen); }

  // Queues an event of a living process; the number it gives can be cancelled.
  TimerId queue(const std::shared_ptr<Life>& life, Kind kind, std::uint64_t at_ns, Task task);
  void cancel(TimerId timer);
  void kill(const std::shared_ptr<Life>& life);

  [[nodiscard]] std::uint64_t now() const { return clock_.now; }
  [[nodiscard]] std::uint64_t below(std::uint64_t bound) { return random_.below(bound); }
  // True with `chance` in a million; a fault that fires is counted and told, with what where()
  // says. No chance draws nothing.
  template <typename Where>
  bool fires(std::uint32_t chance, const char* fault, const Where& where) {
    if (chance == 0 || random_.below(1'000'000) >= chance) return false;
    count(fault);
    mix(fired_[fault]);
    if (seen_) seen_(std::string(fault) + " " + where());
    return true;
  }
  void count(const char* fault) { ++fired_[fault]; }
  void tell(const std::string& sentence) {
    if (seen_) seen_(sentence);
  }
  void mix(std::uint64_t value);  // into the trace

  [[nodiscard]] bool apart(const std::string& a, const std::string& b) const;

  Faults faults;
  std::map<std::string, ListenerPlace> listeners;
  std::vector<std::weak_ptr<Connection>> connections;
  std::vector<std::weak_ptr<DiskQueue>> disk_queues;
  std::uint64_t next_number = 1;  // of listeners, connections, devices

 private:
  struct Slot {
    std::shared_ptr<Life> life;
    Task task;
    Kind kind{};
    std::uint32_t generation = 1;
    bool used = false;
  };
  struct Entry {
    std::uint64_t at = 0, tie = 0, sequence = 0;
    std::uint32_t slot = 0, generation = 0;
    friend bool operator>(const Entry& a, const Entry& b) {
      return std::tie(a.at, a.tie, a.sequence) > std::tie(b.at, b.tie, b.sequence);
    }
  };
  void free_slot(std::uint32_t index);
  void drop_stale();  // entries at the front of the queue whose event was cancelled
  void bury(std::vector<Task> tasks);

  VirtualClock clock_;
  SeededRandom random_, user_random_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::vector<Entry> heap_;
  std::shared_ptr<Life> world_life_;
  std::shared_ptr<Life> running_;  // whose task runs now
  std::vector<Task> graveyard_;    // of a process that killed itself, until its task is over
  std::uint32_t lives_ = 0;
  bool ending_ = false;  // the world is being destroyed: nothing is queued any more
  std::set<std::pair<std::string, std::string>> apart_;
  Fired fired_;
  std::function<void(const std::string&)> seen_;
  std::uint64_t events_ = 0, sequence_ = 0, trace_ = 0;
};

// sim_network.cpp
[[nodiscard]] std::unique_ptr<Network> make_network(Core& core, std::shared_ptr<Life> life);
void break_connections(Core& core, const Life& life, std::vector<Task>& remains);
void wake_connections(Core& core);  // after a partition was healed
void forget_callbacks(Core& core);

// sim_device.cpp
[[nodiscard]] Result<std::unique_ptr<Device>> make_device(Core& core, std::shared_ptr<Life> life,
                                                          Disk& disk);
[[nodiscard]] std::unique_ptr<Arena> make_arena(std::size_t bytes, std::uint64_t seed);
void tear_disks(Core& core, const Life& life, std::vector<DeviceDone>& remains);

}  // namespace memkv::sim::inside
