// The bodies of one record: for each its layout and its rule, in the order of docs/formats/wire.md.
#include "wire/wire_inside.h"

namespace memkv::wire {

namespace {

using namespace inside;

// ---- the connection

template <typename Side>
void layout(Side& side, typename Side::template Of<Hello>& hello) {
  side.number(hello.version_min);
  side.number(hello.version_max);
  side.number(hello.transports);
  side.number(hello.session);
  side.text(hello.name);
}
static_assert(kVersionMin == 1 && kVersionMax == 1, "the sentences below name the versions");

Verdict rule(const Hello& hello) {
  if (hello.version_min == 0 || hello.version_min > hello.version_max) {
    return {Code::protocol, "versions that are no range"};
  }
  if (hello.transports == 0) return {Code::protocol, "no transport"};
  if (hello.name.size() > kNameBytesMax) return {Code::too_large, "a name of more than 64 bytes"};
  if (!printable(hello.name)) return {Code::protocol, "a name that is not printable"};
  if (hello.version_min > kVersionMax || hello.version_max < kVersionMin) {
    return {Code::unsupported, "no common version, this side speaks 1: update the older side"};
  }
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Challenge>& challenge) {
  side.number(challenge.version);
  side.zeros(2);
  side.number(challenge.auth);
  side.fixed(challenge.nonce);
}
Verdict rule(const Challenge& challenge) {
  if (challenge.version < kVersionMin || challenge.version > kVersionMax) {
    return {Code::unsupported, "a version that was not offered, this side speaks 1"};
  }
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Auth>& auth) {
  side.run(auth.token);
  side.run(auth.proof);
}
Verdict rule(const Auth& auth) {
  if (auth.token.size() > kTokenBytesMax) {
    return {Code::too_large, "a token of more than 2048 bytes"};
  }
  if (auth.proof.size() > kProofBytesMax) {
    return {Code::too_large, "a proof of more than 512 bytes"};
  }
  if (auth.token.empty() && !auth.proof.empty()) return {Code::protocol, "a proof without a token"};
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Welcome>& welcome) {
  side.number(welcome.node);
  side.number(welcome.boot);
  side.number(welcome.epoch);
  side.number(welcome.transports);
  side.number(welcome.batch_max);
  side.number(welcome.items_max);
  side.number(welcome.requests_max);
  side.number(welcome.block_bytes_max);
  side.number(welcome.put_bytes_granted_max);
  side.text(welcome.software);
}
Verdict rule(const Welcome& welcome) {
  if (welcome.transports == 0) return {Code::protocol, "no transport"};
  if (welcome.batch_max == 0 || welcome.items_max == 0 || welcome.requests_max == 0 ||
      welcome.block_bytes_max == 0 || welcome.put_bytes_granted_max == 0) {
    return {Code::protocol, "a limit of 0"};
  }
  if (welcome.batch_max > kBatchMax || welcome.items_max > kItemsMax ||
      welcome.block_bytes_max > kBlockBytesMax) {
    return {Code::too_large, "a limit above the protocol's own"};
  }
  if (welcome.software.size() > kNameBytesMax) {
    return {Code::too_large, "a software's name of more than 64 bytes"};
  }
  if (!printable(welcome.software)) {
    return {Code::protocol, "a software's name that is not printable"};
  }
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Refuse>& refused) {
  side.one_byte(refused.code);
  side.zeros(1);
  side.text(refused.text);
}
Verdict rule(const Refuse& refused) {
  if (!known(refused.code)) return {Code::protocol, "an unknown code"};
  if (refused.code == Code::ok || refused.code == Code::exists) {
    return {Code::protocol, "a refusal that is a success"};
  }
  if (refused.text.size() > kTextBytesMax) {
    return {Code::too_large, "a sentence of more than 1024 bytes"};
  }
  if (!printable(refused.text)) return {Code::protocol, "a sentence that is not printable"};
  return {};
}

// ---- one block of a PUT or GET

Verdict item_rule(std::uint32_t item) {
  if (item >= kBatchMax) return {Code::too_large, "an item above 4095"};
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Grant>& grant) {
  side.number(grant.item);
}
Verdict rule(const Grant& grant) {
  return item_rule(grant.item);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Data>& data) {
  side.number(data.item);
  side.number(data.offset);
}
Verdict rule(const Data& data) {
  if (data.offset >= kBlockBytesMax) return {Code::too_large, "an offset of 64 MiB or more"};
  return item_rule(data.item);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Cancel>& cancel) {
  side.number(cancel.item);
}
Verdict rule(const Cancel& cancel) {
  return cancel.item == kAllItems ? Verdict{} : item_rule(cancel.item);
}

Verdict crcs_rule(std::span<const std::byte> crcs) {
  if (crcs.size() % sizeof(std::uint32_t) != 0) return {Code::protocol, "CRCs that are no numbers"};
  if (crcs.size() / sizeof(std::uint32_t) > kUnitsMax) {
    return {Code::too_large, "more than 512 CRCs"};
  }
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Commit>& commit) {
  side.number(commit.item);
  side.crcs(commit.crcs);
}
Verdict rule(const Commit& commit) {
  if (commit.crcs.empty()) return {Code::protocol, "no CRCs"};
  if (const Verdict verdict = crcs_rule(commit.crcs); !verdict.good()) return verdict;
  return item_rule(commit.item);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<PutDone>& done) {
  side.number(done.epoch);
  side.number(done.item);
  side.one_byte(done.code);
  side.zeros(7);
  side.number(done.incarnation);
}
Verdict rule(const PutDone& done) {
  if (!known(done.code)) return {Code::protocol, "an unknown code"};
  if (done.code != Code::ok && done.incarnation != 0) {
    return {Code::protocol, "an incarnation of what was not put"};
  }
  return item_rule(done.item);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<GetBlock>& block) {
  side.number(block.epoch);
  side.number(block.item);
  side.one_byte(block.code);
  side.number(block.copied);
  side.zeros(6);
  side.number(block.incarnation);
  side.number(block.block_length);
  side.number(block.first_unit);
  side.crcs(block.crcs);
}
Verdict found_rule(const GetBlock& block) {
  if (block.copied > 1) return {Code::protocol, "a flag that is neither 0 nor 1"};
  if (const Verdict verdict = length_rule(block.block_length); !verdict.good()) return verdict;
  if (const Verdict verdict = crcs_rule(block.crcs); !verdict.good()) return verdict;
  const std::uint64_t units = block.crcs.size() / sizeof(std::uint32_t);
  if (units == 0) return {Code::protocol, "a block without units"};
  if (block.first_unit + units > unit_count_of(block.block_length)) {
    return {Code::protocol, "units outside of the block"};
  }
  return {};
}
Verdict missing_rule(const GetBlock& block) {
  if (block.code == Code::exists) return {Code::protocol, "a code that answers no GET"};
  if (block.copied != 0 || block.incarnation != 0 || block.first_unit != 0 || !block.crcs.empty()) {
    return {Code::protocol, "units of a block that does not come"};
  }
  if (block.block_length == 0) return {};
  if (block.code != Code::invalid) {
    return {Code::protocol, "the length of a block that is not there"};
  }
  return length_rule(block.block_length);
}
Verdict rule(const GetBlock& block) {
  if (!known(block.code)) return {Code::protocol, "an unknown code"};
  const Verdict verdict = block.code == Code::ok ? found_rule(block) : missing_rule(block);
  return verdict.good() ? item_rule(block.item) : verdict;
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Report>& report) {
  layout(side, report.space);
  side.zeros(4);
  side.number(report.incarnation);
  side.run(report.key);
}
Verdict rule(const Report& report) {
  return key_rule(report.key);
}

// ---- what a node's agent asks

template <typename Side>
void layout(Side& side, typename Side::template Of<List>& list) {
  side.number(list.cursor);
  side.number(list.count);
  side.number(list.reads_min);
  side.number(list.mark_not);
  side.number(list.copies_min);
  side.number(list.dram);
}
Verdict rule(const List& list) {
  if (list.count == 0) return {Code::protocol, "a list of nothing"};
  if (list.count > kListMax) return {Code::too_large, "a list of more than 1024 blocks"};
  if (list.copies_min > kCopiesMax) return {Code::protocol, "blocks on more than 2 nodes"};
  if (list.dram > 1) return {Code::protocol, "neither in DRAM only nor all"};
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Mark>& mark) {
  layout(side, mark.space);
  side.number(mark.mark);
  side.zeros(3);
  side.number(mark.incarnation);
  side.run(mark.key);
}
Verdict rule(const Mark& mark) {
  return key_rule(mark.key);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<MarkReply>& reply) {
  side.number(reply.epoch);
  side.one_byte(reply.code);
  side.zeros(3);
}
Verdict rule(const MarkReply& reply) {
  if (!known(reply.code)) return {Code::protocol, "an unknown code"};
  return {};
}

// ---- both directions

template <typename Body>
std::size_t encode_body(const Body& body, std::span<std::byte> out) {
  if (!rule(body).good()) return 0;
  ByteWriter writer(out);
  Writing side(writer);
  layout(side, body);
  return writer.ok() ? writer.size() : 0;
}

template <typename Body>
Result<Body> decode_body(Type type, std::span<const std::byte> bytes) {
  ByteReader reader(bytes);
  Reading side(reader);
  Body body;
  layout(side, body);
  if (!reader.finished()) return refuse(type_name(type), kBadForm);
  if (const Verdict verdict = rule(body); !verdict.good()) return refuse(type_name(type), verdict);
  return body;
}

}  // namespace

using Bytes = std::span<const std::byte>;

std::size_t encode(const Hello& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Challenge& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Auth& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Welcome& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Grant& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Data& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Cancel& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Commit& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const PutDone& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const GetBlock& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Report& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const List& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const Mark& body, std::span<std::byte> out) {
  return encode_body(body, out);
}
std::size_t encode(const MarkReply& body, std::span<std::byte> out) {
  return encode_body(body, out);
}

// A sentence comes from anywhere; it is made to fit, so that a refusal never fails for the want of
// a better sentence.
std::size_t encode(const Refuse& body, std::span<std::byte> out) {
  std::array<char, kTextBytesMax> text;
  const std::size_t bytes = std::min(body.text.size(), text.size());
  for (std::size_t i = 0; i < bytes; ++i) {
    text[i] = printable(body.text.substr(i, 1)) ? body.text[i] : '?';
  }
  return encode_body(Refuse{body.code, std::string_view(text.data(), bytes)}, out);
}

Result<Hello> decode_hello(Bytes body) {
  return decode_body<Hello>(Type::hello, body);
}
Result<Challenge> decode_challenge(Bytes body) {
  return decode_body<Challenge>(Type::challenge, body);
}
Result<Auth> decode_auth(Bytes body) {
  return decode_body<Auth>(Type::auth, body);
}
Result<Welcome> decode_welcome(Bytes body) {
  return decode_body<Welcome>(Type::welcome, body);
}
Result<Refuse> decode_refuse(Bytes body) {
  return decode_body<Refuse>(Type::refuse, body);
}
Result<Grant> decode_grant(Bytes body) {
  return decode_body<Grant>(Type::grant, body);
}
Result<Data> decode_data(Bytes body) {
  return decode_body<Data>(Type::data, body);
}
Result<Cancel> decode_cancel(Bytes body) {
  return decode_body<Cancel>(Type::cancel, body);
}
Result<Commit> decode_commit(Bytes body) {
  return decode_body<Commit>(Type::commit, body);
}
Result<PutDone> decode_put_done(Bytes body) {
  return decode_body<PutDone>(Type::put_done, body);
}
Result<GetBlock> decode_get_block(Bytes body) {
  return decode_body<GetBlock>(Type::get_block, body);
}
Result<Report> decode_report(Bytes body) {
  return decode_body<Report>(Type::report, body);
}
Result<List> decode_list(Bytes body) {
  return decode_body<List>(Type::list, body);
}
Result<Mark> decode_mark(Bytes body) {
  return decode_body<Mark>(Type::mark, body);
}
Result<MarkReply> decode_mark_reply(Bytes body) {
  return decode_body<MarkReply>(Type::mark_reply, body);
}

}  // namespace memkv::wire
