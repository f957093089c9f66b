#include "engine/lister.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace memkv::engine {
namespace {

constexpr std::size_t kCellsPerSlice = 4096;
constexpr std::size_t kCellsPerList = 64 * kCellsPerSlice;
constexpr std::size_t kHeadersInFlight = 4;

}  // namespace

struct Lister::Walk {
  struct Chosen {
    Fingerprint print;
    std::uint64_t incarnation = 0;
  };
  Wish wish;
  Listed listed;
  Listing found;
  std::vector<Chosen> chosen;
  std::size_t next = 0;     // the first of them that was not looked at
  std::size_t reading = 0;  // headers
  std::size_t cells = 0;    // that may have been looked at
};

void Lister::begin(const Wish& wish, Listed listed) {
  auto walk = std::make_shared<Walk>();
  walk->wish = wish;
  walk->found.next = wish.cursor;
  walk->listed = std::move(listed);
  core_.post([this, walk] { choose(walk); });
}

void Lister::choose(const WalkPtr& walk) {
  const Wish& wish = walk->wish;
  const std::uint64_t now_ns = core_.executor.clock().now_ns();
  walk->found.next = core_.index.walk(walk->found.next, kCellsPerSlice, [&](const Entry& entry) {
    const bool wanted = entry.reads_by(now_ns) >= wish.reads_min &&
                        (wish.mark_not == 0 || entry.mark != wish.mark_not) &&
                        (!wish.in_dram || entry.resident != kNone) &&
                        core_.index.accounts().wants_copies(entry.account) >= wish.copies_min;
    if (wanted && !core_.index.accounts().is_over(entry.account))
      walk->chosen.push_back({entry.fingerprint, entry.incarnation});
    return walk->chosen.size() < wish.count;
  });
  walk->cells += kCellsPerSlice;
  const bool enough = walk->found.next == 0 || walk->chosen.size() >= wish.count ||
                      walk->cells >= kCellsPerList || shut_;
  core_.post([this, walk, enough] { enough ? name(walk) : choose(walk); });
}

void Lister::name(const WalkPtr& walk) {
  if (shut_) walk->next = walk->chosen.size();
  while (walk->next < walk->chosen.size() && walk->reading < kHeadersInFlight) {
    const Walk::Chosen chosen = walk->chosen[walk->next++];
    const Entry* entry = core_.entry_of(chosen.print, chosen.incarnation);
    if (entry == nullptr) continue;  // it went meanwhile
    const bool loading = entry->resident != kNone &&
                         core_.residents.at(entry->resident).state == ResidentState::loading;
    if (entry->resident != kNone && !loading) {
      named(*walk, chosen.print, core_.residents.at(entry->resident).meta);
      continue;
    }
    ++walk->reading;
    reader_.fetch(*entry, 0, 0, {},
                  core_.guarded([this, walk, print = chosen.print](Code code, BlockMeta meta) {
                    --walk->reading;
                    if (code == Code::ok) named(*walk, print, meta);
                    name(walk);
                  }));
  }
  if (walk->next < walk->chosen.size() || walk->reading > 0 || !walk->listed) return;
  auto listed = std::exchange(walk->listed, nullptr);
  if (shut_) return listed(fail(Code::shutdown));
  listed(std::move(walk->found));
}

void Lister::named(Walk& walk, const Fingerprint& print, const BlockMeta& meta) {
  const Identity& identity = meta.identity;
  if (identity.tenant != walk.wish.tenant) return;
  if (core_.entry_of(print, meta.incarnation) == nullptr) return;
  const Entry* entry = core_.living({identity.tenant, identity.space, identity.key}, print);
  if (entry == nullptr) return;
  const std::uint32_t now_s = core_.executor.clock().unix_s();
  BlockTraits traits = meta.traits;
  traits.age_s = now_s - std::min(now_s, entry->put_s);
  walk.found.blocks.push_back({.space = meta.identity.space,
                               .key = meta.identity.key,
                               .incarnation = meta.incarnation,
                               .length = meta.length,
                               .traits = traits,
                               .reads = entry->reads_by(core_.executor.clock().now_ns()),
                               .mark = entry->mark});
}

}  // namespace memkv::engine
