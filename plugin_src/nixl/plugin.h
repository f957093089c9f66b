// The NIXL backend MEMKV: the one header of this room.
//
// NIXL loads libplugin_MEMKV.so (or the same by the name libplugin_OBJ.so, config.h), calls
// nixl_plugin_init() and makes one Engine per agent that asks for it. An engine's process registers
// its DRAM and names blocks as objects (docs/formats/ object-key.md); a transfer of DRAM to objects
// (WRITE) puts whole blocks, one of objects to DRAM (READ) gets them or ranges of them; a query
// asks which blocks are there. Everything goes through one Client per engine, on its thread.
//
//   params        config.h       from create_backend, the environment, a file
//   names         object_name.h  key dialects and namespaces
//   registerMem   registry.h     memory, objects, one name per device id
//   prepXfer      transfer.h     two descriptor lists become blocks
//   postXfer      flight.h       one posting, its answer, its notification, its rate
//   the slots     engine.h       what NIXL calls, guarded; abi.h is its binary interface
//   the host      host_guard.h   is it a NIXL with that interface?
//   numbers       stat.h         for metrics, poison.h's among them
//
// What NIXL is promised:
// - A transfer answers success only when every block is verified (or, of a WRITE, there already);
//   not_found when all failures are absences; else backend_error. What was not verified is
//   unspecified.
// - A transfer posted with a notification's text ends with one notification to its own agent: the
//   text, a colon, and one byte per descriptor, the number of its Code (base/result.h).
// - releaseReqH and deregisterMem cancel what is under way and return when no byte will land any
//   more. queryMem waits at most query_timeout_ms. Nothing else waits.
// - No exception leaves, nothing aborts: after a broken invariant (poison.h), and in a process that
//   was forked off, transfers fail and lookups find nothing.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "base/clock.h"
#include "client/client.h"
#include "nixl/abi.h"
#include "nixl/config.h"

namespace memkv::nixl {

// Waits until the request is over, at most so long; true when it is. The real one is
// Request::wait; in a simulation it lets the world go on.
using Patience = std::function<bool(Request& request, std::uint64_t timeout_ms)>;

struct EngineWorld {
  Clock& clock;
  Patience wait;
};

// An engine over a given client and world, as a simulation makes it.
[[nodiscard]] std::unique_ptr<abi::Engine> make_engine(const abi::Init& init,
                                                       const Settings& settings,
                                                       std::unique_ptr<Client> client,
                                                       const EngineWorld& world);
// An engine as NIXL makes it. When the settings are wrong, the log says so and the engine tells the
// core that its making failed.
[[nodiscard]] std::unique_ptr<abi::Engine> make_engine(const abi::Init& init,
                                                       const Environment& environment);

}  // namespace memkv::nixl

// The two entry points; the table lives as long as the process. No table, and a line in the log,
// for a NIXL with another binary interface (host_guard.h).
extern "C" {
[[gnu::visibility("default")]] memkv::nixl::abi::Table* nixl_plugin_init();
[[gnu::visibility("default")]] void nixl_plugin_fini();
}
