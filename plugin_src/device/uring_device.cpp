// The device of a real node: a BlockFile behind an io_uring whose completions wake the event loop
// through an eventfd.
//
// An operation is cut into parts of at most io_bytes_max and kPartPieces pieces. Parts take one of
// kDeviceQueueDepth slots; operations wait for slots in the order they came. The first part that
// fails is the operation's failure; parts that have not been submitted by then never are.
#include <liburing.h>
#include <limits.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <deque>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/event_loop.h"
#include "base/limits.h"
#include "base/log.h"
#include "device/block_file.h"
#include "device/device.h"

namespace memkv {
namespace {

constexpr std::size_t kPartPieces = IOV_MAX;
constexpr std::uint64_t kSubmitRetryNs = kNsPerMs;

enum class Kind : std::uint8_t { read, write, flush };

[[nodiscard]] const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::read:
      return "read";
    case Kind::write:
      return "write";
    case Kind::flush:
      break;
  }
  return "flush";
}

struct Operation {
  Kind kind{};
  std::uint64_t number = 0;  // in the order they came
  std::uint64_t offset = 0;
  std::vector<iovec> pieces;
  std::uint64_t bytes = 0;
  DeviceDone done;

  // The cut: everything before this piece, and before this byte of it, is in a part.
  std::size_t piece = 0;
  std::size_t piece_at = 0;
  std::uint64_t cut_bytes = 0;

  std::size_t parts_in_flight = 0;
  Result<void> result;

  [[nodiscard]] bool all_cut() const { return !result || cut_bytes == bytes; }
};

struct Slot {
  std::shared_ptr<Operation> operation;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::vector<iovec> pieces;
};

class UringDevice final : public Device {
 public:
  UringDevice(BlockFile file, EventLoop& loop) : file_(std::move(file)), loop_(loop) {
    for (std::uint32_t i = 0; i < kDeviceQueueDepth; ++i)
      free_slots_.push_back(kDeviceQueueDepth - 1 - i);
  }
  ~UringDevice() override;
  [[nodiscard]] Result<void> start();

  [[nodiscard]] std::uint64_t capacity_bytes() const override { return file_.capacity_bytes; }
  [[nodiscard]] std::string name() const override { return file_.path; }
  void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    begin(Kind::read, offset, std::move(pieces), std::move(done));
  }
  void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    begin(Kind::write, offset, std::move(pieces), std::move(done));
  }
  void flush(DeviceDone done) override { begin(Kind::flush, 0, {}, std::move(done)); }
  [[nodiscard]] std::size_t in_flight() const override { return in_flight_; }

 private:
  void begin(Kind kind, std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done);
  [[nodiscard]] bool inside(std::uint64_t offset, std::uint64_t bytes) const {
    return bytes <= file_.capacity_bytes && offset <= file_.capacity_bytes - bytes;
  }
  void pump();
  void cut_part(const std::shared_ptr<Operation>& operation);
  void submit_flush(const std::shared_ptr<Operation>& operation);
  Slot& take_slot(const std::shared_ptr<Operation>& operation, io_uring_sqe*& sqe);
  void submit();
  void on_event();
  void reap(std::vector<std::shared_ptr<Operation>>& over);
  void complete(Slot& slot, int moved);
  [[nodiscard]] Status failure(const Operation& operation, std::uint64_t offset,
                               std::uint64_t bytes, const std::string& why) const;
  void deliver(std::vector<std::shared_ptr<Operation>> over);

  BlockFile file_;
  EventLoop& loop_;
  io_uring ring_{};
  bool ring_open_ = false;
  Descriptor event_;
  bool watching_ = false;
  bool wrote_ = false;
  TimerId retry_ = 0;

  std::array<Slot, kDeviceQueueDepth> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::deque<std::shared_ptr<Operation>>
      waiting_;  // reads and writes with bytes that are in no part yet
  std::deque<std::shared_ptr<Operation>> flushes_;  // wait for the writes before them
  std::set<std::uint64_t> unfinished_writes_;       // by number
  std::vector<std::shared_ptr<Operation>>
      refused_;  // over without a part; delivered by a task of their own
  std::uint64_t next_number_ = 1;
  std::size_t in_flight_ = 0;
  std::uint64_t bytes_in_device_ = 0;  // of the parts in flight
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

[[nodiscard]] Status setup_failed(int error) {
  const std::string word = errno_text(error);
  if (error == EPERM || error == ENOSYS || error == EACCES) {
    return {
        Code::unsupported,
        "io_uring is not allowed here (" + word +
            "). In a container, its seccomp profile must allow io_uring_setup, io_uring_enter and "
            "io_uring_register (Docker: --security-opt seccomp=PROFILE.json; Kubernetes: "
            "securityContext.seccompProfile); on the host, kernel.io_uring_disabled must be 0 and "
            "the kernel 5.10 or newer"};
  }
  if (error == ENOMEM) {
    return {Code::unsupported,
            "io_uring got no memory (" + word + "): raise the limit of locked memory (ulimit -l)"};
  }
  return {Code::device_error, "io_uring cannot be set up: " + word};
}

