#include "client/flight.h"

#include <string>
#include <utility>

#include "base/bytes.h"

namespace memkv {

Flight::Flight(std::uint64_t request, std::shared_ptr<Operation> operation,
               std::vector<std::uint32_t> items, std::uint64_t sent_ns)
    : request_(request),
      operation_(std::move(operation)),
      items_(std::move(items)),
      over_(items_.size()),
      sent_ns_(sent_ns),
      open_(items_.size()) {}

Result<Landing> Flight::on_data(FlightDeck&, const wire::Data&, std::uint32_t) {
  return fail(Code::protocol, "DATA for a request that asked for no bytes");
}

void Flight::finish(FlightDeck& deck, std::uint32_t index, Code code) {
  if (over_[index]) return;
  over_[index] = true;
  open_ -= 1;
  deck.item_over(*this, index, code);
}

void Flight::end(FlightDeck& deck, Code code) {
  for (std::uint32_t i = 0; i < size(); ++i) {
    if (!over(i)) finish(deck, i, code);
  }
}

namespace {

// One question, one answer: MATCH, DROP, STAT, MAP, LIST and MARK.
class QuestionFlight final : public Flight {
 public:
  using Flight::Flight;

  Result<void> on_frame(FlightDeck& deck, const wire::Header& header,
                        std::span<const std::byte> body) override {
    const Operation::Kind kind = operation()->kind;
    if (kind == Operation::Kind::match && header.type == wire::Type::match_reply) {
      return on_matched(deck, body);
    }
    if (kind == Operation::Kind::drop && header.type == wire::Type::drop_reply) {
      return on_dropped(deck, body);
    }
    if ((kind == Operation::Kind::stat && header.type == wire::Type::stat_reply) ||
        (kind == Operation::Kind::map && header.type == wire::Type::map_reply)) {
      operation()->text = std::string(as_text_of(body));
      end(deck, Code::ok);
      return {};
    }
    if (kind == Operation::Kind::question && header.type == operation()->question.answers) {
      operation()->text = std::string(as_text_of(body));
      end(deck, Code::ok);
      return {};
    }
    return fail(Code::protocol,
                std::string(wire::type_name(header.type)) + " does not answer this request");
  }

 private:
  Result<void> on_matched(FlightDeck& deck, std::span<const std::byte> body) {
    auto reply = wire::MatchReplyReader::open(body);
    if (!reply) return fail(reply.error());
    if (reply->count() != size()) return wrong_count(reply->count());
    deck.saw_epoch(reply->head().epoch);
    for (std::uint32_t i = 0; i < size(); ++i) {
      const wire::Found found = reply->next().value_or(wire::Found{});
      Match& match = operation()->matches[index_of(i)];
      match.where = static_cast<Where>(found.where);
      match.length = found.length;
      item(i).copied = found.copied == 1;
      finish(deck, i, Code::ok);
    }
    return {};
  }

  Result<void> on_dropped(FlightDeck& deck, std::span<const std::byte> body) {
    auto reply = wire::DropReplyReader::open(body);
    if (!reply) return fail(reply.error());
    if (reply->count() != size()) return wrong_count(reply->count());
    deck.saw_epoch(reply->head().epoch);
    for (std::uint32_t i = 0; i < size(); ++i) {
      finish(deck, i, reply->next().value_or(wire::DropCode{Code::protocol}).code);
    }
    return {};
  }

  [[nodiscard]] std::unexpected<Status> wrong_count(std::uint32_t count) const {
    return fail(Code::protocol, "a reply of " + std::to_string(count) +
                                    " records to a request of " + std::to_string(size()));
  }
};

}  // namespace

std::unique_ptr<Flight> make_flight(std::uint64_t request, std::shared_ptr<Operation> operation,
                                    std::vector<std::uint32_t> items, std::uint64_t sent_ns) {
  switch (operation->kind) {
    case Operation::Kind::get:
      return make_get_flight(request, std::move(operation), std::move(items), sent_ns);
    case Operation::Kind::put:
      return make_put_flight(request, std::move(operation), std::move(items), sent_ns);
    default:
      return std::make_unique<QuestionFlight>(request, std::move(operation), std::move(items),
                                              sent_ns);
  }
}

}  // namespace memkv
