// The text that STAT answers. docs/reference/stat.md is the page to it.
//
// Whoever asks hears of the node as a whole, and of no tenant and namespace but those of its pass:
// what is another's is not told from what is not there (docs/formats/token.md).
#pragma once

#include <string>

#include "server/session.h"

namespace memkv {

// What the server knows and its context does not.
struct ServerNow {
  std::uint64_t uptime_ms = 0;
  std::uint64_t peers = 0, requests = 0, bytes_granted = 0, bytes_pinned = 0;
  std::uint64_t blocks_pinned = 0, puts_queued = 0, gets_queued = 0;
  std::uint64_t bytes_in = 0, bytes_out = 0;  // of the links that are not over
};

// Lines of `name value`, for who has this pass; nullptr: for the node itself, who sees all.
[[nodiscard]] std::string stats_text_of(const ServerContext& context, const ServerNow& now,
                                        const Pass* pass);

}  // namespace memkv
