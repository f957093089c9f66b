// Flags: what a person tells memkvd, on the command line or in a file of the same flags; read,
// checked, and refused with what to write instead.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/limits.h"
#include "base/log.h"
#include "base/result.h"
#include "server/trust.h"
#include "transport/tls.h"

namespace memkv {

struct Flags {
  std::string device;
  std::uint64_t capacity_bytes = 0;  // 0: as large as the device is
  std::uint64_t dram_bytes = kGiB;
  std::string listen = "127.0.0.1:9900";
  std::string advertise;
  std::uint32_t weight = 100;
  std::string map_file;  // empty: this node is alone
  unsigned hands = 0;
  bool format = false;
  bool buffered = false;
  bool insecure = false;
  TlsSettings tls;                     // without a certificate: nothing is encrypted
  std::optional<Anonymous> anonymous;  // empty only until it is parsed: then it follows from listen
  std::vector<std::string> also_known_as;
  std::uint64_t segment_bytes = 0;  // 0: chosen by the store
  std::uint32_t rewrite_percent = 12;
  std::uint64_t write_budget = 0;  // bytes a day; 0: the device's capacity
  std::uint32_t index_flush_ms = 50;
  int ready_fd = -1;
  bool log_json = false;
  LogLevel log_level = LogLevel::info;
  bool help = false;
  bool version = false;
};

// Reads `arguments` (without the program's name) and the file they may name; the command line wins
// over the file. `cores` decides how many hands there are unless a flag does. With help or version
// nothing else is checked. Statuses: invalid; the sentence names the flag and says what to write.
[[nodiscard]] Result<Flags> parse_flags(std::span<const char* const> arguments, unsigned cores);

// "4096", "64MiB", "10GiB", "1TB"; case does not matter. Statuses: invalid.
[[nodiscard]] Result<std::uint64_t> parse_size(std::string_view text);

// Hands that pay off on so many cores: none on one or two, where the mind does their work faster
// than it can wake them.
[[nodiscard]] unsigned default_hands(unsigned cores);

[[nodiscard]] std::string help_text();

}  // namespace memkv
