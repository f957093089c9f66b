// NodeThread: a FakeNode over real sockets, on a thread of its own.
#pragma once

#include <functional>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include "base/event_loop.h"
#include "support/fake_node.h"
#include "transport/tls.h"
#include "transport/transport.h"

namespace memkv::testing {

class NodeThread {
 public:
  // With a certificate it speaks TLS.
  explicit NodeThread(const TlsSettings& tls = {})
      : loop_(std::move(*EventLoop::create(0))), network_(tcp_network(*loop_)) {
    if (!tls.cert.empty()) tls_ = tls_network(*network_, *loop_, tls);
    fake_ = std::make_unique<FakeNode>(tls_ ? *tls_ : *network_, *loop_, "127.0.0.1:0");
    thread_ = std::thread([this] { loop_->run(); });
  }
  ~NodeThread() { stop(); }
  NodeThread(const NodeThread&) = delete;
  NodeThread& operator=(const NodeThread&) = delete;

  // As a process that dies: its sockets close.
  void stop() {
    if (!thread_.joinable()) return;
    loop_->stop();
    thread_.join();
    fake_.reset();
    tls_.reset();
    network_.reset();
    loop_.reset();
  }
  // Runs on the node's mind, and waits for it.
  void on_mind(const std::function<void(FakeNode&)>& task) {
    std::promise<void> done;
    loop_->post([&] {
      task(*fake_);
      done.set_value();
    });
    done.get_future().wait();
  }
  void swallow(wire::Type type) {
    on_mind([type](FakeNode& fake) {
      fake.intercept = [type](FakePeer&, const wire::Header& header, std::span<const std::byte>) {
        return header.type == type;
      };
    });
  }
  [[nodiscard]] const std::string& address() const { return fake_->address(); }

 private:
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Network> network_;
  std::unique_ptr<Network> tls_;
  std::unique_ptr<FakeNode> fake_;
  std::thread thread_;
};

}  // namespace memkv::testing
