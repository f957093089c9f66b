#include "server/flags.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <fstream>
#include <limits>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

namespace memkv {
namespace {

using Apply = Result<void> (*)(Flags&, std::string_view value);

struct Flag {
  std::string_view name;
  std::string_view value;  // what stands for it in the help; empty: a switch
  std::string_view help;
  Apply apply;
};

[[nodiscard]] std::string quoted(std::string_view text) {
  return "'" + std::string(text) + "'";
}

[[nodiscard]] std::optional<std::uint64_t> whole_number(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

template <typename Number>
[[nodiscard]] Result<void> set_number(Number& target, std::string_view text, std::uint64_t least,
                                      std::uint64_t most) {
  const auto number = whole_number(text);
  if (!number || *number < least || *number > most) {
    return fail(Code::invalid, quoted(text) + " is not a number from " + std::to_string(least) +
                                   " to " + std::to_string(most));
  }
  target = static_cast<Number>(*number);
  return {};
}

[[nodiscard]] Result<void> set_size(std::uint64_t& target, std::string_view text) {
  const auto size = parse_size(text);
  if (!size) return fail(size.error());
  if (*size == 0)
    return fail(Code::invalid, "a size of 0; write one such as 64MiB, or leave the flag out");
  target = *size;
  return {};
}

[[nodiscard]] Result<void> set_text(std::string& target, std::string_view text) {
  if (text.empty()) return fail(Code::invalid, "is empty; give it a value or leave it out");
  target = text;
  return {};
}

[[nodiscard]] Result<void> set_switch(bool& target, std::string_view text) {
  if (text != "true" && text != "false") {
    return fail(Code::invalid,
                quoted(text) + " is neither true nor false; the flag alone means true");
  }
  target = text == "true";
  return {};
}

// HOST and PORT of "host:port" or "[v6]:port".
struct Address {
  std::string_view host;
  std::uint64_t port = 0;
};

[[nodiscard]] std::optional<Address> split_address(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const auto port = whole_number(text.substr(colon + 1));
  if (!port || *port > std::numeric_limits<std::uint16_t>::max()) return std::nullopt;
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (host.empty() || host.find(' ') != std::string_view::npos) return std::nullopt;
  if (!bracketed && host.find(':') != std::string_view::npos) return std::nullopt;
  return Address{.host = host, .port = *port};
}

[[nodiscard]] Result<void> set_address(std::string& target, std::string_view text, bool any_port) {
  const auto address = split_address(text);
  if (!address || (address->port == 0 && !any_port)) {
    return fail(
        Code::invalid,
        quoted(text) + " is no address; write HOST:PORT, such as 10.0.0.7:9900 or [::1]:9900");
  }
  target = text;
  return {};
}

[[nodiscard]] Result<void> set_anonymous(std::optional<Anonymous>& target, std::string_view text) {
  if (text != "yes" && text != "no") {
    return fail(Code::invalid, quoted(text) + " is neither yes nor no");
  }
  target = text == "yes" ? Anonymous::yes : Anonymous::no;
  return {};
}

[[nodiscard]] Result<void> set_names(std::vector<std::string>& target, std::string_view text) {
  target.clear();
  while (!text.empty()) {
    const std::string_view name = text.substr(0, text.find(','));
    if (auto fine = set_address(target.emplace_back(), name, false); !fine) return fine;
    text.remove_prefix(std::min(name.size() + 1, text.size()));
  }
  if (target.size() <= kNodeNamesMax) return {};
  return fail(Code::invalid,
              "more than " + std::to_string(kNodeNamesMax) + " names; each costs time at the door");
}

[[nodiscard]] Result<void> set_level(LogLevel& target, std::string_view text) {
  const std::optional<LogLevel> level = log_level_named(text);
  if (!level) {
    return fail(Code::invalid, quoted(text) + " is no level; write debug, info, warning or error");
  }
  target = *level;
  return {};
}

[[nodiscard]] Result<void> set_format(bool& json, std::string_view text) {
  if (text != "text" && text != "json") {
    return fail(Code::invalid, quoted(text) + " is no format of log lines; write text or json");
  }
  json = text == "json";
  return {};
}

constexpr std::array kFlags = std::to_array<Flag>({
    {"device", "PATH", "a raw block device, or a file (made when --capacity is given)",
     [](Flags& f, std::string_view v) { return set_text(f.device, v); }},
    {"capacity", "SIZE", "of the file to make or grow; default: as large as the device is",
     [](Flags& f, std::string_view v) { return set_size(f.capacity_bytes, v); }},
    {"dram", "SIZE", "memory that blocks land in and are served from; default: 1GiB",
     [](Flags& f, std::string_view v) { return set_size(f.dram_bytes, v); }},
    {"listen", "HOST:PORT", "where to serve; default: 127.0.0.1:9900, port 0 is any",
     [](Flags& f, std::string_view v) { return set_address(f.listen, v, true); }},
    {"advertise", "HOST:PORT", "the address clients know this node by; default: where it listens",
     [](Flags& f, std::string_view v) { return set_address(f.advertise, v, false); }},
    {"weight", "N", "its share of the blocks, beside other nodes' weights; default: 100",
     [](Flags& f, std::string_view v) { return set_number(f.weight, v, 0, kWeightMax); }},
    {"map-file", "PATH", "the map of the pool, read at the start and at SIGHUP; default: none",
     [](Flags& f, std::string_view v) { return set_text(f.map_file, v); }},
    {"hands", "N",
     "threads that move bytes; default: none on 1 or 2 cores, else one less than cores, at most 8",
     [](Flags& f, std::string_view v) { return set_number(f.hands, v, 0, kHandsMax); }},
    {"format", "", "overwrite whatever the device holds",
     [](Flags& f, std::string_view v) { return set_switch(f.format, v); }},
    {"buffered", "", "go through the page cache, where the file system has no O_DIRECT",
     [](Flags& f, std::string_view v) { return set_switch(f.buffered, v); }},
    {"tls-cert", "FILE",
     "speak TLS, with this certificate (and its chain; PEM, read again when replaced)",
     [](Flags& f, std::string_view v) { return set_text(f.tls.cert, v); }},
    {"tls-key", "FILE", "the key of that certificate",
     [](Flags& f, std::string_view v) { return set_text(f.tls.key, v); }},
    {"tls-client-ca", "FILE", "take only clients with a certificate that comes from this CA",
     [](Flags& f, std::string_view v) { return set_text(f.tls.ca, v); }},
    {"insecure", "", "listen beyond loopback although nothing is encrypted",
     [](Flags& f, std::string_view v) { return set_switch(f.insecure, v); }},
    {"anonymous", "yes|no",
     "take those without a token; default: yes on loopback, elsewhere until there are tenants",
     [](Flags& f, std::string_view v) { return set_anonymous(f.anonymous, v); }},
    {"also-known-as", "HOST:PORT,…",
     "more addresses that clients name this node by; their tokens' proofs name one",
     [](Flags& f, std::string_view v) { return set_names(f.also_known_as, v); }},
    {"segment-bytes", "SIZE", "of one segment of the log; default: chosen from the capacity",
     [](Flags& f, std::string_view v) { return set_size(f.segment_bytes, v); }},
    {"rewrite-percent", "N", "of a segment that may be kept when it is reclaimed; default: 12",
     [](Flags& f, std::string_view v) { return set_number(f.rewrite_percent, v, 0, 100); }},
    {"write-budget", "SIZE",
     "written to the device a day before namespaces with a budget take no more; default: capacity",
     [](Flags& f, std::string_view v) { return set_size(f.write_budget, v); }},
    {"index-flush-ms", "N", "how long index records wait to be written together; default: 50",
     [](Flags& f, std::string_view v) {
       return set_number(f.index_flush_ms, v, 1, kIndexFlushMsMax);
     }},
    {"ready-fd", "N", "write one line of JSON there when it serves: address and pid",
     [](Flags& f, std::string_view v) {
       return set_number(f.ready_fd, v, 0, std::numeric_limits<int>::max());
     }},
    {"log-format", "FORMAT", "text, or json: one object a line; default: text",
     [](Flags& f, std::string_view v) { return set_format(f.log_json, v); }},
    {"log-json", "", "the same as --log-format json",
     [](Flags& f, std::string_view v) { return set_switch(f.log_json, v); }},
    {"log-level", "LEVEL", "debug, info, warning or error; default: info",
     [](Flags& f, std::string_view v) { return set_level(f.log_level, v); }},
    {"flags-file", "FILE", "read flags from a file, one a line: `name value`, # begins a comment",
     [](Flags&, std::string_view) { return Result<void>{}; }},
    {"version", "", "say the version and end",
     [](Flags& f, std::string_view v) { return set_switch(f.version, v); }},
    {"help", "", "say this and end",
     [](Flags& f, std::string_view v) { return set_switch(f.help, v); }},
});

[[nodiscard]] std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t corner = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = corner + (a[i - 1] == b[j - 1] ? 0 : 1);
      corner = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

[[nodiscard]] Status unknown_flag(std::string_view name) {
  const auto begun = std::ranges::find_if(
      kFlags, [&](const Flag& flag) { return name.size() >= 3 && flag.name.starts_with(name); });
  const auto nearest = std::ranges::min_element(
      kFlags, {}, [&](const Flag& flag) { return edit_distance(flag.name, name); });
  std::string text = "--" + std::string(name) + " is not a flag of memkvd";
  if (begun != kFlags.end()) {
    text += "; did you mean --" + std::string(begun->name) + "?";
  } else if (edit_distance(nearest->name, name) <= std::max<std::size_t>(1, name.size() / 3)) {
    text += "; did you mean --" + std::string(nearest->name) + "?";
  } else {
    text += "; --help lists them";
  }
  return {Code::invalid, std::move(text)};
}

[[nodiscard]] const Flag* find_flag(std::string_view name) {
  const auto found = std::ranges::find(kFlags, name, &Flag::name);
  return found == kFlags.end() ? nullptr : &*found;
}

[[nodiscard]] Result<void> apply(Flags& flags, const Flag& flag, std::string_view value,
                                 const std::string& where) {
  if (auto done = flag.apply(flags, value); !done) {
    return fail(Code::invalid, where + "--" + std::string(flag.name) + ": " + done.error().text);
  }
  return {};
}

[[nodiscard]] std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

[[nodiscard]] Result<void> read_line(Flags& flags, std::string_view line,
                                     const std::string& where) {
  // A # begins a comment at the line's start or behind a space: it may stand inside of a path.
  for (std::size_t at = line.find('#'); at != std::string_view::npos; at = line.find('#', at + 1)) {
    if (at > 0 && std::isspace(static_cast<unsigned char>(line[at - 1])) == 0) continue;
    line = line.substr(0, at);
    break;
  }
  line = trimmed(line);
  if (line.empty()) return {};
  const std::size_t cut = std::min(line.find_first_of(" \t="), line.size());
  std::string_view name = line.substr(0, cut);
  std::string_view value = trimmed(line.substr(cut));
  if (value.starts_with('=')) value = trimmed(value.substr(1));
  if (name.starts_with("--")) name.remove_prefix(2);
  const Flag* flag = find_flag(name);
  if (flag == nullptr) return fail(Code::invalid, where + unknown_flag(name).text);
  if (name == "flags-file" || name == "help" || name == "version") {
    return fail(Code::invalid, where + "--" + std::string(name) + " belongs on the command line");
  }
  if (value.empty() && !flag->value.empty()) {
    return fail(Code::invalid, where + "--" + std::string(name) + " needs a value: write `" +
                                   std::string(name) + " " + std::string(flag->value) + "`");
  }
  return apply(flags, *flag, value.empty() ? "true" : value, where);
}

[[nodiscard]] Result<void> read_file(Flags& flags, const std::string& path) {
  std::ifstream in(path);
  if (!in)
    return fail(Code::invalid,
                "--flags-file: " + quoted(path) + " cannot be read; name a file that exists");
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (auto done = read_line(flags, line, path + ":" + std::to_string(number) + ": "); !done)
      return done;
  }
  return {};
}

struct Given {
  const Flag* flag;
  std::string_view value;
};

[[nodiscard]] Result<std::vector<Given>> split_arguments(std::span<const char* const> arguments) {
  std::vector<Given> given;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    std::string_view text = arguments[i];
    if (text == "-h") text = "--help";
    if (!text.starts_with("--")) {
      return fail(Code::invalid,
                  quoted(text) + " stands alone; flags begin with --, such as --device PATH");
    }
    text.remove_prefix(2);
    const std::size_t equals = text.find('=');
    const Flag* flag = find_flag(text.substr(0, equals));
    if (flag == nullptr) return fail(unknown_flag(text.substr(0, equals)));
    if (equals != std::string_view::npos) {
      given.push_back({flag, text.substr(equals + 1)});
    } else if (flag->value.empty()) {
      given.push_back({flag, "true"});
    } else if (i + 1 < arguments.size()) {
      given.push_back({flag, arguments[++i]});
    } else {
      return fail(Code::invalid, "--" + std::string(flag->name) + " needs a value: write --" +
                                     std::string(flag->name) + " " + std::string(flag->value));
    }
  }
  return given;
}

[[nodiscard]] bool is_loopback(std::string_view host) {
  // A number, not a name that only looks like one.
  in_addr number{};
  const bool numeric = ::inet_pton(AF_INET, std::string(host).c_str(), &number) == 1;
  return host == "localhost" || host == "::1" || (numeric && host.starts_with("127."));
}

[[nodiscard]] Result<void> check_sizes(const Flags& flags) {
  if (flags.segment_bytes % kPageBytes != 0 || flags.segment_bytes > kSegmentBytesMax) {
    return fail(Code::invalid,
                "--segment-bytes: write a multiple of 4096 of at most 1GiB, or leave it out");
  }
  const std::uint64_t least =
      flags.segment_bytes == 0 ? kDeviceBytesMin : kSegmentsMin * flags.segment_bytes + kMiB;
  if (flags.capacity_bytes != 0 && flags.capacity_bytes < least) {
    return fail(Code::invalid, "--capacity: " + std::to_string(flags.capacity_bytes) +
                                   " bytes are too small for " + std::to_string(kSegmentsMin) +
                                   " segments; write at least " +
                                   std::to_string((least + kMiB - 1) / kMiB) + "MiB");
  }
  if (flags.segment_bytes == 0 && flags.dram_bytes < kArenaBytesMin) {
    return fail(Code::invalid, "--dram: " + std::to_string(flags.dram_bytes) +
                                   " bytes are too small; write at least 256MiB");
  }
  return {};
}

[[nodiscard]] Result<void> check_tls(const Flags& flags) {
  if (flags.tls.cert.empty() != flags.tls.key.empty()) {
    return fail(Code::invalid,
                "--tls-cert and --tls-key go together: name the certificate's file and its key's");
  }
  if (!flags.tls.ca.empty() && flags.tls.cert.empty()) {
    return fail(Code::invalid,
                "--tls-client-ca asks clients for certificates, which takes TLS: say --tls-cert "
                "and --tls-key, too");
  }
  return {};
}

[[nodiscard]] Result<void> check(const Flags& flags) {
  if (flags.device.empty()) {
    return fail(
        Code::invalid,
        "--device is missing; name a block device or a file, such as --device /dev/nvme0n1 or "
        "--device /var/lib/memkv/data --capacity 10GiB");
  }
  if (auto sizes = check_sizes(flags); !sizes) return sizes;
  if (auto tls = check_tls(flags); !tls) return tls;
  const std::string_view host = split_address(flags.listen).value_or(Address{}).host;
  if (!is_loopback(host) && !flags.insecure && flags.tls.cert.empty()) {
    return fail(
        Code::invalid,
        "--listen " + flags.listen +
            " is beyond loopback, where everybody who sees the network's packets could read every "
            "block, and without tenants everybody who reaches it could write, too. Name a "
            "certificate with --tls-cert and --tls-key, listen on 127.0.0.1, or say --insecure if "
            "the network is yours alone");
  }
  if ((host == "0.0.0.0" || host == "::" || host == "*") && flags.advertise.empty()) {
    return fail(Code::invalid,
                "--listen " + flags.listen +
                    " is no address a client could use: say --advertise HOST:PORT too, the address "
                    "clients know this node by");
  }
  return {};
}

}  // namespace

