// What `memkv_bench` measures, one function each. All give bytes per second over everything they
// moved, by the machine's monotonic clock, and a Status instead of a number when anything was
// wrong: a benchmark of a broken thing is no benchmark.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "client/client.h"

namespace memkv::bench {

// Memory for a batch of blocks: page aligned, touched, filled from `seed`.
class Blocks {
 public:
  Blocks(std::size_t count, std::size_t block_bytes, std::uint64_t seed);
  ~Blocks();
  Blocks(const Blocks&) = delete;
  Blocks& operator=(const Blocks&) = delete;

  [[nodiscard]] std::size_t count() const { return count_; }
  [[nodiscard]] std::span<std::byte> block(std::size_t i) {
    return {memory_ + i * block_bytes_, block_bytes_};
  }
  [[nodiscard]] std::span<std::byte> all() { return {memory_, count_ * block_bytes_}; }

 private:
  std::size_t count_;
  std::size_t block_bytes_;
  std::byte* memory_;
};

// A plain blocking send loop and a plain blocking recv loop, a thread each, over one TCP connection
// on loopback; each call moves up to `chunk_bytes`. The limit that TCP sets on this machine.
[[nodiscard]] Result<double> plain_tcp(Blocks& from, Blocks& to, std::size_t chunk_bytes,
                                       std::uint64_t total_bytes);

struct RawPlan {
  bool write = false;
  std::size_t io_bytes = 0;
  unsigned depth = 1;
  std::uint64_t first_byte = 0;
  std::uint64_t total_bytes = 0;
  std::uint64_t flush_every_bytes = 0;  // of writes
};
// Reads or writes, sequential, `depth` at a time, O_DIRECT through io_uring on a file that was
// written before, from one block of `memory` (of `io_bytes` each) after another. The limit that the
// device sets for whoever keeps as much memory and flushes as often.
[[nodiscard]] Result<double> raw_device(const std::string& path, const RawPlan& plan,
                                        Blocks& memory);

// Which blocks a run of puts or gets touches: `batches` requests of all blocks of the memory each,
// named by `round` and number.
struct Run {
  std::size_t batches = 0;
  std::uint64_t round = 0;
  unsigned in_flight = 1;  // requests at a time; each has memory of its own
};
// `memory` has one Blocks per request in flight.
[[nodiscard]] Result<double> put_blocks(Client& client, std::span<Blocks* const> memory,
                                        const Run& run);
[[nodiscard]] Result<double> get_blocks(Client& client, std::span<Blocks* const> memory,
                                        const Run& run);

// The store of a file in this process, no network: puts of `blocks` until they are on the device,
// or gets of what an earlier round put and DRAM has forgotten.
[[nodiscard]] Result<double> engine_alone(const std::string& path, std::size_t dram_bytes, bool put,
                                          std::size_t block_bytes, std::size_t blocks,
                                          std::uint64_t round, std::size_t window);

// Asks the node until it says that everything put is on its device.
[[nodiscard]] Result<void> wait_until_clean(Client& client);
// One number of the node's STAT.
[[nodiscard]] Result<std::uint64_t> node_number(Client& client, const std::string& name);

}  // namespace memkv::bench
