// Json: reads our own golden files for the C++ tests; what they do not use (fractions, escapes) it
// refuses.
//
// A value is an object, a list, a text or a number; a wrong file throws std::runtime_error, which
// fails the test.
#pragma once

#include <cctype>
#include <charconv>
#include <cstdint>
#include <fstream>
#include <map>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace memkv::test {

class Json {
 public:
  static Json read_file(const std::string& path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error("cannot read " + path);
    std::ostringstream content;
    content << file.rdbuf();
    const std::string text = content.str();
    std::string_view left = text;
    Json value = parse(left);
    skip_space(left);
    if (!left.empty()) refuse(left);
    return value;
  }

  [[nodiscard]] const Json& operator[](const std::string& name) const { return fields_.at(name); }
  [[nodiscard]] const Json& operator[](std::size_t index) const { return items_.at(index); }
  [[nodiscard]] const std::vector<Json>& items() const { return items_; }
  [[nodiscard]] std::size_t size() const { return items_.size(); }
  [[nodiscard]] const std::string& text() const { return text_; }
  [[nodiscard]] std::uint64_t number() const { return digits(text_, 10); }
  // The text as a hexadecimal number.
  [[nodiscard]] std::uint64_t hex() const { return digits(text_, 16); }

  static std::uint64_t digits(std::string_view text, int base) {
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
    if (error != std::errc() || end != text.data() + text.size()) refuse(text);
    return value;
  }

 private:
  [[noreturn]] static void refuse(std::string_view left) {
    throw std::runtime_error("golden file: unexpected '" + std::string(left.substr(0, 40)) + "'");
  }

  static void skip_space(std::string_view& left) {
    while (!left.empty() && std::isspace(static_cast<unsigned char>(left[0])))
      left.remove_prefix(1);
  }

  static bool take(std::string_view& left, char wanted) {
    skip_space(left);
    if (left.empty() || left[0] != wanted) return false;
    left.remove_prefix(1);
    return true;
  }

  static void need(std::string_view& left, char wanted) {
    if (!take(left, wanted)) refuse(left);
  }

  static std::string parse_text(std::string_view& left) {
    const std::size_t end = left.find_first_of("\"\\");
    if (end == std::string_view::npos || left[end] == '\\') refuse(left);
    std::string text(left.substr(0, end));
    left.remove_prefix(end + 1);
    return text;
  }

  static Json parse(std::string_view& left) {
    Json value;
    if (take(left, '{')) {
      while (!take(left, '}')) {
        if (!value.fields_.empty()) need(left, ',');
        need(left, '"');
        std::string name = parse_text(left);
        need(left, ':');
        value.fields_.emplace(std::move(name), parse(left));
      }
    } else if (take(left, '[')) {
      while (!take(left, ']')) {
        if (!value.items_.empty()) need(left, ',');
        value.items_.push_back(parse(left));
      }
    } else if (take(left, '"')) {
      value.text_ = parse_text(left);
    } else {
      const std::size_t end = left.find_first_not_of("0123456789");
      if (end == 0 || left.empty()) refuse(left);
      value.text_ = left.substr(0, end);
      left.remove_prefix(value.text_.size());
    }
    return value;
  }

  std::map<std::string, Json> fields_;
  std::vector<Json> items_;
  std::string text_;
};

}  // namespace memkv::test
