// Config: what a backend is created with.
//
// Each parameter comes from the strongest place that gives it a value that is not empty: what was
// handed to create_backend, then the environment (MEMKV_ and the name in capitals), then the file
// named by MEMKV_CONFIG (config_file.h), then its default. A name that is none, in the parameters
// or in the file, is refused by name. Statuses: invalid, with where it stands and what to write.
//
// NIXL may know the plugin as OBJ, too, so that what writes for NIXL's own backend of that name
// finds us (docs/reference/plugin.md). By that name an object store's parameters are taken, of
// which only the bucket means something: blocks then lie in the namespace NAMESPACE/BUCKET. The
// dialect is obj, and the namespace has to be said. Thread: any.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/identity.h"
#include "base/result.h"
#include "nixl/object_name.h"
#include "transport/tls.h"

namespace memkv::nixl {

using Parameters = std::unordered_map<std::string, std::string>;
// A variable's value, if it is set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;

struct Settings {
  std::vector<std::string> nodes;  // at least one, unless Client says otherwise
  Namespace space;
  Dialect dialect = Dialect::raw;
  std::string token_file;  // read by the client, again and again; empty: none
  TlsSettings tls;         // without a `ca`: nothing is encrypted
  std::uint64_t timeout_ms = 0;
  std::uint64_t query_timeout_ms = 0;
};

inline constexpr std::string_view kOwnName = "MEMKV";
inline constexpr std::string_view kObjName = "OBJ";

// The process's own.
[[nodiscard]] Environment process_environment();

// `backend` is its name, as create_backend was given it.
[[nodiscard]] Result<Settings> load_settings(const Parameters& given,
                                             const Environment& environment,
                                             std::string_view backend = kOwnName);

// Every parameter with the value it has when create_backend is given nothing.
[[nodiscard]] Parameters default_parameters(const Environment& environment);

}  // namespace memkv::nixl
