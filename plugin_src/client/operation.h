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
  // Calls `finished` and lets the waiters go. Once, by whoever owns the operation at its end.
  void complete(Finished finished);
  // After fork, in the child: its copy is over, whatever state the locks were copied in. There is
  // one thread.
  void complete_in_child() { done_.store(true, std::memory_order_release); }

 private:
  std::atomic<bool> done_ = false;
  std::mutex mutex_;
  std::condition_variable over_;
  bool settled_ = false;            // `finished` has returned
  std::thread::id finishing_ = {};  // the thread that is inside `finished`
};

struct Operation {
  enum class Kind : std::uint8_t { put, get, match, drop, stat, map };

  struct Item {
    std::span<const std::byte> key;
    std::span<const std::byte> group;  // empty: the key
    std::span<const std::byte> bytes;  // of a put
    std::span<std::byte> target;       // of a get
    std::uint32_t offset = 0;          // of a get
    BlockTraits traits;                // of a put; the group's fingerprint of all
    std::uint32_t node = 0;
    std::uint64_t map = 0;                          // by which it was placed there
    std::array<std::uint32_t, kPlacesMax> asked{};  // the nodes, first to last
    std::uint8_t times_asked = 0;
    Code first = Code::internal;  // what was known before the last of them was asked
    bool over = false;
    // Which value a get saw: an incarnation means something within one connection only.
    std::uint64_t connection = 0;
    std::uint64_t incarnation = 0;
  };

  Kind kind = Kind::get;
  Namespace space;
  std::uint32_t hold_ms = 0;
  std::uint64_t deadline_ns = 0;
  std::vector<Item> items;
  std::vector<Code> codes;     // one an item
  std::vector<Match> matches;  // of a match: one an item
  std::string text;            // of a stat or map: what the node said
  std::size_t open = 0;        // items that are not over
  Finished finished;
  Completion completion;

  // the mind's
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
  void settle_all(Code code) {
    for (std::size_t i = 0; i < items.size(); ++i) settle(i, code);
  }
  [[nodiscard]] std::span<const std::byte> group_of(std::size_t item) const {
    return items[item].group.empty() ? items[item].key : items[item].group;
  }
};

}  // namespace memkv
