// A block that is asked for at several places: what is known of it after each. Pure.
#pragma once

#include "client/client_map.h"
#include "client/operation.h"

namespace memkv {

[[nodiscard]] NodeHealth unknown_health(const std::string& address);

// A match was answered, and the block is not there.
[[nodiscard]] bool absent(const Operation& operation, std::size_t index);
// The item goes there next.
void send_to(Operation::Item& item, const ClientMap::Place& place);
// Whether a former place may know better than the answer of the last.
[[nodiscard]] bool worth_asking_on(const Operation& operation, std::size_t index, Code code);
// What the answers so far come to. A get or match is what the first place said, unless a later one
// has the block; a drop is done when no place failed.
[[nodiscard]] Code told(const Operation& operation, std::size_t index, Code code);

}  // namespace memkv
