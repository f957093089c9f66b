#include "support/fake_node.h"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/random.h"

namespace memkv::testing {

Bytes pattern(std::size_t bytes, std::uint64_t seed) {
  SeededRandom random(seed);
  Bytes out(bytes);
  for (std::size_t i = 0; i < bytes; i += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(out.data() + i, &word, std::min<std::size_t>(8, bytes - i));
  }
  return out;
}

Bytes packed_crcs(std::span<const std::byte> block, std::uint64_t first, std::uint64_t last) {
  const std::uint64_t unit = unit_bytes_of(block.size());
  std::vector<std::uint32_t> crcs;
  for (std::uint64_t i = first; i <= last; ++i) {
    const std::uint64_t bytes = std::min<std::uint64_t>(unit, block.size() - i * unit);
    crcs.push_back(crc32c(block.subspan(i * unit, bytes)));
  }
  Bytes packed(crcs.size() * 4);
  wire::store_crcs(crcs, packed);
  return packed;
}

FakePeer::FakePeer(FakeNode& node, std::unique_ptr<Stream> stream, Executor& executor)
    : node_(node), link_(Link::start(std::move(stream), executor, *this, kBodyBytesMax)) {}

void FakePeer::on_frame(const wire::Header& header, std::span<const std::byte> body) {
  node_.frames[header.type] += 1;
  if (node_.intercept && node_.intercept(*this, header, body)) return;
  answer(header, body);
}

void FakePeer::answer(const wire::Header& header, std::span<const std::byte> body) {
  switch (header.type) {
    case wire::Type::hello:
    case wire::Type::auth:
      greet(header);
      break;
    case wire::Type::match:
      answer_match(header, body);
      break;
    case wire::Type::put:
      answer_put(header, body);
      break;
    case wire::Type::commit:
      answer_commit(header, body);
      break;
    case wire::Type::get:
      answer_get(header, body);
      break;
    case wire::Type::drop:
      answer_drop(header, body);
      break;
    case wire::Type::stat:
      say_raw(wire::Type::stat_reply, header.request, as_bytes_of("blocks 3\n"));
      break;
    case wire::Type::map:
      say_raw(wire::Type::map_reply, header.request, node_.map);
      break;
    case wire::Type::report:
      node_.reports.emplace_back(as_text_of(wire::decode_report(body)->key));
      break;
    default:
      break;
  }
}

void FakePeer::greet(const wire::Header& header) {
  if (header.type == wire::Type::hello) {
    say(wire::Type::challenge, 0, wire::Challenge{});
  } else {
    say(wire::Type::welcome, 0, node_.welcome);
  }
}

void FakePeer::answer_match(const wire::Header& header, std::span<const std::byte> body) {
  auto asked = wire::MatchReader::open(body);
  Bytes reply(kBodyBytesMax);
  wire::MatchReplyWriter writer(reply, {.epoch = node_.welcome.epoch});
  node_.batches.push_back(asked->count());
  while (const auto key = asked->next()) {
    const auto held = node_.blocks.find(std::string(as_text_of(key->bytes)));
    wire::Found found;
    if (held != node_.blocks.end()) {
      found = {.where = wire::Where::dram,
               .copied = static_cast<std::uint8_t>(node_.copied.count(held->first)),
               .length = static_cast<std::uint32_t>(held->second.bytes.size())};
    }
    (void)writer.add(found);
  }
  say_raw(wire::Type::match_reply, header.request, writer.body());
}

void FakePeer::answer_put(const wire::Header& header, std::span<const std::byte> body) {
  auto asked = wire::PutReader::open(body);
  node_.batches.push_back(asked->count());
  for (std::uint32_t i = 0; const auto item = asked->next(); ++i) {
    const std::string key(as_text_of(item->key));
    const auto held = node_.blocks.find(key);
    if (held == node_.blocks.end()) {
      arriving_[{header.request, i}] = {.key = key, .bytes = Bytes(item->length)};
      say(wire::Type::grant, header.request, wire::Grant{.item = i});
      continue;
    }
    const bool same = held->second.bytes.size() == item->length;
    say(wire::Type::put_done, header.request,
        wire::PutDone{.item = i, .code = same ? Code::exists : Code::conflict});
  }
}

void FakePeer::answer_commit(const wire::Header& header, std::span<const std::byte> body) {
  const auto commit = wire::decode_commit(body);
  const auto arrived = arriving_.find({header.request, commit->item});
  if (arrived == arriving_.end()) return;
  Bytes& bytes = arrived->second.bytes;
  const Bytes crcs = packed_crcs(bytes, 0, unit_count_of(bytes.size()) - 1);
  wire::PutDone done{.epoch = node_.welcome.epoch, .item = commit->item, .code = Code::corrupt};
  if (std::ranges::equal(crcs, commit->crcs)) {
    done.code = Code::ok;
    done.incarnation = ++node_.incarnations;
    node_.blocks[arrived->second.key] = {.bytes = std::move(bytes),
                                         .incarnation = done.incarnation};
  }
  arriving_.erase(arrived);
  say(wire::Type::put_done, header.request, done);
}

void FakePeer::answer_get(const wire::Header& header, std::span<const std::byte> body) {
  auto asked = wire::GetReader::open(body);
  node_.batches.push_back(asked->count());
  for (std::uint32_t i = 0; const auto item = asked->next(); ++i) {
    const auto held = node_.blocks.find(std::string(as_text_of(item->key)));
    wire::GetBlock missing{.epoch = node_.welcome.epoch, .item = i, .code = Code::not_found};
    if (held == node_.blocks.end()) {
      say(wire::Type::get_block, header.request, missing);
    } else if (std::uint64_t{item->offset} + item->length > held->second.bytes.size()) {
      missing.code = Code::invalid;
      missing.block_length = static_cast<std::uint32_t>(held->second.bytes.size());
      say(wire::Type::get_block, header.request, missing);
    } else {
      send_block(header.request, i, *item, held->second.bytes, held->second.incarnation);
    }
  }
}

void FakePeer::send_block(std::uint64_t request, std::uint32_t item, const wire::GetItem& wanted,
                          const Bytes& block, std::uint64_t incarnation) {
  const std::uint64_t unit = unit_bytes_of(block.size());
  const std::uint64_t first = wanted.offset / unit;
  const std::uint64_t last = (wanted.offset + wanted.length - 1) / unit;
  const Bytes crcs = packed_crcs(block, first, last);
  say(wire::Type::get_block, request,
      wire::GetBlock{.epoch = node_.welcome.epoch,
                     .item = item,
                     .code = Code::ok,
                     .copied = static_cast<std::uint8_t>(
                         node_.copied.count(std::string(as_text_of(wanted.key)))),
                     .incarnation = incarnation,
                     .block_length = static_cast<std::uint32_t>(block.size()),
                     .first_unit = static_cast<std::uint32_t>(first),
                     .crcs = crcs});
  const std::uint64_t end = std::min<std::uint64_t>((last + 1) * unit, block.size());
  Bytes bytes(block.begin() + static_cast<std::ptrdiff_t>(first * unit),
              block.begin() + static_cast<std::ptrdiff_t>(end));
  if (node_.spoil.contains(std::string(as_text_of(wanted.key)))) {
    bytes[bytes.size() / 2] ^= std::byte{0x10};
  }
  send_bytes(request, item, static_cast<std::uint32_t>(first * unit), std::move(bytes));
}

void FakePeer::send_bytes(std::uint64_t request, std::uint32_t item, std::uint32_t offset,
                          Bytes bytes) {
  kept_.push_back(std::make_unique<Bytes>(std::move(bytes)));
  Shipment shipment;
  shipment.request = request;
  shipment.item = item;
  shipment.offset = offset;
  shipment.pieces = {iovec{kept_.back()->data(), kept_.back()->size()}};
  shipment.sent = [] {};
  link_->ship(std::move(shipment));
}

void FakePeer::answer_drop(const wire::Header& header, std::span<const std::byte> body) {
  auto asked = wire::DropReader::open(body);
  Bytes reply(kBodyBytesMax);
  wire::DropReplyWriter writer(reply, {.epoch = node_.welcome.epoch});
  node_.batches.push_back(asked->count());
  while (const auto key = asked->next()) {
    const bool held = node_.blocks.erase(std::string(as_text_of(key->bytes))) > 0;
    (void)writer.add({.code = held ? Code::ok : Code::not_found});
  }
  say_raw(wire::Type::drop_reply, header.request, writer.body());
}

Landing FakePeer::on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  Landing landing;
  const auto arriving = arriving_.find({request, data.item});
  if (arriving == arriving_.end() || data.offset + bytes > arriving->second.bytes.size()) {
    return landing;
  }
  landing.pieces[0] = iovec{arriving->second.bytes.data() + data.offset, bytes};
  landing.count = 1;
  return landing;
}

