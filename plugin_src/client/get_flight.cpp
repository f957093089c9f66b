#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/mutant.h"
#include "client/flight.h"

namespace memkv {
namespace {

// One range on its way in: whole units, of which the caller wants a part.
struct Incoming {
  Incoming(std::uint32_t unit, std::uint64_t begin, std::uint64_t stop)
      : next(begin), end(stop), arrived(unit, stop - begin) {}

  std::uint64_t next;  // in the block: where the next DATA begins
  std::uint64_t end;   // in the block: where the last unit ends
  UnitCrcs arrived;
  std::vector<std::uint32_t> written;  // by the writer's word
};

class GetFlight final : public Flight {
 public:
  GetFlight(std::uint64_t request, std::shared_ptr<Operation> operation,
            std::vector<std::uint32_t> items, std::uint64_t sent_ns)
      : Flight(request, std::move(operation), std::move(items), sent_ns), incoming_(size()) {}

  Result<void> on_frame(FlightDeck& deck, const wire::Header& header,
                        std::span<const std::byte> body) override;
  Result<Landing> on_data(FlightDeck& deck, const wire::Data& data, std::uint32_t bytes) override;
  void on_landed(FlightDeck& deck, const wire::Data& data, std::uint32_t bytes) override;

 private:
  Result<void> begin_landing(FlightDeck& deck, const wire::GetBlock& block);
  void report(FlightDeck& deck, std::uint32_t index);

  std::vector<std::unique_ptr<Incoming>> incoming_;  // one an item, from its GET_BLOCK on
};

Result<void> GetFlight::on_frame(FlightDeck& deck, const wire::Header& header,
                                 std::span<const std::byte> body) {
  if (header.type != wire::Type::get_block) {
    return fail(Code::protocol, std::string(wire::type_name(header.type)) + " in answer to a GET");
  }
  const auto block = wire::decode_get_block(body);
  if (!block) return fail(block.error());
  deck.saw_epoch(block->epoch);
  if (block->item >= size()) return fail(Code::protocol, "GET_BLOCK for an item never asked for");
  if (over(block->item) || incoming_[block->item] != nullptr) {
    return fail(Code::protocol, "a second GET_BLOCK for one item");
  }
  if (block->code == Code::ok) return begin_landing(deck, *block);
  if (block->code == Code::exists || !block->crcs.empty()) {
    return fail(Code::protocol, "GET_BLOCK brings no block, and yet it does");
  }
  finish(deck, block->item, block->code);
  return {};
}

Result<void> GetFlight::begin_landing(FlightDeck& deck, const wire::GetBlock& block) {
  Operation::Item& wanted = item(block.item);
  const std::uint64_t stop = std::uint64_t{wanted.offset} + wanted.target.size();
  if (block.block_length > kBlockBytesMax || stop > block.block_length) {
    return fail(Code::protocol, "GET_BLOCK grants a range that its block does not have");
  }
  const std::uint32_t unit = unit_bytes_of(block.block_length);
  const std::uint64_t first = wanted.offset / unit;
  const std::uint64_t units = (stop - 1) / unit - first + 1;
  if (block.first_unit != first || block.crcs.size() != units * sizeof(std::uint32_t)) {
    return fail(Code::protocol, "GET_BLOCK's units are not those that cover the range");
  }
  auto incoming = std::make_unique<Incoming>(
      unit, first * unit, std::min<std::uint64_t>((first + units) * unit, block.block_length));
  incoming->written.resize(units);
  wire::load_crcs(block.crcs, incoming->written);
  incoming_[block.item] = std::move(incoming);
  wanted.incarnation = block.incarnation;
  wanted.copied = block.copied == 1;
  wanted.connection = deck.connection();
  return {};
}

Result<Landing> GetFlight::on_data(FlightDeck& deck, const wire::Data& data, std::uint32_t bytes) {
  Incoming* incoming = data.item < size() ? incoming_[data.item].get() : nullptr;
  if (incoming == nullptr) return fail(Code::protocol, "DATA for an item without a GET_BLOCK");
  if (data.offset != incoming->next || bytes > incoming->end - incoming->next) {
    return fail(Code::protocol, "DATA out of its order or past the last unit");
  }
  // What lies before and behind the range is read for the CRCs only.
  const Operation::Item& wanted = item(data.item);
  const std::uint64_t begin = data.offset;
  const std::uint64_t end = begin + bytes;
  const std::uint64_t want_begin = std::clamp<std::uint64_t>(wanted.offset, begin, end);
  const std::uint64_t want_end =
      std::clamp<std::uint64_t>(wanted.offset + wanted.target.size(), want_begin, end);
  const std::span<std::byte> scratch = deck.scratch();
  Landing landing;
  landing.crcs = &incoming->arrived;
  const auto add = [&landing](std::byte* place, std::uint64_t size) {
    if (size > 0) landing.pieces[landing.count++] = iovec{place, size};
  };
  add(scratch.data(), want_begin - begin);
  if (want_end > want_begin) {
    add(wanted.target.data() + (want_begin - wanted.offset), want_end - want_begin);
  }
  add(scratch.data() + (want_begin - begin), end - want_end);
  return landing;
}

void GetFlight::on_landed(FlightDeck& deck, const wire::Data& data, std::uint32_t bytes) {
  Incoming& incoming = *incoming_[data.item];
  incoming.next += bytes;
  if (incoming.next < incoming.end) return;
  const bool right = mutant(Mutant::skip_crc_on_read) ||
                     (incoming.arrived.complete() &&
                      std::ranges::equal(incoming.arrived.crcs(), incoming.written));
  if (!right) report(deck, data.item);
  finish(deck, data.item, right ? Code::ok : Code::corrupt);
}

// Tells the node, so that it looks at its copies and takes the block out.
void GetFlight::report(FlightDeck& deck, std::uint32_t index) {
  std::array<std::byte, wire::kSmallBodyMax> body;
  const wire::Report report{
      .space = operation()->space, .incarnation = item(index).incarnation, .key = item(index).key};
  const std::size_t bytes = wire::encode(report, body);
  deck.send(wire::Type::report, request(), std::span(body).first(bytes));
}

}  // namespace

std::unique_ptr<Flight> make_get_flight(std::uint64_t request, std::shared_ptr<Operation> operation,
                                        std::vector<std::uint32_t> items, std::uint64_t sent_ns) {
  return std::make_unique<GetFlight>(request, std::move(operation), std::move(items), sent_ns);
}

}  // namespace memkv
