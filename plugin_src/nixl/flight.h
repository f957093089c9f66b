// Flight: one posting of a transfer, from the client's request to its answer and its notification.
//
// It is over when the client's request is and its outcome is drawn: the notification waits in
// Notices and the rate is counted before over() turns true. It keeps itself alive until then;
// what it moves (keys, descriptors, the engine's memory) is its transfer's, which waits for it.
// Thread: any.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "base/clock.h"
#include "client/client.h"
#include "nixl/abi.h"
#include "nixl/notices.h"
#include "nixl/rates.h"

namespace memkv::nixl {

class Flight;

// What a backend's flights have in common, and which of them are in the air.
class Tower {
 public:
  explicit Tower(Clock& clock) : clock_(clock) {}

  [[nodiscard]] Clock& clock() { return clock_; }
  Notices& notices() { return notices_; }
  Rates& rates() { return rates_; }

  // Registered memory, by a number that is never the same twice, until it is closed.
  [[nodiscard]] std::uint64_t open();
  // No flight over it takes off any more.
  void close(std::uint64_t memory);
  // False, and nothing happened: some of its memory is not open.
  [[nodiscard]] bool took_off(std::shared_ptr<Flight> flight);
  void landed(const Flight& flight);
  // Those that move bytes of this memory.
  [[nodiscard]] std::vector<std::shared_ptr<Flight>> touching(std::uint64_t memory) const;
  [[nodiscard]] std::vector<std::shared_ptr<Flight>> all() const;

 private:
  Clock& clock_;
  Notices notices_;
  Rates rates_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 1;
  std::unordered_set<std::uint64_t> open_;
  std::map<std::uint64_t, std::shared_ptr<Flight>> in_the_air_;
};

// The answer that stands for all blocks: success when all are good, not_found when every failure is
// an absence, else backend_error.
[[nodiscard]] abi::Answer answer_of(std::span<const Code> codes);

class Flight : public std::enable_shared_from_this<Flight> {
 public:
  struct Plan {
    abi::Direction direction = abi::Direction::read;
    std::uint64_t bytes = 0;
    std::vector<std::uint64_t> memories;  // ids of the registered memory it moves bytes of, sorted
    std::optional<std::string> notice;
  };
  using Submit = std::function<std::unique_ptr<Request>(Finished finished)>;

  // Hands the request to the client, through `submit`, once whoever closes its memory can find it.
  // Null: some of its memory is closed already. What `submit` throws comes through, and nothing is
  // under way then.
  [[nodiscard]] static std::shared_ptr<Flight> start(std::shared_ptr<Tower> tower, Plan plan,
                                                     const Submit& submit);
  Flight(std::shared_ptr<Tower> tower, Plan plan);

  [[nodiscard]] bool over() const { return over_.load(std::memory_order_acquire); }
  [[nodiscard]] std::uint64_t age_ms() const;
  // Of a flight that is over.
  [[nodiscard]] abi::Answer answer() const { return answer_; }
  // The client's request, to wait for or to cancel; it lives as long as the flight. Waits for
  // `submit`; null when that failed.
  [[nodiscard]] Request* request();
  [[nodiscard]] const std::vector<std::uint64_t>& memories() const { return plan_.memories; }

 private:
  friend class Tower;
  void launch(const Submit& submit);
  void launched(std::unique_ptr<Request> request);
  void finished();
  void conclude();
  void draw_outcome();

  const std::shared_ptr<Tower> tower_;
  const Plan plan_;
  const std::uint64_t began_ns_;
  std::uint64_t number_ = 0;  // the tower's

  std::mutex launching_;  // held while `submit` runs, taken before mutex_
  std::mutex mutex_;
  std::unique_ptr<Request> request_;
  bool finished_ = false;
  abi::Answer answer_ = abi::Answer::in_progress;
  std::atomic<bool> over_ = false;
};

}  // namespace memkv::nixl
