// The bodies of many records: a head, a count, and the records one after another.
#include "wire/wire_inside.h"

namespace memkv::wire {

namespace {

using namespace inside;

// ---- heads; any values are right

template <typename Side>
void layout(Side& side, typename Side::template Of<MatchHead>& head) {
  layout(side, head.space);
  side.number(head.hold_ms);
}
template <typename Side>
void layout(Side& side, typename Side::template Of<MatchReplyHead>& head) {
  side.number(head.epoch);
  side.number(head.queue_delay_us);
}
template <typename Side>
void layout(Side& side, typename Side::template Of<DropReplyHead>& head) {
  side.number(head.epoch);
}
template <typename Side>
void layout(Side& side, typename Side::template Of<MapHead>& head) {
  side.number(head.epoch);
}
template <typename Side>
void layout(Side& side, typename Side::template Of<ListReplyHead>& head) {
  side.number(head.epoch);
  side.number(head.next);
}

// ---- records

template <typename Side>
void layout(Side& side, typename Side::template Of<Key>& key) {
  side.run(key.bytes);
}
Verdict rule(const Key& key) {
  return key_rule(key.bytes);
}

template <typename Side>
void layout(Side& side, typename Side::template Of<PutItem>& item) {
  side.number(item.length);
  side.number(item.traits.group.high);
  side.number(item.traits.group.low);
  side.number(item.traits.depth);
  side.number(item.traits.recompute_cost);
  side.number(item.traits.age_s);
  side.run(item.key);
}
Verdict rule(const PutItem& item) {
  const Verdict verdict = length_rule(item.length);
  return verdict.good() ? key_rule(item.key) : verdict;
}

template <typename Side>
void layout(Side& side, typename Side::template Of<GetItem>& item) {
  side.number(item.offset);
  side.number(item.length);
  side.run(item.key);
}
Verdict rule(const GetItem& item) {
  if (item.length == 0) return {Code::protocol, "a length of 0"};
  const Verdict verdict = length_rule(std::uint64_t{item.offset} + item.length);
  return verdict.good() ? key_rule(item.key) : verdict;
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Found>& found) {
  side.one_byte(found.where);
  side.number(found.copied);
  side.zeros(2);
  side.number(found.length);
}
Verdict rule(const Found& found) {
  if (found.where > Where::dram) return {Code::protocol, "an unknown place of a block"};
  if (found.copied > (found.where == Where::absent ? 0 : 1)) {
    return {Code::protocol, "a flag that is neither 0 nor 1, or of a block that is not there"};
  }
  if (found.where != Where::absent) return length_rule(found.length);
  if (found.length != 0) return {Code::protocol, "the length of a block that is not there"};
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<DropCode>& code) {
  side.one_byte(code.code);
}
Verdict rule(const DropCode& code) {
  if (!known(code.code)) return {Code::protocol, "an unknown code"};
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<MapNode>& node) {
  side.number(node.node);
  side.number(node.weight);
  for (auto& weight : node.former_weights) side.number(weight);
  side.number(node.domain);
  side.number(node.draining);
  side.text(node.address);
}
Verdict rule(const MapNode& node) {
  if (node.draining > 1) return {Code::protocol, "a flag that is neither 0 nor 1"};
  if (node.address.empty()) return {Code::protocol, "a node without an address"};
  if (node.address.size() > kAddressBytesMax) {
    return {Code::too_large, "an address of more than 256 bytes"};
  }
  if (!printable(node.address, '!')) {
    return {Code::protocol, "an address with a space or something unprintable"};
  }
  return {};
}

template <typename Side>
void layout(Side& side, typename Side::template Of<Listed>& listed) {
  layout(side, listed.space);
  side.number(listed.incarnation);
  side.number(listed.length);
  side.number(listed.traits.group.high);
  side.number(listed.traits.group.low);
  side.number(listed.traits.depth);
  side.number(listed.traits.recompute_cost);
  side.number(listed.traits.age_s);
  side.number(listed.reads);
  side.number(listed.mark);
  side.zeros(2);
  side.run(listed.key);
}
Verdict rule(const Listed& listed) {
  const Verdict verdict = length_rule(listed.length);
  return verdict.good() ? key_rule(listed.key) : verdict;
}

// ---- which lists there are

template <typename Head, typename Record>
struct Shape;

template <Type kFrame, std::uint32_t kLeast, std::uint32_t kMost>
struct ShapeOf {
  static constexpr Type kType = kFrame;
  static constexpr std::uint32_t kCountMin = kLeast;
  static constexpr std::uint32_t kCountMax = kMost;
};
template <>
struct Shape<MatchHead, Key> : ShapeOf<Type::match, 1, kItemsMax> {};
template <>
struct Shape<MatchReplyHead, Found> : ShapeOf<Type::match_reply, 1, kItemsMax> {};
template <>
struct Shape<Namespace, PutItem> : ShapeOf<Type::put, 1, kBatchMax> {};
template <>
struct Shape<Namespace, GetItem> : ShapeOf<Type::get, 1, kBatchMax> {};
template <>
struct Shape<Namespace, Key> : ShapeOf<Type::drop, 1, kItemsMax> {};
template <>
struct Shape<DropReplyHead, DropCode> : ShapeOf<Type::drop_reply, 1, kItemsMax> {};
template <>
struct Shape<MapHead, MapNode> : ShapeOf<Type::map_reply, 0, kNodesMax> {};
template <>
struct Shape<ListReplyHead, Listed> : ShapeOf<Type::list_reply, 0, kListMax> {};

template <typename Record>
Record read(ByteReader& reader) {
  Record record{};
  Reading side(reader);
  layout(side, record);
  return record;
}

}  // namespace

template <typename Head, typename Record>
ListWriter<Head, Record>::ListWriter(std::span<std::byte> body, const Head& head)
    : body_(body.first(std::min<std::size_t>(body.size(), kBodyBytesMax))) {
  ByteWriter writer(body_);
  Writing side(writer);
  layout(side, head);
  const std::size_t count_at = writer.size();
  writer.u32(0);
  if (!writer.ok()) return;  // used_ stays 0: nothing can be added
  count_at_ = count_at;
  used_ = writer.size();
}

template <typename Head, typename Record>
bool ListWriter<Head, Record>::add(const Record& record) {
  if (used_ == 0 || count_ == Shape<Head, Record>::kCountMax || !rule(record).good()) return false;
  ByteWriter writer(body_.subspan(used_));
  Writing side(writer);
  layout(side, record);
  if (!writer.ok()) return false;
  used_ += writer.size();
  ++count_;
  return true;
}

template <typename Head, typename Record>
std::span<const std::byte> ListWriter<Head, Record>::body() {
  if (used_ == 0 || count_ < Shape<Head, Record>::kCountMin) return {};
  ByteWriter(body_.subspan(count_at_)).u32(count_);
  return body_.first(used_);
}

template <typename Head, typename Record>
Result<ListReader<Head, Record>> ListReader<Head, Record>::open(std::span<const std::byte> body) {
  using OurShape = Shape<Head, Record>;
  const std::string_view name = type_name(OurShape::kType);
  ListReader reader;
  ByteReader at(body);
  reader.head_ = read<Head>(at);
  reader.count_ = at.u32();
  if (!at.ok()) return refuse(name, kBadForm);
  if (reader.count_ < OurShape::kCountMin) {
    return refuse(name, {Code::protocol, "an empty list"});
  }
  if (reader.count_ > OurShape::kCountMax || body.size() > kBodyBytesMax) {
    return refuse(name, {Code::too_large, "more records or bytes than one frame may have"});
  }
  reader.rest_ = at;
  for (std::uint32_t i = 0; i < reader.count_; ++i) {
    const Record record = read<Record>(at);
    if (!at.ok()) return refuse(name, kBadForm);
    if (const auto verdict = rule(record); !verdict.good()) return refuse(name, verdict);
  }
  if (!at.finished()) return refuse(name, kBadForm);
  return reader;
}

template <typename Head, typename Record>
std::optional<Record> ListReader<Head, Record>::next() {
  if (given_ == count_) return std::nullopt;
  ++given_;
  return read<Record>(rest_);
}

template class ListWriter<MatchHead, Key>;
template class ListReader<MatchHead, Key>;
template class ListWriter<MatchReplyHead, Found>;
template class ListReader<MatchReplyHead, Found>;
template class ListWriter<Namespace, PutItem>;
template class ListReader<Namespace, PutItem>;
template class ListWriter<Namespace, GetItem>;
template class ListReader<Namespace, GetItem>;
template class ListWriter<Namespace, Key>;
template class ListReader<Namespace, Key>;
template class ListWriter<DropReplyHead, DropCode>;
template class ListReader<DropReplyHead, DropCode>;
template class ListWriter<MapHead, MapNode>;
template class ListReader<MapHead, MapNode>;
template class ListWriter<ListReplyHead, Listed>;
template class ListReader<ListReplyHead, Listed>;

}  // namespace memkv::wire
