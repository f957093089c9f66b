#include "base/result.h"

#include <array>

namespace memkv {

std::string_view code_name(Code code) {
  static constexpr std::array<std::string_view, kCodeMax + 1> kNames = {
      "ok",           "exists",      "not_found", "conflict",  "busy",        "corrupt",
      "device_error", "no_space",    "invalid",   "too_large", "unsupported", "denied",
      "timeout",      "unreachable", "cancelled", "shutdown",  "protocol",    "internal"};
  const auto number = static_cast<std::size_t>(code);
  return number < kNames.size() ? kNames[number] : "unknown";
}

std::string Status::message() const {
  std::string out(code_name(code));
  if (!text.empty()) {
    out += ": ";
    out += text;
  }
  return out;
}

}  // namespace memkv
