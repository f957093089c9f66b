#include "server/gets.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv {
namespace {

// What a range pins at the most: whole units, of the largest size there is. ship() knows better.
std::uint64_t cost_of(const wire::GetItem& what) {
  constexpr std::uint64_t kUnit = unit_bytes_of(kBlockBytesMax);
  const std::uint64_t end = round_up(std::uint64_t{what.offset} + what.length, kUnit);
  return std::min<std::uint64_t>(kBlockBytesMax, end - what.offset / kUnit * kUnit);
}

}  // namespace

Result<void> Gets::begin(std::uint64_t request, std::span<const std::byte> body) {
  Request fresh;
  fresh.body.assign(body.begin(), body.end());
  auto reader = wire::GetReader::open(fresh.body);
  if (!reader) return fail(reader.error());
  fresh.space = reader->head();
  fresh.items.reserve(reader->count());
  while (const auto item = reader->next()) fresh.items.emplace_back().what = *item;
  fresh.open = fresh.items.size();
  fresh.taken_ns = session_.server.now_ns();

  items_ += fresh.open;
  body_bytes_ += fresh.body.size();
  session_.server.counters.get_blocks += fresh.open;
  for (std::uint32_t i = 0; i < fresh.open; ++i) queue_.push_back({request, i});
  requests_.emplace(request, std::move(fresh));
  resume();
  return {};
}

void Gets::resume() {
  std::size_t begun = 0;
  while (!queue_.empty() && session_.may_begin()) {
    const QueuedItem next = queue_.front();
    Item* item = find(next.request, next.item, State::queued);
    MEMKV_CHECK(item != nullptr, "what is queued is there");
    const std::uint64_t cost = cost_of(item->what);
    if (bytes_pinned_ > 0 && bytes_pinned_ + cost > kGetBytesInFlightPerPeer) return;
    if (!session_.may_ask(bytes_asked_, cost)) return;
    if (begun == kBlocksPerSlice) {
      session_.resume_later();
      return;
    }
    ++begun;
    queue_.pop_front();
    item->cost = cost;
    ask(next.request, next.item);
  }
}

void Gets::ask(std::uint64_t request, std::uint32_t index) {
  Request& whole = requests_.at(request);
  Item& item = whole.items[index];
  item.state = State::asked;
  item.asked_ns = session_.server.now_ns();
  bytes_pinned_ += item.cost;
  bytes_asked_ += item.cost;
  const BlockId id{.tenant = session_.tenant, .space = whole.space, .key = item.what.key};
  item.get = session_.server.store.begin_get(
      id, item.what.offset, item.what.length,
      [this, request, index](Result<Pinned> pinned) { got(request, index, std::move(pinned)); });
}

void Gets::got(std::uint64_t request, std::uint32_t index, Result<Pinned> pinned) {
  const Item& item = requests_.at(request).items[index];
  count_delay(session_.server.now_ns() - item.asked_ns);
  bytes_asked_ -= item.cost;
  if (pinned) {
    ship(request, index, std::move(*pinned));
  } else {
    answer_failure(request, index, pinned.error().code);
  }
  resume();
}

void Gets::answer_failure(std::uint64_t request, std::uint32_t index, Code code) {
  Request& whole = requests_.at(request);
  Item& item = whole.items[index];
  count_failure(whole, code);
  wire::GetBlock reply{.epoch = session_.server.epoch, .item = index, .code = code};
  if (code == Code::invalid) {
    // The range leaves the block: the reader learns how long it is.
    const BlockId id{.tenant = session_.tenant, .space = whole.space, .key = item.what.key};
    const Found found = session_.server.store.match(id, 0);
    if (found.present) reply.block_length = found.length;
  }
  session_.send(wire::Type::get_block, request, reply);
  bytes_pinned_ -= item.cost;
  end(request, item);
}

void Gets::ship(std::uint64_t request, std::uint32_t index, Pinned pinned) {
  Request& whole = requests_.at(request);
  Item& item = whole.items[index];
  item.state = State::shipping;
  ++blocks_pinned_;
  item.get = pinned.get;
  std::uint64_t bytes = 0;
  for (const iovec& piece : pinned.pieces) bytes += piece.iov_len;
  bytes_pinned_ += bytes - item.cost;
  bytes_shipping_ += bytes;
  item.cost = bytes;
  count_hit(whole, bytes);

  std::array<std::byte, kUnitsMax * sizeof(std::uint32_t)> crcs;
  MEMKV_CHECK(pinned.crcs.size() <= kUnitsMax, "a block has at most kUnitsMax units");
  const std::span<std::byte> crc_bytes(crcs.data(), pinned.crcs.size_bytes());
  wire::store_crcs(pinned.crcs, crc_bytes);
  session_.send(wire::Type::get_block, request,
                wire::GetBlock{.epoch = session_.server.epoch,
                               .item = index,
                               .code = Code::ok,
                               .copied = copied(pinned.mark),
                               .incarnation = pinned.incarnation,
                               .block_length = pinned.block_length,
                               .first_unit = pinned.first_unit,
                               .crcs = crc_bytes});
  session_.link->ship(Shipment{.request = request,
                               .item = index,
                               .offset = pinned.first_unit * unit_bytes_of(pinned.block_length),
                               .pieces = std::move(pinned.pieces),
                               .crcs = nullptr,
                               .sent = [this, request, index] { sent(request, index); }});
}

