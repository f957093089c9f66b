// The simulated world: one thread, virtual time, one seed; the twins of Executor, Network and
// Device.
//
// A World runs events in the order of their virtual time; ties and delays come from the seed, so
// the same seed gives the same run, event by event. Processes stand for operating-system processes:
// kill() drops everything a process had queued, breaks its connections, and leaves on its disk what
// a crash would leave. Unit tests use the world without faults, the simulation with them.
//
// Fault model
//   network  connections are cut at any byte, in either direction, sometimes noticed late; bytes
//            arrive in pieces of any size and late; bits flip (rarely; TCP's checksum is weak);
//            connects fail or hang; a process can be partitioned from others.
//   disk     an operation may fail (cleanly, or after writing a part); pages of unfinished writes
//            are each kept or lost in a crash; completions come in any order; a read may return
//            flipped bits or a page of another place, a write may land at another place; flushed
//            bytes stay.
//   hands    a job runs some time after it was offloaded, its completion later still; other tasks
//            run between.
//
// Lifetimes: the World is destroyed last. What a process made (streams, listeners, devices) may
// outlive the Process, not the World; an Executor and a Network live as long as their Process. A
// task may kill its own process: what it had queued is then destroyed when the task is over.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/arena.h"
#include "base/executor.h"
#include "base/random.h"
#include "base/stream.h"
#include "device/device.h"

namespace memkv::sim {

// Chances are in parts of a million per operation. All zero: a perfect world.
struct Faults {
  std::uint32_t cut_connection = 0;     // per step of a stream
  std::uint32_t flip_network = 0;       // per step: one bit of what is read
  std::uint32_t stall_network = 0;      // per write step: it and all behind it come ≤ 400 ms late
  std::uint32_t refuse_connect = 0;     // per connect
  std::uint32_t hang_connect = 0;       // per connect
  std::uint32_t short_steps = 500'000;  // per step: move fewer bytes than would fit
  std::uint32_t fail_read = 0;          // per device operation
  std::uint32_t fail_write = 0;         // flushes too
  std::uint32_t torn_write = 0;         // fails, but some of its pages are on the disk
  std::uint32_t flip_read = 0;          // one bit of what is read, on the disk for good
  std::uint32_t misdirect_read = 0;     // a page of what is read comes from another place
  std::uint32_t misdirect_write = 0;    // says ok, but lies at another place, over what was there
  std::uint32_t slow_disk = 0;          // takes up to 200 ms
  std::uint32_t lose_unflushed = 0;     // per page written but not flushed when its process dies
};

// How often each fault really fired, by name; a simulation without floors on these proves nothing.
using Fired = std::map<std::string, std::uint64_t>;

class World;

// The bytes that survive a process.
class Disk {
 public:
  explicit Disk(std::uint64_t bytes) : bytes_(bytes) {}
  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }
  // Every write that touches one of these pages fails (bad_page); reads find what was there before.
  [[nodiscard]] std::set<std::uint64_t>& bad_pages() { return bad_pages_; }
  // The device that is open on it; 0: none. The world's.
  [[nodiscard]] std::uint64_t& holder() { return holder_; }

 private:
  std::vector<std::byte> bytes_;
  std::set<std::uint64_t> bad_pages_;
  std::uint64_t holder_ = 0;
};

class Process {
 public:
  virtual ~Process() = default;
  [[nodiscard]] virtual Executor& executor() = 0;
  // Its addresses are "NAME:PORT", NAME being the process's; port 0 is any.
  [[nodiscard]] virtual Network& network() = 0;
  // A device over `disk`; one at a time per disk, else busy. It lives until destroyed by the
  // caller.
  [[nodiscard]] virtual Result<std::unique_ptr<Device>> open_device(Disk& disk) = 0;
  // Memory of a test, not touched beforehand and filled with garbage.
  [[nodiscard]] virtual std::unique_ptr<Arena> arena(std::size_t bytes) = 0;
  // The process dies here: queued tasks are destroyed unrun (not inside this call's own task),
  // connections break, unfinished writes are torn. The caller then destroys what lived in it;
  // devices and streams of a dead process accept calls and do nothing.
  virtual void kill() = 0;
  [[nodiscard]] virtual bool alive() const = 0;
  [[nodiscard]] virtual const std::string& name() const = 0;
};

class World {
 public:
  [[nodiscard]] static std::unique_ptr<World> create(std::uint64_t seed, Faults faults = {});
  virtual ~World() = default;

  // A new process; a name may be used again after its process was killed.
  [[nodiscard]] virtual std::unique_ptr<Process> spawn(const std::string& name) = 0;
  // Runs the next event; false when there is none.
  virtual bool step() = 0;
  // Runs until `done()` (true) or `virtual_ms` have passed; time passes also when nothing is left.
  virtual bool run_until(const std::function<bool()>& done, std::uint64_t virtual_ms = 60'000) = 0;
  // Runs `task` after `delay_ns`; it belongs to no process (a test's script, which may kill any).
  virtual void after(std::uint64_t delay_ns, Task task) = 0;
  // Nobody of `a` and `b` hears the other (new and old connections hang) until healed.
  virtual void partition(const std::string& a, const std::string& b, bool apart) = 0;

  virtual void set_faults(const Faults& faults) = 0;
  [[nodiscard]] virtual const Fired& fired() const = 0;
  [[nodiscard]] virtual Random& random() = 0;
  [[nodiscard]] virtual Clock& clock() = 0;
  // Somebody sets the wall clock, of all machines: forth, or back when negative.
  virtual void step_wall_clock(std::int64_t seconds) = 0;
  // Events run so far, and a hash of every event, step and fault: equal for equal seeds.
  [[nodiscard]] virtual std::uint64_t events() const = 0;
  [[nodiscard]] virtual std::uint64_t trace() const = 0;
  // Calls `seen` with a sentence for each fault, kill and connection as it happens; empty: nobody.
  virtual void observe(std::function<void(const std::string& sentence)> seen) = 0;
};

}  // namespace memkv::sim
