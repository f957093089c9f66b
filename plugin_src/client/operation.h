// Operation: one request of a caller while it is under way: what was asked, and what became of each
// block.
//
// The caller's side fills it and posts it to the mind; from then on everything in it is the mind's,
// until `completion` is done: then codes and matches are the caller's to read and nobody writes any
// more.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/executor.h"
#include "base/identity.h"
#include "base/limits.h"
#include "base/result.h"
#include "client/client.h"

namespace memkv {

// Where the caller's threads meet the mind. Thread: any, unless said otherwise.
class Completion {
 public:
  // The request is over: nothing touches the caller's memory any more.
  [[nodiscard]] bool done() const { return done_.load(std::memory_order_acquire); }
  // Waits until the request is over and `finished` has returned, at most `timeout_ms` and
  // kTimeoutMsMax; true when it is. Inside `finished` it does not wait.
  [[nodiscard]] bool wait(std::uint64_t timeout_ms);
  // What is held is with its nodes: lets those go that wait for that.
  void reach();
  // Waits until reach() or complete(), at most `timeout_ms` and kTimeoutMsMax; true when it came.
  [[nodiscard]] bool wait_reached(std::uint64_t timeout_ms);
  // Calls `finished` and lets the waiters go. Once, by whoever owns the operation at its end.
  void complete(Finished finished);
  // After fork, in the child: its copy is over, whatever state the locks were copied in. There is
  // one thread.
  void complete_in_child() { done_.store(true, std::memory_order_release); }

 private:
  std::atomic<bool> done_ = false;
  std::mutex mutex_;
  std::condition_variable over_;
  bool settled_ = false;  // `finished` has returned
  bool reached_ = false;
  std::thread::id finishing_ = {};  // the thread that is inside `finished`
};

struct Operation {
  enum class Kind : std::uint8_t { put, get, match, drop, stat, map, question };

  struct Item {
    std::span<const std::byte> key;
    std::span<const std::byte> group;  // empty: the key
    std::span<const std::byte> bytes;  // of a put
    std::span<std::byte> target;       // of a get
    std::uint32_t offset = 0;          // of a get
    BlockTraits traits;                // of a put; the group's fingerprint of all
    bool group_given = false;          // the fingerprint is there, and `group` says nothing
    std::uint32_t node = 0;
    std::uint64_t map = 0;                          // by which it was placed there
    std::array<std::uint32_t, kPlacesMax> asked{};  // the nodes, first to last
    std::size_t times_asked = 0;
    std::optional<Code> first;  // what was known before the last of them was asked
    bool over = false;
    bool at_gate = false;  // of a held put: with its node, and not committed
    bool copied = false;   // the node that answered said that the second place has it, too
    // Where to look before former maps: of a read of a group that has a second copy the other of
    // the two; of a drop all places, round after round.
    std::vector<std::uint32_t> plan;
    std::size_t round = 0;  // of a drop: so many places of the plan are a round; 0: there is none
    bool found = false;     // of a drop: in this round, which is not the first
    std::uint64_t sent_ns =
        0;  // to the node that is asked now, and how many bytes were wanted of it
    std::uint64_t queued = 0;
    // Which value a get saw: an incarnation means something within one connection only.
    std::uint64_t connection = 0;
    std::uint64_t incarnation = 0;
  };

  Kind kind = Kind::get;
  Namespace space;
  std::uint32_t hold_ms = 0;
  std::uint64_t asked_ns = 0;  // when the caller asked
  std::uint64_t deadline_ns = 0;
  std::vector<Item> items;
  std::vector<Code> codes;     // one an item
  std::vector<Match> matches;  // of a match: one an item
  Question question;           // of a question
  std::string text;            // of a stat, map or question: what the node said
  bool hold = false;           // of a put: no COMMIT until it is released
  std::size_t open = 0;        // items that are not over
  Finished finished;
  Completion completion;

  [[nodiscard]] bool reads() const { return kind == Kind::get || kind == Kind::match; }

  // the mind's
  std::uint32_t epoch = 0;   // of the map it was placed by
  unsigned times_begun = 0;  // again, a drop for a newer map
  std::uint64_t number = 0;
  TimerId timer = 0;
  std::vector<std::uint32_t> nodes;   // that were given a part
  bool ending = false;                // cancelled or past its deadline
  Code ending_code = Code::internal;  // which of the two

  void resize(std::size_t count) {
    items.resize(count);
    codes.resize(count, Code::internal);
    open = count;
  }
  // The item's fate; only the first one counts.
  void settle(std::size_t item, Code code) {
    if (items[item].over) return;
    items[item].over = true;
    codes[item] = code;
    open -= 1;
  }
  // A held put's item came to its gate, or is over: when all have, whoever waits for that goes on.
  void look_at_gate() {
    if (!hold) return;
    for (const Item& item : items) {
      if (!item.over && !item.at_gate) return;
    }
    completion.reach();
  }
  void settle_all(Code code) {
    for (std::size_t i = 0; i < items.size(); ++i) settle(i, code);
  }
  [[nodiscard]] std::span<const std::byte> group_of(std::size_t item) const {
    return items[item].group.empty() ? items[item].key : items[item].group;
  }
};

}  // namespace memkv
