#include "engine/device_io.h"

#include <cstring>
#include <utility>

#include "base/bytes.h"
#include "base/check.h"

namespace memkv::engine {
namespace {

std::uint64_t bytes_of(const std::vector<iovec>& pieces) {
  std::uint64_t bytes = 0;
  for (const iovec& piece : pieces) bytes += piece.iov_len;
  return bytes;
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t bytes) : bytes_(round_up(bytes, kPageBytes)) {
  memory_.reset(static_cast<std::byte*>(std::aligned_alloc(kPageBytes, bytes_)));
  MEMKV_CHECK(memory_ != nullptr, "there is memory for a page");
  std::memset(memory_.get(), 0, bytes_);
}

DeviceDone DeviceIo::counted(DeviceDone done, Histogram* took) {
  ++in_flight_;
  return [this, took, began_ns = clock_.now_ns(), alive = std::weak_ptr<int>(alive_),
          done = std::move(done)](Result<void> result) mutable {
    if (alive.expired()) return;
    --in_flight_;
    if (took != nullptr) took->count(clock_.now_ns() - began_ns);
    if (!result) ++stats_.device_errors;
    done(std::move(result));
  };
}

void DeviceIo::read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) {
  stats_.device_bytes_read += bytes_of(pieces);
  device_.read(offset, std::move(pieces), counted(std::move(done), &stats_.device_reads));
}

void DeviceIo::write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) {
  stats_.device_bytes_written += bytes_of(pieces);
  device_.write(offset, std::move(pieces), counted(std::move(done), &stats_.device_writes));
}

void DeviceIo::flush(DeviceDone done) {
  device_.flush(counted(std::move(done), nullptr));
}

}  // namespace memkv::engine
