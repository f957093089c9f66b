// Stat: what the plugin did in this process, for metrics.
//
// Lines of `name value`, as a node's STAT: `poisoned` (1: a check of ours failed, poison.h),
// `backends` (alive), the counters of all backends' clients, of those that are gone too, and
// `latency_` lines of their requests by kind and outcome, with `bytes=` at the end. Readers ignore
// names they do not know. Thread: any.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "client/client.h"

namespace memkv::nixl {

// A backend's client is counted from here on; the number is for left(). The client lives until
// then.
[[nodiscard]] std::uint64_t joined(const Client& client);
void left(std::uint64_t number);

[[nodiscard]] std::string stat_text();

}  // namespace memkv::nixl

// For whoever finds the library in the process (memkv_nixl/_plugin_stat.py): copies at most `bytes`
// of the text and gives its whole length; 0 in a process that was forked off.
extern "C" [[gnu::visibility("default")]] std::size_t memkv_plugin_stat(char* out,
                                                                        std::size_t bytes);
