// What Python says about the log lines of the native client.
#pragma once

#include <nanobind/nanobind.h>

namespace memkv::python {

// Adds set_log.
void bind_logs(nanobind::module_& module);

}  // namespace memkv::python
