#include "nixl/plugin.h"

#include <exception>

#include "base/log.h"
#include "nixl/host_guard.h"
#include "nixl/poison.h"

namespace {

using memkv::nixl::abi::Engine;
using memkv::nixl::abi::Init;
using memkv::nixl::abi::MemoryKind;
using memkv::nixl::abi::Parameters;
using memkv::nixl::abi::Table;

// Null where not even an engine that says that it failed could be made.
Engine* create_engine(const Init* init) noexcept {
  if (init == nullptr) return nullptr;
  try {
    return memkv::nixl::make_engine(*init, memkv::nixl::process_environment()).release();
  } catch (...) {
    return nullptr;
  }
}

void destroy_engine(Engine* engine) noexcept {
  try {
    delete engine;
  } catch (...) {
    return;  // a lock of the system's broke; there is nobody to tell
  }
}

const char* name() noexcept {
  return "MEMKV";
}

const char* version() noexcept {
  return MEMKV_VERSION;
}

Parameters options() noexcept {
  try {
    return memkv::nixl::default_parameters(memkv::nixl::process_environment());
  } catch (...) {
    return {};
  }
}

std::vector<MemoryKind> kinds() noexcept {
  try {
    return {MemoryKind::dram, MemoryKind::object};
  } catch (...) {
    return {};
  }
}

Table table = {.api_version = memkv::nixl::abi::kApiVersion,
               .create_engine = &create_engine,
               .destroy_engine = &destroy_engine,
               .get_plugin_name = &name,
               .get_plugin_version = &version,
               .get_backend_options = &options,
               .get_backend_mems = &kinds};

}  // namespace

Table* nixl_plugin_init() {
  try {
    const auto fits = memkv::nixl::check_host(memkv::nixl::process_environment());
    if (!fits) {
      memkv::log(memkv::LogLevel::error, "MEMKV is not loaded: " + fits.error().text);
      return nullptr;
    }
  } catch (...) {
    return nullptr;
  }
  memkv::nixl::install_poison();
  return &table;
}

// Engines are gone by now, or the process is ending and nobody may wait for what is left.
void nixl_plugin_fini() {}
