// IoJob: one step of a hand on a stream: which pieces, whose CRCs, and what came of it.
//
// The mind fills it, a hand runs it, the mind looks at the outcome; while the hand has it nobody
// else touches it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/limits.h"
#include "base/stream.h"
#include "transport/transport.h"

namespace memkv {

class IoJob {
 public:
  void clear() {
    count_ = 0;
    bytes_ = 0;
    step_ = {};
  }
  // False, and nothing is added, when the job has all the pieces it can have. `crcs` is fed with
  // what is read, or with what shall be written but for the first `fed` bytes.
  bool add(const void* data, std::size_t bytes, UnitCrcs* crcs = nullptr, std::size_t fed = 0) {
    if (bytes == 0) return true;
    if (count_ == kStepPiecesMax) return false;
    pieces_[count_] = {const_cast<void*>(data), bytes};
    crcs_[count_] = {crcs, fed};
    ++count_;
    bytes_ += bytes;
    return true;
  }
  [[nodiscard]] bool empty() const { return count_ == 0; }

  // The CRCs come after the read, whose copy has brought the bytes close.
  void read(Stream& stream) {
    step_ = stream.read_some({pieces_.data(), count_});
    feed_crcs(step_.bytes);
  }
  // The CRCs come before the write and bring the bytes close for its copy, which is slower at that:
  // together they cost hardly more than the copy alone. So they run ahead of a step that comes up
  // short.
  void write(Stream& stream) {
    feed_crcs(bytes_);
    step_ = stream.write_some({pieces_.data(), count_});
  }

  [[nodiscard]] const IoStep& step() const { return step_; }
  // Everything moved: there may be more to move at once.
  [[nodiscard]] bool filled() const { return step_.bytes == bytes_; }

 private:
  struct Crcs {
    UnitCrcs* crcs = nullptr;
    std::size_t fed = 0;
  };

  void feed_crcs(std::size_t bytes) {
    for (std::size_t i = 0; i < count_ && bytes > 0; ++i) {
      const std::size_t part = std::min(bytes, pieces_[i].iov_len);
      bytes -= part;
      const auto [crcs, fed] = crcs_[i];
      if (crcs == nullptr || part <= fed) continue;
      crcs->feed({static_cast<const std::byte*>(pieces_[i].iov_base) + fed, part - fed});
    }
  }

  std::array<iovec, kStepPiecesMax> pieces_{};
  std::array<Crcs, kStepPiecesMax> crcs_{};
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
  IoStep step_;
};

}  // namespace memkv
