#include "bindings/logs.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>

#include "base/log.h"
#include "base/log_json.h"

namespace nb = nanobind;

namespace memkv::python {
namespace {

// Lines are written here and not handed to Python's logging: threads that never take the GIL write
// them, some while Python ends.
void set_log(const std::string& level, const std::optional<std::string>& node) {
  const std::optional<LogLevel> least = log_level_named(level);
  if (!least) throw nb::value_error("a level is debug, info, warning or error");
  set_log_level(*least);
  if (node) {
    log_as_json(*node);
  } else {
    set_log_sink({});
  }
}

}  // namespace

void bind_logs(nb::module_& module) {
  module.def("set_log", &set_log, nb::arg("level"), nb::arg("json_of") = nb::none(),
             "From which level on the client's lines go to standard error: as text or, where a "
             "node is named, as its JSON lines.");
}

}  // namespace memkv::python
