#include "sim/mover.h"

#include <array>
#include <functional>
#include <span>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"
#include "wire/wire.h"

namespace memkv::sim {
namespace {

constexpr std::uint64_t kTimeoutMs = 500;
constexpr unsigned kLooks = 50;  // for a block to be held, a millisecond each

}  // namespace

struct Mover::Memory {
  std::vector<std::byte> key;
  std::vector<std::byte> bytes;
};

struct Mover::Move {
  Namespace space;
  std::shared_ptr<Memory> memory = std::make_shared<Memory>();
  std::uint64_t incarnation = 0;
  BlockTraits traits;
  std::uint8_t mark = 0;
  bool draining = false;
  bool settles = false;
  unsigned target = 0;
  std::unique_ptr<Request> get;
  std::unique_ptr<HeldRequest> put;
};

Mover::Mover(World& world, unsigned number, unsigned tenant)
    : world_(world), number_(number), tenant_(tenant) {}

Mover::~Mover() {
  crash();
}

Client& Mover::client(unsigned node) {
  std::unique_ptr<Client>& known = clients_.at(node);
  if (known) return *known;
  ClientOptions options;
  options.nodes = {address_of(node)};
  options.token = token_of(tenant_);
  options.name = "mover";
  options.follow = false;
  auto opened =
      Client::open(options, ClientWorld{process_->executor(), process_->network(), *random_});
  MEMKV_CHECK(opened.has_value(), "a client opens over a world");
  known = std::move(*opened);
  return *known;
}

void Mover::boot(bool settled) {
  settles_only_ = settled;
  cursor_ = 0;
  nodes_changed_ = true;
  done_ = false;
  found_ = true;
  process_ = world_.spawn("mover" + std::to_string(number_) + "of" + std::to_string(tenant_));
  random_ = std::make_unique<SeededRandom>(world_.random().next());
  later(10'000, &Mover::look);
}

void Mover::crash() {
  if (down()) return;
  process_->kill();
  move_.reset();
  for (auto& client : clients_) client.reset();
  random_.reset();
  process_.reset();
}

void Mover::later(std::uint64_t most_us, void (Mover::*what)()) {
  process_->executor().after(random_->below(most_us + 1) * 1000, [this, what] { (this->*what)(); });
}

// A draining node's blocks go to their first places; others to their second, or to their first
// where that is another node.
std::optional<unsigned> Mover::target_of(const Fingerprint& group) const {
  const auto first = place(group, nodes_);
  if (!first) return std::nullopt;
  if (*first != number_) return static_cast<unsigned>(*first);
  const auto second = draining_ ? std::nullopt : place_copy(group, nodes_);
  if (!second || *second == number_) return std::nullopt;
  return static_cast<unsigned>(*second);
}

void Mover::ask(const Question& question, std::function<void(Result<std::string>)> got) {
  client(number_).ask(0, question, kTimeoutMs,
                      [got = std::move(got)](Result<std::string> text) { got(std::move(text)); });
}

void Mover::look() {
  move_.reset();
  ask({.asks = wire::Type::map, .answers = wire::Type::map_reply, .body = {}},
      [this](Result<std::string> text) {
        if (!text) return look_later();
        learn(*text);
        if (cursor_ == 0) begin_pass();
        list();
      });
}

// The node did not answer: nobody knows what there is to copy.
void Mover::look_later() {
  found_ = true;
  later(20'000, &Mover::look);
}

// What its node goes by.
void Mover::learn(const std::string& text) {
  auto reply = wire::MapReplyReader::open(as_bytes_of(text));
  MEMKV_CHECK(reply.has_value(), "a node's map is one");
  const std::vector<PlacementNode> before =
      std::exchange(nodes_, std::vector<PlacementNode>(kNodes));
  draining_ = false;
  while (const auto named = reply->next()) {
    for (unsigned i = 0; i < kNodes; ++i) {
      if (named->address != address_of(i)) continue;
      nodes_.at(i) = {.id = named->node, .weight = named->weight, .domain = named->domain};
      if (i == number_) draining_ = named->draining == 1;
    }
  }
  nodes_changed_ = nodes_changed_ || nodes_ != before;
  const std::uint32_t epoch = reply->head().epoch;
  mark_ = draining_ ? static_cast<std::uint8_t>(2 + epoch % 254) : wire::kMarkCopied;
}

void Mover::begin_pass() {
  done_ = settles_ && !in_dram_ && !nodes_changed_ && !found_;
  settles_ = !draining_ && (settles_only_ || random_->below(2) == 0);
  marked_too_ = settles_ && std::exchange(nodes_changed_, false);
  in_dram_ = !marked_too_ && random_->below(3) == 0;
  found_ = false;
}

void Mover::list() {
  Question question{.asks = wire::Type::list, .answers = wire::Type::list_reply, .body = {}};
  question.body.resize(wire::kSmallBodyMax);
  const wire::List list{.cursor = cursor_,
                        .count = 1,
                        .mark_not = marked_too_ ? std::uint8_t{0} : mark_,
                        .copies_min = static_cast<std::uint8_t>(settles_ ? kCopiesMax : 0),
                        .dram = static_cast<std::uint8_t>(in_dram_ ? 1 : 0)};
  question.body.resize(wire::encode(list, question.body));
  ask(question, [this](Result<std::string> text) {
    if (!text) return look_later();
    listed(*text);
  });
}

void Mover::listed(const std::string& text) {
  auto reply = wire::ListReplyReader::open(as_bytes_of(text));
  MEMKV_CHECK(reply.has_value(), "a node's list is one");
  cursor_ = reply->head().next;
  const auto block = reply->next();
  MEMKV_CHECK(!block || !settles_ || block->space == space_of(kTwofold),
              "a list is as it was asked for");
  const auto target = block ? target_of(block->traits.group) : std::nullopt;
  if (!target) return later(3'000, &Mover::look);
  move_ = std::make_unique<Move>();
  move_->space = block->space;
  move_->memory->key.assign(block->key.begin(), block->key.end());
  move_->memory->bytes.resize(block->length);
  move_->incarnation = block->incarnation;
  move_->traits = block->traits;
  move_->mark = block->mark;
  move_->draining = draining_;
  move_->settles = settles_ && !draining_;
  move_->target = *target;
  later(2'000, &Mover::read);
}

void Mover::read() {
  const std::array<GetBlock, 1> blocks = {GetBlock{
      .key = move_->memory->key, .group = {}, .offset = 0, .target = move_->memory->bytes}};
  move_->get =
      client(number_).get(move_->space, blocks, kTimeoutMs, [this, memory = move_->memory] {
        const bool came = move_->get->codes()[0] == Code::ok;
        // Long enough for whole drops, which go to both nodes twice, to come between.
        if (came) return later(20'000, &Mover::hold);
        found_ = true;
        later(2'000, &Mover::look);
      });
}

void Mover::hold() {
  const std::array<PutBlock, 1> blocks = {PutBlock{.key = move_->memory->key,
                                                   .group = {},
                                                   .bytes = move_->memory->bytes,
                                                   .depth = move_->traits.depth,
                                                   .recompute_cost = move_->traits.recompute_cost,
                                                   .group_print = move_->traits.group,
                                                   .age_s = move_->traits.age_s}};
  move_->put =
      client(move_->target).put_held(move_->space, blocks, kTimeoutMs, [memory = move_->memory] {
        (void)memory;
      });
  await_held(kLooks);
}

void Mover::await_held(unsigned looks) {
  if (move_->put->done() || looks == 0) return end();
  if (move_->put->wait_held(0)) return later(3'000, &Mover::look_again);
  process_->executor().after(kNsPerMs, [this, looks] { await_held(looks - 1); });
}

// The mark stays what it was: it is the question that counts.
void Mover::look_again() {
  mark(move_->mark, [this](bool here) {
    if (!here) return end();
    later(3'000, &Mover::end);
    move_->put->release();
  });
}

void Mover::mark(std::uint8_t mark, std::function<void(bool)> told) {
  Question question{.asks = wire::Type::mark, .answers = wire::Type::mark_reply, .body = {}};
  question.body.resize(wire::kSmallBodyMax);
  const wire::Mark body{.space = move_->space,
                        .mark = mark,
                        .incarnation = move_->incarnation,
                        .key = move_->memory->key};
  question.body.resize(wire::encode(body, question.body));
  ask(question, [told = std::move(told)](Result<std::string> text) {
    const auto reply = text ? wire::decode_mark_reply(as_bytes_of(*text)) : fail(text.error());
    told(reply && reply->code == Code::ok);
  });
}

// It is over, or is given up; what is there gets its mark.
void Mover::end() {
  const Code code = move_->put->done() ? move_->put->codes()[0] : Code::busy;
  found_ = found_ || code != Code::conflict;
  if (code == Code::ok) {
    ++(move_->draining ? drained_ : copied_);
    settled_ += move_->settles ? 1 : 0;
  }
  if (code != Code::ok && code != Code::exists) return later(3'000, &Mover::look);
  mark(mark_, [this](bool) { later(3'000, &Mover::look); });
}

}  // namespace memkv::sim
