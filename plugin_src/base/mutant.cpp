#include "base/mutant.h"

#if defined(MEMKV_TESTING)

#include <array>
#include <atomic>
#include <utility>

namespace memkv {
namespace {

std::atomic<Mutant> active{Mutant::none};

constexpr std::array<std::pair<std::string_view, Mutant>, 9> kMutants = {{
    {"skip_key_compare", Mutant::skip_key_compare},
    {"skip_tenant_compare", Mutant::skip_tenant_compare},
    {"skip_crc_on_read", Mutant::skip_crc_on_read},
    {"publish_early", Mutant::publish_early},
    {"ignore_generation", Mutant::ignore_generation},
    {"commit_held", Mutant::commit_held},
    {"drop_newest_only", Mutant::drop_newest_only},
    {"believe_history", Mutant::believe_history},
    {"ignore_rules", Mutant::ignore_rules},
}};

}  // namespace

bool mutant(Mutant which) {
  return active.load(std::memory_order_relaxed) == which;
}

void set_mutant(Mutant which) {
  active.store(which);
}

Mutant mutant_by_name(std::string_view name) {
  for (const auto& [known, which] : kMutants) {
    if (known == name) return which;
  }
  return Mutant::none;
}

}  // namespace memkv

#endif
