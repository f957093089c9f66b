// Any bytes, decoded as every frame: nothing crashes, what is refused has a sentence, and what is
// accepted encodes to the very same bytes into exactly as much memory, and not into less.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <span>
#include <vector>

#include "wire/wire.h"

namespace memkv::fuzz {

// Stops the process, as a fuzzer expects.
inline void must(bool held, const char* what) {
  if (held) return;
  std::fprintf(stderr, "wire round trip: %s\n", what);
  std::abort();
}

inline void must_be_refusal(const Status& status) {
  must(status.code == Code::protocol || status.code == Code::too_large ||
           status.code == Code::unsupported,
       "a refusal with another code");
  must(!status.text.empty(), "a refusal without a sentence");
}

template <typename Body>
bool round_trip_body(Result<Body> (*decode)(std::span<const std::byte>),
                     std::span<const std::byte> bytes) {
  const Result<Body> body = decode(bytes);
  if (!body) {
    must_be_refusal(body.error());
    return false;
  }
  std::vector<std::byte> again(bytes.size());
  must(encode(*body, again) == bytes.size(), "a body that was decoded does not encode");
  must(std::ranges::equal(again, bytes), "a body encodes to other bytes");
  must(encode(*body, std::span(again).first(bytes.size() - 1)) == 0, "a body fits into too little");
  return true;
}

template <typename Head, typename Record>
bool round_trip_list(std::span<const std::byte> bytes) {
  Result<wire::ListReader<Head, Record>> reader = wire::ListReader<Head, Record>::open(bytes);
  if (!reader) {
    must_be_refusal(reader.error());
    return false;
  }
  std::vector<std::byte> again(bytes.size());
  wire::ListWriter<Head, Record> writer(again, reader->head());
  std::optional<Record> last;
  for (std::uint32_t i = 0; i < reader->count(); ++i) {
    last = reader->next();
    must(last.has_value(), "a list ends before its count");
    must(writer.add(*last), "a record that was decoded does not encode");
  }
  must(!reader->next(), "a list goes on behind its count");
  must(std::ranges::equal(writer.body(), bytes), "a list encodes to other bytes");
  must(!last || !writer.add(*last), "a record fits into a full body");
  return true;
}

inline bool round_trip_header(std::span<const std::byte> bytes) {
  if (bytes.size() < wire::kHeaderBytes) return false;
  const Result<wire::Header> header = wire::decode_header(bytes.first<wire::kHeaderBytes>());
  if (!header) {
    must_be_refusal(header.error());
    return false;
  }
  std::array<std::byte, wire::kHeaderBytes> again;
  wire::encode_header(*header, again);
  must(std::ranges::equal(again, bytes.first<wire::kHeaderBytes>()), "another header");
  return true;
}

// Returns how many frames the bytes are.
inline int round_trip(std::span<const std::byte> bytes) {
  using namespace wire;
  return round_trip_header(bytes) + round_trip_body(decode_hello, bytes) +
         round_trip_body(decode_challenge, bytes) + round_trip_body(decode_auth, bytes) +
         round_trip_body(decode_welcome, bytes) + round_trip_body(decode_refuse, bytes) +
         round_trip_body(decode_grant, bytes) + round_trip_body(decode_data, bytes) +
         round_trip_body(decode_cancel, bytes) + round_trip_body(decode_commit, bytes) +
         round_trip_body(decode_put_done, bytes) + round_trip_body(decode_get_block, bytes) +
         round_trip_body(decode_report, bytes) + round_trip_list<MatchHead, Key>(bytes) +
         round_trip_list<MatchReplyHead, Found>(bytes) +
         round_trip_list<Namespace, PutItem>(bytes) + round_trip_list<Namespace, GetItem>(bytes) +
         round_trip_list<Namespace, Key>(bytes) + round_trip_list<DropReplyHead, DropCode>(bytes) +
         round_trip_list<MapHead, MapNode>(bytes) + round_trip_body(decode_list, bytes) +
         round_trip_body(decode_mark, bytes) + round_trip_body(decode_mark_reply, bytes) +
         round_trip_list<ListReplyHead, Listed>(bytes);
}

}  // namespace memkv::fuzz
