// The binary interface between NIXL and its backends, in our own words.
//
// NIXL ships no headers, and needs none: a backend and NIXL's core agree when objects have their
// members at the same places and virtual functions stand in the same slots. Both are the same in
// all of NIXL 1.0 … 1.5 (x86-64 and ARM64, Itanium C++ ABI, libstdc++ with its C++11 strings).
// Names count for nothing here; the order and the types of everything do, and the assertions below
// hold them. NIXL's own version number does not change when this does: what a NIXL really has is
// read out of its files by memkv_nixl/_abi_guard.py before it loads us.
//
// The core reads an Engine's members through inlined accessors. Lists are built by the core and
// only read here.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#if !defined(_GLIBCXX_USE_CXX11_ABI) || _GLIBCXX_USE_CXX11_ABI == 0
#error "NIXL is built with libstdc++'s C++11 strings: do not set _GLIBCXX_USE_CXX11_ABI to 0"
#endif

namespace memkv::nixl::abi {

inline constexpr int kApiVersion = 1;

enum class MemoryKind : int { dram = 0, vram = 1, block = 2, object = 3, file = 4 };
enum class Direction : int { read = 0, write = 1 };
enum class CostMethod : int { analytical = 0 };

enum class Answer : int {
  in_progress = 1,
  success = 0,
  not_posted = -1,
  invalid_param = -2,
  backend_error = -3,
  not_found = -4,
  mismatch = -5,
  not_allowed = -6,
  repost_active = -7,
  unknown = -8,
  not_supported = -9,
  remote_disconnect = -10,
  canceled = -11,
  no_telemetry = -12,
};

using Parameters = std::unordered_map<std::string, std::string>;
using Found = std::optional<Parameters>;                           // of one descriptor of a query
using Notices = std::vector<std::pair<std::string, std::string>>;  // agent, text
using Microseconds = std::chrono::microseconds;

// What a backend hangs onto a registered piece of memory, and onto a transfer.
class Metadata {
 public:
  explicit Metadata(bool is_private) : is_private_(is_private) {}
  virtual ~Metadata() = default;

 protected:
  bool is_private_;
};

class Handle {
 public:
  virtual ~Handle() = default;
};

// Descriptors.
struct Place {
  std::uintptr_t address = 0;
  std::size_t length = 0;
  std::uint64_t device = 0;
};
struct RegisteredPlace : Place {
  Metadata* metadata = nullptr;
};
struct DescribedPlace : Place {
  std::string info;
};

template <typename T>
class List {
 public:
  List(MemoryKind list_kind, std::vector<T> list) : kind(list_kind), places(std::move(list)) {}
  virtual ~List() = default;

  MemoryKind kind;
  std::vector<T> places;
};
using RegisteredList = List<RegisteredPlace>;
using DescribedList = List<DescribedPlace>;
struct RemoteList;    // never looked into
struct AgentOptions;  // never looked into

// What a call may bring besides.
struct Options {
  std::string notice;
  bool has_notice = false;
  std::string custom;
};

// What an engine is made from.
struct Init {
  std::string agent;
  std::string type;
  Parameters* parameters = nullptr;
  bool progress_thread = false;
  std::uint64_t progress_delay_us = 0;
  int sync_mode = 0;
  bool telemetry = false;
};

// The backend as the core sees it. The virtual functions stand in the order of the table; two that
// share a name are two slots.
class Engine {
 public:
  explicit Engine(const Init& init)
      : type_(init.type),
        parameters_(init.parameters != nullptr ? *init.parameters : Parameters{}),
        agent_(init.agent),
        telemetry_(init.telemetry) {}
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  virtual ~Engine() = default;                                                 // slots 0, 1
  [[nodiscard]] virtual bool supportsRemote() const = 0;                       // 2
  [[nodiscard]] virtual bool supportsLocal() const = 0;                        // 3
  [[nodiscard]] virtual bool supportsNotif() const = 0;                        // 4
  [[nodiscard]] virtual std::vector<MemoryKind> getSupportedMems() const = 0;  // 5
  virtual Answer registerMem(const DescribedPlace& place, const MemoryKind& kind,
                             Metadata*& out) = 0;           // 6
  virtual Answer deregisterMem(Metadata* metadata) = 0;     // 7
  virtual Answer connect(const std::string& agent) = 0;     // 8
  virtual Answer disconnect(const std::string& agent) = 0;  // 9
  virtual Answer unloadMD(Metadata* metadata) = 0;          // 10
  virtual Answer prepXfer(const Direction& direction, const RegisteredList& local,
                          const RegisteredList& remote, const std::string& agent, Handle*& handle,
                          const Options* options) const = 0;  // 11
  virtual Answer postXfer(const Direction& direction, const RegisteredList& local,
                          const RegisteredList& remote, const std::string& agent, Handle*& handle,
                          const Options* options) const = 0;  // 12
  virtual Answer checkXfer(Handle* handle) const = 0;         // 13
  virtual Answer releaseReqH(Handle* handle) const = 0;       // 14
  virtual Answer prepMemView(const RemoteList& list, void*& view,
                             const Options* options) const = 0;  // 15
  virtual Answer prepMemView(const RegisteredList& list, void*& view,
                             const Options* options) const = 0;                              // 16
  virtual void releaseMemView(void* view) const = 0;                                         // 17
  virtual Answer getPublicData(const Metadata* metadata, std::string& out) const = 0;        // 18
  virtual Answer getConnInfo(std::string& out) const = 0;                                    // 19
  virtual Answer loadRemoteConnInfo(const std::string& agent, const std::string& info) = 0;  // 20
  virtual Answer loadRemoteMD(const DescribedPlace& place, const MemoryKind& kind,
                              const std::string& agent, Metadata*& out) = 0;              // 21
  virtual Answer loadLocalMD(Metadata* in, Metadata*& out) = 0;                           // 22
  virtual Answer getNotifs(Notices& out) = 0;                                             // 23
  virtual Answer genNotif(const std::string& agent, const std::string& text) const = 0;   // 24
  virtual Answer queryMem(const DescribedList& list, std::vector<Found>& out) const = 0;  // 25
  virtual Answer estimateXferCost(const Direction& direction, const RegisteredList& local,
                                  const RegisteredList& remote, const std::string& agent,
                                  Handle* const& handle, Microseconds& duration,
                                  Microseconds& margin, CostMethod& method,
                                  const AgentOptions* options) const = 0;  // 26

