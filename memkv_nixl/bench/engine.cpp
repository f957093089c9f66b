// The engine alone: a store on a file, driven in this process, no network.
#include <deque>
#include <map>

#include "base/arena.h"
#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/event_loop.h"
#include "base/random.h"
#include "engine/store.h"
#include "measures.h"

namespace memkv::bench {
namespace {

// A store that lives as long as the program. Its blocks are what its arena happens to hold: nothing
// is copied in, as when a network card writes there.
class EngineBench {
 public:
  Result<void> open(const std::string& path, std::size_t dram_bytes) {
    Result<std::unique_ptr<EventLoop>> loop = EventLoop::create(0);
    if (!loop) return fail(loop.error());
    loop_ = std::move(*loop);
    Result<std::unique_ptr<Device>> device = open_uring_device({.path = path}, *loop_);
    if (!device) return fail(device.error());
    device_ = std::move(*device);
    Result<std::unique_ptr<Arena>> arena = map_arena(dram_bytes);
    if (!arena) return fail(arena.error());
    arena_ = std::move(*arena);
    // Nothing hot is rewritten: what goes to the device are the blocks that are put.
    Store::open({.rewrite_percent = 0}, *device_, *arena_, *loop_, system_random(),
                [this](Result<std::unique_ptr<Store>> store) {
                  if (store) store_ = std::move(*store);
                  if (!store) failure_ = store.error();
                  loop_->stop();
                });
    loop_->run();
    return outcome();
  }

  // `blocks` puts or gets of blocks named by `round`, `window` at a time; puts until all are on the
  // device.
  Result<double> run(bool put, std::uint32_t block_bytes, std::size_t blocks, std::uint64_t round,
                     std::size_t window) {
    put_ = put;
    block_bytes_ = block_bytes;
    blocks_ = blocks;
    round_ = round;
    begun_ = over_ = 0;
    failure_ = Status();
    const std::uint64_t started = system_clock().now_ns();
    loop_->post([this, window] {
      for (std::size_t i = 0; i < window; ++i) begin_next();
    });
    loop_->run();
    if (Result<void> good = outcome(); !good) return fail(good.error());
    return static_cast<double>(blocks) * block_bytes * 1e9 /
           static_cast<double>(system_clock().now_ns() - started);
  }

  [[nodiscard]] std::uint64_t flash_hits() const { return store_->stats().hits_flash; }

 private:
  [[nodiscard]] Result<void> outcome() const {
    if (failure_.good()) return {};
    return fail(failure_);
  }

  void begin_next() {
    if (begun_ == blocks_) return;
    const std::string key = "e" + std::to_string(round_) + "/" + std::to_string(begun_++);
    const BlockId id{.space = {}, .key = as_bytes_of(key)};
    if (put_) {
      store_->begin_put(id, block_bytes_, {}, [this](Result<Grant> grant) { put_one(grant); });
    } else {
      store_->begin_get(id, 0, block_bytes_, [this](Result<Pinned> pinned) { get_one(pinned); });
    }
  }

  // A block on its way in: its CRCs are taken a slice at a time, one block after another, as bytes
  // come from a network.
  struct Arrival {
    PutId put = 0;
    std::vector<std::span<const std::byte>> units;
    std::vector<std::uint32_t> crcs;
  };

  void put_one(Result<Grant>& grant) {
    if (!grant) return end(grant.error());
    const std::uint32_t unit_bytes = unit_bytes_of(block_bytes_);
    auto arrival = std::make_shared<Arrival>(Arrival{.put = grant->put, .units = {}, .crcs = {}});
    for (const iovec& piece : grant->pieces) {
      std::span<const std::byte> rest(static_cast<const std::byte*>(piece.iov_base), piece.iov_len);
      for (; !rest.empty(); rest = rest.subspan(std::min<std::size_t>(unit_bytes, rest.size()))) {
        arrival->units.push_back(rest.first(std::min<std::size_t>(unit_bytes, rest.size())));
      }
    }
    arriving_.push_back(arrival);
    if (arriving_.size() == 1) arrive(arrival);
  }

  void arrive(const std::shared_ptr<Arrival>& arrival) {
    loop_->offload(
        [arrival] {
          std::size_t bytes = 0;
          while (arrival->crcs.size() < arrival->units.size() && bytes < kSliceBytes) {
            const auto unit = arrival->units[arrival->crcs.size()];
            arrival->crcs.push_back(crc32c(unit));
            bytes += unit.size();
          }
        },
        [this, arrival] {
          if (arrival->crcs.size() < arrival->units.size()) return arrive(arrival);
          arriving_.pop_front();
          if (!arriving_.empty()) arrive(arriving_.front());
          const auto incarnation = store_->commit_put(arrival->put, arrival->crcs, arrival->crcs);
          end(incarnation ? Status() : incarnation.error());
        });
  }

  void get_one(Result<Pinned>& pinned) {
    if (!pinned) return end(pinned.error());
    store_->end_get(pinned->get);
    end(Status());
  }

  void end(Status status) {
    if (!status.good() && failure_.good()) failure_ = std::move(status);
    ++over_;
    if (!failure_.good()) return loop_->stop();
    if (over_ < blocks_) return begin_next();
    if (!put_) return loop_->stop();
    await_written();
  }

  // Until no block waits for the device; index records, which wait for company, are not waited for.
  void await_written() {
    if (store_->stats().dirty_bytes == 0) return loop_->stop();
    loop_->post([this] { await_written(); });
  }

  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Device> device_;
  std::unique_ptr<Arena> arena_;
  std::unique_ptr<Store> store_;
  std::deque<std::shared_ptr<Arrival>> arriving_;
  Status failure_;
  bool put_ = false;
  std::uint32_t block_bytes_ = 0;
  std::size_t blocks_ = 0;
  std::uint64_t round_ = 0;
  std::size_t begun_ = 0;
  std::size_t over_ = 0;
};

}  // namespace

Result<double> engine_alone(const std::string& path, std::size_t dram_bytes, bool put,
                            std::size_t block_bytes, std::size_t blocks, std::uint64_t round,
                            std::size_t window) {
  static std::map<std::string, std::unique_ptr<EngineBench>> engines;
  std::unique_ptr<EngineBench>& engine = engines[path];
  if (!engine) {
    auto fresh = std::make_unique<EngineBench>();
    if (Result<void> opened = fresh->open(path, dram_bytes); !opened) return fail(opened.error());
    engine = std::move(fresh);
  }
  const std::uint64_t hits = engine->flash_hits();
  const Result<double> speed =
      engine->run(put, static_cast<std::uint32_t>(block_bytes), blocks, round, window);
  if (speed && !put && engine->flash_hits() - hits < blocks * 9 / 10) {
    return fail(Code::invalid, "the gets were served from DRAM: give more blocks or less DRAM");
  }
  return speed;
}

}  // namespace memkv::bench
