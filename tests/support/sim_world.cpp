#include <algorithm>

#include "support/sim_inside.h"

namespace memkv::sim {
namespace inside {
namespace {

class SimExecutor final : public Executor {
 public:
  SimExecutor(Core& core, std::shared_ptr<Life> life) : core_(core), life_(std::move(life)) {}

  // Which post an event runs is decided when it runs: posts keep their order whatever the ties say.
  void post(Task task) override {
    if (!life_->alive) return;
    life_->posted.push_back(std::move(task));
    const auto run = [life = life_.get()] {
      Task next = std::move(life->posted.front());
      life->posted.pop_front();
      next();
    };
    core_.queue(life_, Kind::mind, core_.now() + core_.below(500), run);
  }

  TimerId after(std::uint64_t delay_ns, Task task) override {
    const std::uint64_t late = core_.below(2 * kNsPerUs);
    return core_.queue(life_, Kind::timer, core_.now() + delay_ns + late, std::move(task));
  }

  void cancel(TimerId timer) override { core_.cancel(timer); }

  void offload(Task job, Task done) override {
    auto run = [this, job = std::move(job), done = std::move(done)]() mutable {
      job();
      core_.queue(life_, Kind::job_done, core_.now() + hand_delay(), std::move(done));
    };
    core_.queue(life_, Kind::job, core_.now() + hand_delay(), std::move(run));
  }

  unsigned hands() const override { return 3; }
  Clock& clock() override { return core_.clock(); }

 private:
  // Mostly a moment, sometimes as long as a hand that lost its core.
  std::uint64_t hand_delay() {
    return core_.below(core_.below(64) == 0 ? 2000 * kNsPerUs : 10 * kNsPerUs);
  }

  Core& core_;
  std::shared_ptr<Life> life_;
};

class SimProcess final : public Process {
 public:
  SimProcess(Core& core, std::shared_ptr<Life> life)
      : core_(core), life_(life), executor_(core, life), network_(make_network(core, life)) {}
  ~SimProcess() override { kill(); }

  Executor& executor() override { return executor_; }
  Network& network() override { return *network_; }
  Result<std::unique_ptr<Device>> open_device(Disk& disk) override {
    return make_device(core_, life_, disk);
  }
  std::unique_ptr<Arena> arena(std::size_t bytes) override {
    return make_arena(bytes, core_.below(kNever));
  }
  void kill() override { core_.kill(life_); }
  bool alive() const override { return life_->alive; }
  const std::string& name() const override { return life_->name; }

