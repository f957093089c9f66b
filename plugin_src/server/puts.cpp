#include "server/puts.h"

#include <algorithm>
#include <array>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv {
namespace {

[[nodiscard]] std::string item_text(std::uint64_t request, std::uint32_t item) {
  return "item " + std::to_string(item) + " of request " + std::to_string(request);
}

}  // namespace

Result<void> Puts::begin(std::uint64_t request, std::span<const std::byte> body) {
  Request fresh;
  fresh.body.assign(body.begin(), body.end());
  auto reader = wire::PutReader::open(fresh.body);
  if (!reader) return fail(reader.error());
  fresh.space = reader->head();
  fresh.items.reserve(reader->count());
  while (const auto item = reader->next()) fresh.items.emplace_back().what = *item;
  fresh.open = fresh.items.size();

  items_ += fresh.open;
  body_bytes_ += fresh.body.size();
  session_.server.counters.put_blocks += fresh.open;
  for (std::uint32_t i = 0; i < fresh.open; ++i) queue_.push_back({request, i});
  requests_.emplace(request, std::move(fresh));
  resume();
  return {};
}

void Puts::resume() {
  std::size_t begun = 0;
  while (!queue_.empty() && session_.may_begin()) {
    const QueuedItem next = queue_.front();
    Item* item = find(next.request, next.item, State::queued);
    MEMKV_CHECK(item != nullptr, "what is queued is there");
    if (bytes_granted_ > 0 && bytes_granted_ + item->what.length > kPutBytesGrantedPerPeer) return;
    if (!session_.may_ask(bytes_asked_, item->what.length)) return;
    if (begun == kBlocksPerSlice) {
      session_.resume_later();
      return;
    }
    ++begun;
    queue_.pop_front();
    ask(next.request, next.item);
  }
}

void Puts::ask(std::uint64_t request, std::uint32_t index) {
  Request& whole = requests_.at(request);
  Item& item = whole.items[index];
  item.state = State::asked;
  bytes_granted_ += item.what.length;
  bytes_asked_ += item.what.length;
  const BlockId id{.tenant = session_.tenant, .space = whole.space, .key = item.what.key};
  item.put = session_.server.store.begin_put(
      id, item.what.length, item.what.traits,
      [this, request, index](Result<Grant> grant) { granted(request, index, std::move(grant)); });
}

void Puts::granted(std::uint64_t request, std::uint32_t index, Result<Grant> grant) {
  Item& item = requests_.at(request).items[index];
  bytes_asked_ -= item.what.length;
  if (!grant) {
    done(request, index, grant.error().code);
    return;
  }
  item.put = grant->put;
  item.pieces = std::move(grant->pieces);
  item.crcs.emplace(unit_bytes_of(item.what.length), item.what.length);
  item.state = State::granted;
  item.was_granted = true;
  ++granted_;
  bytes_held_ += item.what.length;
  progress_ns_ = session_.server.now_ns();
  item.granted_ns = progress_ns_;
  session_.send(wire::Type::grant, request, wire::Grant{.item = index});
  resume();
}

// What the peer may still send about an item: its bytes and COMMIT (granted), nothing (a broken
// protocol), or what it sent before it heard that the item is over (late).
Result<Puts::Item*> Puts::granted_item(std::uint64_t request, std::uint32_t item,
                                       const char* frame) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return nullptr;
  if (item >= found->second.items.size()) {
    return fail(Code::protocol, frame + item_text(request, item) + ", which has no such item");
  }
  Item& it = found->second.items[item];
  if (!it.was_granted) {
    return fail(Code::protocol, frame + item_text(request, item) + ", which has no grant");
  }
  return it.state == State::granted ? &it : nullptr;
}

Result<Landing> Puts::data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  const auto found = granted_item(request, data.item, "DATA for ");
  if (!found) return fail(found.error());
  Landing landing;
  Item* item = *found;
  if (item == nullptr) return landing;
  if (data.offset != item->arrived || bytes > item->what.length - item->arrived) {
    return fail(Code::protocol, "DATA for " + item_text(request, data.item) + " brings " +
                                    std::to_string(bytes) + " bytes at offset " +
                                    std::to_string(data.offset) + ", where byte " +
                                    std::to_string(item->arrived) + " of " +
                                    std::to_string(item->what.length) + " comes next");
  }
  landing.crcs = &*item->crcs;
  for (std::uint32_t left = bytes; left > 0;) {
    MEMKV_CHECK(item->piece < item->pieces.size() && landing.count < kLandingPieces,
                "the arena hands out pieces large enough for one DATA frame");
    const iovec& piece = item->pieces[item->piece];
    const auto count = std::min<std::size_t>(left, piece.iov_len - item->piece_at);
    if (count > 0) {
      landing.pieces[landing.count++] = {static_cast<std::byte*>(piece.iov_base) + item->piece_at,
                                         count};
    }
    left -= static_cast<std::uint32_t>(count);
    item->piece_at += count;
    if (item->piece_at == piece.iov_len) {
      ++item->piece;
      item->piece_at = 0;
    }
  }
  return landing;
}

void Puts::landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) {
  if (Item* item = find(request, data.item, State::granted)) {
    item->arrived += bytes;
    bytes_landed_ += bytes;
    progress_ns_ = session_.server.now_ns();
  }
}

