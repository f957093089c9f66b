#include "server/map_file.h"

#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <system_error>

#include "base/crc32c.h"
#include "base/limits.h"
#include "wire/wire.h"

namespace memkv {
namespace {

// The frames of the file, each at most once. Those above the wire's types are never on a
// connection: wire::decode_header() refuses them.
enum class FileFrame : std::uint8_t {
  map = static_cast<std::uint8_t>(wire::Type::map_reply),
  trust = 41,
};
constexpr std::size_t kFileFrames = 2;
constexpr std::size_t kFileBytes = kFileFrames * (wire::kHeaderBytes + kBodyBytesMax);
constexpr std::size_t kHeaderCrcAt = 28;

using Frames = std::map<FileFrame, std::vector<std::byte>>;

struct FileHeader {
  FileFrame type{};
  std::uint32_t body_bytes = 0;
  std::uint32_t body_crc = 0;
};

[[nodiscard]] Result<FileHeader> read_header(std::span<const std::byte, wire::kHeaderBytes> bytes) {
  ByteReader reader(bytes);
  if (reader.u32() != wire::kMagic ||
      ByteReader(bytes.subspan<kHeaderCrcAt>()).u32() != crc32c(bytes.first<kHeaderCrcAt>())) {
    return fail(Code::protocol, "what is there is no frame, or its CRC is wrong");
  }
  const std::uint8_t type = reader.u8();
  reader.zeros(3);
  const std::uint64_t request = reader.u64();
  const std::uint32_t body_bytes = reader.u32();
  reader.zeros(sizeof(std::uint32_t));  // the payload's
  const FileHeader header{
      .type = static_cast<FileFrame>(type), .body_bytes = body_bytes, .body_crc = reader.u32()};
  if (header.type != FileFrame::map && header.type != FileFrame::trust) {
    return fail(Code::protocol, "a frame of type " + std::to_string(type) +
                                    ", which this version does not know here");
  }
  if (!reader.ok() || request == 0) return fail(Code::protocol, "the header breaks its rules");
  if (body_bytes > kBodyBytesMax) return fail(Code::too_large, "a frame of more than 1 MiB");
  return header;
}

[[nodiscard]] Result<void> take_frame(std::span<const std::byte>& rest, Frames& frames) {
  if (rest.size() < wire::kHeaderBytes) return fail(Code::protocol, "shorter than a header");
  const auto header = read_header(rest.first<wire::kHeaderBytes>());
  if (!header) return fail(header.error());
  rest = rest.subspan(wire::kHeaderBytes);
  if (rest.size() < header->body_bytes) return fail(Code::protocol, "a frame's end is missing");
  const auto body = rest.first(header->body_bytes);
  rest = rest.subspan(header->body_bytes);
  if (crc32c(body) != header->body_crc) return fail(Code::protocol, "a frame's CRC is wrong");
  if (!frames.try_emplace(header->type, body.begin(), body.end()).second) {
    return fail(Code::protocol, "a frame stands there twice");
  }
  return {};
}

[[nodiscard]] Result<MapFile> parse(std::span<const std::byte> bytes) {
  Frames frames;
  do {
    if (auto taken = take_frame(bytes, frames); !taken) return fail(taken.error());
  } while (!bytes.empty());
  const auto map = frames.find(FileFrame::map);
  if (map == frames.end()) return fail(Code::protocol, "there is no MAP_REPLY");
  MapFile file(std::move(map->second));
  if (const auto trust = frames.find(FileFrame::trust); trust != frames.end()) {
    file.trust = std::move(trust->second);
  }
  return file;
}

}  // namespace

Result<std::optional<MapFile>> read_map_file(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::exists(path, error) && !error) return std::nullopt;
  std::ifstream file(path, std::ios::binary);
  if (!file) return fail(Code::invalid, "the map file '" + path + "' cannot be read");
  std::vector<std::byte> bytes(kFileBytes + 1);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  if (file.bad()) return fail(Code::invalid, "the map file '" + path + "' cannot be read");
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  auto parsed = parse(bytes);
  if (!parsed) {
    return fail(parsed.error().code,
                "the map file '" + path + "' is refused: " + parsed.error().text);
  }
  return std::move(*parsed);
}

}  // namespace memkv