void FakePeer::on_closed(const Status& why) {
  node_.ends.push_back(why);
  link_.reset();
}

void FakeNode::hold_map(std::uint32_t epoch, const std::vector<wire::MapNode>& nodes) {
  welcome.epoch = epoch;
  map.resize(kBodyBytesMax);
  wire::MapReplyWriter writer(map, wire::MapHead{.epoch = epoch});
  for (const wire::MapNode& node : nodes) (void)writer.add(node);
  map.resize(writer.body().size());
}

FakeNode::FakeNode(Network& network, Executor& executor, const std::string& address)
    : executor_(executor), address_(address) {
  auto listener = network.listen(address, [this](std::unique_ptr<Stream> stream) {
    connections += 1;
    peers_.push_back(std::make_unique<FakePeer>(*this, std::move(stream), executor_));
  });
  if (!listener) return;
  listener_ = std::move(*listener);
  address_ = listener_->address();
}

std::size_t FakeNode::peers() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(peers_, [](const auto& peer) { return !peer->gone(); }));
}

FakePeer* FakeNode::peer() {
  for (auto peer = peers_.rbegin(); peer != peers_.rend(); ++peer) {
    if (!(*peer)->gone()) return peer->get();
  }
  return nullptr;
}

int FakeNode::seen(wire::Type type) const {
  const auto counted = frames.find(type);
  return counted == frames.end() ? 0 : counted->second;
}

}  // namespace memkv::testing