Result<void> UringDevice::start() {
  if (const int result = ::io_uring_queue_init(kDeviceQueueDepth, &ring_, 0); result < 0) {
    return fail(setup_failed(-result));
  }
  ring_open_ = true;
  event_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (event_.get() < 0)
    return fail(Code::device_error, "no eventfd for io_uring: " + errno_text(errno));
  if (const int result = ::io_uring_register_eventfd(&ring_, event_.get()); result < 0) {
    return fail(setup_failed(-result));
  }
  if (auto watched = loop_.watch(event_.get(), EPOLLIN, [this](unsigned) { on_event(); }); !watched)
    return watched;
  watching_ = true;
  return {};
}

// The kernel may be moving bytes into memory that others are about to free: whatever is submitted
// is waited for, its callbacks are not called.
UringDevice::~UringDevice() {
  if (watching_) loop_.unwatch(event_.get());
  loop_.cancel(retry_);
  if (!wrote_) give_back(file_);
  if (!ring_open_) return;
  while (free_slots_.size() < kDeviceQueueDepth) {
    io_uring_cqe* cqe = nullptr;
    const int result = ::io_uring_submit_and_wait(&ring_, 1);
    if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY) {
      log(LogLevel::error,
          "'" + file_.path + "' did not finish its last operations: " + errno_text(-result));
      break;
    }
    while (::io_uring_peek_cqe(&ring_, &cqe) == 0) {
      free_slots_.push_back(static_cast<std::uint32_t>(::io_uring_cqe_get_data64(cqe)));
      ::io_uring_cqe_seen(&ring_, cqe);
    }
  }
  ::io_uring_queue_exit(&ring_);
}

void UringDevice::begin(Kind kind, std::uint64_t offset, std::vector<iovec> pieces,
                        DeviceDone done) {
  auto operation = std::make_shared<Operation>();
  operation->kind = kind;
  operation->number = next_number_++;
  operation->offset = offset;
  for (const iovec& piece : pieces) operation->bytes += piece.iov_len;
  operation->pieces = std::move(pieces);
  operation->done = std::move(done);
  ++in_flight_;

  const bool empty = kind != Kind::flush && operation->bytes == 0;
  if (empty || !inside(offset, operation->bytes)) {
    // Never handed to the kernel: a write past the end would make a file longer.
    if (!empty) {
      operation->result =
          fail(failure(*operation, offset, operation->bytes,
                       "lies outside of its " + std::to_string(file_.capacity_bytes) + " bytes"));
    }
    refused_.push_back(std::move(operation));
    if (refused_.size() == 1) {
      loop_.post([this, alive = std::weak_ptr<bool>(alive_)] {
        if (!alive.expired()) deliver(std::exchange(refused_, {}));
      });
    }
    return;
  }
  if (kind == Kind::write) {
    wrote_ = true;
    unfinished_writes_.insert(operation->number);
  }
  (kind == Kind::flush ? flushes_ : waiting_).push_back(std::move(operation));
  pump();
}

void UringDevice::pump() {
  bool prepared = false;
  while (!free_slots_.empty() && !flushes_.empty() &&
         (unfinished_writes_.empty() || *unfinished_writes_.begin() > flushes_.front()->number)) {
    submit_flush(flushes_.front());
    flushes_.pop_front();
    prepared = true;
  }
  // Few bytes at a time: a device that works on everything at once finishes everything late, and
  // nobody can send the first block while the last is read.
  while (!free_slots_.empty() && !waiting_.empty() && bytes_in_device_ < kDeviceBytesInFlight) {
    const auto operation = waiting_.front();
    if (!operation->all_cut()) {
      const std::uint64_t cut_before = operation->cut_bytes;
      cut_part(operation);
      bytes_in_device_ += operation->cut_bytes - cut_before;
      prepared = true;
    }
    if (operation->all_cut()) waiting_.pop_front();
  }
  if (prepared) submit();
}

Slot& UringDevice::take_slot(const std::shared_ptr<Operation>& operation, io_uring_sqe*& sqe) {
  const std::uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  sqe = ::io_uring_get_sqe(&ring_);  // never full: the ring has an entry for every slot
  MEMKV_CHECK(sqe != nullptr, "the ring has an entry for every slot");
  Slot& slot = slots_[index];
  slot.operation = operation;
  slot.offset = operation->offset + operation->cut_bytes;
  slot.bytes = 0;
  slot.pieces.clear();
  ++operation->parts_in_flight;
  return slot;
}

void UringDevice::submit_flush(const std::shared_ptr<Operation>& operation) {
  io_uring_sqe* sqe = nullptr;
  Slot& slot = take_slot(operation, sqe);
  ::io_uring_prep_fsync(sqe, file_.fd.get(), IORING_FSYNC_DATASYNC);
  ::io_uring_sqe_set_data64(sqe, static_cast<std::uint64_t>(&slot - slots_.data()));
}

