#include "sim/maps.h"

#include <algorithm>

#include "base/bytes.h"
#include "base/limits.h"
#include "wire/wire.h"

namespace memkv::sim {
namespace {

constexpr std::uint32_t kWeight = 100;
constexpr unsigned kFirstSpace = 0, kLastSpace = 2;  // one of namespace 7, and that of 8
static_assert(kLastSpace == kTwofold);

}  // namespace

Maps::Maps(const Plan& plan, Random& random) : plan_(plan), random_(random), epoch_(kStaticEpoch) {
  if (plan_.moves) members_.back().named = false;
  for (Settled& settled : settled_) {
    if (plan_.ttl_s > 0 || random_.below(2) == 0) settled.generation = 0;
  }
}

MapFile Maps::first() {
  settle(false);
  return publish();
}

MapFile Maps::next() {
  if (plan_.moves) {
    remember();
    change_a_node();
  }
  settle(false);
  return publish();
}

void Maps::remember() {
  std::array<std::uint32_t, kNodes> weights{};
  std::ranges::transform(members_, weights.begin(),
                         [](const Member& member) { return member.named ? member.weight : 0; });
  if (std::ranges::max(weights) == 0 || weights == formers_.front()) return;
  std::ranges::rotate(formers_, formers_.end() - 1);
  formers_.front() = weights;
}

MapFile Maps::last() {
  remember();
  members_.fill({});
  settle(true);
  return publish();
}

// A node comes, drains or does not any more, goes, drained or not, or has another share.
void Maps::change_a_node() {
  static constexpr std::array<std::uint32_t, 4> kWeights = {0, 50, 100, 300};
  const auto away = std::ranges::find(members_, false, &Member::named);
  if (away != members_.end() && random_.below(2) == 0) {
    *away = {.weight = kWeights.at(1 + random_.below(3))};
    return;
  }
  Member& one = members_.at(random_.below(kNodes));
  const std::uint64_t kind = random_.below(6);
  const bool others = std::ranges::count(members_, true, &Member::named) > 1;
  if (one.draining && kind < 3) {
    one = {.weight = kWeight};
  } else if ((one.draining || kind == 0) && others) {
    one.named = false;
    one.draining = false;
  } else if (kind < 4) {
    one = {.named = one.named, .draining = true, .weight = 0};
  } else {
    one = {.named = one.named, .weight = kWeights.at(random_.below(kWeights.size()))};
  }
}

// Quotas of both tenants, tight ones too.
void Maps::settle(bool calm) {
  for (Settled& settled : settled_) {
    const std::uint64_t least = std::uint64_t{kNodes} * plan_.block_bytes_max;
    const auto quota = [&](std::uint64_t most) {
      return random_.below(3) == 0 ? 0 : least + random_.below(most);
    };
    settled.quota = quota(plan_.disk_bytes);
    settled.space_quota = quota(plan_.disk_bytes / 4);
    settled.second_touch = !calm && random_.below(4) == 0;
    if (random_.below(6) != 0 || settled.generation == 1) continue;
    settled.generation = 1;
    settled.over_since = epoch_ + 1;
  }
}

MapFile Maps::publish() {
  ++epoch_;
  std::vector<std::byte> body(kBodyBytesMax);
  wire::MapReplyWriter writer(body, wire::MapHead{.epoch = epoch_});
  for (unsigned i = 0; i < kNodes; ++i) {
    const Member& member = members_.at(i);
    if (!member.named) continue;
    const std::string address = address_of(i);
    wire::MapNode node{.node = node_id_of(address),
                       .weight = member.weight,
                       .draining = static_cast<std::uint8_t>(member.draining),
                       .address = address};
    for (std::size_t before = 0; before < kFormersMax; ++before) {
      node.former_weights.at(before) = formers_.at(before).at(i);
    }
    (void)writer.add(node);
  }
  body.resize(writer.body().size());
  if (std::ranges::all_of(members_, &Member::named)) whole_.insert(epoch_);
  MapFile file(std::move(body));
  file.rules = rules();
  return file;
}

std::vector<std::byte> Maps::rules() const {
  constexpr std::size_t kSpaceBytes = 44, kTenantBytes = 16;
  std::vector<std::byte> body(12 + kTenants * (2 * kSpaceBytes + kTenantBytes));
  ByteWriter writer(body);
  const auto with_rule = static_cast<std::uint32_t>(std::ranges::count_if(
      settled_, [](const Settled& settled) { return settled.generation.has_value(); }));
  writer.u32(epoch_);
  writer.u32(kTenants + with_rule);
  writer.u32(kTenants);
  const auto space = [&](unsigned tenant, unsigned number, std::uint32_t generation,
                         std::uint32_t ttl_s, std::uint64_t quota, Admission admission,
                         std::uint8_t copies) {
    writer.u64(tenant_of(tenant));
    writer.raw(space_of(number).id);
    writer.u32(generation);
    writer.u32(ttl_s);
    writer.u64(quota);
    writer.u8(static_cast<std::uint8_t>(admission));
    writer.u8(copies);
    writer.zeros(2);
  };
  for (unsigned tenant = 0; tenant < kTenants; ++tenant) {
    const Settled& settled = settled_.at(tenant);
    if (settled.generation) {
      space(tenant, kFirstSpace, *settled.generation, plan_.ttl_s, 0, Admission::all, 1);
    }
    space(tenant, kLastSpace, 0, 0, settled.space_quota,
          settled.second_touch ? Admission::second_touch : Admission::all,
          plan_.copies ? kCopiesMax : 1);
  }
  for (unsigned tenant = 0; tenant < kTenants; ++tenant) {
    writer.u64(tenant_of(tenant));
    writer.u64(settled_.at(tenant).quota);
  }
  body.resize(12 + (kTenants + with_rule) * kSpaceBytes + kTenants * kTenantBytes);
  return body;
}

std::string Maps::sentence() const {
  std::string text = "a map of epoch " + std::to_string(epoch_) + ":";
  for (unsigned i = 0; i < kNodes; ++i) {
    const Member& member = members_.at(i);
    if (!member.named) continue;
    text += " node" + std::to_string(i) + " " + std::to_string(member.weight) +
            (member.draining ? " draining" : "");
  }
  return text;
}

void Maps::node_holds(unsigned node, std::uint32_t epoch) {
  held_.at(node) = std::max(held_.at(node), epoch);
}

bool Maps::knows_all(std::uint32_t epoch) const {
  return epoch >= std::ranges::max(held_) && whole_.contains(epoch);
}

bool Maps::is_over(unsigned tenant, unsigned space) const {
  const std::uint32_t since = settled_.at(tenant).over_since;
  return space == kFirstSpace && since != 0 && std::ranges::min(held_) >= since;
}

// A node without a weight counts with the one that it was started with.
std::optional<std::uint64_t> Maps::share(std::uint64_t quota, unsigned node) const {
  if (quota == 0) return std::nullopt;
  const auto weight_of = [&](unsigned i) {
    const Member& member = members_.at(i);
    if (member.named && member.weight > 0) return std::uint64_t{member.weight};
    return i == node ? std::uint64_t{kWeight} : 0;
  };
  std::uint64_t weights = 0;
  for (unsigned i = 0; i < kNodes; ++i) weights += weight_of(i);
  return std::max<std::uint64_t>(1, quota * weight_of(node) / weights);
}

std::optional<std::uint64_t> Maps::tenant_share(unsigned tenant, unsigned node) const {
  return share(settled_.at(tenant).quota, node);
}

std::optional<std::uint64_t> Maps::space_share(unsigned tenant, unsigned node) const {
  return share(settled_.at(tenant).space_quota, node);
}

}  // namespace memkv::sim
