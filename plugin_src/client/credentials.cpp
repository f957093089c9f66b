#include "client/credentials.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"

namespace memkv {
namespace {

constexpr std::string_view kFirstLine = "memkv-token 1";
constexpr std::size_t kTokenUntilAt = 52;  // in a token, docs/formats/token.md

[[nodiscard]] std::unexpected<Status> no_file(const std::string& path, std::string_view why) {
  return fail(Code::invalid, "the token file '" + path + "' " + std::string(why));
}

[[nodiscard]] Result<std::string> read_all(const std::string& path) {
  // Without waiting for whoever would write to it: it may be no file at all.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (file < 0) {
    const char* what = errno == ENOENT ? "is not there; name the one that `memkv token issue` wrote"
                                       : "cannot be read; may this user read it?";
    return no_file(path, what);
  }
  struct stat is{};
  std::string text;
  ssize_t got = 0;
  if (::fstat(file, &is) == 0 && S_ISREG(is.st_mode)) {
    text.resize(kTokenFileBytesMax + 1);
    got = ::read(file, text.data(), text.size());
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  }
  ::close(file);
  if (got <= 0) return no_file(path, "is empty, or no file");
  if (text.size() > kTokenFileBytesMax) return no_file(path, "is too long to be one");
  return text;
}

[[nodiscard]] std::optional<unsigned> digit(char c) {
  if (c >= '0' && c <= '9') return static_cast<unsigned>(c - '0');
  if (c >= 'a' && c <= 'f') return static_cast<unsigned>(c - 'a') + 10;
  return std::nullopt;
}

// Nothing unless it is an even count of hexadecimal digits, at least two.
[[nodiscard]] std::optional<std::vector<std::byte>> bytes_of_hex(std::string_view text) {
  if (text.empty() || text.size() % 2 != 0) return std::nullopt;
  std::vector<std::byte> out;
  for (std::size_t i = 0; i < text.size(); i += 2) {
    const auto high = digit(text[i]);
    const auto low = digit(text[i + 1]);
    if (!high || !low) return std::nullopt;
    out.push_back(static_cast<std::byte>(*high << 4 | *low));
  }
  return out;
}

[[nodiscard]] std::string_view next_line(std::string_view& text) {
  std::string_view line = text.substr(0, text.find('\n'));
  text.remove_prefix(std::min(line.size() + 1, text.size()));
  while (line.ends_with('\r') || line.ends_with(' ')) line.remove_suffix(1);
  return line;
}

}  // namespace

Result<Credential> read_token_file(const std::string& path) {
  const auto text = read_all(path);
  if (!text) return fail(text.error());
  std::string_view rest = *text;
  if (next_line(rest) != kFirstLine) {
    return no_file(path, "does not begin with 'memkv-token 1'; is it one of `memkv token issue`?");
  }
  Credential out;
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (line.empty() || line.starts_with('#')) continue;
    const std::size_t space = std::min(line.find(' '), line.size());
    const std::string_view name = line.substr(0, space);
    const auto bytes = bytes_of_hex(line.substr(std::min(space + 1, line.size())));
    if (name == "token" && bytes && out.token.empty() && bytes->size() <= kTokenBytesMax) {
      out.token = *bytes;
    } else if (name == "key" && bytes && !out.key && bytes->size() == sizeof(PrivateKey)) {
      std::ranges::copy(*bytes, out.key.emplace().begin());
    } else {
      return no_file(path, "has a line that is none of one; issue the token anew");
    }
  }
  if (out.token.empty() || !out.key) return no_file(path, "lacks its token or its key");
  return out;
}

Credentials::Credentials(const ClientOptions& options) : path_(options.token_file) {
  held_.token = options.token;
  holds_ = path_.empty();
}

bool Credentials::changed() {
  struct stat now{};
  if (::stat(path_.c_str(), &now) != 0) now = {};
  const auto same = [&](const auto& field) { return now.*field == seen_.*field; };
  const bool alike = same(&stat::st_dev) && same(&stat::st_ino) && same(&stat::st_size) &&
                     now.st_mtim.tv_sec == seen_.st_mtim.tv_sec &&
                     now.st_mtim.tv_nsec == seen_.st_mtim.tv_nsec;
  seen_ = now;
  return !alike;
}

void Credentials::look() {
  if (path_.empty()) return;
  // What could not be read is tried again: whoever writes it may have been in the middle.
  if (!changed() && holds_ && trouble_.good()) return;
  auto read = read_token_file(path_);
  if (!read) {
    if (holds_ && trouble_.text != read.error().text) {
      log(LogLevel::error, "client: goes on with the token it has: " + read.error().text);
    }
    trouble_ = read.error();
    return;
  }
  trouble_ = {};
  if (holds_ && *read == held_) return;
  if (holds_) log(LogLevel::info, "client: takes the fresh token of '" + path_ + "'");
  held_ = std::move(*read);
  holds_ = true;
  ++version_;
}

Status Credentials::ready() {
  look();
  return holds_ ? Status() : trouble_;
}

std::vector<std::byte> Credentials::proof(std::span<const std::byte> nonce, std::uint64_t session,
                                          std::string_view address) const {
  if (!held_.key) return {};
  const Signature signature = sign(*held_.key, proof_message(nonce, session, address));
  return {signature.begin(), signature.end()};
}

std::string Credentials::hint() const {
  if (path_.empty()) return {};
  std::string text = "; the token of '" + path_ + "'";
  if (held_.token.size() < kTokenUntilAt + sizeof(std::uint64_t)) return text + " is none";
  const std::uint64_t until_s = ByteReader(std::span(held_.token).subspan(kTokenUntilAt)).u64();
  if (until_s <= system_wall_s()) return text + " is past its time: issue another";
  return text + " is not past its time";
}

}  // namespace memkv