void UringDevice::cut_part(const std::shared_ptr<Operation>& operation) {
  io_uring_sqe* sqe = nullptr;
  Slot& slot = take_slot(operation, sqe);
  Operation& whole = *operation;
  while (slot.bytes < file_.io_bytes_max && whole.piece < whole.pieces.size()) {
    const iovec& piece = whole.pieces[whole.piece];
    std::byte* const from = static_cast<std::byte*>(piece.iov_base) + whole.piece_at;
    const std::size_t count =
        std::min<std::size_t>(piece.iov_len - whole.piece_at, file_.io_bytes_max - slot.bytes);
    if (!slot.pieces.empty() &&
        static_cast<std::byte*>(slot.pieces.back().iov_base) + slot.pieces.back().iov_len == from) {
      slot.pieces.back().iov_len += count;  // neighbours in memory are one piece for the kernel
    } else if (slot.pieces.size() == kPartPieces) {
      break;
    } else if (count > 0) {
      slot.pieces.push_back({from, count});
    }
    slot.bytes += count;
    whole.piece_at += count;
    if (whole.piece_at == piece.iov_len) {
      ++whole.piece;
      whole.piece_at = 0;
    }
  }
  whole.cut_bytes += slot.bytes;
  const auto pieces = static_cast<unsigned>(slot.pieces.size());
  if (whole.kind == Kind::read) {
    ::io_uring_prep_readv(sqe, file_.fd.get(), slot.pieces.data(), pieces, slot.offset);
  } else {
    ::io_uring_prep_writev(sqe, file_.fd.get(), slot.pieces.data(), pieces, slot.offset);
  }
  ::io_uring_sqe_set_data64(sqe, static_cast<std::uint64_t>(&slot - slots_.data()));
}

void UringDevice::submit() {
  int result = 0;
  do {
    result = ::io_uring_submit(&ring_);
  } while (result == -EINTR);
  if ((result < 0 || ::io_uring_sq_ready(&ring_) > 0) && retry_ == 0) {
    // The kernel is short of something for a moment; what was not taken stays in the ring.
    if (result < 0)
      log(LogLevel::warning, "'" + file_.path + "': io_uring took nothing: " + errno_text(-result));
    retry_ = loop_.after(kSubmitRetryNs, [this] {
      retry_ = 0;
      submit();
    });
  }
}

void UringDevice::on_event() {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t ignored = ::read(event_.get(), &count, sizeof count);
  std::vector<std::shared_ptr<Operation>> over;
  reap(over);
  pump();
  deliver(std::move(over));
}

void UringDevice::reap(std::vector<std::shared_ptr<Operation>>& over) {
  io_uring_cqe* cqe = nullptr;
  while (::io_uring_peek_cqe(&ring_, &cqe) == 0) {
    const auto index = static_cast<std::uint32_t>(::io_uring_cqe_get_data64(cqe));
    const int moved = cqe->res;
    ::io_uring_cqe_seen(&ring_, cqe);
    Slot& slot = slots_[index];
    complete(slot, moved);
    bytes_in_device_ -= slot.bytes;
    auto operation = std::move(slot.operation);
    free_slots_.push_back(index);
    if (operation->parts_in_flight > 0 || !operation->all_cut()) continue;
    // An operation that failed half-way may still wait at the head of the queue for its other
    // parts.
    if (!waiting_.empty() && waiting_.front() == operation) waiting_.pop_front();
    if (operation->kind == Kind::write) unfinished_writes_.erase(operation->number);
    over.push_back(std::move(operation));
  }
}

void UringDevice::complete(Slot& slot, int moved) {
  Operation& operation = *slot.operation;
  --operation.parts_in_flight;
  if (!operation.result) return;  // the first failure is the one that is told
  if (moved < 0) {
    operation.result =
        fail(failure(operation, slot.offset, slot.bytes, "failed: " + errno_text(-moved)));
  } else if (static_cast<std::uint64_t>(moved) != slot.bytes) {
    // Not resumed: a device that stops in the middle has a reason that the next read would hide.
    operation.result =
        fail(failure(operation, slot.offset, slot.bytes,
                     "came up short: only " + std::to_string(moved) + " bytes were moved"));
  }
}

Status UringDevice::failure(const Operation& operation, std::uint64_t offset, std::uint64_t bytes,
                            const std::string& why) const {
  std::string text = std::string(name_of(operation.kind)) + " of ";
  if (operation.kind != Kind::flush) {
    text += std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + " of ";
  }
  return {Code::device_error, text + "'" + file_.path + "' " + why};
}

// The last callback may destroy the device: nothing is touched after it.
void UringDevice::deliver(std::vector<std::shared_ptr<Operation>> over) {
  for (const auto& operation : over) {
    --in_flight_;
    DeviceDone done = std::move(operation->done);
    done(std::move(operation->result));
  }
}

}  // namespace

Result<std::unique_ptr<Device>> open_uring_device(const DeviceOptions& options, EventLoop& loop) {
  auto file = open_block_file(options);
  if (!file) return fail(file.error());
  auto device = std::make_unique<UringDevice>(std::move(*file), loop);
  if (auto started = device->start(); !started) return fail(started.error());
  return device;
}

}  // namespace memkv
