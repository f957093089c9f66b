#include "client/asking.h"

namespace memkv {
namespace {

template <typename Writer, typename Head, typename RecordOf>
Asked fill(wire::Type type, const Operation& operation, std::span<const std::uint32_t> items,
           std::size_t count_max, std::span<std::byte> memory, const Head& head,
           const RecordOf& record_of) {
  Writer writer(memory, head);
  for (const std::uint32_t index : items) {
    if (writer.count() == count_max || !writer.add(record_of(operation.items[index]))) break;
  }
  return {.type = type, .body = writer.body(), .count = writer.count()};
}

}  // namespace

Asked ask(const Operation& operation, std::span<const std::uint32_t> items, std::size_t count_max,
          std::span<std::byte> memory) {
  using Item = Operation::Item;
  const auto key_of = [](const Item& item) { return wire::Key{item.key}; };
  switch (operation.kind) {
    case Operation::Kind::match: {
      const wire::MatchHead head{.space = operation.space, .hold_ms = operation.hold_ms};
      return fill<wire::MatchWriter>(wire::Type::match, operation, items, count_max, memory, head,
                                     key_of);
    }
    case Operation::Kind::drop:
      return fill<wire::DropWriter>(wire::Type::drop, operation, items, count_max, memory,
                                    operation.space, key_of);
    case Operation::Kind::put:
      return fill<wire::PutWriter>(wire::Type::put, operation, items, count_max, memory,
                                   operation.space, [](const Item& item) {
                                     return wire::PutItem{
                                         .length = static_cast<std::uint32_t>(item.bytes.size()),
                                         .traits = item.traits,
                                         .key = item.key};
                                   });
    case Operation::Kind::get:
      return fill<wire::GetWriter>(wire::Type::get, operation, items, count_max, memory,
                                   operation.space, [](const Item& item) {
                                     return wire::GetItem{
                                         .offset = item.offset,
                                         .length = static_cast<std::uint32_t>(item.target.size()),
                                         .key = item.key};
                                   });
    case Operation::Kind::question:
      return {.type = operation.question.asks, .body = operation.question.body, .count = 1};
    case Operation::Kind::map:
      return {.type = wire::Type::map, .body = {}, .count = 1};
    case Operation::Kind::stat:
      break;
  }
  return {.type = wire::Type::stat, .body = {}, .count = 1};
}

}  // namespace memkv
