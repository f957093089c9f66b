// Log lines: one line an event, to standard error or to a sink the process chooses. Never on the
// path of a block, never a secret.
#pragma once

#include <functional>
#include <string>
#include <string_view>

namespace memkv {

enum class LogLevel : unsigned char { debug, info, warning, error };

using LogSink = std::function<void(LogLevel, std::string_view line)>;

// Replaces where lines go; an empty sink brings standard error back. Thread: before threads start.
void set_log_sink(LogSink sink);
void set_log_level(LogLevel least);
void log(LogLevel level, std::string_view line);  // Thread: any.

}  // namespace memkv