void Gets::sent(std::uint64_t request, std::uint32_t index) {
  if (find(request, index, State::shipping) != nullptr) {
    const std::uint64_t taken_ns = requests_.at(request).taken_ns;
    session_.server.counters.get_whole.count(session_.server.now_ns() - taken_ns);
  }
  unpin(request, index, State::shipping);
  resume();
}

void Gets::unpin(std::uint64_t request, std::uint32_t index, State state) {
  Item* item = find(request, index, state);
  if (item == nullptr) return;
  session_.server.store.end_get(item->get);
  --blocks_pinned_;
  bytes_pinned_ -= item->cost;
  bytes_shipping_ -= item->cost;
  end(request, *item);
}

void Gets::cancel(std::uint64_t request, std::uint32_t item) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  if (item != wire::kAllItems) {
    if (find(request, item, State::queued) != nullptr) remove_from(queue_, request, item);
    if (item < found->second.items.size() && cancel_item(request, item)) recall(request, item);
  } else {
    remove_from(queue_, request, item);
    bool any = false;
    const auto count = static_cast<std::uint32_t>(found->second.items.size());
    for (std::uint32_t i = 0; i < count && requests_.contains(request); ++i)
      any = cancel_item(request, i) || any;
    if (any) recall(request, wire::kAllItems);
  }
  resume();
}

// True when the link has to be asked first: the block stays pinned until no hand reads it any more.
bool Gets::cancel_item(std::uint64_t request, std::uint32_t index) {
  Item& item = requests_.at(request).items[index];
  if (item.state == State::shipping) {
    item.state = State::recalled;
    return true;
  }
  if (item.state == State::asked) {
    session_.server.store.end_get(item.get);
    bytes_pinned_ -= item.cost;
    bytes_asked_ -= item.cost;
  }
  if (item.state == State::queued || item.state == State::asked) end(request, item);
  return false;
}

void Gets::recall(std::uint64_t request, std::uint32_t item) {
  session_.link->recall(request, item,
                        [this, request, item, alive = std::weak_ptr<bool>(session_.alive)] {
                          if (alive.expired()) return;
                          const auto found = requests_.find(request);
                          if (found == requests_.end()) return;
                          const auto count = static_cast<std::uint32_t>(found->second.items.size());
                          const std::uint32_t first = item == wire::kAllItems ? 0 : item;
                          const std::uint32_t last = item == wire::kAllItems ? count : item + 1;
                          for (std::uint32_t i = first; i < last; ++i) {
                            unpin(request, i, State::recalled);
                          }
                          resume();
                        });
}

void Gets::forget_waiting() {
  queue_.clear();
  for (auto& [request, whole] : requests_) {
    for (Item& item : whole.items) {
      if (item.state != State::asked) continue;
      session_.server.store.end_get(item.get);
      bytes_pinned_ -= item.cost;
      bytes_asked_ -= item.cost;
      item.state = State::over;
    }
  }
}

void Gets::forget_all() {
  forget_waiting();
  for (auto& [request, whole] : requests_) {
    for (const Item& item : whole.items) {
      if (item.state == State::shipping || item.state == State::recalled)
        session_.server.store.end_get(item.get);
    }
  }
  requests_.clear();
  items_ = 0;
  body_bytes_ = 0;
  bytes_pinned_ = 0;
  bytes_shipping_ = 0;
  blocks_pinned_ = 0;
}

Gets::Item* Gets::find(std::uint64_t request, std::uint32_t item, State state) {
  const auto found = requests_.find(request);
  if (found == requests_.end() || item >= found->second.items.size()) return nullptr;
  Item& it = found->second.items[item];
  return it.state == state ? &it : nullptr;
}

void Gets::end(std::uint64_t request, Item& item) {
  item.state = State::over;
  --items_;
  const auto found = requests_.find(request);
  if (--found->second.open > 0) return;
  body_bytes_ -= found->second.body.size();
  requests_.erase(found);
}

void Gets::count_delay(std::uint64_t delay_ns) {
  std::uint64_t& average = session_.server.get_delay_ns;
  average = average - average / 8 + delay_ns / 8;
}

void Gets::count_hit(const Request& whole, std::uint64_t bytes) {
  ServerContext& server = session_.server;
  server.counters.get_first_byte.count(server.now_ns() - whole.taken_ns);
  server.counters.get_bytes += bytes;
  SpaceCounters& space = server.spaces.claim(session_.tenant, whole.space.id);
  ++space.hits;
  space.get_bytes += bytes;
}

void Gets::count_failure(const Request& whole, Code code) {
  if (code != Code::not_found && code != Code::corrupt) return;
  ++session_.server.spaces.find(session_.tenant, whole.space.id).misses;
}

}  // namespace memkv
