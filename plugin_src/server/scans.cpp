#include "server/scans.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv {
namespace {

// What a MATCH_REPLY or DROP_REPLY of so many records fits into.
[[nodiscard]] std::size_t reply_bytes(std::uint32_t count) {
  return 64 + std::size_t{8} * count;
}

}  // namespace

Result<void> Scans::begin_match(std::uint64_t request, std::span<const std::byte> body) {
  auto scan = std::make_unique<Scan>();
  scan->body.assign(body.begin(), body.end());
  auto reader = wire::MatchReader::open(scan->body);
  if (!reader) return fail(reader.error());
  scan->match = *reader;
  scan->reply.resize(reply_bytes(reader->count()));
  const std::uint64_t delay_us = session_.server.get_delay_ns / 1000;
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  scan->found.emplace(scan->reply,
                      wire::MatchReplyHead{
                          .epoch = session_.server.epoch,
                          .queue_delay_us = static_cast<std::uint32_t>(std::min(delay_us, kMost))});
  session_.server.counters.match_keys += reader->count();
  add(request, std::move(scan));
  return {};
}

Result<void> Scans::begin_drop(std::uint64_t request, std::span<const std::byte> body) {
  auto scan = std::make_unique<Scan>();
  scan->body.assign(body.begin(), body.end());
  auto reader = wire::DropReader::open(scan->body);
  if (!reader) return fail(reader.error());
  scan->drop = *reader;
  scan->dropped.resize(reader->count(), Code::internal);
  session_.server.counters.drop_keys += reader->count();
  add(request, std::move(scan));
  return {};
}

void Scans::add(std::uint64_t request, std::unique_ptr<Scan> scan) {
  scan->serial = ++last_serial_;
  body_bytes_ += scan->body.size();
  scans_.emplace(request, std::move(scan));
  order_.push_back(request);
  if (order_.size() == 1) resume();
}

void Scans::resume() {
  if (order_.empty() || !session_.may_begin()) return;
  const std::uint64_t request = order_.front();
  Scan& scan = *scans_.at(request);
  if (scan.match) {
    match_slice(request, scan);
  } else if (scan.answering == 0) {
    drop_slice(request, scan);
  }
}

void Scans::match_slice(std::uint64_t request, Scan& scan) {
  const wire::MatchHead& head = scan.match->head();
  for (std::size_t i = 0; i < kMatchKeysPerSlice && scan.next < scan.match->count();
       ++i, ++scan.next) {
    const BlockId id{
        .tenant = session_.tenant, .space = head.space, .key = scan.match->next()->bytes};
    const Found found = session_.server.store.match(id, head.hold_ms);
    count_key(scan, found.present);
    wire::Found record;
    if (found.present) {
      record.where = found.in_dram ? wire::Where::dram : wire::Where::flash;
      record.copied = copied(found.mark);
      record.length = found.length;
    }
    const bool fits = scan.found->add(record);
    MEMKV_CHECK(fits, "the reply was made for every key");
  }
  if (scan.next < scan.match->count()) {
    session_.resume_later();
    return;
  }
  count_match(scan);
  session_.link->send(wire::Type::match_reply, request, scan.found->body());
  forget(request);
}

void Scans::count_key(Scan& scan, bool present) {
  if (!present) {
    scan.absent += scan.present > 0 ? 1 : 0;
    return;
  }
  ++scan.present;
  scan.holes += std::exchange(scan.absent, 0);
}

void Scans::count_match(const Scan& scan) {
  ServerContext& server = session_.server;
  server.counters.match_found += scan.present;
  server.counters.match_holes += scan.holes;
  const NamespaceId& id = scan.match->head().space.id;
  SpaceCounters& space = scan.present > 0 ? server.spaces.claim(session_.tenant, id)
                                          : server.spaces.find(session_.tenant, id);
  space.keys += scan.match->count();
  space.found += scan.present;
  space.holes += scan.holes;
}

void Scans::drop_slice(std::uint64_t request, Scan& scan) {
  const std::uint32_t last = std::min<std::uint32_t>(
      scan.next + static_cast<std::uint32_t>(kMatchKeysPerSlice), scan.drop->count());
  scan.answering = last - scan.next;
  for (; scan.next < last; ++scan.next) {
    const BlockId id{
        .tenant = session_.tenant, .space = scan.drop->head(), .key = scan.drop->next()->bytes};
    session_.server.store.drop(id, [this, request, serial = scan.serial, index = scan.next,
                                    alive = std::weak_ptr<bool>(session_.alive)](Code code) {
      if (!alive.expired()) dropped(request, serial, index, code);
    });
  }
}

void Scans::dropped(std::uint64_t request, std::uint64_t serial, std::uint32_t index, Code code) {
  const auto found = scans_.find(request);
  if (found == scans_.end() || found->second->serial != serial) return;  // cancelled meanwhile
  Scan& here = *found->second;
  here.dropped[index] = code;
  if (--here.answering > 0) return;
  if (here.next < here.drop->count()) {
    resume();
    return;
  }
  send_dropped(request, here);
  forget(request);
}

void Scans::send_dropped(std::uint64_t request, const Scan& scan) {
  std::vector<std::byte> reply(reply_bytes(scan.drop->count()));
  wire::DropReplyWriter writer(reply, wire::DropReplyHead{.epoch = session_.server.epoch});
  for (const Code code : scan.dropped) {
    const bool fits = writer.add(wire::DropCode{.code = code});
    MEMKV_CHECK(fits, "the reply was made for every key");
  }
  session_.link->send(wire::Type::drop_reply, request, writer.body());
}

void Scans::forget(std::uint64_t request) {
  const auto found = scans_.find(request);
  if (found == scans_.end()) return;
  const bool was_first = order_.front() == request;
  body_bytes_ -= found->second->body.size();
  scans_.erase(found);
  std::erase(order_, request);
  if (was_first && !order_.empty()) session_.resume_later();
}

void Scans::forget_all() {
  scans_.clear();
  order_.clear();
  body_bytes_ = 0;
}

}  // namespace memkv
