#include "client/copies.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/limits.h"

namespace memkv {
namespace {

constexpr double kShareOfTheLast = 1.0 / 8;  // of one answer in what a node's byte takes
// Until one of its bytes came a node is taken for a fast one, and is tried.
constexpr double kUnknownNsPerByte = 0.1;
constexpr std::uint64_t kAnswerBytes = 64 * kKiB;  // what an answer costs besides its bytes

}  // namespace

void Copies::heard(const Fingerprint& group, bool copied, std::uint64_t now_ns) {
  Group& place = groups_[group.low % kGroups];
  if (copied) place = {.group = group, .until_ns = now_ns + kCopiedMs * kNsPerMs};
  if (!copied && place.group == group) place = {};
}

bool Copies::known(const Fingerprint& group, std::uint64_t now_ns) const {
  const Group& place = groups_[group.low % kGroups];
  return place.group == group && place.until_ns > now_ns;
}

Copies::Load& Copies::load(std::size_t node) {
  if (loads_.size() <= node) loads_.resize(node + 1);
  return loads_[node];
}

std::uint64_t Copies::wanted(std::size_t node, std::uint64_t bytes) {
  return load(node).bytes += bytes + kAnswerBytes;
}

void Copies::over(std::size_t node, std::uint64_t bytes) {
  Load& here = load(node);
  here.bytes -= std::min(here.bytes, bytes + kAnswerBytes);
}

double Copies::fresh(const Load& load, std::uint64_t now_ns) {
  const std::uint64_t unseen_ns = now_ns - std::min(now_ns, load.seen_ns);
  return std::exp2(-static_cast<double>(unseen_ns) / (kSpeedHalfMs * kNsPerMs));
}

void Copies::came(std::size_t node, std::uint64_t queued, std::uint64_t took_ns,
                  std::uint64_t now_ns) {
  Load& here = load(node);
  const double took = static_cast<double>(took_ns) / static_cast<double>(queued);
  const double kept = here.ns_per_byte == 0 ? 0 : (1 - kShareOfTheLast) * fresh(here, now_ns);
  here.ns_per_byte = took + (here.ns_per_byte - took) * kept;
  here.seen_ns = now_ns;
}

void Copies::failed(std::size_t node, std::uint64_t queued, std::uint64_t took_ns,
                    std::uint64_t now_ns) {
  const Load& here = load(node);
  const double took = static_cast<double>(took_ns) / static_cast<double>(queued);
  if (took > here.ns_per_byte * fresh(here, now_ns)) came(node, queued, took_ns, now_ns);
}

void Copies::forget(std::size_t node) {
  if (node < loads_.size()) loads_[node] = {};
}

double Copies::wait_ns(std::size_t node, std::uint64_t bytes, std::uint64_t now_ns) const {
  const Load here = node < loads_.size() ? loads_[node] : Load{};
  // At last it is as good as one that is not known; no better, so that it does not get all at once.
  const double least = std::min(here.ns_per_byte, kUnknownNsPerByte);
  const double each = here.ns_per_byte == 0
                          ? kUnknownNsPerByte
                          : std::max(here.ns_per_byte * fresh(here, now_ns), least);
  return each * static_cast<double>(here.bytes + bytes + kAnswerBytes);
}

std::size_t Copies::sooner(std::size_t first, std::uint64_t first_bytes, std::size_t second,
                           std::uint64_t second_bytes, std::uint64_t now_ns) const {
  const bool swap = wait_ns(second, second_bytes, now_ns) < wait_ns(first, first_bytes, now_ns);
  return swap ? second : first;
}

}  // namespace memkv