Result<std::uint64_t> parse_size(std::string_view text) {
  static constexpr std::array<std::pair<std::string_view, std::uint64_t>, 10> kUnits = {
      {{"", 1},
       {"b", 1},
       {"kib", kKiB},
       {"mib", kMiB},
       {"gib", kGiB},
       {"tib", 1024 * kGiB},
       {"kb", 1000},
       {"mb", 1000'000},
       {"gb", 1000'000'000},
       {"tb", 1000'000'000'000}}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto number = whole_number(text.substr(0, digits));
  std::string unit(trimmed(text.substr(digits)));
  std::ranges::transform(unit, unit.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  const auto factor = std::ranges::find(kUnits, std::string_view(unit),
                                        &std::pair<std::string_view, std::uint64_t>::first);
  std::uint64_t bytes = 0;
  if (!number || factor == kUnits.end() ||
      __builtin_mul_overflow(*number, factor->second, &bytes) ||
      bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return fail(Code::invalid,
                quoted(text) + " is not a size; write one such as 4096, 64MiB, 10GiB or 1TB");
  }
  return bytes;
}

unsigned default_hands(unsigned cores) {
  return cores <= 2 ? 0 : std::min(cores - 1, kHandsDefaultMax);
}

Result<Flags> parse_flags(std::span<const char* const> arguments, unsigned cores) {
  const auto given = split_arguments(arguments);
  if (!given) return fail(given.error());
  Flags flags;
  flags.hands = default_hands(cores);
  for (const Given& item : *given) {
    if (item.flag->name != "flags-file") continue;
    if (auto done = read_file(flags, std::string(item.value)); !done) return fail(done.error());
  }
  for (const Given& item : *given) {
    if (auto done = apply(flags, *item.flag, item.value, ""); !done) return fail(done.error());
  }
  if (flags.help || flags.version) return flags;
  if (auto done = check(flags); !done) return fail(done.error());
  if (!flags.anonymous) {
    const std::string_view host = split_address(flags.listen).value_or(Address{}).host;
    flags.anonymous = is_loopback(host) ? Anonymous::yes : Anonymous::until_tenants;
  }
  return flags;
}

std::string help_text() {
  std::string text =
      "memkvd " MEMKV_VERSION
      ": a store node of MemKV-NIXL. Serves blocks from a device and DRAM until SIGTERM.\n"
      "\n"
      "usage: memkvd --device PATH [flags]\n"
      "\n";
  for (const Flag& flag : kFlags) {
    std::string line = "  --" + std::string(flag.name);
    if (!flag.value.empty()) line += " " + std::string(flag.value);
    line.resize(std::max<std::size_t>(line.size() + 2, 26), ' ');
    text += line + std::string(flag.help) + "\n";
  }
  text +=
      "\n"
      "Sizes: 4096, 64MiB, 10GiB, 1TiB; KB, MB, GB and TB are decimal.\n"
      "\n"
      "examples:\n"
      "  memkvd --device /var/lib/memkv/data --capacity 10GiB --dram 1GiB\n"
      "  memkvd --device /dev/nvme0n1 --dram 16GiB --listen 10.0.0.7:9900 --tls-cert "
      "node.crt --tls-key node.key\n"
      "  memkvd --flags-file /etc/memkv/node.flags --log-format json\n"
      "\n"
      "Ends with 0 after SIGTERM or SIGINT (a second one ends it at once), 2 for a wrong flag, 1 "
      "when it cannot\n"
      "serve, with the reason on standard error.\n";
  return text;
}

}  // namespace memkv
