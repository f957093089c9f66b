// The disks of the simulated world, and the memory of its processes.
#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/limits.h"
#include "support/sim_inside.h"

namespace memkv::sim::inside {

struct Operation {
  enum class What : std::uint8_t { read, write, flush };
  std::uint64_t number = 0;
  What what{};
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::vector<iovec> pieces;
  DeviceDone done;
};

// A page that a finished write changed, as it was before, until it is flushed.
struct Unflushed {
  std::uint64_t number = 0;  // a flush with this number or a higher one makes it safe
  std::uint64_t page = 0;
  std::vector<std::byte> before;
};

// What is under way between one device and its disk. Lives as long as the device or an event of it.
struct DiskQueue : std::enable_shared_from_this<DiskQueue> {
  Core* core = nullptr;
  std::shared_ptr<Life> life;
  Disk* disk = nullptr;
  std::uint64_t number = 0;
  std::vector<Operation> operations;  // in the order they were submitted
  std::deque<Unflushed> unflushed;
  std::uint64_t next_number = 1;

  void submit(Operation operation);
  void finish(std::uint64_t operation_number);
  Result<void> perform(Operation& operation);
  Result<void> read(const Operation& operation);
  Result<void> write(const Operation& operation);
  void put_page(std::uint64_t page, const std::byte* from);
  void put_some_pages(const Operation& operation);
  void lose_unflushed();
  [[nodiscard]] std::string where(const Operation& operation) const {
    return life->name + " at " + std::to_string(operation.offset) + " + " +
           std::to_string(operation.bytes);
  }
};

namespace {

// Where byte `at` of the pieces lies.
std::byte* place_of(const Operation& operation, std::uint64_t at) {
  for (const iovec& piece : operation.pieces) {
    if (at < piece.iov_len) return static_cast<std::byte*>(piece.iov_base) + at;
    at -= piece.iov_len;
  }
  return nullptr;
}

bool aligned(const Operation& operation) {
  bool good = operation.offset % kPageBytes == 0 && operation.bytes > 0;
  for (const iovec& piece : operation.pieces) {
    good = good && piece.iov_len % kPageBytes == 0 &&
           reinterpret_cast<std::uintptr_t>(piece.iov_base) % kPageBytes == 0;
  }
  return good;
}

class SimDevice final : public Device {
 public:
  explicit SimDevice(std::shared_ptr<DiskQueue> queue) : queue_(std::move(queue)) {}
  ~SimDevice() override {
    MEMKV_CHECK(queue_->operations.empty() || !queue_->life->alive,
                "a device is destroyed when nothing is in flight");
    if (!queue_->life->alive) return;  // the crash let go of the disk
    queue_->operations.clear();
    if (queue_->disk->holder() == queue_->number) queue_->disk->holder() = 0;
  }

  std::uint64_t capacity_bytes() const override { return queue_->disk->bytes().size(); }
  std::string name() const override { return "disk of " + queue_->life->name; }
  void read(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    submit(Operation::What::read, offset, std::move(pieces), std::move(done));
  }
  void write(std::uint64_t offset, std::vector<iovec> pieces, DeviceDone done) override {
    submit(Operation::What::write, offset, std::move(pieces), std::move(done));
  }
  void flush(DeviceDone done) override { submit(Operation::What::flush, 0, {}, std::move(done)); }
  std::size_t in_flight() const override { return queue_->operations.size(); }

 private:
  void submit(Operation::What what, std::uint64_t offset, std::vector<iovec> pieces,
              DeviceDone done) {
    Operation operation;
    operation.what = what;
    operation.offset = offset;
    operation.pieces = std::move(pieces);
    operation.done = std::move(done);
    for (const iovec& piece : operation.pieces) operation.bytes += piece.iov_len;
    queue_->submit(std::move(operation));
  }

