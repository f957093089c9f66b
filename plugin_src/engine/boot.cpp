#include "engine/boot.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <string>
#include <utility>

#include "base/log.h"

namespace memkv::engine {
namespace {

constexpr int kTries = 3;

void read_with_tries(DeviceIo& io, std::uint64_t offset, std::shared_ptr<AlignedBuffer> into,
                     int tries_left, DeviceDone done) {
  const iovec piece = into->piece();
  io.read(offset, {piece},
          [&io, offset, into = std::move(into), tries_left,
           done = std::move(done)](Result<void> result) mutable {
            if (result || tries_left <= 1) return done(std::move(result));
            read_with_tries(io, offset, std::move(into), tries_left - 1, std::move(done));
          });
}

void write_copy(DeviceIo& io, std::uint64_t offset, std::shared_ptr<AlignedBuffer> page,
                int tries_left, DeviceDone done) {
  const iovec piece = page->piece();
  io.write(offset, {piece},
           [&io, offset, page, tries_left, done = std::move(done)](Result<void> written) mutable {
             if (!written && tries_left > 1) {
               return write_copy(io, offset, page, tries_left - 1, std::move(done));
             }
             if (!written) return done(std::move(written));
             io.flush(std::move(done));
           });
}

template <std::size_t N>
std::array<std::byte, N> random_bytes(Random& random) {
  std::array<std::byte, N> bytes;
  for (std::size_t at = 0; at < N; at += sizeof(std::uint64_t)) {
    const std::uint64_t word = random.next();
    std::memcpy(bytes.data() + at, &word, sizeof word);
  }
  return bytes;
}

std::string in_mib(std::uint64_t bytes) {
  return std::to_string(bytes / kMiB) + " MiB";
}

// The largest size that gives at least 16 segments, within the bounds.
std::uint64_t choose_segment_bytes(std::uint64_t capacity) {
  std::uint64_t bytes = kSegmentBytesMax;
  while (bytes > kSegmentBytesMin &&
         (capacity - std::min(capacity, kSegmentOffsetMax)) / bytes < 16) {
    bytes /= 2;
  }
  return bytes;
}

Result<Superblock> make_superblock(const StoreOptions& options, std::uint64_t capacity,
                                   const std::string& name, Random& random) {
  Superblock super;
  super.segment_bytes = options.segment_bytes;
  if (super.segment_bytes == 0) super.segment_bytes = choose_segment_bytes(capacity);
  if (!std::has_single_bit(super.segment_bytes) || super.segment_bytes < kSegmentBytesFloor ||
      super.segment_bytes > kSegmentBytesMax) {
    return fail(Code::invalid, "a segment of " + std::to_string(super.segment_bytes) +
                                   " bytes: write a power of two from 65536 to 1073741824");
  }
  super.device_bytes = capacity;
  super.segment_offset = std::min(kSegmentOffsetMax, super.segment_bytes);
  const std::uint64_t needed = super.segment_offset + kSegmentsMin * super.segment_bytes;
  if (capacity < needed) {
    return fail(Code::invalid, name + " has a capacity of " + in_mib(capacity) +
                                   ", too small for a store: give it at least " +
                                   std::to_string(needed) + " bytes (" + in_mib(needed + kMiB - 1) +
                                   ")");
  }
  super.segments =
      static_cast<std::uint32_t>((capacity - super.segment_offset) / super.segment_bytes);
  super.uuid = random_bytes<16>(random);
  super.fingerprint_key = random_bytes<16>(random);
  return super;
}

struct Booting : std::enable_shared_from_this<Booting> {
  Booting(const StoreOptions& with, DeviceIo& device, Random& randomness,
          std::move_only_function<void(Result<Superblock>)> tell)
      : options(with), io(device), random(randomness), done(std::move(tell)) {}

  const StoreOptions options;
  DeviceIo& io;
  Random& random;
  std::move_only_function<void(Result<Superblock>)> done;
  std::shared_ptr<AlignedBuffer> head = std::make_shared<AlignedBuffer>(kBlankBytes);
  std::shared_ptr<AlignedBuffer> tail = std::make_shared<AlignedBuffer>(kBlankBytes);
  std::uint64_t capacity = 0;
  int looks_left = kTries;

