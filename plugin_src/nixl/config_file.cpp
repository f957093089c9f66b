#include "nixl/config_file.h"

#include <algorithm>
#include <cctype>
#include <optional>

namespace memkv::nixl {
namespace {

constexpr std::string_view kBlanks = " \t\r";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

// Without the comment that a # at the beginning or behind a blank opens, unless it stands in
// quotes.
std::string_view without_comment(std::string_view line) {
  char quote = 0;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    const bool after_blank = i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t';
    if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#' && after_blank) {
      return line.substr(0, i);
    }
  }
  return line;
}

// One value, its quotes taken off; nothing when it is YAML that this reader does not speak.
std::optional<std::string> scalar(std::string_view text) {
  text = trimmed(text);
  if (text.empty()) return std::string();
  if (text[0] == '"' || text[0] == '\'') {
    const bool closed = text.size() >= 2 && text.back() == text[0];
    if (!closed) return std::nullopt;
    const std::string_view inside = text.substr(1, text.size() - 2);
    if (inside.find_first_of("\"'\\") != std::string_view::npos) return std::nullopt;
    return std::string(inside);
  }
  if (std::string_view("&*!|>{}[]%@`?,").find(text[0]) != std::string_view::npos) {
    return std::nullopt;
  }
  if (text.starts_with("- ") || text.find(": ") != std::string_view::npos || text.back() == ':') {
    return std::nullopt;
  }
  return std::string(text);
}

class Reader {
 public:
  explicit Reader(std::span<const std::string_view> sections) : sections_(sections) {}

  Result<void> read(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = std::min(text.find('\n'), text.size());
      number_ += 1;
      if (auto done = line(text.substr(0, end)); !done) return done;
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    return {};
  }

  [[nodiscard]] std::map<std::string, FileEntry> take() { return std::move(entries_); }

 private:
  Result<void> line(std::string_view whole) {
    const std::string_view content = without_comment(whole);
    const std::string_view inside = trimmed(content);
    if (inside.empty()) return {};
    const bool indented = content[0] == ' ' || content[0] == '\t';
    const bool item = inside == "-" || inside.starts_with("- ");
    if (inside == "---" && !indented && entries_.empty() && open_.empty()) return {};
    if (indented && in_section()) return {};
    if (item && !open_.empty()) return list_item(inside);
    if (indented || item) return refuse("there is no list or section open that it belongs to");
    return setting(inside);
  }

  Result<void> setting(std::string_view text) {
    open_.clear();
    const std::size_t colon = text.find(':');
    const std::string_view name = text.substr(0, colon);
    const bool plain = !name.empty() && std::ranges::all_of(name, [](unsigned char c) {
      return std::isalnum(c) != 0 || c == '_' || c == '-';
    });
    const bool spaced =
        colon != std::string_view::npos &&
        (colon + 1 == text.size() || text[colon + 1] == ' ' || text[colon + 1] == '\t');
    if (!plain || !spaced) return refuse("write `name: value`");
    if (entries_.contains(std::string(name)) || name == section_) {
      return refuse(std::string(name) + " is there twice");
    }
    const std::string_view rest = trimmed(text.substr(colon + 1));
    if (rest.empty()) {
      open_ = name;
      if (in_section()) {
        section_ = name;
        return {};
      }
    }
    if (is_section(name) && rest.starts_with("{") && rest.ends_with("}")) {
      section_ = name;  // the whole of it in one line
      return {};
    }
    const auto value = rest.starts_with("[") ? flow_list(rest) : scalar(rest);
    if (!value) return refuse("write a plain or quoted value, or a list such as [a, b]");
    entries_[std::string(name)] = {.value = *value, .line = number_};
    return {};
  }

  Result<void> list_item(std::string_view text) {
    const auto value = scalar(text.substr(1));
    if (!value || value->empty() || in_section()) return refuse("write one plain or quoted item");
    std::string& list = entries_[open_].value;
    list += (list.empty() ? "" : ",") + *value;
    return {};
  }

  static std::optional<std::string> flow_list(std::string_view text) {
    if (!text.ends_with("]")) return std::nullopt;
    text = text.substr(1, text.size() - 2);
    std::string list;
    while (!text.empty()) {
      const std::size_t end = std::min(text.find(','), text.size());
      const auto value = scalar(text.substr(0, end));
      if (!value) return std::nullopt;
      if (!value->empty()) list += (list.empty() ? "" : ",") + *value;
      text.remove_prefix(std::min(end + 1, text.size()));
    }
    return list;
  }

  [[nodiscard]] bool is_section(std::string_view name) const {
    return std::ranges::find(sections_, name) != sections_.end();
  }
  [[nodiscard]] bool in_section() const { return is_section(open_); }
  [[nodiscard]] Result<void> refuse(const std::string& what) const {
    return fail(Code::invalid, std::to_string(number_) + ": " + what);
  }

  std::span<const std::string_view> sections_;
  std::map<std::string, FileEntry> entries_;
  std::size_t number_ = 0;
  std::string open_;     // the name whose value, on the lines below, is a list or a section
  std::string section_;  // the last section
};

}  // namespace

Result<std::map<std::string, FileEntry>> parse_config(std::string_view text,
                                                      std::span<const std::string_view> sections) {
  Reader reader(sections);
  if (const auto done = reader.read(text); !done) return fail(done.error());
  return reader.take();
}

}  // namespace memkv::nixl
