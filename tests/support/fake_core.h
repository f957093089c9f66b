// FakeCore: what of NIXL's core stands between a user and a backend: one agent with one engine,
// which is driven slot by slot through its table.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "base/result.h"
#include "nixl/abi.h"

namespace memkv::testing {

namespace abi = nixl::abi;
using abi::Answer;
using abi::Direction;
using abi::MemoryKind;
using Buffer = std::vector<std::byte>;

class FakeCore {
 public:
  FakeCore(std::string agent, std::unique_ptr<abi::Engine> engine)
      : agent_(std::move(agent)), engine_(std::move(engine)) {}
  FakeCore(FakeCore&&) = default;

  // Lets go of what is registered, which ends what is under way.
  void leave() {
    for (const auto& [device, object] : objects_) (void)engine_->deregisterMem(object);
    for (abi::Metadata* memory : memories_) (void)engine_->deregisterMem(memory);
    objects_.clear();
    memories_.clear();
  }

  // When the engine is gone already: it owned what was registered.
  void scrap() {
    objects_.clear();
    memories_.clear();
  }

  abi::Engine& engine() { return *engine_; }
  // The engine is somebody else's from now on.
  abi::Engine* disown() { return engine_.release(); }
  const std::string& agent() const { return agent_; }

  static abi::DescribedPlace place(std::uintptr_t address, std::size_t length, std::uint64_t device,
                                   std::string info = {}) {
    abi::DescribedPlace out;
    out.address = address;
    out.length = length;
    out.device = device;
    out.info = std::move(info);
    return out;
  }
  Answer try_object(std::uint64_t device, const std::string& info) {
    abi::Metadata* made = nullptr;
    const Answer answer = engine_->registerMem(place(0, 0, device, info), MemoryKind::object, made);
    if (answer == Answer::success) objects_.emplace(device, made);
    return answer;
  }
  void object(std::uint64_t device, const std::string& info) {
    ASSERT_EQ(try_object(device, info), Answer::success);
  }
  // One registration of the device id goes.
  Answer forget_object(std::uint64_t device) {
    const auto found = objects_.find(device);
    const Answer answer = engine_->deregisterMem(found->second);
    objects_.erase(found);
    return answer;
  }
  abi::Metadata* memory(Buffer& buffer) {
    abi::Metadata* made = nullptr;
    const auto at = place(reinterpret_cast<std::uintptr_t>(buffer.data()), buffer.size(), 0);
    EXPECT_EQ(engine_->registerMem(at, MemoryKind::dram, made), Answer::success);
    if (made != nullptr) memories_.push_back(made);
    return made;
  }
  void forget_memory(abi::Metadata* memory) {
    std::erase(memories_, memory);
    EXPECT_EQ(engine_->deregisterMem(memory), Answer::success);
  }

  // A piece of a buffer for the object of a device id, from `offset` of the block on.
  struct Piece {
    Buffer* buffer;
    abi::Metadata* memory;
    std::uint64_t device;
    std::uint64_t offset = 0;
    std::size_t at = 0;                 // in the buffer
    std::size_t length = SIZE_MAX;      // SIZE_MAX: the whole buffer
    std::size_t far_length = SIZE_MAX;  // of the remote descriptor; SIZE_MAX: the same
  };
  struct Transfer {
    Direction direction = Direction::read;
    abi::RegisteredList local{MemoryKind::dram, {}};
    abi::RegisteredList remote{MemoryKind::object, {}};
    abi::Handle* handle = nullptr;
  };

  Transfer describe(Direction direction, const std::vector<Piece>& pieces) {
    Transfer transfer{.direction = direction};
    for (const Piece& piece : pieces) {
      const std::size_t length = piece.length == SIZE_MAX ? piece.buffer->size() : piece.length;
      abi::RegisteredPlace near;
      near.address = reinterpret_cast<std::uintptr_t>(piece.buffer->data()) + piece.at;
      near.length = length;
      near.metadata = piece.memory;
      abi::RegisteredPlace far;
      far.address = piece.offset;
      far.length = piece.far_length == SIZE_MAX ? length : piece.far_length;
      far.device = piece.device;
      const auto object = objects_.find(piece.device);
      if (object != objects_.end()) {
        EXPECT_EQ(engine_->loadLocalMD(object->second, far.metadata), Answer::success);
      }
      transfer.local.places.push_back(near);
      transfer.remote.places.push_back(far);
    }
    return transfer;
  }
  static abi::Options options_of(const std::string* notice) {
    abi::Options options;
    options.has_notice = notice != nullptr;
    if (notice != nullptr) options.notice = *notice;
    return options;
  }
  Answer prepare(Transfer& transfer, const std::string* notice = nullptr) {
    const abi::Options options = options_of(notice);
    return engine_->prepXfer(transfer.direction, transfer.local, transfer.remote, agent_,
                             transfer.handle, &options);
  }
  Answer post(Transfer& transfer, const std::string* notice = nullptr) {
    const abi::Options options = options_of(notice);
    return engine_->postXfer(transfer.direction, transfer.local, transfer.remote, agent_,
                             transfer.handle, &options);
  }
  Answer check(Transfer& transfer) { return engine_->checkXfer(transfer.handle); }
  Answer release(Transfer& transfer) {
    return engine_->releaseReqH(std::exchange(transfer.handle, nullptr));
  }
  std::vector<std::string> notices() {
    abi::Notices got;
    EXPECT_EQ(engine_->getNotifs(got), Answer::success);
    std::vector<std::string> out;
    for (auto& [from, text] : got) {
      EXPECT_EQ(from, agent_);
      out.push_back(std::move(text));
    }
    return out;
  }
  // The answers' sizes; 0 is not there.
  std::vector<std::string> query(
      const std::vector<std::pair<std::uint64_t, std::string>>& objects) {
    abi::DescribedList list(MemoryKind::object, {});
    for (const auto& [device, info] : objects) list.places.push_back(place(0, 0, device, info));
    std::vector<abi::Found> found;
    EXPECT_EQ(engine_->queryMem(list, found), Answer::success);
    EXPECT_EQ(found.size(), objects.size());
    std::vector<std::string> out;
    for (const abi::Found& one : found) out.push_back(one ? one->at("size") : "0");
    return out;
  }

 private:
  const std::string agent_;
  std::unique_ptr<abi::Engine> engine_;
  std::multimap<std::uint64_t, abi::Metadata*> objects_;
  std::vector<abi::Metadata*> memories_;
};

// A notification's text: what was given, a colon, a byte per block.
[[nodiscard]] inline std::string notice_text(const std::string& text,
                                             const std::vector<Code>& codes) {
  std::string out = text + ":";
  for (const Code code : codes) out += static_cast<char>(code);
  return out;
}

[[nodiscard]] inline Buffer random_buffer(std::size_t length, std::uint64_t seed) {
  SeededRandom random(seed);
  Buffer out(length);
  for (std::byte& byte : out) byte = static_cast<std::byte>(random.next());
  return out;
}

}  // namespace memkv::testing

namespace memkv::nixl::abi {
// For gtest: an answer is its number.
inline void PrintTo(Answer answer, std::ostream* out) {
  *out << "answer " << static_cast<int>(answer);
}
}  // namespace memkv::nixl::abi