  [[nodiscard]] const std::string name() const { return io.device().name(); }

  void start() {
    capacity = io.device().capacity_bytes() / kPageBytes * kPageBytes;
    if (options.format || capacity < 2 * kBlankBytes) return format();
    look();
  }

  void look() {
    --looks_left;
    read_stubbornly(io, 0, head, [self = shared_from_this()](Result<void> read) {
      if (!read) return self->done(fail(std::move(read).error()));
      read_stubbornly(self->io, self->capacity - kBlankBytes, self->tail,
                      [self](Result<void> read_tail) {
                        if (!read_tail) return self->done(fail(std::move(read_tail).error()));
                        self->judge();
                      });
    });
  }

  void judge() {
    Superblock first, second;
    const SuperblockState one = decode_superblock(head->page(0), first);
    const SuperblockState two = decode_superblock(head->page(1), second);
    if (one == SuperblockState::newer_version || two == SuperblockState::newer_version) {
      return done(fail(Code::invalid, name() + " was formatted by a newer version of memkvd: run "
                                               "that version, or --format to overwrite it"));
    }
    if (one == SuperblockState::older_version || two == SuperblockState::older_version) {
      return done(fail(Code::invalid, name() + " was formatted by an older version of memkvd: run "
                                               "that version, or --format to overwrite it"));
    }
    const bool one_is = one == SuperblockState::valid;
    const bool two_is = two == SuperblockState::valid;
    if (one_is && two_is && first.uuid == second.uuid) {
      return reopen(first.boot >= second.boot ? first : second);
    }
    if (one_is || two_is) return reopen(one_is ? first : second);
    const auto zero = [](std::byte byte) { return byte == std::byte{0}; };
    if (std::ranges::all_of(head->all(), zero) && std::ranges::all_of(tail->all(), zero)) {
      return format();
    }
    if (looks_left > 0) return look();  // a read can be wrong; what is written stays
    done(fail(Code::invalid, name() + " holds something else than a memkv store: give another "
                                      "device, or --format overwrites it"));
  }

  void reopen(Superblock super) {
    if (super.boot >= kBootsMax) {
      return done(fail(Code::invalid, name() + " was opened " + std::to_string(super.boot) +
                                          " times, which is all a store can: --format it"));
    }
    if (super.device_bytes > capacity) {
      return done(
          fail(Code::invalid, name() + " was formatted with " + in_mib(super.device_bytes) +
                                  " and has only " + in_mib(capacity) +
                                  " now: give it its old capacity, or --format to start anew"));
    }
    if (super.device_bytes < capacity) {
      log(LogLevel::info, name() + " has grown since it was formatted; only the first " +
                              in_mib(super.device_bytes) + " are used until --format");
    }
    write(super);
  }

  void format() {
    auto super = make_superblock(options, capacity, name(), random);
    if (!super) return done(fail(std::move(super).error()));
    write(*super);
  }

  void write(Superblock super) {
    ++super.boot;
    write_superblock(io, super, [self = shared_from_this(), super](Result<void> written) {
      if (!written) return self->done(fail(std::move(written).error()));
      self->done(super);
    });
  }
};

}  // namespace

void read_stubbornly(DeviceIo& io, std::uint64_t offset, std::shared_ptr<AlignedBuffer> into,
                     DeviceDone done) {
  read_with_tries(io, offset, std::move(into), kTries, std::move(done));
}

void write_superblock(DeviceIo& io, const Superblock& super, DeviceDone done) {
  auto page = std::make_shared<AlignedBuffer>();
  encode(super, page->page());
  write_copy(io, 0, page, kTries,
             [&io, page, done = std::move(done)](Result<void> written) mutable {
               if (!written) return done(std::move(written));
               write_copy(io, kPageBytes, page, kTries, std::move(done));
             });
}

void boot(const StoreOptions& options, DeviceIo& io, Random& random,
          std::move_only_function<void(Result<Superblock>)> done) {
  std::make_shared<Booting>(options, io, random, std::move(done))->start();
}

}  // namespace memkv::engine
