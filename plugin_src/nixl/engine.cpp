#include "nixl/engine.h"

#include <unistd.h>

#include <algorithm>
#include <new>
#include <string_view>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "nixl/plugin.h"
#include "nixl/poison.h"

namespace memkv::nixl {
namespace {

using abi::Answer;

// Runs the body of a slot; whatever it throws stays here.
template <typename Body>
Answer guarded(const Body& body) noexcept {
  try {
    return body();
  } catch (const std::exception&) {
    return Answer::backend_error;
  } catch (...) {
    return Answer::unknown;
  }
}

// Connections show this name in the nodes' logs; it has printable characters only.
std::string client_name(const std::string& agent) {
  std::string name = "nixl " + agent;
  for (char& c : name) {
    if (c < ' ' || c > '~') c = '?';
  }
  return name.substr(0, kNameBytesMax);
}

bool wait_for(Request& request, std::uint64_t timeout_ms) {
  return request.wait(timeout_ms);
}

}  // namespace

Engine::Engine(const abi::Init& init, std::unique_ptr<Backend> backend)
    : abi::Engine(init), born_in_(getpid()), backend_(std::move(backend)) {
  if (!backend_) failed();
}

Engine::~Engine() {
  // The child's copy of a backend is in the state the fork found it in, locks included, and a
  // poisoned one may wait for ever: both are left alone. Of the second no byte shall land later.
  if (!backend_ || (!in_child() && !poisoned())) return;
  if (!in_child()) {
    (void)guarded([&] {
      backend_->ground();
      return Answer::success;
    });
  }
  (void)backend_.release();
}

bool Engine::in_child() const {
  return getpid() != born_in_;
}

bool Engine::out_of_order() const {
  return !backend_ || poisoned() || in_child();
}

std::vector<abi::MemoryKind> Engine::getSupportedMems() const {
  try {
    return {abi::MemoryKind::dram, abi::MemoryKind::object};
  } catch (const std::bad_alloc&) {
    return {};
  }
}

Answer Engine::registerMem(const abi::DescribedPlace& place, const abi::MemoryKind& kind,
                           abi::Metadata*& out) {
  if (out_of_order()) return Answer::backend_error;
  return guarded([&] { return backend_->add(kind, place, out); });
}

Answer Engine::deregisterMem(abi::Metadata* metadata) {
  if (metadata == nullptr) return Answer::invalid_param;
  if (!backend_ || in_child()) return Answer::success;
  return guarded([&] { return backend_->remove(metadata); });
}

Answer Engine::connect(const std::string& other) {
  return other == agent() ? Answer::success : Answer::not_supported;
}

Answer Engine::disconnect(const std::string& other) {
  return other == agent() ? Answer::success : Answer::not_supported;
}

Answer Engine::unloadMD(abi::Metadata* /*metadata*/) {
  return Answer::success;  // loadLocalMD made nothing
}

Answer Engine::prepXfer(const abi::Direction& direction, const abi::RegisteredList& local,
                        const abi::RegisteredList& remote, const std::string& other,
                        abi::Handle*& handle, const abi::Options* options) const {
  if (out_of_order()) return Answer::backend_error;
  if (other != agent()) return Answer::not_supported;
  return guarded([&] { return backend_->prepare(direction, local, remote, options, handle); });
}

Answer Engine::postXfer(const abi::Direction& direction, const abi::RegisteredList& local,
                        const abi::RegisteredList& /*remote*/, const std::string& /*other*/,
                        abi::Handle*& handle, const abi::Options* options) const {
  auto* const transfer = static_cast<Transfer*>(handle);
  if (transfer == nullptr || !transfer->matches(direction, local.places.size())) {
    return Answer::invalid_param;
  }
  if (out_of_order()) return Answer::backend_error;
  return guarded([&] { return backend_->post(*transfer, options); });
}

Answer Engine::checkXfer(abi::Handle* handle) const {
  const auto* const transfer = static_cast<const Transfer*>(handle);
  if (transfer == nullptr) return Answer::invalid_param;
  if (!backend_ || in_child()) return Answer::backend_error;
  return guarded([&] { return backend_->check(*transfer); });
}

Answer Engine::releaseReqH(abi::Handle* handle) const {
  auto* const transfer = static_cast<Transfer*>(handle);
  if (transfer == nullptr) return Answer::invalid_param;
  if (!backend_ || in_child()) {
    delete transfer;
    return Answer::success;
  }
  return guarded([&] { return backend_->release(transfer); });
}

Answer Engine::prepMemView(const abi::RemoteList& /*list*/, void*& /*view*/,
                           const abi::Options* /*options*/) const {
  return Answer::not_supported;
}

Answer Engine::prepMemView(const abi::RegisteredList& /*list*/, void*& /*view*/,
                           const abi::Options* /*options*/) const {
  return Answer::not_supported;
}

void Engine::releaseMemView(void* /*view*/) const {}

Answer Engine::getPublicData(const abi::Metadata* /*metadata*/, std::string& /*out*/) const {
  return Answer::not_supported;
}

Answer Engine::getConnInfo(std::string& /*out*/) const {
  return Answer::not_supported;
}

Answer Engine::loadRemoteConnInfo(const std::string& /*agent*/, const std::string& /*info*/) {
  return Answer::not_supported;
}

Answer Engine::loadRemoteMD(const abi::DescribedPlace& /*place*/, const abi::MemoryKind& /*kind*/,
                            const std::string& /*agent*/, abi::Metadata*& /*out*/) {
  return Answer::not_supported;
}

Answer Engine::loadLocalMD(abi::Metadata* in, abi::Metadata*& out) {
  out = in;
  return in != nullptr ? Answer::success : Answer::invalid_param;
}

Answer Engine::getNotifs(abi::Notices& out) {
  if (!backend_ || in_child()) return Answer::success;
  return guarded([&] {
    backend_->take_notices(out);
    return Answer::success;
  });
}

Answer Engine::genNotif(const std::string& /*agent*/, const std::string& /*text*/) const {
  return Answer::not_supported;
}

Answer Engine::queryMem(const abi::DescribedList& list, std::vector<abi::Found>& out) const {
  return guarded([&] {
    if (!out_of_order()) return backend_->query(list, out);
    out.assign(list.places.size(), std::nullopt);
    return Answer::success;
  });
}

Answer Engine::estimateXferCost(const abi::Direction& direction, const abi::RegisteredList& local,
                                const abi::RegisteredList& /*remote*/, const std::string& /*agent*/,
                                abi::Handle* const& /*handle*/, abi::Microseconds& duration,
                                abi::Microseconds& margin, abi::CostMethod& method,
                                const abi::AgentOptions* /*options*/) const {
  if (out_of_order()) return Answer::backend_error;
  if (direction != abi::Direction::read && direction != abi::Direction::write) {
    return Answer::invalid_param;
  }
  return guarded([&] {
    std::uint64_t bytes = 0;
    for (const abi::RegisteredPlace& place : local.places) bytes += place.length;
    const Rates::Estimate estimate = backend_->estimate(direction, bytes);
    duration = abi::Microseconds(estimate.duration_us);
    margin = abi::Microseconds(estimate.margin_us);
    method = abi::CostMethod::analytical;
    return Answer::success;
  });
}

std::unique_ptr<abi::Engine> make_engine(const abi::Init& init, const Settings& settings,
                                         std::unique_ptr<Client> client, const EngineWorld& world) {
  auto backend = std::make_unique<Backend>(settings, init.agent, std::move(client), world);
  return std::make_unique<Engine>(init, std::move(backend));
}

std::unique_ptr<abi::Engine> make_engine(const abi::Init& init, const Environment& environment) {
  const auto refuse = [&init](const Status& why) {
    log(LogLevel::error,
        init.type + " cannot be created for agent " + init.agent + ": " + why.text);
    return std::make_unique<Engine>(init, nullptr);
  };
  const auto settings = load_settings(init.parameters != nullptr ? *init.parameters : Parameters{},
                                      environment, init.type);
  if (!settings) return refuse(settings.error());
  auto client = Client::open({.nodes = settings->nodes,
                              .token_file = settings->token_file,
                              .tls = settings->tls,
                              .name = client_name(init.agent),
                              .timeout_ms = settings->timeout_ms});
  if (!client) return refuse(client.error());
  return make_engine(init, *settings, std::move(*client),
                     EngineWorld{.clock = system_clock(), .wait = &wait_for});
}

}  // namespace memkv::nixl
