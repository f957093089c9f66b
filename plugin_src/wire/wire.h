// The frames: pure encoding and decoding of what client and node say to each other.
// docs/formats/wire.md is the page to this header, byte for byte. No I/O, and no allocation but the
// sentence that goes with a refusal: encoders write into memory the caller brings, decoders return
// views into the body they were given. Thread: any.
//
// A conversation is HELLO → CHALLENGE → AUTH → WELCOME, then any number of requests, each with a
// number of its own:
//
//   MATCH → MATCH_REPLY
//   PUT   → a block each: GRANT → DATA… COMMIT → PUT_DONE, or PUT_DONE at once (exists, busy, …)
//   GET   → a block each, in any order: GET_BLOCK → DATA…, or GET_BLOCK alone (what went wrong)
//   DROP  → DROP_REPLY
//   STAT  → STAT_REPLY
//   MAP   → MAP_REPLY
//   LIST  → LIST_REPLY
//   MARK  → MARK_REPLY
//   CANCEL, REPORT: no answer
//
// REFUSE answers a request that is refused as a whole, or, with request 0, the connection, which
// then ends.
//
// Everything a peer sends is checked here for form: counts, lengths, zeros that must be zero, CRCs.
// What breaks the form is `protocol`, `unsupported` for a version, `too_large` for a limit.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "base/fingerprint.h"
#include "base/identity.h"
#include "base/limits.h"
#include "base/result.h"