Result<void> Puts::commit(std::uint64_t request, const wire::Commit& commit) {
  const auto found = granted_item(request, commit.item, "COMMIT for ");
  if (!found) return fail(found.error());
  Item* item = *found;
  if (item == nullptr) return {};
  if (item->arrived != item->what.length) {
    return fail(Code::protocol, "COMMIT for " + item_text(request, commit.item) + " after " +
                                    std::to_string(item->arrived) + " of " +
                                    std::to_string(item->what.length) + " bytes");
  }
  std::array<std::uint32_t, kUnitsMax> written;
  const std::size_t count = commit.crcs.size() / sizeof(std::uint32_t);
  if (count > written.size()) {
    return fail(Code::protocol, "COMMIT for " + item_text(request, commit.item) + " brings " +
                                    std::to_string(count) + " CRCs");
  }
  const std::span<std::uint32_t> crcs(written.data(), count);
  wire::load_crcs(commit.crcs, crcs);
  --granted_;
  bytes_held_ -= item->what.length;
  progress_ns_ = session_.server.now_ns();
  const auto committed = session_.server.store.commit_put(item->put, item->crcs->crcs(), crcs);
  if (committed) count_put(requests_.at(request), *item);
  done(request, commit.item, committed ? Code::ok : committed.error().code, committed.value_or(0));
  return {};
}

void Puts::count_put(const Request& whole, const Item& item) {
  ServerContext& server = session_.server;
  server.counters.put.count(progress_ns_ - item.granted_ns);
  SpaceCounters& space = server.spaces.claim(session_.tenant, whole.space.id);
  ++space.puts;
  space.put_bytes += item.what.length;
}

void Puts::done(std::uint64_t request, std::uint32_t index, Code code, std::uint64_t incarnation) {
  session_.send(
      wire::Type::put_done, request,
      wire::PutDone{
          .epoch = session_.server.epoch, .item = index, .code = code, .incarnation = incarnation});
  Item& item = requests_.at(request).items[index];
  bytes_granted_ -= item.what.length;
  end(request, item);
  resume();
}

void Puts::cancel(std::uint64_t request, std::uint32_t item) {
  const auto found = requests_.find(request);
  if (found == requests_.end()) return;
  if (item != wire::kAllItems) {
    if (find(request, item, State::queued) != nullptr) remove_from(queue_, request, item);
    if (item < found->second.items.size() && cancel_item(request, item)) recall(request, item);
  } else {
    remove_from(queue_, request, item);
    bool any = false;
    // The request goes with its last item: nothing of it is touched after that.
    const auto count = static_cast<std::uint32_t>(found->second.items.size());
    for (std::uint32_t i = 0; i < count && requests_.contains(request); ++i)
      any = cancel_item(request, i) || any;
    if (any) recall(request, wire::kAllItems);
  }
  resume();
}

// True when the link has to be asked first: a hand may be inside of the block's memory.
bool Puts::cancel_item(std::uint64_t request, std::uint32_t index) {
  Item& item = requests_.at(request).items[index];
  if (item.state == State::granted) {
    item.state = State::recalled;
    --granted_;
    bytes_held_ -= item.what.length;
    return true;
  }
  if (item.state == State::asked) {
    session_.server.store.abort_put(item.put);
    bytes_granted_ -= item.what.length;
    bytes_asked_ -= item.what.length;
  }
  if (item.state == State::queued || item.state == State::asked) end(request, item);
  return false;
}

void Puts::recall(std::uint64_t request, std::uint32_t item) {
  session_.link->recall(request, item,
                        [this, request, item, alive = std::weak_ptr<bool>(session_.alive)] {
                          if (alive.expired()) return;
                          const auto found = requests_.find(request);
                          if (found == requests_.end()) return;
                          const auto count = static_cast<std::uint32_t>(found->second.items.size());
                          const std::uint32_t first = item == wire::kAllItems ? 0 : item;
                          const std::uint32_t last = item == wire::kAllItems ? count : item + 1;
                          for (std::uint32_t i = first; i < last; ++i) give_back(request, i);
                          resume();
                        });
}

void Puts::give_back(std::uint64_t request, std::uint32_t index) {
  Item* item = find(request, index, State::recalled);
  if (item == nullptr) return;
  session_.server.store.abort_put(item->put);
  bytes_granted_ -= item->what.length;
  end(request, *item);
}

void Puts::forget_waiting() {
  queue_.clear();
  for (auto& [request, whole] : requests_) {
    for (Item& item : whole.items) {
      if (item.state != State::asked) continue;
      session_.server.store.abort_put(item.put);
      bytes_granted_ -= item.what.length;
      bytes_asked_ -= item.what.length;
      item.state = State::over;
    }
  }
}

void Puts::forget_all() {
  forget_waiting();
  for (auto& [request, whole] : requests_) {
    for (const Item& item : whole.items) {
      if (item.state == State::granted || item.state == State::recalled)
        session_.server.store.abort_put(item.put);
    }
  }
  requests_.clear();
  items_ = 0;
  body_bytes_ = 0;
  bytes_granted_ = 0;
  granted_ = 0;
  bytes_held_ = 0;
}

Puts::Item* Puts::find(std::uint64_t request, std::uint32_t item, State state) {
  const auto found = requests_.find(request);
  if (found == requests_.end() || item >= found->second.items.size()) return nullptr;
  Item& it = found->second.items[item];
  return it.state == state ? &it : nullptr;
}

void Puts::end(std::uint64_t request, Item& item) {
  item.state = State::over;
  item.pieces.clear();
  item.crcs.reset();
  --items_;
  const auto found = requests_.find(request);
  if (--found->second.open > 0) return;
  body_bytes_ -= found->second.body.size();
  requests_.erase(found);
}

}  // namespace memkv
