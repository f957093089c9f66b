#include "engine/quotas.h"

#include <algorithm>

namespace memkv::engine {
namespace {

constexpr int kStepsPerSlice = 128;
constexpr std::uint64_t kPagesPerRecordAhead = 16;  // of a segment

}  // namespace

bool Quotas::held_back() const {
  // Each record that waits may need a page of the open segment to itself (SegmentLog::fits), so
  // tombstones that come faster than they are written close segments which hold next to nothing,
  // and what others have there goes for it.
  const std::uint64_t ahead = std::clamp<std::uint64_t>(
      core_.super.segment_pages() / kPagesPerRecordAhead, kRecordsPerPage, kRecordsAheadMax);
  return core_.log.tombstones_wait() || core_.log.unwritten_records() >= ahead;
}

void Quotas::pump() {
  Accounts& accounts = core_.index.accounts();
  for (int step = 0; step < kStepsPerSlice; ++step) {
    if (held_back()) return;  // the log nudges when there is room for more
    // Anew each time: who was the largest need not be it any more.
    const auto payer = accounts.payer();
    if (!payer) return;
    settle_first(*payer);
  }
  core_.nudge();
}

// The first of the account's line goes, or stays and goes last.
void Quotas::settle_first(AccountId account) {
  Accounts& accounts = core_.index.accounts();
  const Placard first = accounts.take_first(account);
  Entry* entry = core_.entry_of(first.fingerprint, first.incarnation);
  if (entry == nullptr || entry->account != account) return;
  Gone why = Gone::ended;
  if (!accounts.is_over(account)) {
    why = core_.outlived(*entry) ? Gone::expired : Gone::over_quota;
    if (accounts.is_newest(account, first)) return accounts.stay(account, first);
    const std::uint64_t now_ns = core_.executor.clock().now_ns();
    const bool wanted = why == Gone::over_quota && entry->wanted(now_ns);
    if (wanted && accounts.spare(account, first)) {
      entry->hit = false;
      return;
    }
  }
  accounts.went(account);
  core_.gone(*entry, why);
  core_.take_out(first.fingerprint);
}

}  // namespace memkv::engine
