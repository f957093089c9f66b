#include "client/places.h"

#include "base/check.h"

namespace memkv {
namespace {

using Kind = Operation::Kind;

[[nodiscard]] bool absent(const Operation& operation, std::size_t index) {
  return operation.kind == Kind::match && operation.matches[index].where == Where::absent;
}

}  // namespace

NodeHealth unknown_health(const std::string& address) {
  NodeHealth health;
  health.address = address;
  health.node = address.empty() ? 0 : node_id_of(address);
  return health;
}

void send_to(Operation::Item& item, const ClientMap::Place& place) {
  MEMKV_CHECK(item.times_asked < item.asked.size(), "a block is looked for at few places");
  item.node = place.node;
  item.map = place.map;
  item.asked[item.times_asked++] = place.node;
}

bool worth_asking_on(const Operation& operation, std::size_t index, Code code) {
  switch (operation.kind) {
    case Kind::get:
      return code == Code::not_found || code == Code::unreachable;
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
  if (item.times_asked < 2) return code;
  if (operation.kind == Kind::drop) {
    const bool first_failed = item.first != Code::ok && item.first != Code::not_found;
    const bool failed = code != Code::ok && code != Code::not_found;
    if (first_failed) return item.first;
    if (failed) return code;
    return item.first == Code::ok ? Code::ok : code;
  }
  const bool found = code == Code::ok && !absent(operation, index);
  return found ? code : item.first;
}

}  // namespace memkv
