// RawClient: a peer of a server that says what a test tells it, right or wrong, over a real Link;
// and RawStream, one without a Link, for what no Link would send or leave unread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "base/limits.h"
#include "base/stream.h"
#include "transport/transport.h"
#include "wire/wire.h"

namespace memkv::testing {

using Body = std::vector<std::byte>;

struct Frame {
  wire::Type type{};
  std::uint64_t request = 0;
  Body body;
};

template <typename Record>
Body body_of(const Record& record) {
  Body body(wire::kSmallBodyMax);
  body.resize(wire::encode(record, body));
  return body;
}

inline Body text_bytes(std::string_view text) {
  const auto bytes = as_bytes_of(text);
  return {bytes.begin(), bytes.end()};
}

// A whole frame as bytes.
inline Body frame_bytes(wire::Type type, std::uint64_t request, std::span<const std::byte> body,
                        std::uint32_t payload_bytes = 0) {
  Body out(wire::kHeaderBytes);
  wire::encode_header({.type = type,
                       .request = request,
                       .body_bytes = static_cast<std::uint32_t>(body.size()),
                       .payload_bytes = payload_bytes,
                       .body_crc = crc32c(body)},
                      std::span<std::byte, wire::kHeaderBytes>(out.data(), wire::kHeaderBytes));
  out.insert(out.end(), body.begin(), body.end());
  return out;
}

class RawClient final : public LinkHandler {
 public:
  RawClient(Network& network, Executor& executor, const std::string& address)
      : executor_(executor) {
    network.connect(address, 1000 * kNsPerMs, [this](Result<std::unique_ptr<Stream>> stream) {
      if (!stream) {
        closed = stream.error();
        return;
      }
      link = Link::start(std::move(*stream), executor_, *this, kBodyBytesMax);
    });
  }

  template <typename Record>
  void say(wire::Type type, std::uint64_t request, const Record& record) {
    link->send(type, request, body_of(record));
  }
  void say(wire::Type type, std::uint64_t request) { link->send(type, request, {}); }
  void say_body(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
    link->send(type, request, body);
  }
  void hello() { say(wire::Type::hello, 0, wire::Hello{.session = 1, .name = "test"}); }
  void auth(std::span<const std::byte> token = {}) {
    say(wire::Type::auth, 0, wire::Auth{.token = token, .proof = token});
  }
  // The bytes go out as DATA; they are kept until the client is gone.
  void send_bytes(std::uint64_t request, std::uint32_t item, std::uint32_t offset, Body bytes) {
    sending_.push_back(std::move(bytes));
    Body& kept = sending_.back();
    link->ship({.request = request,
                .item = item,
                .offset = offset,
                .pieces = {{kept.data(), kept.size()}},
                .crcs = nullptr,
                .sent = [this] { ++sent; }});
  }
  void commit(std::uint64_t request, std::uint32_t item, std::span<const std::uint32_t> crcs) {
    Body bytes(crcs.size_bytes());
    wire::store_crcs(crcs, bytes);
    say(wire::Type::commit, request, wire::Commit{.item = item, .crcs = bytes});
  }

  // How many frames of the type came about the request.
  [[nodiscard]] std::size_t count(wire::Type type, std::uint64_t request) const {
    return static_cast<std::size_t>(std::ranges::count_if(frames, [&](const Frame& frame) {
      return frame.type == type && frame.request == request;
    }));
  }
  [[nodiscard]] const Body* find(wire::Type type, std::uint64_t request,
                                 std::size_t nth = 0) const {
    for (const Frame& frame : frames) {
      if (frame.type == type && frame.request == request && nth-- == 0) return &frame.body;
    }
    return nullptr;
  }
  // What REFUSE said about the request; ok when there was none.
  [[nodiscard]] Status refused(std::uint64_t request) const {
    const Body* body = find(wire::Type::refuse, request);
    if (body == nullptr) return {};
    const auto refuse = wire::decode_refuse(*body);
    if (!refuse) return refuse.error();
    return {refuse->code, std::string(refuse->text)};
  }

