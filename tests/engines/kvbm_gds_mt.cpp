// TEST ONLY: a stand-in for NIXL's backend GDS_MT, which needs a GPU: KVBM 1.6.1 asks for it by
// name when it has a disk tier. Pieces of a file (device: the descriptor, address: the offset) are
// read into and written from memory, and a verdict is given when it is asked for, as GDS_MT does.
//
// What stands in the file that MEMKV_TEST_GDS_FAILS names says what fails meanwhile: `read`,
// `write` or both. A transfer that fails moves nothing. Built by tests/engines/kvbm.py.
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "nixl/abi.h"

namespace {

using namespace memkv::nixl::abi;

bool fails(Direction direction) {
  const char* path = std::getenv("MEMKV_TEST_GDS_FAILS");
  if (path == nullptr) return false;
  std::ifstream file(path);
  const std::string wanted = direction == Direction::read ? "read" : "write";
  for (std::string word; file >> word;) {
    if (word == wanted) return true;
  }
  return false;
}

bool move(Direction direction, const Place& memory, const Place& file) {
  auto* bytes = reinterpret_cast<char*>(memory.address);
  const auto fd = static_cast<int>(file.device);
  for (std::size_t done = 0; done < memory.length;) {
    const auto left = memory.length - done;
    const auto at = static_cast<off_t>(file.address + done);
    const ssize_t size = direction == Direction::read ? ::pread(fd, bytes + done, left, at)
                                                      : ::pwrite(fd, bytes + done, left, at);
    if (size <= 0) return false;
    done += static_cast<std::size_t>(size);
  }
  return true;
}

struct Verdict final : Handle {
  Answer answer = Answer::not_posted;
};

class Files final : public Engine {
 public:
  using Engine::Engine;

  bool supportsRemote() const override { return false; }
  bool supportsLocal() const override { return true; }
  bool supportsNotif() const override { return false; }
  std::vector<MemoryKind> getSupportedMems() const override { return kinds(); }

  static std::vector<MemoryKind> kinds() {
    return {MemoryKind::dram, MemoryKind::vram, MemoryKind::file};
  }

  Answer registerMem(const DescribedPlace&, const MemoryKind&, Metadata*& out) override {
    out = new Metadata(true);
    return Answer::success;
  }
  Answer deregisterMem(Metadata* metadata) override {
    delete metadata;
    return Answer::success;
  }
  Answer loadLocalMD(Metadata* in, Metadata*& out) override {
    out = in;
    return Answer::success;
  }
  Answer unloadMD(Metadata*) override { return Answer::success; }
  Answer connect(const std::string&) override { return Answer::success; }
  Answer disconnect(const std::string&) override { return Answer::success; }

  Answer prepXfer(const Direction&, const RegisteredList& local, const RegisteredList& remote,
                  const std::string&, Handle*& handle, const Options*) const override {
    if (local.places.size() != remote.places.size()) return Answer::invalid_param;
    handle = new Verdict;
    return Answer::success;
  }
  Answer postXfer(const Direction& direction, const RegisteredList& local,
                  const RegisteredList& remote, const std::string&, Handle*& handle,
                  const Options*) const override {
    bool good = !fails(direction);
    const bool file_is_remote = remote.kind == MemoryKind::file;
    const auto& memory = file_is_remote ? local.places : remote.places;
    const auto& file = file_is_remote ? remote.places : local.places;
    for (std::size_t i = 0; good && i < memory.size(); ++i) {
      good = move(direction, memory[i], file[i]);
    }
    static_cast<Verdict*>(handle)->answer = good ? Answer::success : Answer::backend_error;
    return Answer::in_progress;
  }
  Answer checkXfer(Handle* handle) const override { return static_cast<Verdict*>(handle)->answer; }
  Answer releaseReqH(Handle* handle) const override {
    delete handle;
    return Answer::success;
  }

  Answer prepMemView(const RemoteList&, void*&, const Options*) const override { return no(); }
  Answer prepMemView(const RegisteredList&, void*&, const Options*) const override { return no(); }
  void releaseMemView(void*) const override {}
  Answer getPublicData(const Metadata*, std::string&) const override { return no(); }
  Answer getConnInfo(std::string&) const override { return no(); }
  Answer loadRemoteConnInfo(const std::string&, const std::string&) override { return no(); }
  Answer loadRemoteMD(const DescribedPlace&, const MemoryKind&, const std::string&,
                      Metadata*&) override {
    return no();
  }
  Answer getNotifs(Notices&) override { return no(); }
  Answer genNotif(const std::string&, const std::string&) const override { return no(); }
  Answer queryMem(const DescribedList&, std::vector<Found>&) const override { return no(); }
  Answer estimateXferCost(const Direction&, const RegisteredList&, const RegisteredList&,
                          const std::string&, Handle* const&, Microseconds&, Microseconds&,
                          CostMethod&, const AgentOptions*) const override {
    return no();
  }

 private:
  static Answer no() { return Answer::not_supported; }
};

Table table = {
    .api_version = kApiVersion,
    .create_engine = [](const Init* init) -> Engine* { return new Files(*init); },
    .destroy_engine = [](Engine* engine) { delete engine; },
    .get_plugin_name = [] { return "GDS_MT"; },
    .get_plugin_version = [] { return "stand-in"; },
    .get_backend_options = [] { return Parameters{}; },
    .get_backend_mems = &Files::kinds,
};

}  // namespace

extern "C" __attribute__((visibility("default"))) Table* nixl_plugin_init() {
  return &table;
}