 private:
  Core& core_;
  std::shared_ptr<Life> life_;
  SimExecutor executor_;
  std::unique_ptr<Network> network_;
};

}  // namespace

Core::Core(std::uint64_t seed, const Faults& first_faults)
    : faults(first_faults),
      random_(seed ^ 0x73696d756c617465ULL),
      user_random_(seed ^ 0x7573657273656564ULL),
      world_life_(std::make_shared<Life>()) {
  world_life_->name = "world";
}

Core::~Core() {
  ending_ = true;
  forget_callbacks(*this);
  listeners.clear();
  for (Slot& slot : slots_) {
    const Task last = std::move(slot.task);  // may reach back into the queue while it is destroyed
  }
}

std::unique_ptr<Process> Core::spawn(const std::string& name) {
  auto life = std::make_shared<Life>();
  life->number = ++lives_;
  life->name = name;
  tell("spawn " + name);
  return std::make_unique<SimProcess>(*this, std::move(life));
}

TimerId Core::queue(const std::shared_ptr<Life>& life, Kind kind, std::uint64_t at_ns, Task task) {
  if (!life->alive || ending_) return 0;
  std::uint32_t index = 0;
  if (free_slots_.empty()) {
    index = static_cast<std::uint32_t>(slots_.size());
    slots_.emplace_back();
  } else {
    index = free_slots_.back();
    free_slots_.pop_back();
  }
  Slot& slot = slots_[index];
  slot.life = life;
  slot.task = std::move(task);
  slot.kind = kind;
  slot.used = true;
  heap_.push_back(
      {std::max(at_ns, clock_.now), random_.next(), ++sequence_, index, slot.generation});
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
  return (std::uint64_t{slot.generation} << 32) | (index + 1);
}

void Core::free_slot(std::uint32_t index) {
  Slot& slot = slots_[index];
  slot.used = false;
  ++slot.generation;
  slot.life.reset();
  free_slots_.push_back(index);
}

void Core::cancel(TimerId timer) {
  const auto index = static_cast<std::uint32_t>(timer) - 1;
  if (timer == 0 || index >= slots_.size()) return;
  Slot& slot = slots_[index];
  if (!slot.used || slot.generation != (timer >> 32)) return;
  const Task last = std::move(slot.task);
  free_slot(index);
}

void Core::drop_stale() {
  while (!heap_.empty()) {
    const Entry& next = heap_.front();
    const Slot& slot = slots_[next.slot];
    if (slot.used && slot.generation == next.generation) return;
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    heap_.pop_back();
  }
}

bool Core::step() {
  drop_stale();
  if (heap_.empty()) return false;
  std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
  const Entry entry = heap_.back();
  heap_.pop_back();
  Slot& slot = slots_[entry.slot];
  Task task = std::move(slot.task);
  const std::shared_ptr<Life> life = std::move(slot.life);
  const Kind kind = slot.kind;
  free_slot(entry.slot);

  clock_.now = std::max(clock_.now, entry.at);
  ++events_;
  mix(clock_.now);
  mix((std::uint64_t{life->number} << 8) | static_cast<std::uint64_t>(kind));
  running_ = life;
  task();
  task = nullptr;
  running_.reset();
  const std::vector<Task> dead = std::exchange(graveyard_, {});
  return true;
}

bool Core::run_until(const std::function<bool()>& done, std::uint64_t virtual_ms) {
  const std::uint64_t end = clock_.now + virtual_ms * kNsPerMs;
  while (!done()) {
    drop_stale();
    if (heap_.empty() || heap_.front().at > end) {
      clock_.now = end;
      return false;
    }
    step();
  }
  return true;
}

void Core::after(std::uint64_t delay_ns, Task task) {
  queue(world_life_, Kind::script, clock_.now + delay_ns, std::move(task));
}

// The order matters: first nothing of the process can run any more, then its disks are torn while
// the memory of its writes is still there, then its peers hear of it, and only then what it had
// queued is destroyed.
void Core::kill(const std::shared_ptr<Life>& life) {
  if (!life->alive) return;
  tell("kill " + life->name);
  life->alive = false;
  std::vector<DeviceDone> undone;
  std::vector<Task> remains;
  tear_disks(*this, *life, undone);
  break_connections(*this, *life, remains);
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].used || slots_[i].life != life) continue;
    remains.push_back(std::move(slots_[i].task));
    free_slot(i);
  }
  for (Task& task : life->posted) remains.push_back(std::move(task));
  life->posted.clear();
  for (DeviceDone& done : undone) remains.push_back([done = std::move(done)] {});
  for (auto place = listeners.begin(); place != listeners.end();) {
    if (place->second.life != life) {
      ++place;
      continue;
    }
    remains.push_back([accepted = std::move(place->second.accepted)] {});
    place = listeners.erase(place);
  }
  if (running_ == life) bury(std::move(remains));
}

void Core::bury(std::vector<Task> tasks) {
  for (Task& task : tasks) graveyard_.push_back(std::move(task));
}

void Core::mix(std::uint64_t value) {
  trace_ = (trace_ ^ value) * 0x9e3779b97f4a7c15ULL;
  trace_ ^= trace_ >> 29;
}

bool Core::apart(const std::string& a, const std::string& b) const {
  return !apart_.empty() && apart_.contains(std::minmax(a, b));
}

void Core::partition(const std::string& a, const std::string& b, bool apart) {
  tell((apart ? "partition " : "heal ") + a + " " + b);
  if (apart) {
    count("partition");
    apart_.insert(std::minmax(a, b));
  } else {
    apart_.erase(std::minmax(a, b));
    wake_connections(*this);
  }
}

}  // namespace inside

std::unique_ptr<World> World::create(std::uint64_t seed, Faults faults) {
  return std::make_unique<inside::Core>(seed, faults);
}

}  // namespace memkv::sim
