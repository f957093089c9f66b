#include "client/places.h"

#include <algorithm>

#include "base/check.h"

namespace memkv {
namespace {

using Kind = Operation::Kind;

}  // namespace

bool absent(const Operation& operation, std::size_t index) {
  return operation.kind == Kind::match && operation.matches[index].where == Where::absent;
}

NodeHealth unknown_health(const std::string& address) {
  NodeHealth health;
  health.address = address;
  health.node = address.empty() ? 0 : node_id_of(address);
  return health;
}

void send_to(Operation::Item& item, const ClientMap::Place& place) {
  const bool bounded = item.times_asked < std::max(item.asked.size(), item.plan.size());
  MEMKV_CHECK(bounded, "a block is looked for at few places");
  item.node = place.node;
  item.map = place.map;
  item.queued = 0;
  if (item.times_asked < item.asked.size()) item.asked[item.times_asked] = place.node;
  ++item.times_asked;
}

bool worth_asking_on(const Operation& operation, std::size_t index, Code code) {
  switch (operation.kind) {
    case Kind::get:
      if (code == Code::not_found || code == Code::unreachable) return true;
      // The other copy may be whole, or near.
      return !operation.items[index].plan.empty() && code != Code::ok && code != Code::invalid &&
             code != Code::timeout && code != Code::cancelled;
    case Kind::match:
      return code == Code::unreachable || (code == Code::ok && absent(operation, index));
    case Kind::drop:
      return code == Code::not_found || code == Code::ok || code == Code::unreachable;
    default:
      return false;
  }
}

Code told(const Operation& operation, std::size_t index, Code code) {
  const Operation::Item& item = operation.items[index];
  if (!item.first) return code;
  const Code first = *item.first;
  if (operation.kind == Operation::Kind::drop) {
    const bool first_failed = first != Code::ok && first != Code::not_found;
    const bool failed = code != Code::ok && code != Code::not_found;
    if (first_failed) return first;
    if (failed) return code;
    return first == Code::ok ? Code::ok : code;
  }
  const bool found = code == Code::ok && !absent(operation, index);
  return found ? code : first;
}

}  // namespace memkv