namespace memkv::wire {

inline constexpr std::uint32_t kMagic = 0x31564b4d;  // the bytes "MKV1"
inline constexpr std::uint16_t kVersionMin = 1;
inline constexpr std::uint16_t kVersionMax = 1;
inline constexpr std::size_t kHeaderBytes = 32;
inline constexpr std::size_t kDataBodyBytes = 8;
inline constexpr std::uint32_t kAllItems = 0xffffffff;
// A bit each in HELLO and WELCOME.
inline constexpr std::uint32_t kTransportTcp = 1;
// A bit each in CHALLENGE: no token needed, the built-in tenant.
inline constexpr std::uint32_t kAuthOpen = 1;

enum class Type : std::uint8_t {
  hello = 1,
  challenge = 2,
  auth = 3,
  welcome = 4,
  refuse = 5,
  match = 6,
  match_reply = 7,
  put = 8,
  grant = 9,
  commit = 10,
  put_done = 11,
  get = 12,
  get_block = 13,
  data = 14,
  cancel = 15,
  drop = 16,
  drop_reply = 17,
  stat = 18,
  stat_reply = 19,
  map = 20,
  map_reply = 21,
  report = 22,
  list = 23,
  list_reply = 24,
  mark = 25,
  mark_reply = 26,
};
inline constexpr std::uint8_t kTypeMax = 26;
// The word of docs/formats/wire.md, "MATCH_REPLY"; "unknown" for a number that is none.
[[nodiscard]] std::string_view type_name(Type type);

// ---- the header of every frame (32 bytes)

struct Header {
  Type type{};
  std::uint64_t request = 0;
  std::uint32_t body_bytes = 0;
  std::uint32_t payload_bytes = 0;  // follows the body; DATA only, 1 … kDataBytesMax
  std::uint32_t body_crc = 0;  // CRC32C of the body; a payload is covered by its block's unit CRCs
};

// Writes what it is given, also what decode_header() refuses.
void encode_header(const Header& header, std::span<std::byte, kHeaderBytes> out);
// Statuses: protocol (magic, CRC, type, a zero that is none, payload on another frame than DATA, a
// request's number on a frame that has none or 0 on one that has), too_large.
[[nodiscard]] Result<Header> decode_header(std::span<const std::byte, kHeaderBytes> in);
// Statuses: protocol when the body's length or CRC is not the header's.
[[nodiscard]] Result<void> check_body(const Header& header, std::span<const std::byte> body);

// ---- bodies of one record. encode() returns the bytes written, 0 when they do not fit or a field
// breaks its rule: what would not be decoded is not encoded. decode_x(): protocol, too_large; HELLO
// and CHALLENGE also unsupported (no version that both sides speak).

struct Hello {
  std::uint16_t version_min = kVersionMin;
  std::uint16_t version_max = kVersionMax;
  std::uint32_t transports = kTransportTcp;
  std::uint64_t session = 0;  // random; names the session in logs
  std::string_view name;      // who it says it is, for logs; printable, at most kNameBytesMax
};
struct Challenge {
  std::uint16_t version = kVersionMax;  // the one both will speak
  std::uint32_t auth = kAuthOpen;
  std::array<std::byte, 32> nonce{};
};
struct Auth {
  std::span<const std::byte> token;  // at most kTokenBytesMax; empty asks for the built-in tenant
  // The nonce signed with the token's key; at most kProofBytesMax, empty with an empty token.
  std::span<const std::byte> proof;
};
struct Welcome {
  std::uint64_t node = 0;   // node_id_of its name
  std::uint64_t boot = 0;   // how often its store was opened
  std::uint32_t epoch = 0;  // of the map it holds
  std::uint32_t transports = kTransportTcp;
  std::uint32_t batch_max = kBatchMax;
  std::uint32_t items_max = kItemsMax;
  std::uint32_t requests_max = 0;           // at a time from this peer; at least 1
  std::uint32_t block_bytes_max = 0;        // 1 … kBlockBytesMax
  std::uint64_t put_bytes_granted_max = 0;  // at a time to this peer; at least 1
  std::string_view software;                // "memkvd 0.1.0"; printable, at most kNameBytesMax
};
struct Refuse {
  Code code{};  // neither ok nor exists
  // For a person. encode() cuts it at kTextBytesMax and writes ? for what is not printable ASCII.
  std::string_view text;
};
struct Grant {
  std::uint32_t item = 0;
};
struct Data {
  std::uint32_t item = 0;
  std::uint32_t offset = 0;  // in the block; continues where the item's last DATA ended
};
struct Cancel {
  std::uint32_t item = kAllItems;  // the whole request, or one block of a PUT or GET
};
struct Commit {
  std::uint32_t item = 0;
  std::span<const std::byte> crcs;  // unit_count_of(length) little-endian numbers; see load_crcs()
};
struct PutDone {
  std::uint32_t epoch = 0;
  std::uint32_t item = 0;
  Code code{};
  std::uint64_t incarnation = 0;  // 0 unless ok
};
struct GetBlock {
  std::uint32_t epoch = 0;
  std::uint32_t item = 0;
  Code code{};
  std::uint8_t copied = 0;            // 1: the block's second place has it, too; 0 unless ok
  std::uint64_t incarnation = 0;      // 0 unless ok
  std::uint32_t block_length = 0;     // 0 unless ok, or invalid because the range leaves the block
  std::uint32_t first_unit = 0;       // the payload is whole units: from this one (0 unless ok) …
  std::span<const std::byte> crcs{};  // … as many as there are CRCs here; empty unless ok
};
struct Report {
  Namespace space;
  std::uint64_t incarnation = 0;
  std::span<const std::byte> key;
};
struct List {
  std::uint64_t cursor = 0;    // 0: from the first on; else what the last reply said
  std::uint32_t count = 0;     // the most to name, 1 … kListMax
  std::uint8_t reads_min = 0;  // only those that were read so often lately
  std::uint8_t mark_not = 0;   // only those that carry another mark than this; 0: any
  // Only those of namespaces whose blocks are to lie on so many nodes at least, at most kCopiesMax.
  std::uint8_t copies_min = 0;
  std::uint8_t dram = 0;  // 1: only those in DRAM
};
// Says that this very incarnation lies on another node, too.
struct Mark {
  Namespace space;
  std::uint8_t mark = 0;  // kMarkCopied, or a number of a node's own for blocks that moved; 0: none
  std::uint64_t incarnation = 0;
  std::span<const std::byte> key;
};
struct MarkReply {
  std::uint32_t epoch = 0;
  Code code{};  // ok, or not_found: that incarnation is not there (any more)
};
inline constexpr std::uint8_t kMarkCopied = 1;  // at the block's second place

inline constexpr std::size_t kSmallBodyMax = 4096;  // every body of one record fits

[[nodiscard]] std::size_t encode(const Hello&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Challenge&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Auth&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Welcome&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Refuse&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Grant&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Data&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Cancel&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Commit&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const PutDone&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const GetBlock&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Report&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const List&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const Mark&, std::span<std::byte> out);
[[nodiscard]] std::size_t encode(const MarkReply&, std::span<std::byte> out);

[[nodiscard]] Result<Hello> decode_hello(std::span<const std::byte> body);
[[nodiscard]] Result<Challenge> decode_challenge(std::span<const std::byte> body);
[[nodiscard]] Result<Auth> decode_auth(std::span<const std::byte> body);
[[nodiscard]] Result<Welcome> decode_welcome(std::span<const std::byte> body);
[[nodiscard]] Result<Refuse> decode_refuse(std::span<const std::byte> body);
[[nodiscard]] Result<Grant> decode_grant(std::span<const std::byte> body);
[[nodiscard]] Result<Data> decode_data(std::span<const std::byte> body);
[[nodiscard]] Result<Cancel> decode_cancel(std::span<const std::byte> body);
[[nodiscard]] Result<Commit> decode_commit(std::span<const std::byte> body);
[[nodiscard]] Result<PutDone> decode_put_done(std::span<const std::byte> body);
[[nodiscard]] Result<GetBlock> decode_get_block(std::span<const std::byte> body);
[[nodiscard]] Result<Report> decode_report(std::span<const std::byte> body);
[[nodiscard]] Result<List> decode_list(std::span<const std::byte> body);
[[nodiscard]] Result<Mark> decode_mark(std::span<const std::byte> body);
[[nodiscard]] Result<MarkReply> decode_mark_reply(std::span<const std::byte> body);

// CRCs between numbers and the bytes of Commit and GetBlock. `out.size()` must be 4 × the number of
// CRCs, or the other way round.
void store_crcs(std::span<const std::uint32_t> crcs, std::span<std::byte> out);
void load_crcs(std::span<const std::byte> in, std::span<std::uint32_t> crcs);

// ---- bodies with many records: a writer fills the body it was given until add() says false (full,
// or at the count's limit), then body() closes it. A reader is checked whole by open(), so next()
// cannot fail.

struct MatchHead {
  Namespace space;
  std::uint32_t hold_ms = 0;  // keep what is found from eviction for so long; a wish
};
struct PutItem {
  std::uint32_t length = 0;  // 1 … kBlockBytesMax
  BlockTraits traits;
  std::span<const std::byte> key;
};
struct GetItem {
  std::uint32_t offset = 0;
  std::uint32_t length = 0;  // at least 1; the range ends within kBlockBytesMax
  std::span<const std::byte> key;
};
enum class Where : std::uint8_t { absent = 0, flash = 1, dram = 2 };
struct MatchReplyHead {
  std::uint32_t epoch = 0;
  // What a get would wait before its first byte, as far as the node can tell.
  std::uint32_t queue_delay_us = 0;
};
struct Found {
  Where where = Where::absent;
  std::uint8_t copied = 0;   // 1: the block's second place has it, too; 0 when absent
  std::uint32_t length = 0;  // of the block: 1 … kBlockBytesMax, 0 when absent
};
struct DropReplyHead {
  std::uint32_t epoch = 0;
};
struct MapNode {
  std::uint64_t node = 0;
  std::uint32_t weight = 0;
  // By maps before, the newest first, as long as blocks may lie where those had them; 0 on all
  // nodes: there is none.
  std::array<std::uint32_t, kFormersMax> former_weights{};
  std::uint64_t domain = 0;   // what fails together has one number; 0: only itself
  std::uint8_t draining = 0;  // 1: it takes no new block, and moves away those it has
  std::string_view address;   // 1 … kAddressBytesMax, printable, no spaces
};

struct ListReplyHead {
  std::uint32_t epoch = 0;
  std::uint64_t next = 0;  // the cursor to go on with; 0: that was all
};
struct Listed {
  Namespace space;
  std::uint64_t incarnation = 0;
  std::uint32_t length = 0;  // 1 … kBlockBytesMax
  BlockTraits traits;
  std::uint8_t reads = 0;  // lately
  std::uint8_t mark = 0;
  std::span<const std::byte> key;
};

// `Head` is written first, then a count, then the records: at most kBatchMax blocks (PUT, GET),
// kItemsMax keys or answers (MATCH, DROP), kNodesMax nodes, kListMax listed blocks, and
// kBodyBytesMax in all.
template <typename Head, typename Record>
class ListWriter {
 public:
  ListWriter(std::span<std::byte> body, const Head& head);
  // False when the record does not fit or breaks a limit; the body stays as it was.
  [[nodiscard]] bool add(const Record& record);
  [[nodiscard]] std::uint32_t count() const { return count_; }
  // The finished body; more may be added and body() asked again. Empty when not even the head
  // fitted, and when there is no record: only a MAP_REPLY
  // and a LIST_REPLY may have none.
  [[nodiscard]] std::span<const std::byte> body();

