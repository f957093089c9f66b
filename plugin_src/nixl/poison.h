// Poison: what becomes of the plugin when one of our own checks fails.
//
// A broken invariant must not stop an engine and must not serve a byte: the first failed
// MEMKV_CHECK writes one line to the log, and from then on every backend in the process answers
// misses (lookups find nothing, transfers fail). There is no way back; the process needs a restart.
// Thread: any.
#pragma once

namespace memkv::nixl {

// Makes failed checks poison the plugin instead of stopping the process. Before threads start.
void install_poison();
[[nodiscard]] bool poisoned();

}  // namespace memkv::nixl
