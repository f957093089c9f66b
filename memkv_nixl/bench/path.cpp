// Puts and gets through the client, as an engine would do them.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <optional>
#include <thread>

#include "base/bytes.h"
#include "base/clock.h"
#include "measures.h"

namespace memkv::bench {
namespace {

constexpr std::uint64_t kDeadlineMs = 60'000;

Namespace bench_space() {
  Namespace space;
  std::ranges::copy(as_bytes_of("memkv_bench path"), space.id.begin());
  return space;
}

std::string key_of(std::uint64_t round, std::size_t batch, std::size_t block) {
  return "r" + std::to_string(round) + "/b" + std::to_string(batch) + "/" + std::to_string(block);
}

// One request under way and the keys it refers to.
struct Slot {
  std::vector<std::string> keys;
  std::unique_ptr<Request> request;
};

Result<void> finish(Slot& slot, const char* what) {
  if (!slot.request) return {};
  if (!slot.request->wait(kDeadlineMs + 1000)) return fail(Code::timeout, what);
  for (const Code code : slot.request->codes()) {
    if (code != Code::ok) {
      return fail(code,
                  std::string(what) + " of a block ended with " + std::string(code_name(code)));
    }
  }
  slot.request.reset();
  return {};
}

template <typename Begin>
Result<double> run_batches(std::span<Blocks* const> memory, const Run& run, const char* what,
                           Begin&& begin) {
  std::vector<Slot> slots(run.in_flight);
  const std::uint64_t started = system_clock().now_ns();
  for (std::size_t batch = 0; batch < run.batches + run.in_flight; ++batch) {
    Slot& slot = slots[batch % run.in_flight];
    if (Result<void> over = finish(slot, what); !over) return fail(over.error());
    if (batch >= run.batches) continue;
    Blocks& blocks = *memory[batch % run.in_flight];
    slot.keys.clear();
    for (std::size_t i = 0; i < blocks.count(); ++i) {
      slot.keys.push_back(key_of(run.round, batch, i));
    }
    slot.request = begin(slot.keys, blocks);
  }
  const std::uint64_t bytes = run.batches * memory[0]->all().size();
  return static_cast<double>(bytes) * 1e9 / static_cast<double>(system_clock().now_ns() - started);
}

Result<std::string> stat_text(Client& client) {
  std::mutex mutex;
  std::condition_variable came;
  std::optional<Result<std::string>> answer;
  client.stat(0, 5000, [&](Result<std::string> text) {
    const std::lock_guard lock(mutex);
    answer = std::move(text);
    came.notify_all();
  });
  std::unique_lock lock(mutex);
  came.wait(lock, [&] { return answer.has_value(); });
  return std::move(*answer);
}

}  // namespace

Result<double> put_blocks(Client& client, std::span<Blocks* const> memory, const Run& run) {
  return run_batches(memory, run, "put", [&](const std::vector<std::string>& keys, Blocks& blocks) {
    std::vector<PutBlock> items(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      items[i] = {.key = as_bytes_of(keys[i]), .group = {}, .bytes = blocks.block(i)};
    }
    return client.put(bench_space(), items, kDeadlineMs);
  });
}

Result<double> get_blocks(Client& client, std::span<Blocks* const> memory, const Run& run) {
  return run_batches(memory, run, "get", [&](const std::vector<std::string>& keys, Blocks& blocks) {
    std::vector<GetBlock> items(keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      items[i] = {.key = as_bytes_of(keys[i]), .group = {}, .offset = 0, .target = blocks.block(i)};
    }
    return client.get(bench_space(), items, kDeadlineMs);
  });
}

Result<std::uint64_t> node_number(Client& client, const std::string& name) {
  const Result<std::string> text = stat_text(client);
  if (!text) return fail(text.error());
  const std::string lines = "\n" + *text;
  const std::size_t at = lines.find("\n" + name + " ");
  if (at == std::string::npos) return fail(Code::invalid, "STAT has no " + name);
  return std::strtoull(lines.c_str() + at + name.size() + 2, nullptr, 10);
}

Result<void> wait_until_clean(Client& client) {
  for (int tries = 0; tries < 3000; ++tries) {
    const Result<std::uint64_t> dirty = node_number(client, "dirty_bytes");
    if (!dirty) return fail(dirty.error());
    if (*dirty == 0) return {};
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return fail(Code::timeout, "the node did not get its blocks onto the device in 30 s");
}

}  // namespace memkv::bench
