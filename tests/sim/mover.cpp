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

std::string address_of(unsigned node) {
  return "node" + std::to_string(node) + ":9900";
}

std::vector<PlacementNode> nodes() {
  std::vector<PlacementNode> all;
  for (unsigned i = 0; i < kNodes; ++i) all.push_back({node_id_of(address_of(i)), 100});
  return all;
}

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
  std::unique_ptr<Request> get;
  std::unique_ptr<HeldRequest> put;
};

Mover::Mover(World& world, unsigned number, unsigned tenant)
    : world_(world), number_(number), tenant_(tenant) {}

Mover::~Mover() {
  crash();
}

std::unique_ptr<Client> Mover::open(unsigned node) {
  ClientOptions options;
  options.nodes = {address_of(node)};
  options.token = token_of(tenant_);
  options.name = "mover";
  options.follow = false;
  auto client =
      Client::open(options, ClientWorld{process_->executor(), process_->network(), *random_});
  MEMKV_CHECK(client.has_value(), "a client opens over a world");
  return std::move(*client);
}

void Mover::boot(bool settled) {
  settles_only_ = settled;
  cursor_ = 0;
  done_ = false;
  found_ = true;
  process_ = world_.spawn("mover" + std::to_string(number_) + "of" + std::to_string(tenant_));
  random_ = std::make_unique<SeededRandom>(world_.random().next());
  own_ = open(number_);
  other_ = open((number_ + 1) % kNodes);
  later(10'000, &Mover::look);
}

void Mover::crash() {
  if (down()) return;
  process_->kill();
  move_.reset();
  own_.reset();
  other_.reset();
  random_.reset();
  process_.reset();
}

void Mover::later(std::uint64_t most_us, void (Mover::*what)()) {
  process_->executor().after(random_->below(most_us + 1) * 1000, [this, what] { (this->*what)(); });
}

// This node has the block on its first place, and the other is its second.
bool Mover::belongs_there(const Fingerprint& group) const {
  return place(group, nodes()) == number_;
}

void Mover::ask(const Question& question, std::function<void(Result<std::string>)> got) {
  own_->ask(0, question, kTimeoutMs,
            [got = std::move(got)](Result<std::string> text) { got(std::move(text)); });
}

void Mover::begin_pass() {
  done_ = settles_ && !in_dram_ && !found_;
  settles_ = settles_only_ || random_->below(2) == 0;
  in_dram_ = random_->below(3) == 0;
  found_ = false;
}

void Mover::look() {
  move_.reset();
  if (cursor_ == 0) begin_pass();
  Question question{.asks = wire::Type::list, .answers = wire::Type::list_reply, .body = {}};
  question.body.resize(wire::kSmallBodyMax);
  const wire::List list{.cursor = cursor_,
                        .count = 1,
                        .mark_not = wire::kMarkCopied,
                        .copies_min = static_cast<std::uint8_t>(settles_ ? kCopiesMax : 0),
                        .dram = static_cast<std::uint8_t>(in_dram_ ? 1 : 0)};
  question.body.resize(wire::encode(list, question.body));
  ask(question, [this](Result<std::string> text) {
    if (!text) {
      found_ = true;
      return later(20'000, &Mover::look);
    }
    listed(*text);
  });
}

void Mover::listed(const std::string& text) {
  auto reply = wire::ListReplyReader::open(as_bytes_of(text));
  MEMKV_CHECK(reply.has_value(), "a node's list is one");
  cursor_ = reply->head().next;
  const auto block = reply->next();
  if (!block) return later(3'000, &Mover::look);
  MEMKV_CHECK(!settles_ || block->space == space_of(kTwofold), "a list is as it was asked for");
  if (!settles_ && !belongs_there(block->traits.group)) return later(3'000, &Mover::look);
  move_ = std::make_unique<Move>();
  move_->space = block->space;
  move_->memory->key.assign(block->key.begin(), block->key.end());
  move_->memory->bytes.resize(block->length);
  move_->incarnation = block->incarnation;
  move_->traits = block->traits;
  later(2'000, &Mover::read);
}

void Mover::read() {
  const std::array<GetBlock, 1> blocks = {GetBlock{
      .key = move_->memory->key, .group = {}, .offset = 0, .target = move_->memory->bytes}};
  move_->get = own_->get(move_->space, blocks, kTimeoutMs, [this, memory = move_->memory] {
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
                                                   .group_print = move_->traits.group}};
  move_->put = other_->put_held(move_->space, blocks, kTimeoutMs,
                                [memory = move_->memory] { (void)memory; });
  await_held(kLooks);
}

void Mover::await_held(unsigned looks) {
  if (move_->put->done() && move_->put->codes()[0] == Code::exists) {
    return say_copied([this](bool) { end(); });
  }
  if (move_->put->done() || looks == 0) return end();
  if (move_->put->wait_held(0)) return later(3'000, &Mover::mark);
  process_->executor().after(kNsPerMs, [this, looks] { await_held(looks - 1); });
}

void Mover::mark() {
  say_copied([this](bool here) {
    if (!here) return end();
    later(3'000, &Mover::end);
    move_->put->release();
  });
}

// Marks the block here; whether it is.
void Mover::say_copied(std::function<void(bool)> said) {
  Question question{.asks = wire::Type::mark, .answers = wire::Type::mark_reply, .body = {}};
  question.body.resize(wire::kSmallBodyMax);
  const wire::Mark mark{.space = move_->space,
                        .mark = wire::kMarkCopied,
                        .incarnation = move_->incarnation,
                        .key = move_->memory->key};
  question.body.resize(wire::encode(mark, question.body));
  ask(question, [said = std::move(said)](Result<std::string> text) {
    const auto reply = text ? wire::decode_mark_reply(as_bytes_of(*text)) : fail(text.error());
    said(reply && reply->code == Code::ok);
  });
}

// It is over, or is given up.
void Mover::end() {
  found_ = found_ || !move_->put->done() || move_->put->codes()[0] != Code::conflict;
  if (move_->put->done() && move_->put->codes()[0] == Code::ok) {
    ++copied_;
    settled_ += settles_ ? 1 : 0;
  }
  later(3'000, &Mover::look);
}

}  // namespace memkv::sim
