// FakeNode: a store node for tests of the client: it speaks the wire over a real Link, keeps blocks
// in a map, and does by a test's word what no real node would do. It is no store: it has no limits
// of its own, no flash and no tenants.
//
// It is honest until told otherwise: `intercept` sees each frame first and may answer it in the
// node's place; `spoil` names keys whose bytes go out with one bit flipped.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/stream.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace memkv::testing {

using Bytes = std::vector<std::byte>;

class FakeNode;

// One connection as the node sees it.
class FakePeer final : public LinkHandler {
 public:
  FakePeer(FakeNode& node, std::unique_ptr<Stream> stream, Executor& executor);

  // Sends one frame; the body is whatever wire::encode() made of the record.
  template <typename Record>
  void say(wire::Type type, std::uint64_t request, const Record& record) {
    Bytes body(wire::kSmallBodyMax);
    body.resize(wire::encode(record, body));
    link_->send(type, request, body);
  }
  void say_raw(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
    link_->send(type, request, body);
  }
  // Sends bytes as DATA of the item; they are kept until the peer is gone.
  void send_bytes(std::uint64_t request, std::uint32_t item, std::uint32_t offset, Bytes bytes);
  // GET_BLOCK and the units that cover the range, as an honest node does it.
  void send_block(std::uint64_t request, std::uint32_t item, const wire::GetItem& wanted,
                  const Bytes& block, std::uint64_t incarnation);
  void hang_up() { link_->close(Status(Code::shutdown, "the test hangs up")); }
  // What an honest node does with the frame.
  void answer(const wire::Header& header, std::span<const std::byte> body);
  [[nodiscard]] bool gone() const { return link_ == nullptr; }
  [[nodiscard]] Link& link() { return *link_; }
  [[nodiscard]] FakeNode& node() { return node_; }

  void on_frame(const wire::Header& header, std::span<const std::byte> body) override;
  Landing on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override;
  void on_landed(std::uint64_t, const wire::Data&, std::uint32_t) override {}
  void on_closed(const Status& why) override;

 private:
  struct Arriving {
    std::string key;
    Bytes bytes;
  };
  void greet(const wire::Header& header);
  void answer_match(const wire::Header& header, std::span<const std::byte> body);
  void answer_put(const wire::Header& header, std::span<const std::byte> body);
  void answer_commit(const wire::Header& header, std::span<const std::byte> body);
  void answer_get(const wire::Header& header, std::span<const std::byte> body);
  void answer_drop(const wire::Header& header, std::span<const std::byte> body);

  FakeNode& node_;
  std::map<std::pair<std::uint64_t, std::uint32_t>, Arriving> arriving_;  // request, item
  std::vector<std::unique_ptr<Bytes>> kept_;
  std::unique_ptr<Link> link_;
};

class FakeNode {
 public:
  FakeNode(Network& network, Executor& executor, const std::string& address);
  FakeNode(const FakeNode&) = delete;
  FakeNode& operator=(const FakeNode&) = delete;

  [[nodiscard]] const std::string& address() const { return address_; }
  [[nodiscard]] std::size_t peers() const;  // connected now
  [[nodiscard]] FakePeer* peer();           // the newest that is connected; or nullptr
  [[nodiscard]] int seen(wire::Type type) const;

  // the node's answers; a test changes them as it likes
  wire::Welcome welcome{.node = 1,
                        .boot = 1,
                        .requests_max = 256,
                        .block_bytes_max = kBlockBytesMax,
                        .put_bytes_granted_max = kPutBytesGrantedPerPeer,
                        .software = "fake"};
  std::function<bool(FakePeer&, const wire::Header&, std::span<const std::byte>)> intercept;
  std::set<std::string> spoil;
  std::set<std::string> copied;  // keys whose second place is said to have them, too
  // Its map from now on; WELCOME and answers say its epoch.
  void hold_map(std::uint32_t epoch, const std::vector<wire::MapNode>& nodes);
  Bytes map;  // the body of its MAP_REPLY

  // what it holds and what it heard
  struct Block {
    Bytes bytes;
    std::uint64_t incarnation = 0;
  };
  std::map<std::string, Block> blocks;
  std::uint64_t incarnations = 0;
  std::map<wire::Type, int> frames;
  std::vector<std::string> reports;  // keys
  std::vector<std::size_t> batches;  // records in each MATCH, PUT, GET and DROP
  int connections = 0;
  std::vector<Status> ends;  // why connections were over

 private:
  Executor& executor_;
  std::string address_;
  std::vector<std::unique_ptr<FakePeer>> peers_;
  std::unique_ptr<Listener> listener_;
};

[[nodiscard]] Bytes pattern(std::size_t bytes, std::uint64_t seed);
[[nodiscard]] inline std::span<const std::byte> key_bytes(const std::string& key) {
  return std::as_bytes(std::span(key.data(), key.size()));
}
std::span<const std::byte> key_bytes(std::string&& key) = delete;  // it would dangle
// The CRCs of units [first, last] of a block, packed as in GET_BLOCK and COMMIT.
[[nodiscard]] Bytes packed_crcs(std::span<const std::byte> block, std::uint64_t first,
                                std::uint64_t last);

}  // namespace memkv::testing
