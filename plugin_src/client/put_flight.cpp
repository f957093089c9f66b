#include <array>
#include <string>
#include <utility>

#include "base/mutant.h"
#include "client/flight.h"

namespace memkv {
namespace {

class PutFlight final : public Flight {
 public:
  PutFlight(std::uint64_t request, std::shared_ptr<Operation> operation,
            std::vector<std::uint32_t> items, std::uint64_t sent_ns)
      : Flight(request, std::move(operation), std::move(items), sent_ns), outgoing_(size()) {}

  Result<void> on_frame(FlightDeck& deck, const wire::Header& header,
                        std::span<const std::byte> body) override;
  void on_sent(FlightDeck& deck, std::uint32_t index) override;
  void on_recalled(FlightDeck& deck, std::uint32_t index) override;
  void on_released(FlightDeck& deck) override;

 private:
  enum class Step : std::uint8_t { asked, shipping, held, committed, recalling };
  struct Outgoing {
    Step step = Step::asked;
    Code code = Code::ok;            // while recalling: what the item will be
    std::unique_ptr<UnitCrcs> crcs;  // from the grant on
  };

  Result<void> on_grant(FlightDeck& deck, std::uint32_t index);
  Result<void> on_put_done(FlightDeck& deck, const wire::PutDone& done);
  void commit(FlightDeck& deck, std::uint32_t index);

  std::vector<Outgoing> outgoing_;  // one an item
};

Result<void> PutFlight::on_frame(FlightDeck& deck, const wire::Header& header,
                                 std::span<const std::byte> body) {
  if (header.type == wire::Type::grant) {
    const auto grant = wire::decode_grant(body);
    return grant ? on_grant(deck, grant->item) : fail(grant.error());
  }
  if (header.type == wire::Type::put_done) {
    const auto done = wire::decode_put_done(body);
    if (!done) return fail(done.error());
    deck.saw_epoch(done->epoch);
    return on_put_done(deck, *done);
  }
  return fail(Code::protocol, std::string(wire::type_name(header.type)) + " in answer to a PUT");
}

Result<void> PutFlight::on_grant(FlightDeck& deck, std::uint32_t index) {
  if (index >= size()) return fail(Code::protocol, "GRANT for an item never asked for");
  Outgoing& outgoing = outgoing_[index];
  if (over(index) || outgoing.step != Step::asked) {
    return fail(Code::protocol, "a second GRANT for one item, or one that comes too late");
  }
  const std::span<const std::byte> bytes = item(index).bytes;
  outgoing.step = Step::shipping;
  outgoing.crcs = std::make_unique<UnitCrcs>(unit_bytes_of(bytes.size()), bytes.size());
  deck.ship(*this, index, bytes, *outgoing.crcs);
  return {};
}

void PutFlight::on_sent(FlightDeck& deck, std::uint32_t index) {
  if (outgoing_[index].step != Step::shipping) return;
  if (!operation()->hold || mutant(Mutant::commit_held)) return commit(deck, index);
  outgoing_[index].step = Step::held;
  item(index).at_gate = true;
  operation()->look_at_gate();
}

void PutFlight::on_released(FlightDeck& deck) {
  for (std::uint32_t i = 0; i < size(); ++i) {
    if (!over(i) && outgoing_[i].step == Step::held) commit(deck, i);
  }
}

void PutFlight::commit(FlightDeck& deck, std::uint32_t index) {
  Outgoing& outgoing = outgoing_[index];
  outgoing.step = Step::committed;
  const std::span<const std::uint32_t> written = outgoing.crcs->crcs();
  std::array<std::byte, kUnitsMax * sizeof(std::uint32_t)> crcs;
  const auto packed = std::span(crcs).first(written.size() * sizeof(std::uint32_t));
  wire::store_crcs(written, packed);
  std::array<std::byte, wire::kSmallBodyMax> body;
  const std::size_t bytes = wire::encode(wire::Commit{.item = index, .crcs = packed}, body);
  deck.send(wire::Type::commit, request(), std::span(body).first(bytes));
}

Result<void> PutFlight::on_put_done(FlightDeck& deck, const wire::PutDone& done) {
  if (done.item >= size()) return fail(Code::protocol, "PUT_DONE for an item never asked for");
  Outgoing& outgoing = outgoing_[done.item];
  if (over(done.item) || outgoing.step == Step::recalling) {
    return fail(Code::protocol, "a second PUT_DONE for one item");
  }
  if (done.code == Code::ok && outgoing.step != Step::committed) {
    return fail(Code::protocol, "PUT_DONE says ok before there was a COMMIT");
  }
  if (outgoing.step == Step::shipping) {
    outgoing.step = Step::recalling;  // the bytes are still being read
    outgoing.code = done.code;
    deck.recall(*this, done.item);
    return {};
  }
  finish(deck, done.item, done.code);
  return {};
}

void PutFlight::on_recalled(FlightDeck& deck, std::uint32_t index) {
  if (!over(index)) finish(deck, index, outgoing_[index].code);
}

}  // namespace

std::unique_ptr<Flight> make_put_flight(std::uint64_t request, std::shared_ptr<Operation> operation,
                                        std::vector<std::uint32_t> items, std::uint64_t sent_ns) {
  return std::make_unique<PutFlight>(request, std::move(operation), std::move(items), sent_ns);
}

}  // namespace memkv
