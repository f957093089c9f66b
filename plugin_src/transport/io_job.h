// IoJob: one step of a hand on a stream: which pieces, whose CRCs, and what came of it.
//
// The mind fills it, a hand runs it, the mind looks at the outcome; while the hand has it nobody
// else touches it.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

#include "base/stream.h"
#include "transport/transport.h"

namespace memkv {

class IoJob {
 public:
  static constexpr std::size_t kPiecesMax = 64;

  void clear() {
    count_ = 0;
    bytes_ = 0;
    step_ = {};
  }
  // False, and nothing is added, when the job has all the pieces it can have. `crcs` is fed with
  // what moves.
  bool add(const void* data, std::size_t bytes, UnitCrcs* crcs = nullptr) {
    if (bytes == 0) return true;
    if (count_ == kPiecesMax) return false;
    pieces_[count_] = {const_cast<void*>(data), bytes};
    crcs_[count_++] = crcs;
    bytes_ += bytes;
    return true;
  }
  [[nodiscard]] bool empty() const { return count_ == 0; }

  void read(Stream& stream) {
    step_ = stream.read_some({pieces_.data(), count_});
    feed_crcs();
  }
  void write(Stream& stream) {
    step_ = stream.write_some({pieces_.data(), count_});
    feed_crcs();
  }

  [[nodiscard]] const IoStep& step() const { return step_; }
  // Everything moved: there may be more to move at once.
  [[nodiscard]] bool filled() const { return step_.bytes == bytes_; }

 private:
  // After the step: its copy has just brought the bytes close.
  void feed_crcs() {
    std::size_t left = step_.bytes;
    for (std::size_t i = 0; i < count_ && left > 0; ++i) {
      const std::size_t moved = std::min(left, pieces_[i].iov_len);
      if (crcs_[i] != nullptr) {
        crcs_[i]->feed({static_cast<const std::byte*>(pieces_[i].iov_base), moved});
      }
      left -= moved;
    }
  }

  std::array<iovec, kPiecesMax> pieces_{};
  std::array<UnitCrcs*, kPiecesMax> crcs_{};
  std::size_t count_ = 0;
  std::size_t bytes_ = 0;
  IoStep step_;
};

}  // namespace memkv
