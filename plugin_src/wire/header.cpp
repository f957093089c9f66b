// The header of every frame, and the CRC of its body.
#include "base/crc32c.h"
#include "wire/wire_inside.h"

namespace memkv::wire {

namespace {

using inside::refuse;
using inside::Verdict;

constexpr std::size_t kHeaderCrcAt = 28;
constexpr std::array kTlsHandshake = {std::byte{0x16}, std::byte{0x03}};  // a record's first bytes

// Frames of the connection carry no request's number, frames of a request do; REFUSE is either,
// REPORT is asked by no number.
bool request_fits(Type type, std::uint64_t request) {
  switch (type) {
    case Type::hello:
    case Type::challenge:
    case Type::auth:
    case Type::welcome:
      return request == 0;
    case Type::refuse:
    case Type::report:
      return true;
    default:
      return request != 0;
  }
}

Verdict rule(const Header& header) {
  const auto type = static_cast<std::uint8_t>(header.type);
  if (type == 0 || type > kTypeMax) return {Code::protocol, "an unknown type of frame"};
  if (!request_fits(header.type, header.request)) {
    return {Code::protocol, "a request's number where none belongs, or none where one does"};
  }
  if (header.body_bytes > kBodyBytesMax) return {Code::too_large, "a body of more than 1 MiB"};
  const bool is_data = header.type == Type::data;
  if (is_data != (header.payload_bytes > 0)) {
    return {Code::protocol, "DATA without a payload, or a payload that is not DATA's"};
  }
  if (header.payload_bytes > kDataBytesMax) {
    return {Code::too_large, "a payload of more than 256 KiB"};
  }
  return {};
}

}  // namespace

std::string_view type_name(Type type) {
  static constexpr std::array<std::string_view, kTypeMax + 1> kNames = {
      "unknown",     "HELLO",  "CHALLENGE", "AUTH",       "WELCOME",  "REFUSE",     "MATCH",
      "MATCH_REPLY", "PUT",    "GRANT",     "COMMIT",     "PUT_DONE", "GET",        "GET_BLOCK",
      "DATA",        "CANCEL", "DROP",      "DROP_REPLY", "STAT",     "STAT_REPLY", "MAP",
      "MAP_REPLY",   "REPORT", "LIST",      "LIST_REPLY", "MARK",     "MARK_REPLY"};
  const auto number = static_cast<std::size_t>(type);
  return number < kNames.size() ? kNames[number] : kNames[0];
}

void encode_header(const Header& header, std::span<std::byte, kHeaderBytes> out) {
  ByteWriter writer(out);
  writer.u32(kMagic);
  writer.u8(static_cast<std::uint8_t>(header.type));
  writer.zeros(3);
  writer.u64(header.request);
  writer.u32(header.body_bytes);
  writer.u32(header.payload_bytes);
  writer.u32(header.body_crc);
  writer.u32(crc32c(out.first<kHeaderCrcAt>()));
}

Result<Header> decode_header(std::span<const std::byte, kHeaderBytes> in) {
  ByteReader reader(in);
  if (in[0] == kTlsHandshake[0] && in[1] == kTlsHandshake[1]) {
    return refuse("frame", {Code::protocol,
                            "a TLS handshake came, and this side speaks without: give the node "
                            "--tls-cert and --tls-key, or its clients no tls_ca"});
  }
  if (reader.u32() != kMagic) {
    return refuse("frame",
                  {Code::protocol, "does not begin with MKV1: the peer speaks something else"});
  }
  if (ByteReader(in.subspan<kHeaderCrcAt>()).u32() != crc32c(in.first<kHeaderCrcAt>())) {
    return refuse("frame", {Code::protocol, "the header's CRC is wrong"});
  }
  Header header;
  header.type = static_cast<Type>(reader.u8());
  reader.zeros(3);
  header.request = reader.u64();
  header.body_bytes = reader.u32();
  header.payload_bytes = reader.u32();
  header.body_crc = reader.u32();
  if (!reader.ok()) return refuse("frame", {Code::protocol, "a zero that is none"});
  if (const Verdict verdict = rule(header); !verdict.good()) {
    return refuse(type_name(header.type), verdict);
  }
  return header;
}

Result<void> check_body(const Header& header, std::span<const std::byte> body) {
  if (body.size() != header.body_bytes || crc32c(body) != header.body_crc) {
    return refuse(type_name(header.type), {Code::protocol, "the body's CRC is wrong"});
  }
  return {};
}

void store_crcs(std::span<const std::uint32_t> crcs, std::span<std::byte> out) {
  const std::size_t bytes = std::min(crcs.size_bytes(), out.size());
  if (bytes > 0) std::memcpy(out.data(), crcs.data(), bytes);
}

void load_crcs(std::span<const std::byte> in, std::span<std::uint32_t> crcs) {
  const std::size_t bytes = std::min(crcs.size_bytes(), in.size());
  if (bytes > 0) std::memcpy(crcs.data(), in.data(), bytes);
}

}  // namespace memkv::wire
