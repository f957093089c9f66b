#include "engine/writer.h"

#include <utility>

#include "base/bytes.h"
#include "engine/verify.h"

namespace memkv::engine {

void Writer::enqueue(std::uint32_t slot, std::uint64_t verified_ns) {
  core_.residents.use(slot);
  queue_.push_back({slot, verified_ns});
  pump();
}

void Writer::pump() {
  while (!stalled_.empty()) {
    const WritePtr write = stalled_.front();
    const bool verified = is_verified(*write);
    if (verified && !try_submit(write)) break;
    stalled_.pop_front();
    if (!verified) verify(write);
  }
  while (!queue_.empty() && in_flight_ < kDeviceQueueDepth) {
    const Waiting next = queue_.front();
    const std::uint64_t bytes = core_.residents.at(next.slot).meta.length;
    if (bytes_in_flight_ > 0 && bytes_in_flight_ + bytes > kWriteBytesInFlight) return;
    auto write = std::make_shared<Write>();
    write->slot = next.slot;
    queue_.pop_front();
    ++in_flight_;
    bytes_in_flight_ += bytes;
    write->verified_ns = next.verified_ns;
    submit(std::move(write));
  }
}

bool Writer::is_verified(const Write& write) const {
  const std::uint64_t now_ns = core_.executor.clock().now_ns();
  return write.verified_ns > 0 && now_ns - write.verified_ns <= kVerifiedMsMax * kNsPerMs;
}

void Writer::verify(WritePtr write) {
  const Resident& resident = core_.residents.at(write->slot);
  const BlockMeta& meta = resident.meta;
  verify_units(core_.executor, core_.pages.pieces(resident.memory, 0, meta.length),
               unit_bytes_of(meta.length), meta.crcs, core_.guarded([this, write](bool good) {
                 write->verified_ns = core_.executor.clock().now_ns();
                 if (good) return submit(write);
                 ++core_.stats.corrupt;
                 if (wanted(write->slot)) {
                   core_.take_out(core_.residents.at(write->slot).fingerprint);
                 }
                 end(*write);
               }));
}

void Writer::submit(WritePtr write) {
  if (!wanted(write->slot)) return end(*write);
  if (!is_verified(*write)) return verify(std::move(write));
  if (stalled_.empty() && try_submit(write)) return;
  stalled_.push_back(std::move(write));
  core_.nudge();
}

bool Writer::try_submit(const WritePtr& write) {
  if (!wanted(write->slot)) {
    end(*write);
    return true;
  }
  const Resident& resident = core_.residents.at(write->slot);
  const auto place = core_.log.place(block_pages(resident.meta.length));
  if (!place) return false;
  write->place = *place;
  encode(resident.meta, core_.super.uuid, *place, write->header.page());
  std::vector<iovec> pieces{write->header.piece()};
  const auto payload =
      core_.pages.pieces(resident.memory, 0, round_up(resident.meta.length, kPageBytes));
  pieces.insert(pieces.end(), payload.begin(), payload.end());
  ++writing_;
  core_.io.write(core_.super.place(place->segment, place->page), std::move(pieces),
                 [this, write](Result<void> result) { written(write, result.has_value()); });
  return true;
}

void Writer::written(WritePtr write, bool good) {
  --writing_;
  if (good && wanted(write->slot)) {
    publish_place(*write);
    return end(*write);
  }
  core_.log.written(write->place, nullptr);
  if (!good && wanted(write->slot)) {
    if (--write->tries_left > 0) return submit(std::move(write));
    return lose(*write);
  }
  end(*write);
}

void Writer::publish_place(const Write& write) {
  const Resident& resident = core_.residents.at(write.slot);
  Entry* entry = core_.index.find(resident.fingerprint);
  entry->segment = write.place.segment;
  entry->page = write.place.page;
  entry->read_failures = 0;
  const Identity& identity = resident.meta.identity;
  const Record record{.fingerprint = resident.fingerprint,
                      .incarnation = entry->incarnation,
                      .tenant = identity.tenant,
                      .space = identity.space,
                      .page = entry->page,
                      .length = entry->length,
                      .depth = entry->depth,
                      .put_s = entry->put_s};
  core_.residents.become(write.slot, ResidentState::clean);
  core_.log.written(write.place, &record);
}

void Writer::lose(const Write& write) {
  ++core_.stats.lost_blocks;
  if (wanted(write.slot)) core_.take_out(core_.residents.at(write.slot).fingerprint);
  end(write);
}

void Writer::end(const Write& write) {
  bytes_in_flight_ -= core_.residents.at(write.slot).meta.length;
  --in_flight_;
  core_.residents.unuse(write.slot);
  core_.nudge();
}

void Writer::give_up_waiting() {
  for (WritePtr& write : std::exchange(stalled_, {})) lose(*write);
}

}  // namespace memkv::engine
