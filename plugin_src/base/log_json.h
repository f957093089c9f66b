// Log lines for machines: one JSON object a line, docs/reference/logs.md.
#pragma once

#include <string>
#include <string_view>

namespace memkv {

// A JSON string, with its quotes. Thread: any.
[[nodiscard]] std::string json_text(std::string_view text);

// From now on lines go to standard error as JSON, as those of `node`; set_log_sink({}) ends that.
// Thread: any.
void log_as_json(std::string_view node);

}  // namespace memkv
