// HostGuard: does the NIXL that loads us have the binary interface that abi.h declares?
//
// NIXL's version number has not changed when its backends' virtual table did, and a backend that is
// called through another table crashes its process. But the files of NIXL hold that table: every
// backend it brings has it, with the mangled name, and so the types, of each function.
// memkv_nixl/_abi_guard.py reads it there before NIXL loads us; this does the same from inside, for
// a process in which nobody asked, because the plugin lies in NIXL's own folder. The two know one
// list of functions (tests/nixl/test_abi_guard.py). Thread: any.
#pragma once

#include <string>

#include "base/result.h"
#include "nixl/config.h"

namespace memkv::nixl {

inline constexpr const char* kGuardVariable = "MEMKV_ABI_GUARD";  // "off": the user vouches for it

// One of NIXL's own plugins, or a libnixl.so with backends inside. Statuses: unsupported (it has
// another table; the sentence names the first difference), not_found (no table can be read).
[[nodiscard]] Result<void> check_host_file(const std::string& path);

// The NIXL of this process: its plugins beside the libnixl.so that is loaded, those beside us, and
// that library itself; the first that has a table decides. Statuses: unsupported, also where there
// is nothing that could be read.
[[nodiscard]] Result<void> check_host(const Environment& environment);

}  // namespace memkv::nixl
