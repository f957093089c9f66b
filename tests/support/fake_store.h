// FakeStore: a Store for tests of the server: blocks in a map, no device, no arena, no limits. It
// holds its answers back when a test says so, and counts what was begun and not ended, so that a
// leak shows. Memory of a put or get is its own allocation and is freed with it: a late touch is
// one that a sanitizer sees.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/crc32c.h"
#include "engine/store.h"

namespace memkv::testing {

class FakeStore final : public Store {
 public:
  explicit FakeStore(Executor& executor) : executor_(executor) {}

  // Answers to begin_put / begin_get / drop are kept until release().
  bool hold_grants = false;
  bool hold_gets = false;
  bool hold_drops = false;
  // Called with each key of a match, and with each report.
  std::function<void()> on_match;
  std::vector<std::pair<TenantId, std::uint64_t>> reports;
  std::uint64_t aborted = 0, most_gets = 0;
  std::vector<SpaceCopies> space_copies;  // what copies() says
  // What every list() is answered with, and what it was asked.
  Listing listing;
  RulesUsage usage;
  std::vector<Wish> wishes;
  bool hold_lists = false;
  // What it says of its memory.
  std::uint64_t arena_bytes = 256 * kMiB;
  bool is_short = false;

  void release() {
    hold_grants = hold_gets = hold_drops = hold_lists = false;
    for (auto& answer : std::exchange(held_, {})) executor_.post(std::move(answer));
  }
  [[nodiscard]] std::size_t open_puts() const { return puts_.size(); }
  [[nodiscard]] std::size_t open_gets() const { return gets_.size(); }
  [[nodiscard]] std::size_t blocks() const { return blocks_.size(); }
  [[nodiscard]] std::size_t held() const { return held_.size(); }

  void set_rules(StoreRules settled) override { rules = std::move(settled); }
  StoreRules rules;

  void close(std::move_only_function<void(Result<void>)> closed) override {
    executor_.post([closed = std::move(closed)]() mutable { closed({}); });
  }
  Found match(const BlockId& id, std::uint64_t) override {
    if (on_match) on_match();
    const auto found = blocks_.find(name_of(id));
    if (found == blocks_.end()) return {};
    return {.present = true,
            .in_dram = true,
            .mark = found->second->mark,
            .length = found->second->length};
  }
  PutId begin_put(const BlockId& id, std::uint32_t length, const BlockTraits&,
                  std::move_only_function<void(Result<Grant>)> granted) override {
    const PutId put = ++last_id_;
    puts_[put] =
        Put{.name = name_of(id), .length = length, .granted = std::move(granted), .memory = {}};
    answer(hold_grants, [this, put] { grant(put); });
    return put;
  }
  Result<std::uint64_t> commit_put(PutId put, std::span<const std::uint32_t> arrived,
                                   std::span<const std::uint32_t> written) override {
    Put done = std::move(puts_.at(put));
    puts_.erase(put);
    if (written.size() != unit_count_of(done.length)) return fail(Code::invalid);
    if (!std::ranges::equal(arrived, written)) return fail(Code::corrupt);
    auto block = std::make_shared<Block>();
    block->length = done.length;
    block->incarnation = ++last_id_;
    block->bytes.reset(new std::byte[done.length]);
    std::size_t at = 0;
    for (const auto& piece : done.memory) {
      const std::size_t count = std::min<std::size_t>(kArenaPageBytes, done.length - at);
      std::memcpy(block->bytes.get() + at, piece.get(), count);
      at += count;
    }
    block->crcs.assign(written.begin(), written.end());
    blocks_[done.name] = block;
    return block->incarnation;
  }
  void abort_put(PutId put) override { aborted += puts_.erase(put); }
  GetId begin_get(const BlockId& id, std::uint32_t offset, std::uint32_t length,
                  std::move_only_function<void(Result<Pinned>)> got) override {
    const GetId get = ++last_id_;
    gets_[get] = Get{.name = name_of(id),
                     .offset = offset,
                     .length = length,
                     .got = std::move(got),
                     .memory = {},
                     .block = nullptr};
    most_gets = std::max<std::uint64_t>(most_gets, gets_.size());
    answer(hold_gets, [this, get] { pin(get); });
    return get;
  }
  void end_get(GetId get) override { gets_.erase(get); }
  void drop(const BlockId& id, std::move_only_function<void(Code)> dropped) override {
    const Code code = blocks_.erase(name_of(id)) > 0 ? Code::ok : Code::not_found;
    answer(hold_drops, [dropped = std::move(dropped), code]() mutable { dropped(code); });
  }
  void report(const BlockId& id, std::uint64_t incarnation) override {
    reports.emplace_back(id.tenant, incarnation);
  }
  void list(const Wish& wish, std::move_only_function<void(Result<Listing>)> listed) override {
    wishes.push_back(wish);
    answer(hold_lists, [this, listed = std::move(listed)]() mutable { listed(listing); });
  }
  bool mark(const BlockId& id, std::uint64_t incarnation, std::uint8_t mark) override {
    const auto found = blocks_.find(name_of(id));
    if (found == blocks_.end() || found->second->incarnation != incarnation) return false;
    found->second->mark = mark;
    return true;
  }
  StoreStats stats() const override {
    return {.boot = 7,
            .capacity_bytes = kGiB,
            .arena_bytes = arena_bytes,
            .blocks = blocks_.size(),
            .usage = usage};
  }
  MemoryWanted memory_wanted() const override { return {.of_puts = is_short, .of_gets = is_short}; }
  std::vector<SpaceCopies> copies() const override { return space_copies; }
  void when_clean(std::move_only_function<void()> clean) override {
    executor_.post(std::move(clean));
  }

