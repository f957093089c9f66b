// Hosts: the processes of a schedule, with the real store, server and client in them.
//
// A node's disk outlives its crashes; everything else of it is made anew. All calls come from the
// schedule's script, never from a task of the process itself.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/client.h"
#include "engine/store.h"
#include "server/server.h"
#include "sim/plan.h"
#include "support/sim.h"

namespace memkv::sim {

class NodeHost {
 public:
  // What the schedule hears of a node, from a task of the script.
  struct Events {
    std::function<void()> started;                  // listens; it may have come back
    std::function<void(const Status&)> refused;     // the store could not be opened
    std::function<void(const std::string&)> wrong;  // what must never happen
    // It answers nobody by an older map any more; from a task of anybody's.
    std::function<void(std::uint32_t epoch)> holds;
  };

  NodeHost(World& world, const Plan& plan, unsigned number, Events events);
  ~NodeHost() { crash(); }

  void boot(bool format);
  // A map file, which it reads now, and at each boot. Older ones than it has are left.
  void hand_map(std::uint32_t epoch, MapFile file);
  void crash();  // nothing happens when it is down
  // Stops server and store as SIGTERM does, then takes the process down and calls `stopped`; a
  // crash forgets it.
  void stop(std::function<void()> stopped);

  [[nodiscard]] bool running() const { return server_ != nullptr && !stopping_; }
  [[nodiscard]] bool down() const { return process_ == nullptr; }
  [[nodiscard]] bool disk_at_work() const { return device_ && device_->in_flight() > 0; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] std::string address() const { return name_ + ":9900"; }
  [[nodiscard]] Store* store() { return store_.get(); }
  [[nodiscard]] Server* server() { return server_.get(); }
  // The number that stands behind `name` in the STAT text; 0 when there is none.
  [[nodiscard]] std::uint64_t stat(const std::string& name) const;

 private:
  void take_map();
  void opened(Result<std::unique_ptr<Store>> store);
  // Runs on the script, unless the process it speaks of is gone by then.
  void later(std::function<void()> what);

  World& world_;
  const Plan& plan_;
  std::string name_;
  Events events_;
  Disk disk_;
  MapFile map_;
  std::uint32_t epoch_ = 0;  // of that map
  std::uint64_t life_ = 0;
  bool stopping_ = false;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Random> random_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Store> store_;
  std::unique_ptr<Server> server_;
};

class ClientHost {
 public:
  // It is given the first `seeds` nodes.
  ClientHost(World& world, unsigned number, unsigned tenant, unsigned seeds);
  ~ClientHost() { crash(); }

  void boot();
  void kill() {
    if (process_) process_->kill();
  }  // requests are destroyed between this and crash()
  void crash();
  [[nodiscard]] Client& client() { return *client_; }
  [[nodiscard]] bool down() const { return process_ == nullptr; }
  [[nodiscard]] const std::string& name() const { return name_; }
  [[nodiscard]] unsigned tenant() const { return tenant_; }

 private:
  World& world_;
  std::string name_;
  unsigned tenant_;
  unsigned seeds_;
  std::unique_ptr<Process> process_;
  std::unique_ptr<Random> random_;
  std::unique_ptr<Client> client_;
};

}  // namespace memkv::sim
