#include "nixl/flight.h"

#include <algorithm>
#include <new>
#include <utility>

#include "nixl/poison.h"

namespace memkv::nixl {

std::uint64_t Tower::open() {
  const std::lock_guard lock(mutex_);
  open_.insert(next_);
  return next_++;
}

void Tower::close(std::uint64_t memory) {
  const std::lock_guard lock(mutex_);
  open_.erase(memory);
}

bool Tower::took_off(std::shared_ptr<Flight> flight) {
  const std::lock_guard lock(mutex_);
  const auto is_open = [this](std::uint64_t memory) { return open_.contains(memory); };
  if (!std::ranges::all_of(flight->memories(), is_open)) return false;
  flight->number_ = next_++;
  in_the_air_.emplace(flight->number_, std::move(flight));
  return true;
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

std::vector<std::shared_ptr<Flight>> Tower::all() const {
  const std::lock_guard lock(mutex_);
  std::vector<std::shared_ptr<Flight>> out;
  for (const auto& [number, flight] : in_the_air_) out.push_back(flight);
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
  if (!flight->tower_->took_off(flight)) return nullptr;
  flight->launch(submit);
  return flight;
}

void Flight::launch(const Submit& submit) {
  const std::lock_guard lock(launching_);
  try {
    launched(submit([flight = shared_from_this()] { flight->finished(); }));
  } catch (...) {
    tower_->landed(*this);
    throw;
  }
}

Request* Flight::request() {
  const std::lock_guard lock(launching_);
  return request_.get();
}

std::uint64_t Flight::age_ms() const {
  return (tower_->clock().now_ns() - began_ns_) / kNsPerMs;
}

// The request may be over before the client has handed it out: whichever of the two comes last
// draws the outcome.
void Flight::launched(std::unique_ptr<Request> request) {
  const std::lock_guard lock(mutex_);
  request_ = std::move(request);
  if (!finished_) return;
  conclude();
  tower_->landed(*this);
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
