#include <algorithm>

#include "base/check.h"
#include "base/crc32c.h"
#include "transport/transport.h"

namespace memkv {

UnitCrcs::UnitCrcs(std::uint32_t unit_bytes, std::uint64_t length)
    : unit_bytes_(std::max(unit_bytes, 1U)), length_(length) {
  MEMKV_CHECK(unit_bytes > 0, "a CRC unit has bytes");
  crcs_.resize((length_ + unit_bytes_ - 1) / unit_bytes_);
}

void UnitCrcs::feed(std::span<const std::byte> bytes) {
  bytes = bytes.first(std::min<std::uint64_t>(bytes.size(), length_ - fed_));
  while (!bytes.empty()) {
    const std::uint64_t left_in_unit = unit_bytes_ - fed_ % unit_bytes_;
    const auto part = bytes.first(std::min<std::uint64_t>(bytes.size(), left_in_unit));
    std::uint32_t& crc = crcs_[fed_ / unit_bytes_];
    crc = crc32c(part, crc);
    fed_ += part.size();
    bytes = bytes.subspan(part.size());
  }
}

}  // namespace memkv
