#include "engine/quotas.h"

namespace memkv::engine {
namespace {

constexpr int kStepsPerSlice = 128;

}  // namespace

void Quotas::pump() {
  if (core_.log.tombstones_wait()) return;  // it nudges when there is room for more
  Accounts& accounts = core_.index.accounts();
  auto payer = accounts.payer();
  for (int step = 0; step < kStepsPerSlice && payer; ++step) {
    settle_first(*payer);
    if (!accounts.exists(*payer) || !accounts.owes(*payer)) payer = accounts.payer();
  }
  if (payer) core_.nudge();
}

// The first of the account's line goes, or stays and goes last.
void Quotas::settle_first(AccountId account) {
  Accounts& accounts = core_.index.accounts();
  const Placard first = accounts.take_first(account);
  Entry* entry = core_.entry_of(first.fingerprint, first.incarnation);
  if (entry == nullptr || entry->account != account) return;
  if (!accounts.is_over(account)) {
    if (accounts.is_newest(account, first)) return accounts.stay(account, first);
    const std::uint64_t now_ns = core_.executor.clock().now_ns();
    const bool wanted = entry->wanted(now_ns) && !core_.outlived(*entry);
    if (wanted && accounts.spare(account, first)) {
      entry->hit = false;
      return;
    }
  }
  accounts.went(account);
  ++core_.stats.quota_evicted_blocks;
  core_.take_out(first.fingerprint);
}

}  // namespace memkv::engine
