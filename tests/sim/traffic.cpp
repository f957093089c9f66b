#include "sim/traffic.h"

#include <algorithm>
#include <array>

namespace memkv::sim {
namespace {

constexpr std::size_t kGuardBytes = 64;
constexpr std::byte kGuard{0x5a};
constexpr std::byte kLeftAlone{0xa5};
constexpr std::uint64_t kLostMs =
    300;  // a lane whose request found no node rests for up to so long
constexpr std::uint64_t kWatchedMs = 700;  // after a request, its memory is watched for so long

using What = Operation::What;

std::string word_of(What what) {
  static constexpr std::array<const char*, 4> kWords = {"put", "get", "match", "drop"};
  return kWords[static_cast<std::size_t>(what)];
}

bool all_are(std::span<const std::byte> bytes, std::byte wanted) {
  return std::ranges::all_of(bytes, [wanted](std::byte one) { return one == wanted; });
}

// What no answer may be, whatever the world does: the clients break no rule and have valid tokens.
// A put is denied when its drop generation is over.
bool impossible(What what, Code code, bool rules) {
  if (code == Code::denied && what == What::put && rules) return false;
  if (code == Code::internal || code == Code::denied || code == Code::unsupported) return true;
  return code == Code::invalid && what != What::get;
}

std::uint64_t draw_timeout_ms(Random& random) {
  switch (random.below(8)) {
    case 0:
      return 1 + random.below(5);
    case 1:
      return 5 + random.below(100);
    case 2:
      return 0;  // the client's
    default:
      return 200 + random.below(2000);
  }
}

}  // namespace

Traffic::Traffic(World& world, const Plan& plan, Oracle& oracle, Journal& journal, Totals& totals)
    : world_(world),
      plan_(plan),
      oracle_(oracle),
      journal_(journal),
      totals_(totals),
      left_(plan.requests) {}

void Traffic::found(const Finding& finding) {
  if (finding.empty()) return;
  journal_.add("FINDING " + finding);
  if (finding_.empty()) finding_ = finding;
}

std::string Traffic::describe(const Operation& operation) const {
  std::string text = operation.client->name() + " " + word_of(operation.what) + " #" +
                     std::to_string(operation.number);
  for (const Item& item : operation.items) {
    text += " [" + std::to_string(item.id.space) + "/" + std::to_string(item.id.key);
    if (item.value != nullptr) text += " v" + std::to_string(item.value->number);
    if (item.length > 0)
      text += " " + std::to_string(item.offset) + "+" + std::to_string(item.length);
    text += operation.settled ? " " + std::string(code_name(item.code)) + "]" : "]";
  }
  return text;
}

// ---- making requests

void Traffic::start(ClientHost& client) {
  const std::uint64_t life = ++lives_[client.name()];
  for (unsigned lane = 0; lane < plan_.lanes; ++lane) next(client, life, true);
}

void Traffic::next(ClientHost& client, std::uint64_t life, bool was_lost) {
  if (left_ == 0 || lives_[client.name()] != life) return;
  std::uint64_t think_ns = world_.random().below(plan_.think_us * 1000 + 1);
  if (was_lost) think_ns += world_.random().below(kLostMs * kNsPerMs);
  world_.after(think_ns, [this, &client, life] {
    if (left_ == 0 || lives_[client.name()] != life || !finding_.empty()) return;
    --left_;
    if (made_) made_();
    const OperationPtr operation = draw(client);
    submit(operation, [this, &client, life, done = operation.get()] {
      const bool lost = std::ranges::all_of(
          done->items, [](const Item& item) { return item.code == Code::unreachable; });
      next(client, life, lost);
    });
    disturb(operation);
  });
}

Traffic::OperationPtr Traffic::draw(ClientHost& client) {
  Random& random = world_.random();
  auto operation = std::make_shared<Operation>();
  operation->client = &client;
  operation->timeout_ms = draw_timeout_ms(random);
  const std::uint64_t kind = random.below(100);
  const std::uint64_t rest = 100 - plan_.drops;
  operation->what = kind >= rest             ? What::drop
                    : kind < rest * 42 / 100 ? What::put
                    : kind < rest * 94 / 100 ? What::get
                                             : What::match;
  const auto space = static_cast<unsigned>(std::min(random.below(kSpaces), random.below(kSpaces)));
  std::uint64_t count = 1 + random.below(operation->what == What::drop ? 2 : 5);
  if (operation->what == What::get && random.below(5) == 0) count += random.below(12);
  for (std::uint64_t i = 0; i < count; ++i) {
    const auto key =
        static_cast<unsigned>(std::min(random.below(plan_.keys), random.below(plan_.keys)));
    const Identity id{client.tenant(), space, key};
    if (operation->what == What::put) {
      add_put(*operation, id);
    } else if (operation->what == What::get) {
      add_get(*operation, id);
    } else {
      operation->items.push_back({.id = id});
    }
  }
  // Two ranges of one block: far apart, so that much can happen between them.
  if (operation->what == What::get && random.below(3) == 0) {
    add_get(*operation, operation->items[0].id);
  }
  return operation;
}

void Traffic::add_put(Operation& operation, const Identity& id) {
  Random& random = world_.random();
  // Mostly the key's own length, so that a new value finds room exactly where an old one lay.
  SeededRandom own(plan_.seed + id.tenant * 1000 + id.space * 100 + id.key);
  const std::uint32_t length =
      draw_length(random.below(5) == 0 ? random : own, plan_.block_bytes_max);
  Value& value = oracle_.value_for(id, random.below(12) == 0, length);
  Item item{.id = id};
  item.length = static_cast<std::uint32_t>(value.bytes.size());
  item.memory = value.bytes;
  item.value = &value;
  operation.items.push_back(std::move(item));
}

void Traffic::add_get(Operation& operation, const Identity& id) {
  Random& random = world_.random();
  Item item{.id = id};
  item.length = oracle_.likely_length(id);
  if (item.length == 0) item.length = static_cast<std::uint32_t>(1 + random.below(5000));
  if (random.below(3) == 0) {
    item.offset = static_cast<std::uint32_t>(random.below(item.length));
    item.length = static_cast<std::uint32_t>(1 + random.below(item.length - item.offset));
  } else if (random.below(40) == 0) {
    item.offset = item.length;  // outside
  }
  item.memory.assign(item.length, std::byte{0xee});
  operation.items.push_back(std::move(item));
}

std::shared_ptr<Operation> Traffic::put_one(ClientHost& client, const Identity& id,
                                            std::uint32_t length) {
  auto operation = std::make_shared<Operation>();
  operation->client = &client;
  operation->what = What::put;
  operation->timeout_ms = 1000;
  Value& value = oracle_.value_for(id, false, length);
  operation->items.push_back({.id = id, .memory = value.bytes, .value = &value});
  operation->items[0].length = static_cast<std::uint32_t>(value.bytes.size());
  submit(operation, [] {});
  return operation;
}

std::shared_ptr<Operation> Traffic::get_one(ClientHost& client, const Identity& id) {
  auto operation = std::make_shared<Operation>();
  operation->client = &client;
  operation->what = What::get;
  operation->timeout_ms = 1000;
  operation->items.push_back({.id = id});
  Item& item = operation->items[0];
  item.length = std::max(1u, oracle_.likely_length(id));
  item.memory.assign(item.length, std::byte{0xee});
  submit(operation, [] {});
  return operation;
}

void Traffic::submit(const OperationPtr& operation, std::function<void()> then) {
  operation->number = next_number_++;
  for (Item& item : operation->items) {
    item.key = key_bytes(item.id.key);
    item.memory.resize(item.memory.size() + kGuardBytes, kGuard);
    item.began = operation->what == What::put    ? oracle_.begin_put(*item.value)
                 : operation->what == What::drop ? oracle_.begin_drop()
                                                 : oracle_.begin_get();
  }
  ++open_;
  running_.push_back(operation);
  journal_.add(describe(*operation));
  const std::uint64_t most_ms =
      (operation->timeout_ms == 0 ? kTimeoutMsDefault : operation->timeout_ms) + kLateMs;
  world_.after(most_ms * kNsPerMs, [this, operation] {
    if (!operation->over && !operation->crashed) {
      found(describe(*operation) + " is not over " + std::to_string(kLateMs) +
            " ms after its time");
    }
  });
  send(*operation, [this, weak = std::weak_ptr(operation), then = std::move(then)] {
    const OperationPtr self = weak.lock();
    if (!self) return;
    if (self->over) found(describe(*self) + " is over twice");
    self->over = true;
    if (everywhere_) self->everywhere = everywhere_(self->client->client().stats().epoch);
    world_.after(0, [this, self, then] {
      settle(self);
      then();
    });
  });
}

void Traffic::send(Operation& operation, Finished finished) {
  Client& client = operation.client->client();
  const Namespace space = space_of(operation.items[0].id.space);
  const std::uint64_t timeout_ms = operation.timeout_ms;
  if (operation.what == What::put) {
    std::vector<PutBlock> blocks;
    for (Item& item : operation.items) {
      blocks.push_back({.key = item.key, .bytes = std::span(item.memory).first(item.length)});
      blocks.back().depth = item.id.key;
    }
    operation.request = client.put(space, blocks, timeout_ms, std::move(finished));
  } else if (operation.what == What::get) {
    std::vector<GetBlock> blocks;
    for (Item& item : operation.items) {
      blocks.push_back({.key = item.key,
                        .offset = item.offset,
                        .target = std::span(item.memory).first(item.length)});
    }
    operation.request = client.get(space, blocks, timeout_ms, std::move(finished));
  } else {
    std::vector<NamedBlock> blocks;
    for (Item& item : operation.items) blocks.push_back({.key = item.key});
    operation.request = operation.what == What::match
                            ? client.match(space, blocks, 20, timeout_ms, std::move(finished))
                            : client.drop(space, blocks, timeout_ms, std::move(finished));
  }
}

// Some requests are cancelled, some are abandoned: their handle is destroyed.
void Traffic::disturb(const OperationPtr& operation) {
  Random& random = world_.random();
  if (random.below(12) != 0) return;
  const bool abandon = random.below(2) == 0;
  const std::uint64_t after_ns = random.below(random.below(2) == 0 ? kNsPerMs : 30 * kNsPerMs);
  world_.after(after_ns, [this, operation, abandon] {
    if (operation->over || operation->crashed || !operation->request) return;
    journal_.add((abandon ? "abandon #" : "cancel #") + std::to_string(operation->number));
    ++(abandon ? totals_.abandoned : totals_.cancelled);
    if (abandon) {
      operation->request.reset();
    } else {
      operation->request->cancel();
    }
    world_.after(kLateMs * kNsPerMs, [this, operation] {
      if (operation->over || operation->crashed) return;
      found(describe(*operation) + " is not over " + std::to_string(kLateMs) +
            " ms after its cancel");
    });
  });
}

void Traffic::forget(ClientHost& client) {
  ++lives_[client.name()];
  for (const OperationPtr& operation : std::vector(running_)) {
    if (operation->client != &client) continue;
    operation->crashed = true;
    operation->request.reset();
    settle(operation);
  }
}

// ---- answers

void Traffic::settle(const OperationPtr& operation) {
  if (operation->settled) return;
  const bool known = operation->request != nullptr && operation->over && !operation->crashed;
  if (known && operation->request->codes().size() != operation->items.size()) {
    return found(describe(*operation) + " has another number of codes than blocks");
  }
  if (known) {
    for (std::size_t i = 0; i < operation->items.size(); ++i) {
      operation->items[i].code = operation->request->codes()[i];
    }
  }
  operation->settled = true;
  --open_;
  std::erase(running_, operation);
  journal_.add("  over: " + describe(*operation));
  for (std::size_t i = 0; i < operation->items.size(); ++i) {
    Item& item = operation->items[i];
    if (known && impossible(operation->what, item.code, plan_.published())) {
      found(describe(*operation) + ": this can be no answer");
    }
    if (item.code == Code::timeout) ++totals_.timeouts;
    if (item.code == Code::unreachable) ++totals_.unreachable;
    if (operation->what == What::put) settle_put(item);
    if (operation->what == What::drop) settle_drop(*operation, item);
    if (operation->what == What::match && known) settle_match(*operation, i);
  }
  if (operation->what == What::get && known) settle_gets(*operation);
  for (Item& item : operation->items) {
    if (!all_are(std::span(item.memory).subspan(item.length), kGuard) && !item.memory.empty()) {
      found(describe(*operation) + " wrote outside of its target");
    }
    std::ranges::fill(item.memory, kLeftAlone);
  }
  world_.after(kWatchedMs * kNsPerMs, [this, operation] { retire(operation); });
}

void Traffic::settle_put(Item& item) {
  ++totals_.puts;
  if (item.code == Code::ok) ++totals_.put_ok;
  if (item.code == Code::exists) ++totals_.put_exists;
  if (item.code == Code::conflict) ++totals_.put_conflict;
  if (item.code == Code::busy) ++totals_.put_busy;
  if (item.code == Code::denied) ++totals_.put_denied;
  found(oracle_.end_put(*item.value, item.began, item.code));
}

void Traffic::settle_drop(const Operation& operation, const Item& item) {
  ++totals_.drops;
  oracle_.end_drop(item.id, item.began, item.code, operation.everywhere);
  if (item.code != Code::ok) return;
  ++totals_.dropped;
  if (plan_.moves && operation.everywhere) ++totals_.dropped_moving;
  if (dropped_) dropped_(item.id);
}

void Traffic::settle_match(const Operation& operation, std::size_t index) {
  const Match& match = operation.request->matches()[index];
  const Item& item = operation.items[index];
  ++totals_.matches;
  if (match.code != Code::ok || match.where == Where::absent) return;
  ++totals_.matched;
  found(oracle_.check_match(item.id, match.length, item.began));
}

// Ranges of one block in one request must be of one value, so each narrows what the next may be of.
void Traffic::settle_gets(Operation& operation) {
  std::map<Identity, std::set<unsigned>> values;
  for (Item& item : operation.items) {
    ++totals_.gets;
    if (oracle_.likely_length(item.id) != 0) ++totals_.get_known;
    if (item.code != Code::ok) continue;
    ++totals_.get_ok;
    totals_.bytes_checked += item.length;
    const auto bytes = std::span<const std::byte>(item.memory).first(item.length);
    found(oracle_.check_get(item.id, item.offset, bytes, item.began, values[item.id]));
  }
}

void Traffic::retire(const OperationPtr& operation) {
  for (const Item& item : operation->items) {
    if (all_are(item.memory, kLeftAlone)) continue;
    found("the memory of " + describe(*operation) + " was written after it was over");
  }
  operation->request.reset();
}

}  // namespace memkv::sim
