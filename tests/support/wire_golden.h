// The golden frames of tests/golden/wire (made by tests/golden/make_wire.py).
#pragma once

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstddef>
#include <fstream>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "wire/wire.h"

namespace memkv::test {

using Bytes = std::vector<std::byte>;

// One file a frame; example_put and example_get are whole conversations.
inline constexpr std::array<std::string_view, 34> kGoldenFrames = {"hello",
                                                                   "challenge",
                                                                   "auth",
                                                                   "auth_open",
                                                                   "welcome",
                                                                   "refuse",
                                                                   "refuse_bare",
                                                                   "match",
                                                                   "match_reply",
                                                                   "put",
                                                                   "grant",
                                                                   "commit",
                                                                   "put_done",
                                                                   "put_done_exists",
                                                                   "get",
                                                                   "get_block",
                                                                   "get_block_missing",
                                                                   "get_block_short",
                                                                   "data",
                                                                   "cancel",
                                                                   "cancel_all",
                                                                   "drop",
                                                                   "drop_reply",
                                                                   "stat",
                                                                   "stat_reply",
                                                                   "map",
                                                                   "map_reply",
                                                                   "map_reply_empty",
                                                                   "report",
                                                                   "list",
                                                                   "list_reply",
                                                                   "list_reply_empty",
                                                                   "mark",
                                                                   "mark_reply"};

inline std::string read_text(const std::string& path_in_project) {
  std::ifstream file(path_in_project);
  if (!file) throw std::runtime_error("cannot read " + path_in_project);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline std::string golden_text(std::string_view name) {
  return read_text("tests/golden/wire/" + std::string(name) + ".hex");
}

// The bytes of a .hex text: two digits each; # begins a comment.
inline Bytes bytes_of_hex(std::string_view text) {
  Bytes bytes;
  while (!text.empty()) {
    if (text[0] == '#') {
      text.remove_prefix(std::min(text.find('\n'), text.size()));
    } else if (std::isspace(static_cast<unsigned char>(text[0])) != 0) {
      text.remove_prefix(1);
    } else {
      unsigned value = 0;
      const char* end = text.data() + std::min<std::size_t>(2, text.size());
      if (std::from_chars(text.data(), end, value, 16).ptr != text.data() + 2) {
        throw std::runtime_error("not two hex digits: " + std::string(text.substr(0, 8)));
      }
      bytes.push_back(static_cast<std::byte>(value));
      text.remove_prefix(2);
    }
  }
  return bytes;
}

struct GoldenFrame {
  Bytes whole;
  wire::Header header;
  std::span<const std::byte> header_bytes, body, payload;
};

// Takes the first frame off `bytes`. The frame is checked; what breaks it throws, for the test to
// fail.
inline GoldenFrame take_frame(Bytes& bytes) {
  const auto head = std::span(bytes).first<wire::kHeaderBytes>();
  const Result<wire::Header> header = wire::decode_header(head);
  if (!header) throw std::runtime_error(header.error().message());
  const std::size_t body_end = wire::kHeaderBytes + header->body_bytes;
  const std::size_t end = body_end + header->payload_bytes;
  if (end > bytes.size()) throw std::runtime_error("a golden frame is cut short");
  GoldenFrame frame;
  frame.header = *header;
  frame.whole.assign(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(end));
  bytes.erase(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(end));
  const std::span<const std::byte> whole = frame.whole;
  frame.header_bytes = whole.first(wire::kHeaderBytes);
  frame.body = whole.subspan(wire::kHeaderBytes, header->body_bytes);
  frame.payload = whole.subspan(body_end);
  const Result<void> body_checked = wire::check_body(*header, frame.body);
  if (!body_checked) throw std::runtime_error(body_checked.error().message());
  return frame;
}

inline GoldenFrame golden_frame(std::string_view name) {
  Bytes bytes = bytes_of_hex(golden_text(name));
  GoldenFrame frame = take_frame(bytes);
  if (!bytes.empty()) throw std::runtime_error("more than one frame in " + std::string(name));
  return frame;
}

}  // namespace memkv::test
