// Log lines: one line an event, to standard error or to a sink the process chooses. Never on the
// path of a block, never a secret.
#pragma once

#include <functional>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace memkv {

enum class LogLevel : unsigned char { debug, info, warning, error };

// `debug`, `info`, `warning` or `error`, and the level that is called so. Thread: any.
[[nodiscard]] std::string_view log_level_name(LogLevel level);
[[nodiscard]] std::optional<LogLevel> log_level_named(std::string_view name);

// Something that a line is about, for machines; its sentence says it, too.
struct LogField {
  std::string_view name;
  std::string_view value;
};
using LogSink = std::function<void(LogLevel, std::string_view line)>;
using LogFieldsSink =
    std::function<void(LogLevel, std::string_view line, std::span<const LogField> fields)>;

// Either replaces where lines go; an empty sink brings standard error back. Thread: any, but a sink
// never logs.
void set_log_sink(LogSink sink);
void set_log_fields_sink(LogFieldsSink sink);
void set_log_level(LogLevel least);
// Thread: any.
void log(LogLevel level, std::string_view line, std::initializer_list<LogField> fields = {});

}  // namespace memkv