 protected:
  [[nodiscard]] const std::string& agent() const { return agent_; }
  [[nodiscard]] const Parameters& parameters() const { return parameters_; }
  // The core gives up an engine whose making failed.
  void failed() { failed_ = true; }

 private:
  std::string type_;
  Parameters parameters_;
  std::vector<std::byte> events_;  // telemetry; its element differs between NIXLs: stays empty
  std::mutex events_mutex_;
  bool failed_ = false;
  const std::string agent_;
  const bool telemetry_;

  friend struct EngineLayout;
};

// The plugin as the core finds it: what nixl_plugin_init() points to.
struct Table {
  int api_version;
  Engine* (*create_engine)(const Init* init);
  void (*destroy_engine)(Engine* engine);
  const char* (*get_plugin_name)();
  const char* (*get_plugin_version)();
  Parameters (*get_backend_options)();
  std::vector<MemoryKind> (*get_backend_mems)();
};

// gcc computes the offset of any member of these; that they are not of standard layout is why it
// asks not to be.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Winvalid-offsetof"
struct EngineLayout {
  static_assert(sizeof(void*) == 8 && sizeof(std::string) == 32 && sizeof(Parameters) == 56 &&
                sizeof(std::mutex) <= 48);
  static_assert(offsetof(Engine, type_) == 8);
  static_assert(offsetof(Engine, parameters_) == 40);
  static_assert(offsetof(Engine, events_) == 96);
  static_assert(offsetof(Engine, events_mutex_) == 120);
#if defined(__x86_64__)
  static_assert(offsetof(Engine, failed_) == 160);
  static_assert(offsetof(Engine, agent_) == 168);
  static_assert(offsetof(Engine, telemetry_) == 200);
  static_assert(sizeof(Engine) == 208);
#endif

  static_assert(sizeof(Metadata) == 16 && sizeof(Handle) == 8);
  static_assert(sizeof(Place) == 24 && offsetof(Place, length) == 8 &&
                offsetof(Place, device) == 16);
  static_assert(sizeof(RegisteredPlace) == 32 && offsetof(RegisteredPlace, metadata) == 24);
  static_assert(sizeof(DescribedPlace) == 56 && offsetof(DescribedPlace, info) == 24);
  static_assert(sizeof(RegisteredList) == 40 && offsetof(RegisteredList, kind) == 8 &&
                offsetof(RegisteredList, places) == 16);
  static_assert(sizeof(DescribedList) == 40 && offsetof(DescribedList, places) == 16);
  static_assert(sizeof(Options) == 72 && offsetof(Options, has_notice) == 32 &&
                offsetof(Options, custom) == 40);
  static_assert(sizeof(Init) == 96 && offsetof(Init, type) == 32 &&
                offsetof(Init, parameters) == 64 && offsetof(Init, progress_thread) == 72 &&
                offsetof(Init, progress_delay_us) == 80 && offsetof(Init, sync_mode) == 88 &&
                offsetof(Init, telemetry) == 92);
  static_assert(sizeof(Table) == 56 && offsetof(Table, create_engine) == 8 &&
                offsetof(Table, get_backend_mems) == 48);
  static_assert(sizeof(Answer) == 4 && sizeof(MemoryKind) == 4 && sizeof(Direction) == 4 &&
                sizeof(CostMethod) == 4);
  static_assert(sizeof(Found) == 64);
  static_assert(sizeof(Notices::value_type) == 64);
};
#pragma GCC diagnostic pop

}  // namespace memkv::nixl::abi
