#include "nixl/flight.h"

#include <algorithm>
#include <new>
#include <utility>

#include "nixl/poison.h"

namespace memkv::nixl {

void Tower::took_off(std::shared_ptr<Flight> flight) {
  const std::lock_guard lock(mutex_);
  flight->number_ = next_++;
  in_the_air_.emplace(flight->number_, std::move(flight));
}

void Tower::landed(const Flight& flight) {
  const std::lock_guard lock(mutex_);
  in_the_air_.erase(flight.number_);
}

std::vector<std::shared_ptr<Flight>> Tower::touching(std::uint64_t memory) const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Flight>> out;
  for (const auto& [number, flight] : in_the_air_) {
    if (std::ranges::binary_search(flight->memories(), memory)) out.push_back(flight);
  }
  return out;
}

abi::Answer answer_of(std::span<const Code> codes) {
  bool absent = false;
  for (const Code code : codes) {
    if (code == Code::ok || code == Code::exists) continue;
    if (code != Code::not_found) return abi::Answer::backend_error;
    absent = true;
  }
  return absent ? abi::Answer::not_found : abi::Answer::success;
}

Flight::Flight(std::shared_ptr<Tower> tower, Plan plan)
    : tower_(std::move(tower)), plan_(std::move(plan)), began_ns_(tower_->clock().now_ns()) {}

std::shared_ptr<Flight> Flight::start(std::shared_ptr<Tower> tower, Plan plan,
                                      const Submit& submit) {
  auto flight = std::make_shared<Flight>(std::move(tower), std::move(plan));
  flight->launched(submit([flight] { flight->finished(); }));
  return flight;
}

std::uint64_t Flight::age_ms() const {
  return (tower_->clock().now_ns() - began_ns_) / kNsPerMs;
}

// The request may be over before the client has handed it out: whichever of the two comes last
// draws the outcome.
void Flight::launched(std::unique_ptr<Request> request) {
  const std::lock_guard lock(mutex_);
  request_ = std::move(request);
  if (finished_) {
    conclude();
    return;
  }
  try {
    tower_->took_off(shared_from_this());
  } catch (const std::bad_alloc&) {
    request_->cancel();  // nobody would find it when its memory goes
  }
}

void Flight::finished() {
  const std::lock_guard lock(mutex_);
  finished_ = true;
  if (!request_) return;
  conclude();
  tower_->landed(*this);
}

// Runs on the client's thread, where nobody catches.
void Flight::conclude() {
  try {
    draw_outcome();
  } catch (const std::bad_alloc&) {
    answer_ = abi::Answer::backend_error;
  }
  over_.store(true, std::memory_order_release);
}

void Flight::draw_outcome() {
  std::vector<Code> codes(request_->codes().begin(), request_->codes().end());
  // After a broken invariant nothing that a check was to prove is proven.
  if (poisoned()) std::ranges::fill(codes, Code::internal);
  answer_ = answer_of(codes);
  if (std::ranges::all_of(codes, [](Code code) { return code == Code::ok; })) {
    tower_->rates().finished(plan_.direction, plan_.bytes, tower_->clock().now_ns() - began_ns_);
  }
  if (plan_.notice) tower_->notices().add(notice_of(*plan_.notice, codes));
}

}  // namespace memkv::nixl
