// ConfigFile: the plugin's reader of the file that MEMKV_CONFIG names.
//
// The file is the project's YAML file (memkv_nixl/_config.py); the plugin needs its top level only
// and reads this much of YAML, refusing everything else by its line:
//
//     # a comment, and empty lines; one `---` at the top
//     name: value              plain, 'single' or "double" quoted without escapes; then perhaps
//                              `# comment`
//     name: [a, "b", c]        a list on one line
//     name:                    a list of lines that begin with `- `, or, for the names in
//       - a                    `sections`, any indented lines, which are passed over
//       - b
//
// Statuses: invalid, with the line's number and what to write. Thread: any.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"

namespace memkv::nixl {

struct FileEntry {
  std::string value;  // of a list: its items with commas between them
  std::size_t line = 0;
};

[[nodiscard]] Result<std::map<std::string, FileEntry>> parse_config(
    std::string_view text, std::span<const std::string_view> sections);

}  // namespace memkv::nixl
