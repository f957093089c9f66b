#include "server/lists.h"

#include <string>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace memkv {

Result<void> Lists::begin_list(std::uint64_t request, std::span<const std::byte> body) {
  const auto list = wire::decode_list(body);
  if (!list) return fail(list.error());
  if (under_way_ >= kListsPerPeerMax) {
    session_.refuse(request, {Code::busy, "more than " + std::to_string(kListsPerPeerMax) +
                                              " lists at a time"});
    return {};
  }
  const Wish wish{.tenant = session_.tenant,
                  .cursor = list->cursor,
                  .count = list->count,
                  .reads_min = list->reads_min,
                  .mark_not = list->mark_not,
                  .copies_min = list->copies_min,
                  .in_dram = list->dram == 1};
  waiting_.insert(request);
  ++under_way_;
  session_.server.store.list(
      wish, [this, request, alive = std::weak_ptr<bool>(session_.alive)](Result<Listing> listing) {
        if (alive.expired()) return;
        --under_way_;
        if (waiting_.erase(request) == 0) return;  // cancelled meanwhile
        if (!listing) return session_.refuse(request, listing.error());
        send_listed(request, *listing);
      });
  return {};
}

void Lists::send_listed(std::uint64_t request, const Listing& listing) {
  std::vector<std::byte> reply(kBodyBytesMax);
  wire::ListReplyWriter writer(
      reply, wire::ListReplyHead{.epoch = session_.server.epoch, .next = listing.next});
  for (const ListedBlock& block : listing.blocks) {
    const bool fits = writer.add(wire::Listed{.space = block.space,
                                              .incarnation = block.incarnation,
                                              .length = block.length,
                                              .traits = block.traits,
                                              .reads = block.reads,
                                              .mark = block.mark,
                                              .key = block.key});
    MEMKV_CHECK(fits, "kListMax blocks with the longest keys fit into a body");
  }
  session_.link->send(wire::Type::list_reply, request, writer.body());
}

Result<void> Lists::answer_mark(std::uint64_t request, std::span<const std::byte> body) {
  const auto mark = wire::decode_mark(body);
  if (!mark) return fail(mark.error());
  const BlockId id{.tenant = session_.tenant, .space = mark->space, .key = mark->key};
  const bool here = session_.server.store.mark(id, mark->incarnation, mark->mark);
  session_.send(
      wire::Type::mark_reply, request,
      wire::MarkReply{.epoch = session_.server.epoch, .code = here ? Code::ok : Code::not_found});
  return {};
}

}  // namespace memkv
