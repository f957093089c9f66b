#include "server/map_file.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <span>
#include <system_error>
#include <tuple>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/limits.h"
#include "base/mutant.h"
#include "wire/wire.h"

namespace memkv {
namespace {

// The frames of the file, each at most once. Those above the wire's types are never on a
// connection: wire::decode_header() refuses them.
enum class FileFrame : std::uint8_t {
  map = static_cast<std::uint8_t>(wire::Type::map_reply),
  rules = 40,
  trust = 41,
};
constexpr std::size_t kFileFrames = 3;
constexpr std::size_t kFileBytes = kFileFrames * (wire::kHeaderBytes + kBodyBytesMax);
constexpr std::size_t kHeaderCrcAt = wire::kHeaderBytes - sizeof(std::uint32_t);
constexpr std::uint64_t kFileRequest = 1;

using Frames = std::map<FileFrame, std::vector<std::byte>>;

struct FileHeader {
  FileFrame type{};
  std::uint32_t body_bytes = 0;
  std::uint32_t body_crc = 0;
};

[[nodiscard]] constexpr bool is_known(FileFrame type) {
  return type == FileFrame::map || type == FileFrame::rules || type == FileFrame::trust;
}

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
  if (!is_known(header.type)) {
    return fail(Code::protocol, "a frame of type " + std::to_string(type) +
                                    ", which this version does not know here: let agent and "
                                    "memkvd be of one version");
  }
  if (!reader.ok() || request != kFileRequest || body_bytes == 0) {
    return fail(Code::protocol, "the header breaks its rules");
  }
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
  if (const auto rules = frames.find(FileFrame::rules); rules != frames.end()) {
    file.rules = std::move(rules->second);
  }
  if (const auto trust = frames.find(FileFrame::trust); trust != frames.end()) {
    file.trust = std::move(trust->second);
  }
  return file;
}

[[nodiscard]] std::uint64_t share_of(std::uint64_t quota, const Portion& mine) {
  if (quota == 0) return 0;
  const std::uint64_t whole = quota / mine.weights * mine.weight;
  const std::uint64_t rest = quota % mine.weights * mine.weight / mine.weights;
  return std::max<std::uint64_t>(1, whole + rest);
}

[[nodiscard]] SpaceRule read_space(ByteReader& in, const Portion& mine) {
  SpaceRule rule;
  rule.tenant = in.u64();
  const auto id = in.raw(rule.id.size());
  std::ranges::copy(id, rule.id.begin());
  rule.drop_generation = in.u32();
  if (mutant(Mutant::ignore_rules)) rule.drop_generation = 0;
  rule.ttl_s = in.u32();
  rule.quota_bytes = share_of(in.u64(), mine);
  rule.admission = static_cast<Admission>(in.u8());
  rule.copies = in.u8();
  in.zeros(2);
  return rule;
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

Result<Portion> portion_of(std::span<const std::byte> map, std::uint64_t node,
                           std::uint32_t weight) {
  auto reader = wire::MapReplyReader::open(map);
  if (!reader) return fail(reader.error());
  Portion mine{.weight = std::max(1U, weight), .weights = 0};
  while (const auto of = reader->next()) {
    if (of->node == node && of->weight != 0) {
      mine.weight = of->weight;
    } else {
      mine.weights += of->weight;
    }
  }
  mine.weights += mine.weight;
  return mine;
}

Result<StoreRules> decode_rules(std::span<const std::byte> body, std::uint32_t epoch,
                                const Portion& mine) {
  StoreRules rules;
  if (body.empty()) return rules;
  ByteReader in(body);
  const std::uint32_t of_epoch = in.u32();
  const std::uint32_t spaces = in.u32();
  const std::uint32_t tenants = in.u32();
  if (spaces > kNamespacesMax || tenants > kTenantsMax) {
    return fail(Code::too_large, "RULES: more namespaces or tenants than a map may have");
  }
  for (std::uint32_t i = 0; i < spaces && in.ok(); ++i) {
    rules.spaces.push_back(read_space(in, mine));
  }
  for (std::uint32_t i = 0; i < tenants && in.ok(); ++i) {
    const TenantId tenant = in.u64();
    rules.tenants.push_back({.tenant = tenant, .quota_bytes = share_of(in.u64(), mine)});
  }
  if (!in.ok() || in.left() != 0 || of_epoch != epoch) {
    return fail(Code::protocol,
                "RULES: cut short, too long, of another epoch than the map, or a "
                "zero that is none");
  }
  const auto known = [](const SpaceRule& rule) {
    return rule.admission >= Admission::all && rule.admission <= Admission::budget &&
           rule.copies >= 1 && rule.copies <= kCopiesMax;
  };
  const auto before = [](const SpaceRule& a, const SpaceRule& b) {
    return std::tie(a.tenant, a.id) < std::tie(b.tenant, b.id);
  };
  const auto not_before = std::not_fn(before);
  if (!std::ranges::all_of(rules.spaces, known) ||
      std::ranges::adjacent_find(rules.spaces, not_before) != rules.spaces.end() ||
      std::ranges::adjacent_find(rules.tenants, std::greater_equal<>(), &TenantQuota::tenant) !=
          rules.tenants.end()) {
    return fail(Code::protocol,
                "RULES: an admission that is not known, copies that are neither 1 nor 2, or not in "
                "order");
  }
  return rules;
}

StoreRules rules_before_the_map(const std::string& path) {
  if (path.empty()) return {};
  const auto found = read_map_file(path);
  if (!found || !*found) return {};
  const auto map = wire::MapReplyReader::open((*found)->map);
  if (!map) return {};
  return decode_rules((*found)->rules, map->head().epoch, Portion{}).value_or(StoreRules{});
}

}  // namespace memkv
