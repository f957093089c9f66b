#include "engine/reader.h"

#include <utility>

#include "base/bytes.h"
#include "base/mutant.h"
#include "engine/verify.h"

namespace memkv::engine {
struct Reader::Fetch {
  Fingerprint print;
  std::uint64_t incarnation = 0;
  std::uint32_t length = 0;
  BlockPlace place;
  std::uint32_t first_unit = 0;
  std::uint32_t units = 0;
  std::uint64_t bytes = 0;  // of the units
  Memory memory;
  FetchDone done;
  AlignedBuffer header;
  int parts = 0;  // reads under way
  bool failed = false;
  BlockMeta meta;
};

void Reader::fetch(const Entry& entry, std::uint32_t first_unit, std::uint32_t units,
                   const Memory& memory, FetchDone done) {
  auto fetch = std::make_shared<Fetch>();
  fetch->print = entry.fingerprint;
  fetch->incarnation = entry.incarnation;
  fetch->length = entry.length;
  fetch->place = {entry.segment, entry.page, core_.log.generation(entry.segment)};
  fetch->first_unit = first_unit;
  fetch->units = units;
  fetch->bytes = bytes_of_units(entry.length, first_unit, units);
  fetch->memory = memory;
  fetch->done = std::move(done);
  ++in_flight_;
  core_.log.begin_read(entry.segment);
  submit(fetch);
}

// One read when the units follow the header on flash, else one for each.
void Reader::submit(const std::shared_ptr<Fetch>& fetch) {
  const std::uint64_t header_at = core_.super.place(fetch->place.segment, fetch->place.page);
  std::vector<iovec> units =
      core_.pages.pieces(fetch->memory, 0, round_up(fetch->bytes, kPageBytes));
  const auto done = [this, fetch] {
    return [this, fetch](Result<void> result) {
      if (!result) fetch->failed = true;
      if (--fetch->parts == 0) arrived(fetch);
    };
  };
  std::vector<iovec> first{fetch->header.piece()};
  if (fetch->first_unit == 0) {
    fetch->parts = 1;
    first.insert(first.end(), units.begin(), units.end());
    core_.io.read(header_at, std::move(first), done());
    return;
  }
  fetch->parts = 2;
  const std::uint64_t skipped = std::uint64_t{fetch->first_unit} * unit_bytes_of(fetch->length);
  core_.io.read(header_at, std::move(first), done());
  core_.io.read(header_at + kPageBytes + skipped, std::move(units), done());
}

bool Reader::header_holds(const Fetch& fetch, const BlockHeader& header) const {
  const bool generation_holds =
      header.place.generation == fetch.place.generation || mutant(Mutant::ignore_generation);
  // The mutant believes whatever an earlier life left at this place, if only it has the wanted
  // length.
  const bool incarnation_holds =
      header.meta.incarnation == fetch.incarnation || mutant(Mutant::ignore_generation);
  return header.uuid == core_.super.uuid && generation_holds && incarnation_holds &&
         header.place.segment == fetch.place.segment && header.place.page == fetch.place.page &&
         header.meta.length == fetch.length;
}

void Reader::arrived(const std::shared_ptr<Fetch>& fetch) {
  core_.log.end_read(fetch->place.segment);
  if (fetch->failed) return finish(*fetch, Code::device_error);
  auto header = decode_block_header(fetch->header.page());
  if (!header || !header_holds(*fetch, *header)) return finish(*fetch, Code::corrupt);
  fetch->meta = std::move(header->meta);
  if (fetch->units == 0 || mutant(Mutant::skip_crc_on_read)) return finish(*fetch, Code::ok);
  const auto first = fetch->meta.crcs.begin() + fetch->first_unit;
  verify_units(
      core_.executor, core_.pages.pieces(fetch->memory, 0, fetch->bytes),
      unit_bytes_of(fetch->length), {first, first + fetch->units},
      core_.guarded([this, fetch](bool good) { finish(*fetch, good ? Code::ok : Code::corrupt); }));
}

void Reader::finish(Fetch& fetch, Code code) {
  --in_flight_;
  core_.nudge();
  if (code == Code::corrupt) ++core_.stats.corrupt;
  // What was read at a place that the block has left since says nothing about the block.
  if (Entry* entry = core_.entry_at(fetch.print, fetch.place.segment, fetch.place.page);
      entry != nullptr && entry->incarnation == fetch.incarnation) {
    entry->read_failures = code == Code::device_error ? entry->read_failures + 1U : 0U;
    if (code == Code::corrupt || entry->read_failures >= kReadFailuresMax) {
      core_.take_out(fetch.print);
    }
  }
  if (code == Code::ok && core_.entry_of(fetch.print, fetch.incarnation) == nullptr) {
    code = Code::not_found;
  }
  fetch.done(code, std::move(fetch.meta));
}

void Reader::load(Entry& entry, Share taken_for, Memory memory, LoadDone done) {
  BlockMeta meta;
  meta.length = entry.length;
  meta.incarnation = entry.incarnation;
  const std::uint32_t slot = core_.residents.add(entry.fingerprint, std::move(meta), taken_for,
                                                 std::move(memory), ResidentState::loading);
  entry.resident = slot;
  waiting_[slot].push_back(std::move(done));
  fetch(entry, 0, unit_count_of(entry.length), core_.residents.at(slot).memory,
        [this, slot](Code code, BlockMeta meta_read) { loaded(slot, code, std::move(meta_read)); });
}

void Reader::loaded(std::uint32_t slot, Code code, BlockMeta meta) {
  const Resident& resident = core_.residents.at(slot);
  // A dead one's entry may belong to a block that was put since.
  if (resident.dead && code == Code::ok) code = Code::not_found;
  auto waiting = waiting_.extract(slot);
  if (code == Code::ok) {
    core_.residents.at(slot).meta = std::move(meta);
    core_.residents.become(slot, ResidentState::clean);
  } else if (!resident.dead) {
    if (Entry* entry = core_.index.find(resident.fingerprint)) entry->resident = kNone;
    core_.residents.kill(slot);
  }
  for (LoadDone& done : waiting.mapped()) {
    if (code == Code::ok) core_.residents.use(slot);
    done(code, slot);
  }
  core_.residents.unuse(slot);
}

}  // namespace memkv::engine
