// TcpStream: a connected, non-blocking TCP socket as a Stream.
#pragma once

#include <memory>
#include <string>

#include "base/event_loop.h"
#include "base/stream.h"

namespace memkv {

class TcpStream final : public Stream {
 public:
  // Takes the descriptor, which nobody watches yet.
  TcpStream(EventLoop& loop, int fd, std::string peer);
  ~TcpStream() override;
  TcpStream(const TcpStream&) = delete;
  TcpStream& operator=(const TcpStream&) = delete;

  [[nodiscard]] IoStep read_some(std::span<const iovec> pieces) override;
  [[nodiscard]] IoStep write_some(std::span<const iovec> pieces) override;
  void when_readable(std::move_only_function<void()> ready, std::size_t enough) override;
  void when_writable(std::move_only_function<void()> ready) override;
  [[nodiscard]] std::size_t unread() const override;
  void close() override;
  [[nodiscard]] std::string peer() const override { return peer_; }

 private:
  void arm();
  void on_events(unsigned events);

  EventLoop& loop_;
  int fd_;             // -1 when closed
  int low_water_ = 1;  // bytes below which the kernel does not call a reader
  std::string peer_;
  std::move_only_function<void()> readable_;
  std::move_only_function<void()> writable_;
  std::shared_ptr<bool> life_ = std::make_shared<bool>();  // a callback may destroy the stream
};

}  // namespace memkv
