// A store that goes by rules, on a small simulated device, and what its tests ask of it.
#pragma once

#include <string>

#include "unit/engine_rig.h"

namespace memkv {

inline constexpr std::size_t kBlock = 60'000;

inline RigOptions small() {
  RigOptions options;
  options.disk_bytes = 8 * kMiB + kMiB;  // 8 segments and a bit
  options.arena_bytes = 2 * kMiB;
  options.store.segment_bytes = kMiB;
  return options;
}

inline BlockId of_space(std::string_view key, int space, TenantId tenant = kDefaultTenant,
                        std::uint32_t generation = 0) {
  BlockId id = id_of(key, tenant, generation);
  id.space.id[1] = static_cast<std::byte>(space);
  return id;
}

inline SpaceRule rule_of(int space, TenantId tenant = kDefaultTenant) {
  return {.tenant = tenant, .id = of_space("", space, tenant).space.id};
}

inline std::string key_of(std::uint64_t number) {
  return "k" + std::to_string(number);
}

class Rules : public ::testing::Test {
 protected:
  void open(RigOptions options = small()) {
    rig = std::make_unique<Rig>(options);
    ASSERT_TRUE(rig->open().good());
  }
  Code put(const BlockId& id, std::uint64_t seed = 1, std::size_t bytes = kBlock) {
    const auto done = rig->put(id, bytes_from(seed, bytes));
    return done ? Code::ok : done.error().code;
  }
  [[nodiscard]] bool has(const BlockId& id) { return rig->store->match(id, 0).present; }
  // How many of the keys 0 … count - 1 are there; looking is no hit that lasts.
  [[nodiscard]] std::uint64_t count(int space, std::uint64_t keys,
                                    TenantId tenant = kDefaultTenant) {
    std::uint64_t found = 0;
    for (std::uint64_t i = 0; i < keys; ++i) {
      found += has(of_space(key_of(i), space, tenant)) ? 1 : 0;
    }
    return found;
  }
  [[nodiscard]] StoreStats stats() const { return rig->store->stats(); }
  // Until what is to be taken out was.
  void settle() {
    rig->world->run_until([] { return false; }, 200);
  }
  void pass(std::uint64_t seconds) {
    rig->world->after(seconds * 1'000'000'000, [] {});
    const std::uint64_t until = rig->world->clock().now_ns() + seconds * 1'000'000'000;
    ASSERT_TRUE(rig->world->run_until([&] { return rig->world->clock().now_ns() >= until; },
                                      2 * seconds * 1000));
  }
  void again() {
    ASSERT_TRUE(rig->rest());
    ASSERT_TRUE(rig->close().good());
    ASSERT_TRUE(rig->open().good());
  }

  std::unique_ptr<Rig> rig;
};

}  // namespace memkv
