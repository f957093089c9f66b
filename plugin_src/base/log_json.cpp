#include "base/log_json.h"

#include <array>
#include <cstdio>
#include <span>

#include "base/clock.h"
#include "base/log.h"

namespace memkv {

std::string json_text(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x", static_cast<unsigned>(c));
      out += escape.data();
    } else {
      out += c;
    }
  }
  return out + "\"";
}

void log_as_json(std::string_view node) {
  set_log_fields_sink([node = json_text(node)](LogLevel level, std::string_view line,
                                               std::span<const LogField> fields) {
    std::string text = "{\"time\": \"" + utc_time_text() +
                       "\", \"level\": " + json_text(log_level_name(level)) +
                       ", \"what\": " + json_text(line) + ", \"node\": " + node + ", \"fields\": {";
    for (const LogField& field : fields) {
      text += (&field == fields.data() ? "" : ", ") + json_text(field.name) + ": " +
              json_text(field.value);
    }
    std::fputs((text + "}}\n").c_str(), stderr);
  });
}

}  // namespace memkv