 private:
  std::span<std::byte> body_;
  std::size_t count_at_ = 0;
  std::size_t used_ = 0;
  std::uint32_t count_ = 0;
};

template <typename Head, typename Record>
class ListReader {
 public:
  // Statuses: protocol, too_large.
  [[nodiscard]] static Result<ListReader> open(std::span<const std::byte> body);
  [[nodiscard]] const Head& head() const { return head_; }
  [[nodiscard]] std::uint32_t count() const { return count_; }
  // The next record, `count()` times; then nothing.
  [[nodiscard]] std::optional<Record> next();

 private:
  Head head_{};
  std::uint32_t count_ = 0;
  std::uint32_t given_ = 0;
  ByteReader rest_{{}};
};

struct Key {
  std::span<const std::byte> bytes;
};
struct DropCode {
  Code code{};
};
struct MapHead {
  std::uint32_t epoch = 0;
};

using MatchWriter = ListWriter<MatchHead, Key>;
using MatchReader = ListReader<MatchHead, Key>;
using MatchReplyWriter = ListWriter<MatchReplyHead, Found>;
using MatchReplyReader = ListReader<MatchReplyHead, Found>;
using PutWriter = ListWriter<Namespace, PutItem>;
using PutReader = ListReader<Namespace, PutItem>;
using GetWriter = ListWriter<Namespace, GetItem>;
using GetReader = ListReader<Namespace, GetItem>;
using DropWriter = ListWriter<Namespace, Key>;
using DropReader = ListReader<Namespace, Key>;
using DropReplyWriter = ListWriter<DropReplyHead, DropCode>;
using DropReplyReader = ListReader<DropReplyHead, DropCode>;
using MapReplyWriter = ListWriter<MapHead, MapNode>;
using MapReplyReader = ListReader<MapHead, MapNode>;
using ListReplyWriter = ListWriter<ListReplyHead, Listed>;
using ListReplyReader = ListReader<ListReplyHead, Listed>;
// STAT and MAP have empty bodies. STAT_REPLY's body is text: lines of `name value`, names as in
// docs/reference/stat.md.

}  // namespace memkv::wire