 private:
  using Memory = std::unique_ptr<std::byte[]>;
  struct Block {
    std::uint32_t length = 0;
    std::uint64_t incarnation = 0;
    std::uint8_t mark = 0;
    Memory bytes;
    std::vector<std::uint32_t> crcs;
  };
  struct Put {
    std::string name;
    std::uint32_t length = 0;
    std::move_only_function<void(Result<Grant>)> granted;
    std::vector<Memory> memory;
  };
  struct Get {
    std::string name;
    std::uint32_t offset = 0, length = 0;
    std::move_only_function<void(Result<Pinned>)> got;
    Memory memory;
    std::shared_ptr<Block> block;
  };

  static std::string name_of(const BlockId& id) {
    std::string name = std::to_string(id.tenant) + "/" + std::to_string(id.space.generation) + "/";
    name += as_text_of(id.space.id);
    name += as_text_of(id.key);
    return name;
  }
  void answer(bool hold, Task task) {
    if (hold) {
      held_.push_back(std::move(task));
    } else {
      executor_.post(std::move(task));
    }
  }
  void grant(PutId id) {
    const auto found = puts_.find(id);
    if (found == puts_.end()) return;
    Put& put = found->second;
    auto granted = std::move(put.granted);
    if (const auto block = blocks_.find(put.name); block != blocks_.end()) {
      const Code code = block->second->length == put.length ? Code::exists : Code::conflict;
      puts_.erase(found);
      granted(fail(code));
      return;
    }
    Grant grant{.put = id, .pieces = {}};
    for (std::size_t left = put.length; left > 0;) {
      const std::size_t count = std::min<std::size_t>(left, kArenaPageBytes);
      put.memory.emplace_back(new std::byte[count]);
      grant.pieces.push_back({put.memory.back().get(), count});
      left -= count;
    }
    granted(std::move(grant));
  }
  void pin(GetId id) {
    const auto found = gets_.find(id);
    if (found == gets_.end()) return;
    Get& get = found->second;
    auto got = std::move(get.got);
    const auto block = blocks_.find(get.name);
    const bool absent = block == blocks_.end();
    if (absent || std::uint64_t{get.offset} + get.length > block->second->length) {
      gets_.erase(found);
      got(fail(absent ? Code::not_found : Code::invalid));
      return;
    }
    get.block = block->second;
    const std::uint32_t unit = unit_bytes_of(get.block->length);
    const std::uint32_t first = get.offset / unit;
    const std::uint32_t last = (get.offset + get.length - 1) / unit;
    const std::size_t from = std::size_t{first} * unit;
    const std::size_t bytes =
        std::min<std::size_t>(std::size_t{last + 1} * unit, get.block->length) - from;
    get.memory.reset(new std::byte[bytes]);
    std::memcpy(get.memory.get(), get.block->bytes.get() + from, bytes);
    got(Pinned{.get = id,
               .incarnation = get.block->incarnation,
               .block_length = get.block->length,
               .first_unit = first,
               .pieces = {{get.memory.get(), bytes}},
               .crcs = std::span(get.block->crcs).subspan(first, last - first + 1)});
  }

  Executor& executor_;
  std::uint64_t last_id_ = 0;
  std::map<std::string, std::shared_ptr<Block>> blocks_;
  std::map<PutId, Put> puts_;
  std::map<GetId, Get> gets_;
  std::vector<Task> held_;
};

}  // namespace memkv::testing
