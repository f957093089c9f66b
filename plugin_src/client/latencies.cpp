#include "client/latencies.h"

#include <algorithm>

#include "client/places.h"

namespace memkv {
namespace {

using Kind = Operation::Kind;

std::optional<RequestKind> kind_of(Kind kind) {
  if (kind == Kind::get) return RequestKind::get;
  if (kind == Kind::match) return RequestKind::match;
  if (kind == Kind::put) return RequestKind::put;
  return std::nullopt;
}

// Of one block; nothing when it was cancelled.
std::optional<Outcome> outcome_of(const Operation& operation, std::size_t index) {
  switch (operation.codes[index]) {
    case Code::ok:
    case Code::exists:
      return absent(operation, index) ? Outcome::miss : Outcome::hit;
    case Code::cancelled:
      return std::nullopt;
    case Code::not_found:
      return Outcome::miss;
    case Code::no_space:
    case Code::conflict:
    case Code::busy:
    case Code::denied:
      return operation.kind == Kind::put ? Outcome::miss : Outcome::error;
    default:
      return Outcome::error;
  }
}

}  // namespace

std::optional<Ending> ending_of(const Operation& operation) {
  const auto kind = kind_of(operation.kind);
  if (!kind || operation.codes.empty()) return std::nullopt;
  Ending ending{.kind = *kind};
  bool found = false;
  Outcome worst = Outcome::hit;
  for (std::size_t i = 0; i < operation.codes.size(); ++i) {
    const auto outcome = outcome_of(operation, i);
    if (!outcome) return std::nullopt;
    worst = std::max(worst, *outcome);
    if (*outcome != Outcome::hit) continue;
    found = true;
    const bool moved = operation.codes[i] == Code::ok;
    if (moved) ending.bytes += operation.items[i].bytes.size() + operation.items[i].target.size();
  }
  // A look-up asks how much of a prefix is there; that a part is not is no miss.
  const bool is_hit = *kind == RequestKind::match && worst == Outcome::miss && found;
  ending.outcome = is_hit ? Outcome::hit : worst;
  return ending;
}

void Latencies::note(const Ending& ending, std::uint64_t took_ns) {
  Cell& cell =
      cells_[static_cast<std::size_t>(ending.kind)][static_cast<std::size_t>(ending.outcome)];
  cell.buckets[Histogram::bucket_of(took_ns)].add(1);
  cell.sum_ns.add(took_ns);
  cell.bytes.add(ending.bytes);
}

RequestStats Latencies::read() const {
  RequestStats stats;
  for (std::size_t kind = 0; kind < kRequestKinds; ++kind) {
    for (std::size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      const Cell& cell = cells_[kind][outcome];
      std::array<std::uint64_t, Histogram::kBounds + 1> buckets{};
      std::ranges::transform(cell.buckets, buckets.begin(), &Number::get);
      stats.of[kind][outcome] = {.took = Histogram(buckets, cell.sum_ns.get()),
                                 .bytes = cell.bytes.get()};
    }
  }
  return stats;
}

std::string_view outcome_name(RequestKind kind, Outcome outcome) {
  const bool put = kind == RequestKind::put;
  if (outcome == Outcome::hit) return put ? "stored" : "hit";
  if (outcome == Outcome::miss) return put ? "refused" : "miss";
  return "error";
}

std::string_view kind_name(RequestKind kind) {
  static constexpr std::array<std::string_view, kRequestKinds> kNames = {"get", "match", "put"};
  return kNames[static_cast<std::size_t>(kind)];
}

}  // namespace memkv
