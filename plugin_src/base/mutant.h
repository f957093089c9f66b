// Mutants: bugs that the simulation must find.
//
// A simulator that cannot find a known bug proves nothing. In a testing build each of these can be
// switched on by name; in a build that ships, mutant() is the constant false and the code around it
// is the code.
#pragma once

#include <string_view>

namespace memkv {

enum class Mutant : unsigned char {
  none,
  skip_key_compare,     // a block is served by its fingerprint alone
  skip_tenant_compare,  // the tenant is left out of fingerprint and identity
  skip_crc_on_read,     // neither the node nor the client looks at the CRCs of what was read
  publish_early,        // a block is visible before the writer's CRCs were compared
  ignore_generation,    // what an earlier life of a segment left behind is believed
  commit_held,          // a copy is visible before its source said that it still has the block
  drop_newest_only,     // a drop goes to the places of the map in force, and to no others
  believe_history,      // a drop takes the maps that the client saw for all that there were
  ignore_rules,         // a drop generation that a map ends goes on
};

#if defined(MEMKV_TESTING)
[[nodiscard]] bool mutant(Mutant which);  // Thread: any.
void set_mutant(Mutant which);            // Thread: before any store or client is opened.
[[nodiscard]] Mutant mutant_by_name(std::string_view name);  // none for a name that is none
#else
[[nodiscard]] constexpr bool mutant(Mutant) {
  return false;
}
#endif

}  // namespace memkv