  void on_frame(const wire::Header& header, std::span<const std::byte> body) override {
    frames.push_back({header.type, header.request, Body(body.begin(), body.end())});
  }
  Landing on_data(std::uint64_t request, const wire::Data& data, std::uint32_t bytes) override {
    Body& whole = got[{request, data.item}];
    if (whole.empty()) first_offset[{request, data.item}] = data.offset;
    in_order = in_order && data.offset == first_offset[{request, data.item}] + whole.size();
    landing_.assign(bytes, std::byte{0});
    Landing landing;
    landing.pieces[0] = {landing_.data(), landing_.size()};
    landing.count = 1;
    return landing;
  }
  void on_landed(std::uint64_t request, const wire::Data& data, std::uint32_t) override {
    Body& whole = got[{request, data.item}];
    whole.insert(whole.end(), landing_.begin(), landing_.end());
  }
  void on_closed(const Status& why) override {
    closed = why;
    link.reset();
  }

  std::unique_ptr<Link> link;
  std::vector<Frame> frames;
  std::map<std::pair<std::uint64_t, std::uint32_t>, Body> got;
  std::map<std::pair<std::uint64_t, std::uint32_t>, std::uint32_t> first_offset;
  bool in_order = true;
  std::size_t sent = 0;
  std::optional<Status> closed;

 private:
  Executor& executor_;
  Body landing_;
  std::list<Body> sending_;
};

class RawStream {
 public:
  RawStream(Network& network, const std::string& address) {
    network.connect(address, 1000 * kNsPerMs, [this](Result<std::unique_ptr<Stream>> connected) {
      if (!connected) return;
      stream = std::move(*connected);
      read_on();
    });
  }
  void send(std::span<const std::byte> bytes) {
    unsent_.insert(unsent_.end(), bytes.begin(), bytes.end());
    if (!writing_) write_on();
  }
  void send(wire::Type type, std::uint64_t request, std::span<const std::byte> body) {
    send(frame_bytes(type, request, body));
  }
  // The bytes that came, as frames; what is no whole frame is left out. DATA frames come without
  // their payload.
  [[nodiscard]] std::vector<Frame> frames() const {
    std::vector<Frame> out;
    std::span<const std::byte> rest(received);
    while (rest.size() >= wire::kHeaderBytes) {
      const auto header = wire::decode_header(rest.first<wire::kHeaderBytes>());
      if (!header || rest.size() < wire::kHeaderBytes + header->body_bytes + header->payload_bytes)
        break;
      const auto body = rest.subspan(wire::kHeaderBytes, header->body_bytes);
      out.push_back({header->type, header->request, Body(body.begin(), body.end())});
      rest = rest.subspan(wire::kHeaderBytes + header->body_bytes + header->payload_bytes);
    }
    return out;
  }

  std::unique_ptr<Stream> stream;
  Body received;
  bool reading = true;
  bool ended = false;

 private:
  void read_on() {
    stream->when_readable([this] {
      if (!reading) return;
      Body piece(65536);
      const iovec place{piece.data(), piece.size()};
      const IoStep step = stream->read_some({&place, 1});
      if (step.code == Code::unreachable) {
        ended = true;
        return;
      }
      received.insert(received.end(), piece.begin(),
                      piece.begin() + static_cast<std::ptrdiff_t>(step.bytes));
      read_on();
    });
  }
  void write_on() {
    writing_ = sent_ < unsent_.size();
    if (!writing_) return;
    stream->when_writable([this] {
      const iovec place{unsent_.data() + sent_, unsent_.size() - sent_};
      const IoStep step = stream->write_some({&place, 1});
      if (step.code == Code::unreachable) {
        ended = true;
        return;
      }
      sent_ += step.bytes;
      write_on();
    });
  }

  Body unsent_;
  std::size_t sent_ = 0;  // of these
  bool writing_ = false;
};

}  // namespace memkv::testing
