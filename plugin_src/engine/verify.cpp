#include "engine/verify.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <span>
#include <utility>

#include "base/crc32c.h"
#include "base/limits.h"

namespace memkv::engine {
namespace {

// One block's verification: a few lanes of jobs, each taking the next slice when it is done with
// its last.
struct Job {
  std::vector<iovec> pieces;
  std::uint32_t unit_bytes = 0;
  std::vector<std::uint32_t> crcs;
  std::move_only_function<void(bool)> done;
  std::size_t next = 0;  // unit; the mind's
  unsigned lanes = 0;    // the mind's
  std::atomic<bool> good = true;

  // The CRC of unit `unit`; a hand's.
  [[nodiscard]] std::uint32_t crc_of(std::size_t unit) const {
    std::uint64_t skip = std::uint64_t{unit_bytes} * unit;
    std::uint64_t left = unit_bytes;
    std::uint32_t crc = 0;
    for (const iovec& piece : pieces) {
      if (left == 0) break;
      if (skip >= piece.iov_len) {
        skip -= piece.iov_len;
        continue;
      }
      const std::size_t bytes = std::min<std::uint64_t>(piece.iov_len - skip, left);
      crc = crc32c({static_cast<const std::byte*>(piece.iov_base) + skip, bytes}, crc);
      left -= bytes;
      skip = 0;
    }
    return crc;
  }
};

void start_slice(Executor& executor, const std::shared_ptr<Job>& job) {
  const std::size_t units = std::max<std::size_t>(1, kSliceBytes / job->unit_bytes);
  const std::size_t first = job->next;
  const std::size_t last = std::min(job->crcs.size(), first + units);
  job->next = last;
  executor.offload(
      [job, first, last] {
        for (std::size_t unit = first; unit < last; ++unit) {
          if (job->crc_of(unit) != job->crcs[unit]) job->good.store(false);
        }
      },
      [&executor, job] {
        if (job->good.load() && job->next < job->crcs.size()) {
          start_slice(executor, job);
        } else if (--job->lanes == 0) {
          job->done(job->good.load());
        }
      });
}

}  // namespace

void verify_units(Executor& executor, std::vector<iovec> pieces, std::uint32_t unit_bytes,
                  std::vector<std::uint32_t> crcs, std::move_only_function<void(bool)> done) {
  const auto job = std::make_shared<Job>();
  job->pieces = std::move(pieces);
  job->unit_bytes = unit_bytes;
  job->crcs = std::move(crcs);
  job->done = std::move(done);
  const unsigned lanes_max = executor.hands();
  do {
    ++job->lanes;
    start_slice(executor, job);
  } while (job->lanes < lanes_max && job->next < job->crcs.size());
}

}  // namespace memkv::engine
