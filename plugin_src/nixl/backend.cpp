#include "nixl/backend.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "nixl/poison.h"
#include "nixl/stat.h"

namespace memkv::nixl {
namespace {

std::string_view where_word(Where where) {
  return where == Where::dram ? "dram" : "flash";
}

}  // namespace

Backend::Backend(const Settings& settings, std::string agent, std::unique_ptr<Client> client,
                 EngineWorld world)
    : settings_(settings),
      agent_(std::move(agent)),
      world_(std::move(world)),
      tower_(std::make_shared<Tower>(world_.clock)),
      registry_(settings.dialect, *tower_),
      client_(std::move(client)) {
  stat_ = joined(*client_);
}

Backend::~Backend() {
  left(stat_);
}

abi::Answer Backend::refuse(const Status& why) {
  const unsigned before = refusals_.fetch_add(1, std::memory_order_relaxed);
  if (before < kRefusalsLoggedMax) {
    log(LogLevel::warning, "MEMKV, agent " + agent_ + ": " + why.text);
  } else if (before == kRefusalsLoggedMax) {
    log(LogLevel::warning, "MEMKV, agent " + agent_ + ": further refusals are not logged");
  }
  return why.code == Code::conflict ? abi::Answer::not_allowed : abi::Answer::invalid_param;
}

abi::Answer Backend::add(abi::MemoryKind kind, const abi::DescribedPlace& place,
                         abi::Metadata*& out) {
  auto added = registry_.add(kind, place);
  if (!added) return refuse(added.error());
  out = *added;
  return abi::Answer::success;
}

abi::Answer Backend::remove(abi::Metadata* metadata) {
  const std::lock_guard lock(removing_);
  const auto memory = registry_.memory_of(metadata);
  if (!registry_.begin_removal(metadata)) return abi::Answer::invalid_param;
  if (memory) {
    for (const auto& flight : tower_->touching(memory->id)) {
      if (!end(*flight)) return abi::Answer::backend_error;
    }
  }
  registry_.remove(metadata);
  return abi::Answer::success;
}

abi::Answer Backend::prepare(abi::Direction direction, const abi::RegisteredList& local,
                             const abi::RegisteredList& remote, const abi::Options* options,
                             abi::Handle*& out) {
  auto transfer = Transfer::plan(registry_, direction, local, remote, options);
  if (!transfer) return refuse(transfer.error());
  out = transfer->release();
  return abi::Answer::success;
}

abi::Answer Backend::post(Transfer& transfer, const abi::Options* options) {
  if (transfer.flight && !transfer.flight->over()) return abi::Answer::repost_active;
  auto flight = Flight::start(tower_, transfer.flight_plan(options), [&](Finished finished) {
    return transfer.submit(*client_, settings_.space, std::move(finished));
  });
  if (!flight) {
    return refuse(Status(Code::invalid, "a transfer is posted whose memory was deregistered"));
  }
  transfer.flight = std::move(flight);
  return check(transfer);
}

abi::Answer Backend::check(const Transfer& transfer) const {
  if (!transfer.flight) return abi::Answer::not_posted;
  const Flight& flight = *transfer.flight;
  if (flight.over()) return flight.answer();
  // Its deadline ends it, unless an invariant is broken: then the engine shall not wait for ever.
  const bool given_up = poisoned() && flight.age_ms() > settings_.timeout_ms + kPoisonedWaitMs;
  return given_up ? abi::Answer::backend_error : abi::Answer::in_progress;
}

abi::Answer Backend::release(Transfer* transfer) {
  if (transfer->flight && !end(*transfer->flight)) return abi::Answer::backend_error;
  delete transfer;
  return abi::Answer::success;
}

void Backend::ground() {
  const auto flights = tower_->all();
  for (const auto& flight : flights) {
    if (Request* const request = flight->request()) request->cancel();
  }
  const std::uint64_t end_ns = world_.clock.now_ns() + kPoisonedWaitMs * kNsPerMs;
  for (const auto& flight : flights) {
    const std::uint64_t now_ns = world_.clock.now_ns();
    const std::uint64_t left_ms = now_ns < end_ns ? (end_ns - now_ns) / kNsPerMs : 0;
    if (Request* const request = flight->request()) (void)world_.wait(*request, left_ms);
  }
}

bool Backend::end(Flight& flight) {
  if (flight.over()) return true;
  Request* const request = flight.request();
  if (request == nullptr) return true;
  request->cancel();
  return wait_for_end(*request);
}

// The client ends what is cancelled or past its deadline as soon as no hand touches its memory;
// there is no time after which it would be right to go on without that. Only when an invariant is
// broken it may never come.
bool Backend::wait_for_end(Request& request) const {
  while (!world_.wait(request, kPoisonedWaitMs)) {
    if (poisoned()) return false;
  }
  return true;
}

// A query under way: the names it asks for live as long as its request.
struct Backend::Question {
  std::vector<ObjectName> names;
  std::vector<NamedBlock> blocks;
  std::vector<std::size_t> asked;  // which descriptor each block answers
  std::unique_ptr<Request> request;
};

std::unique_ptr<Backend::Question> Backend::question_of(const abi::DescribedList& list) {
  auto question = std::make_unique<Question>();
  question->names.reserve(list.places.size());
  for (std::size_t i = 0; i < list.places.size(); ++i) {
    auto name = name_of(settings_.dialect, list.places[i].device, list.places[i].info);
    if (!name) {
      (void)refuse(Status(name.error().code,
                          "query of descriptor " + std::to_string(i) + ": " + name.error().text));
      continue;
    }
    question->names.push_back(std::move(*name));
    const ObjectName& kept = question->names.back();
    question->blocks.push_back({.key = kept.key_bytes(), .group = kept.group_bytes()});
    question->asked.push_back(i);
  }
  return question;
}

abi::Answer Backend::query(const abi::DescribedList& list, std::vector<abi::Found>& out) {
  out.assign(list.places.size(), std::nullopt);
  if (list.kind != abi::MemoryKind::object) return abi::Answer::not_supported;
  auto question = question_of(list);
  if (question->blocks.empty()) return abi::Answer::success;
  question->request =
      client_->match(settings_.space, question->blocks, 0, settings_.query_timeout_ms);
  if (!wait_for_end(*question->request)) {  // its deadline ends it
    (void)question.release();
    return abi::Answer::success;
  }
  for (std::size_t i = 0; i < question->asked.size(); ++i) {
    const Match& match = question->request->matches()[i];
    if (match.code != Code::ok || match.where == Where::absent) continue;
    out[question->asked[i]] = abi::Parameters{{"size", std::to_string(match.length)},
                                              {"where", std::string(where_word(match.where))}};
  }
  return abi::Answer::success;
}

Rates::Estimate Backend::estimate(abi::Direction direction, std::uint64_t bytes) const {
  return tower_->rates().estimate(direction, bytes);
}

void Backend::take_notices(abi::Notices& out) {
  tower_->notices().take(agent_, out);
}

}  // namespace memkv::nixl
