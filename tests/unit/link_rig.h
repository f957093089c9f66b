// What the tests of Link share: a world with two processes and a connection between them, and a
// handler that records.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/identity.h"
#include "base/limits.h"
#include "support/sim.h"
#include "transport/transport.h"

namespace memkv {

inline std::vector<std::byte> random_bytes(std::size_t bytes, Random& random) {
  std::vector<std::byte> out(bytes);
  std::size_t at = 0;
  for (; at + 8 <= bytes; at += 8) {
    const std::uint64_t word = random.next();
    std::memcpy(out.data() + at, &word, 8);
  }
  for (; at < bytes; ++at) out[at] = static_cast<std::byte>(random.next());
  return out;
}

// Cuts memory into 1 … `pieces_max` pieces.
inline std::vector<iovec> random_pieces(std::span<std::byte> memory, std::size_t pieces_max,
                                        Random& random) {
  std::vector<std::size_t> cuts = {0, memory.size()};
  for (std::uint64_t n = random.below(pieces_max); n > 0; --n) {
    cuts.push_back(random.below(memory.size() + 1));
  }
  std::sort(cuts.begin(), cuts.end());
  std::vector<iovec> out;
  for (std::size_t i = 1; i < cuts.size(); ++i) {
    out.push_back({memory.data() + cuts[i - 1], cuts[i] - cuts[i - 1]});
  }
  return out;
}

inline std::vector<std::uint32_t> crcs_of(std::span<const std::byte> bytes,
                                          std::uint32_t unit_bytes) {
  UnitCrcs crcs(unit_bytes, bytes.size());
  crcs.feed(bytes);
  return {crcs.crcs().begin(), crcs.crcs().end()};
}

// A block that is landing, in memory of exactly its size so that the sanitizer sees a byte too
// many.
struct Landed {
  explicit Landed(std::size_t size) : memory(size), crcs(unit_bytes_of(size), size) {}
  std::vector<std::byte> memory;
  UnitCrcs crcs;
  std::size_t bytes = 0;
};

struct Frame {
  wire::Type type{};
  std::uint64_t request = 0;
  std::vector<std::byte> body;
  friend bool operator==(const Frame&, const Frame&) = default;
};

// Records what a link says; payloads land where `blocks` has room for them, else nowhere.
class Recorder : public LinkHandler {
 public:
  using Name = std::pair<std::uint64_t, std::uint32_t>;  // request and item

  void on_frame(const wire::Header& header, std::span<const std::byte> body) override {
    frames.push_back({header.type, header.request, {body.begin(), body.end()}});
    EXPECT_FALSE(closed);
    if (when_frame) when_frame();
  }
  Landing on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override {
    EXPECT_FALSE(closed);
    ++datas;
    Landing landing;
    const auto found = blocks.find({request, data.item});
    if (found != blocks.end()) {
      const std::span memory(found->second->memory);
      EXPECT_LE(data.offset + bytes, memory.size());
      const auto pieces = random_pieces(memory.subspan(data.offset, bytes), kLandingPieces, random);
      std::copy(pieces.begin(), pieces.end(), landing.pieces.begin());
      landing.count = pieces.size();
      landing.crcs = &found->second->crcs;
    }
    if (when_data) when_data();
    return landing;
  }
  void on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override {
    EXPECT_FALSE(closed);
    const auto found = blocks.find({request, data.item});
    ASSERT_NE(found, blocks.end());
    found->second->bytes += bytes;
    landed_bytes += bytes;
    if (when_landed) when_landed();
  }
  void on_closed(const Status& why) override {
    EXPECT_FALSE(closed) << "closed twice";
    closed = why;
    link.reset();
    if (when_closed) when_closed();
  }

  Landed& expect(std::uint64_t request, std::uint32_t item, std::size_t bytes) {
    return *(blocks[{request, item}] = std::make_unique<Landed>(bytes));
  }

  [[nodiscard]] Landed& block(std::uint64_t request, std::uint32_t item) {
    return *blocks.at({request, item});
  }

  std::unique_ptr<Link> link;
  std::vector<Frame> frames;
  std::map<Name, std::unique_ptr<Landed>> blocks;
  int datas = 0;
  std::size_t landed_bytes = 0;
  std::optional<Status> closed;
  std::function<void()> when_frame, when_data, when_landed, when_closed;
  SeededRandom random{4711};
};

// Two connected streams; steps move 1 … n bytes.
struct Ends {
  explicit Ends(std::uint64_t seed, std::uint32_t short_steps = 900'000)
      : world(sim::World::create(seed, {.short_steps = short_steps})),
        random(seed),
        a(world->spawn("a")),
        b(world->spawn("b")) {
    auto listening = b->network().listen(
        "b:1", [this](std::unique_ptr<Stream> stream) { stream_b = std::move(stream); });
    EXPECT_TRUE(listening);
    a->network().connect("b:1", 1'000'000'000, [this](Result<std::unique_ptr<Stream>> stream) {
      EXPECT_TRUE(stream);
      stream_a = *std::move(stream);
    });
    EXPECT_TRUE(world->run_until([this] { return stream_a != nullptr && stream_b != nullptr; }));
  }
  [[nodiscard]] bool run_until(const std::function<bool()>& done) { return world->run_until(done); }
  // Lets everything happen that will ever happen by itself.
  void run_out() {
    (void)world->run_until([] { return false; }, 10'000);
  }

  std::unique_ptr<sim::World> world;
  SeededRandom random;
  std::unique_ptr<sim::Process> a;
  std::unique_ptr<sim::Process> b;
  std::unique_ptr<Stream> stream_a;
  std::unique_ptr<Stream> stream_b;
};

// Two links that talk to each other.
struct Links : Ends {
  explicit Links(std::uint64_t seed, std::uint32_t short_steps = 900'000)
      : Ends(seed, short_steps) {
    left.link = Link::start(std::move(stream_a), a->executor(), left, kBodyBytesMax);
    right.link = Link::start(std::move(stream_b), b->executor(), right, kBodyBytesMax);
  }
  Recorder left;
  Recorder right;
};

}  // namespace memkv
