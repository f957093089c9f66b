// Engine: NIXL's 27 slots over a Backend.
//
// Each slot is guarded: an exception becomes an answer; a process that was forked off, a poisoned
// plugin and an engine whose making failed answer without touching the backend. Thread: any.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "nixl/abi.h"
#include "nixl/backend.h"

namespace memkv::nixl {

class Engine final : public abi::Engine {
 public:
  // Without a backend the making has failed.
  Engine(const abi::Init& init, std::unique_ptr<Backend> backend);
  ~Engine() override;

  bool supportsRemote() const override { return false; }
  bool supportsLocal() const override { return true; }
  bool supportsNotif() const override { return true; }
  std::vector<abi::MemoryKind> getSupportedMems() const override;

  abi::Answer registerMem(const abi::DescribedPlace& place, const abi::MemoryKind& kind,
                          abi::Metadata*& out) override;
  abi::Answer deregisterMem(abi::Metadata* metadata) override;
  abi::Answer connect(const std::string& agent) override;
  abi::Answer disconnect(const std::string& agent) override;
  abi::Answer unloadMD(abi::Metadata* metadata) override;

  abi::Answer prepXfer(const abi::Direction& direction, const abi::RegisteredList& local,
                       const abi::RegisteredList& remote, const std::string& agent,
                       abi::Handle*& handle, const abi::Options* options) const override;
  abi::Answer postXfer(const abi::Direction& direction, const abi::RegisteredList& local,
                       const abi::RegisteredList& remote, const std::string& agent,
                       abi::Handle*& handle, const abi::Options* options) const override;
  abi::Answer checkXfer(abi::Handle* handle) const override;
  abi::Answer releaseReqH(abi::Handle* handle) const override;

  abi::Answer prepMemView(const abi::RemoteList& list, void*& view,
                          const abi::Options* options) const override;
  abi::Answer prepMemView(const abi::RegisteredList& list, void*& view,
                          const abi::Options* options) const override;
  void releaseMemView(void* view) const override;
  abi::Answer getPublicData(const abi::Metadata* metadata, std::string& out) const override;
  abi::Answer getConnInfo(std::string& out) const override;
  abi::Answer loadRemoteConnInfo(const std::string& agent, const std::string& info) override;
  abi::Answer loadRemoteMD(const abi::DescribedPlace& place, const abi::MemoryKind& kind,
                           const std::string& agent, abi::Metadata*& out) override;
  abi::Answer loadLocalMD(abi::Metadata* in, abi::Metadata*& out) override;

  abi::Answer getNotifs(abi::Notices& out) override;
  abi::Answer genNotif(const std::string& agent, const std::string& text) const override;
  abi::Answer queryMem(const abi::DescribedList& list, std::vector<abi::Found>& out) const override;
  abi::Answer estimateXferCost(const abi::Direction& direction, const abi::RegisteredList& local,
                               const abi::RegisteredList& remote, const std::string& agent,
                               abi::Handle* const& handle, abi::Microseconds& duration,
                               abi::Microseconds& margin, abi::CostMethod& method,
                               const abi::AgentOptions* options) const override;

 private:
  [[nodiscard]] bool in_child() const;
  [[nodiscard]] bool out_of_order() const;

  const pid_t born_in_;
  std::unique_ptr<Backend> backend_;  // null: the making failed
};

}  // namespace memkv::nixl
