// Backend: what one engine does, in our own words; engine.h puts it into NIXL's slots.
//
// Thread: any, as NIXL allows: several transfers at once, each handle one at a time. May throw only
// what the standard library throws. Refusals are logged with their reason, the first
// kRefusalsLoggedMax of them.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "client/client.h"
#include "nixl/abi.h"
#include "nixl/config.h"
#include "nixl/flight.h"
#include "nixl/plugin.h"
#include "nixl/registry.h"
#include "nixl/transfer.h"

namespace memkv::nixl {

class Backend {
 public:
  Backend(const Settings& settings, std::string agent, std::unique_ptr<Client> client,
          EngineWorld world);
  ~Backend();
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;

  // Both answer invalid_param or, for a device id with another name, not_allowed.
  [[nodiscard]] abi::Answer add(abi::MemoryKind kind, const abi::DescribedPlace& place,
                                abi::Metadata*& out);
  // Cancels the flights that touch the memory, and waits for them. No other takes off over memory
  // whose last registration goes. backend_error: what is registered stays so, and may be removed
  // again. invalid_param, and nothing happened: it is not registered.
  [[nodiscard]] abi::Answer remove(abi::Metadata* metadata);

  [[nodiscard]] abi::Answer prepare(abi::Direction direction, const abi::RegisteredList& local,
                                    const abi::RegisteredList& remote, const abi::Options* options,
                                    abi::Handle*& out);
  // invalid_param: some of its memory is registered no more.
  [[nodiscard]] abi::Answer post(Transfer& transfer, const abi::Options* options);
  // backend_error also for a flight that a broken invariant keeps from its end, some time after its
  // deadline; its release then says whether bytes may still land.
  [[nodiscard]] abi::Answer check(const Transfer& transfer) const;
  // Cancels the flight, waits until no byte lands any more and destroys the transfer. When that
  // cannot be known (the plugin is poisoned: backend_error; or it throws) the transfer is kept, and
  // may be released again.
  [[nodiscard]] abi::Answer release(Transfer* transfer);
  // Before a poisoned backend is left behind: cancels all flights and waits for their end, at most
  // kPoisonedWaitMs.
  void ground();

  [[nodiscard]] abi::Answer query(const abi::DescribedList& list, std::vector<abi::Found>& out);
  [[nodiscard]] Rates::Estimate estimate(abi::Direction direction, std::uint64_t bytes) const;
  void take_notices(abi::Notices& out);

 private:
  [[nodiscard]] abi::Answer refuse(const Status& why);
  [[nodiscard]] bool end(Flight& flight);
  [[nodiscard]] bool wait_for_end(Request& request) const;
  struct Question;
  [[nodiscard]] std::unique_ptr<Question> question_of(const abi::DescribedList& list);

  const Settings settings_;
  const std::string agent_;
  const EngineWorld world_;
  const std::shared_ptr<Tower> tower_;
  Registry registry_;
  std::mutex removing_;
  std::atomic<unsigned> refusals_ = 0;
  std::uint64_t stat_ = 0;  // its number in stat.h
  // The last member: its end ends all flights, and these use the others.
  std::unique_ptr<Client> client_;
};

}  // namespace memkv::nixl