  std::shared_ptr<DiskQueue> queue_;
};

class SimArena final : public Arena {
 public:
  SimArena(std::size_t bytes, std::uint64_t seed) : bytes_(round_up_to_page(bytes)) {
    memory_ = static_cast<std::byte*>(std::aligned_alloc(kArenaPageBytes, bytes_));
    SeededRandom garbage(seed);
    for (std::size_t i = 0; i < bytes_; i += sizeof seed) {
      const std::uint64_t word = garbage.next();
      std::memcpy(memory_ + i, &word, sizeof word);
    }
  }
  SimArena(const SimArena&) = delete;
  SimArena& operator=(const SimArena&) = delete;
  ~SimArena() override { std::free(memory_); }
  std::span<std::byte> memory() override { return {memory_, bytes_}; }
  std::string kind() const override { return "simulated"; }

 private:
  static std::size_t round_up_to_page(std::size_t bytes) {
    return (bytes + kArenaPageBytes - 1) / kArenaPageBytes * kArenaPageBytes;
  }

  std::size_t bytes_;
  std::byte* memory_;
};

}  // namespace

void DiskQueue::submit(Operation operation) {
  if (!life->alive) return;
  operation.number = next_number++;
  const bool seldom = core->below(16) == 0;
  std::uint64_t delay = 20 * kNsPerUs + core->below((seldom ? 3000 : 150) * kNsPerUs);
  if (core->fires(core->faults.slow_disk, "slow_disk", [&] { return where(operation); })) {
    delay += core->below(200 * kNsPerMs);
  }
  core->queue(life, Kind::disk, core->now() + delay,
              [self = shared_from_this(), number = operation.number] { self->finish(number); });
  operations.push_back(std::move(operation));
}

void DiskQueue::finish(std::uint64_t operation_number) {
  const auto found = std::find_if(operations.begin(), operations.end(), [&](const Operation& one) {
    return one.number == operation_number;
  });
  if (found == operations.end()) return;
  Operation operation = std::move(*found);
  operations.erase(found);
  Result<void> result = perform(operation);
  operation.done(std::move(result));
}

Result<void> DiskQueue::perform(Operation& operation) {
  if (operation.what == Operation::What::flush) {
    if (core->fires(core->faults.fail_write, "fail_write",
                    [&] { return "flush of " + life->name; })) {
      return fail(Code::device_error, "simulated: flush failed");
    }
    while (!unflushed.empty() && unflushed.front().number <= operation.number) {
      unflushed.pop_front();
    }
    return {};
  }
  if (!aligned(operation) || operation.offset + operation.bytes > disk->bytes().size()) {
    return fail(Code::device_error, "simulated: not aligned or outside: " + where(operation));
  }
  return operation.what == Operation::What::read ? read(operation) : write(operation);
}

Result<void> DiskQueue::read(const Operation& operation) {
  const auto at = [&] { return where(operation); };
  if (core->fires(core->faults.fail_read, "fail_read", at)) {
    return fail(Code::device_error, "simulated: read failed: " + at());
  }
  std::byte* bytes = disk->bytes().data();
  if (core->fires(core->faults.flip_read, "flip_read", at)) {
    bytes[operation.offset + core->below(operation.bytes)] ^= std::byte{1} << core->below(8);
  }
  std::uint64_t from = operation.offset;
  for (const iovec& piece : operation.pieces) {
    std::memcpy(piece.iov_base, bytes + from, piece.iov_len);
    from += piece.iov_len;
  }
  if (core->fires(core->faults.misdirect_read, "misdirect_read", at)) {
    const std::uint64_t page = core->below(operation.bytes / kPageBytes);
    const std::uint64_t other = core->below(disk->bytes().size() / kPageBytes);
    std::memcpy(place_of(operation, page * kPageBytes), bytes + other * kPageBytes, kPageBytes);
  }
  return {};
}

Result<void> DiskQueue::write(const Operation& operation) {
  const auto at = [&] { return where(operation); };
  if (core->fires(core->faults.fail_write, "fail_write", at)) {
    return fail(Code::device_error, "simulated: write failed: " + at());
  }
  const auto bad = disk->bad_pages().lower_bound(operation.offset / kPageBytes);
  if (bad != disk->bad_pages().end() && *bad < (operation.offset + operation.bytes) / kPageBytes) {
    core->count("bad_page");
    core->tell("bad_page " + at());
    return fail(Code::device_error, "simulated: bad page: " + at());
  }
  if (core->fires(core->faults.torn_write, "torn_write", at)) {
    put_some_pages(operation);
    return fail(Code::device_error, "simulated: write torn: " + at());
  }
  const std::uint64_t pages = operation.bytes / kPageBytes;
  std::uint64_t first = operation.offset / kPageBytes;
  if (core->fires(core->faults.misdirect_write, "misdirect_write", at)) {
    first = core->below(disk->bytes().size() / kPageBytes - pages + 1);
  }
  for (std::uint64_t i = 0; i < pages; ++i) {
    put_page(first + i, place_of(operation, i * kPageBytes));
  }
  return {};
}

void DiskQueue::put_page(std::uint64_t page, const std::byte* from) {
  std::byte* place = disk->bytes().data() + page * kPageBytes;
  if (core->faults.lose_unflushed > 0) {
    unflushed.push_back({next_number, page, std::vector<std::byte>(place, place + kPageBytes)});
  }
  std::memcpy(place, from, kPageBytes);
}

void DiskQueue::put_some_pages(const Operation& operation) {
  for (std::uint64_t i = 0; i < operation.bytes / kPageBytes; ++i) {
    if (core->below(2) == 0) continue;
    put_page(operation.offset / kPageBytes + i, place_of(operation, i * kPageBytes));
  }
}

// A page that is lost is as it was before its first write since the last flush.
void DiskQueue::lose_unflushed() {
  std::map<std::uint64_t, bool> lost;
  for (const Unflushed& one : unflushed) {
    if (lost.contains(one.page)) continue;
    lost[one.page] = core->fires(core->faults.lose_unflushed, "lose_unflushed",
                                 [&] { return life->name + " page " + std::to_string(one.page); });
    if (!lost[one.page]) continue;
    std::memcpy(disk->bytes().data() + one.page * kPageBytes, one.before.data(), kPageBytes);
  }
  unflushed.clear();
}

Result<std::unique_ptr<Device>> make_device(Core& core, std::shared_ptr<Life> life, Disk& disk) {
  if (disk.holder() != 0) return fail(Code::busy, "another process holds this disk");
  auto queue = std::make_shared<DiskQueue>();
  queue->core = &core;
  queue->life = std::move(life);
  queue->disk = &disk;
  queue->number = core.next_number++;
  disk.holder() = queue->number;
  std::erase_if(core.disk_queues, [](const auto& known) { return known.expired(); });
  core.disk_queues.push_back(queue);
  return std::make_unique<SimDevice>(std::move(queue));
}

std::unique_ptr<Arena> make_arena(std::size_t bytes, std::uint64_t seed) {
  return std::make_unique<SimArena>(bytes, seed);
}

void tear_disks(Core& core, const Life& life, std::vector<DeviceDone>& remains) {
  for (const auto& known : core.disk_queues) {
    const auto queue = known.lock();
    if (!queue || queue->life.get() != &life) continue;
    for (Operation& operation : queue->operations) {
      if (operation.what == Operation::What::write && aligned(operation) &&
          operation.offset + operation.bytes <= queue->disk->bytes().size()) {
        core.count("torn_by_crash");
        queue->put_some_pages(operation);
      }
      remains.push_back(std::move(operation.done));
    }
    queue->operations.clear();
    queue->lose_unflushed();
    if (queue->disk->holder() == queue->number) queue->disk->holder() = 0;
  }
}

}  // namespace memkv::sim::inside
