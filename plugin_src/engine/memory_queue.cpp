#include "engine/memory_queue.h"

#include <algorithm>
#include <utility>

namespace memkv::engine {

MemoryQueue::Ticket MemoryQueue::ask(Share share, std::uint32_t pages, Ready ready) {
  const Ticket ticket = next_ticket_++;
  (share == Share::put ? puts_ : gets_).push_back({ticket, pages, std::move(ready)});
  pump();
  return ticket;
}

void MemoryQueue::cancel(Ticket ticket) {
  for (std::deque<Waiter>* queue : {&puts_, &gets_}) {
    const auto at = std::ranges::lower_bound(*queue, ticket, {}, &Waiter::ticket);
    if (at != queue->end() && at->ticket == ticket) queue->erase(at);
  }
}

bool MemoryQueue::waits(Ticket ticket) const {
  return std::ranges::binary_search(puts_, ticket, {}, &Waiter::ticket) ||
         std::ranges::binary_search(gets_, ticket, {}, &Waiter::ticket);
}

void MemoryQueue::ask_to_keep(std::uint32_t pages, Kept ready) {
  keepers_.push_back({pages, std::move(ready)});
  pump();
}

void MemoryQueue::pump() {
  if (std::exchange(pumping_, true)) return;  // the loop below sees what was added
  do {
    serve_keepers();
  } while (serve_one());
  pumping_ = false;
}

bool MemoryQueue::wants(Share held) const {
  // A share that is as large as it may become takes nothing of what another gives back.
  const auto helps = [&](Share share, const std::deque<Waiter>& waiting) {
    return !waiting.empty() &&
           (share == held || residents_.within_share(share, waiting.front().pages));
  };
  return (helps(Share::put, puts_) && !limits_.puts_held_back()) ||
         (helps(Share::get, gets_) && !limits_.gets_held_back());
}

void MemoryQueue::serve_keepers() {
  while (!keepers_.empty()) {
    const std::uint32_t pages = keepers_.front().pages;
    std::optional<Memory> memory;
    if (residents_.within_share(Share::put, pages)) memory = residents_.take(Share::put, pages);
    if (!memory && limits_.memory_will_come()) return;
    Kept ready = std::move(keepers_.front().ready);
    keepers_.pop_front();
    ready(std::move(memory));
  }
}

bool MemoryQueue::serve_one() {
  const bool put_can = !puts_.empty() && keepers_.empty() && !limits_.puts_held_back() &&
                       residents_.within_share(Share::put, puts_.front().pages);
  const bool get_can = !gets_.empty() && !limits_.gets_held_back() &&
                       residents_.within_share(Share::get, gets_.front().pages);
  if (!put_can && !get_can) return false;
  const bool take_put = put_can && (!get_can || puts_.front().ticket < gets_.front().ticket);
  std::deque<Waiter>& queue = take_put ? puts_ : gets_;
  auto memory = residents_.take(take_put ? Share::put : Share::get, queue.front().pages);
  if (!memory) return false;
  Ready ready = std::move(queue.front().ready);
  queue.pop_front();
  ready(std::move(*memory));
  return true;
}

}  // namespace memkv::engine
