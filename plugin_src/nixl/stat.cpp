#include "nixl/stat.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <new>
#include <string_view>

#include "nixl/poison.h"

namespace memkv::nixl {
namespace {

using Counter = std::uint64_t ClientStats::*;
constexpr std::array<std::pair<std::string_view, Counter>, 15> kCounters = {{
    {"puts", &ClientStats::puts},
    {"put_ok", &ClientStats::put_ok},
    {"put_exists", &ClientStats::put_exists},
    {"bytes_put", &ClientStats::bytes_put},
    {"gets", &ClientStats::gets},
    {"get_ok", &ClientStats::get_ok},
    {"get_misses", &ClientStats::get_misses},
    {"bytes_got", &ClientStats::bytes_got},
    {"matches", &ClientStats::matches},
    {"corrupt", &ClientStats::corrupt},
    {"timeouts", &ClientStats::timeouts},
    {"unreachable", &ClientStats::unreachable},
    {"reconnects", &ClientStats::reconnects},
    {"asked_older", &ClientStats::asked_older},
    {"found_older", &ClientStats::found_older},
}};

struct Ledger {
  const pid_t born_in = getpid();
  std::mutex mutex;
  std::uint64_t next = 1;
  std::map<std::uint64_t, const Client*> alive;
  ClientStats gone;
};

Ledger& ledger();

// What the parent's threads were doing with it when the process forked, nobody ends in the child:
// it is left as it is, and the child's own backends begin another in its place.
void begin_anew() {
  const pid_t born_in = ledger().born_in;
  new (&ledger()) Ledger{.born_in = born_in};
}

Ledger* make_ledger() {
  pthread_atfork(nullptr, nullptr, &begin_anew);
  return new Ledger;
}

// Never destroyed: a process may ask while it exits.
Ledger& ledger() {
  static Ledger* const kept = make_ledger();
  return *kept;
}

void add(ClientStats& sum, const ClientStats& more) {
  for (const auto& [name, counter] : kCounters) sum.*counter += more.*counter;
  for (std::size_t kind = 0; kind < kRequestKinds; ++kind) {
    for (std::size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      RequestStats::Ended& here = sum.requests.of[kind][outcome];
      here.took.add(more.requests.of[kind][outcome].took);
      here.bytes += more.requests.of[kind][outcome].bytes;
    }
  }
}

std::string latency_lines(const RequestStats& requests) {
  std::string text;
  for (std::size_t kind = 0; kind < kRequestKinds; ++kind) {
    for (std::size_t outcome = 0; outcome < kOutcomes; ++outcome) {
      const auto asked = static_cast<RequestKind>(kind);
      const RequestStats::Ended& ended = requests.of[kind][outcome];
      text += "latency_" + std::string(kind_name(asked)) + "_";
      text += outcome_name(asked, static_cast<Outcome>(outcome));
      text += " " + ended.took.text() + " bytes=" + std::to_string(ended.bytes) + "\n";
    }
  }
  return text;
}

}  // namespace

std::uint64_t joined(const Client& client) {
  const std::lock_guard lock(ledger().mutex);
  ledger().alive.emplace(ledger().next, &client);
  return ledger().next++;
}

void left(std::uint64_t number) {
  const std::lock_guard lock(ledger().mutex);
  const auto found = ledger().alive.find(number);
  if (found == ledger().alive.end()) return;
  add(ledger().gone, found->second->stats());
  ledger().alive.erase(found);
}

std::string stat_text() {
  const std::lock_guard lock(ledger().mutex);
  ClientStats sum = ledger().gone;
  for (const auto& [number, client] : ledger().alive) add(sum, client->stats());
  std::string text = "poisoned " + std::to_string(poisoned() ? 1 : 0) + "\n";
  text += "backends " + std::to_string(ledger().alive.size()) + "\n";
  for (const auto& [name, counter] : kCounters) {
    text += std::string(name) + " " + std::to_string(sum.*counter) + "\n";
  }
  return text + latency_lines(sum.requests);
}

}  // namespace memkv::nixl

std::size_t memkv_plugin_stat(char* out, std::size_t bytes) {
  try {
    // The child's copy of the lock is in any state.
    if (memkv::nixl::ledger().born_in != getpid()) return 0;
    const std::string text = memkv::nixl::stat_text();
    if (out != nullptr) std::copy_n(text.data(), std::min(bytes, text.size()), out);
    return text.size();
  } catch (...) {
    return 0;
  }
}
