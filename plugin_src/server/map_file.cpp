#include "server/map_file.h"

#include <filesystem>
#include <fstream>
#include <span>
#include <system_error>

#include "base/limits.h"
#include "wire/wire.h"

namespace memkv {
namespace {

constexpr std::size_t kFileBytes = wire::kHeaderBytes + kBodyBytesMax;

[[nodiscard]] Result<std::vector<std::byte>> body_of_frame(std::span<const std::byte> bytes) {
  if (bytes.size() < wire::kHeaderBytes) return fail(Code::protocol, "shorter than a header");
  const auto header = wire::decode_header(bytes.first<wire::kHeaderBytes>());
  if (!header) return fail(header.error());
  if (header->type != wire::Type::map_reply) {
    return fail(Code::protocol, "a frame of another type than MAP_REPLY");
  }
  const auto body = bytes.subspan(wire::kHeaderBytes);
  if (auto whole = wire::check_body(*header, body); !whole) return fail(whole.error());
  return std::vector<std::byte>(body.begin(), body.end());
}

}  // namespace

Result<std::optional<std::vector<std::byte>>> read_map_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Code::invalid, "the map file '" + path + "' cannot be read");
  std::vector<std::byte> bytes(kFileBytes + 1);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (file.bad()) return fail(Code::invalid, "the map file '" + path + "' cannot be read");
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  auto body = body_of_frame(bytes);
  if (!body) {
    return fail(body.error().code, "the map file '" + path + "' is refused: " + body.error().text);
  }
  return std::move(*body);
}

}  // namespace memkv
