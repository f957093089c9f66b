// TlsStream: one connection's TLS (tls.h), between a Stream and whoever reads and writes it.
//
// OpenSSL's object for a connection is one thing for both directions, so every step on it holds a
// mutex: the reader's hand and the writer's take turns, each for as long as the bytes of one step
// take. The mind takes it only to shake hands, to send what a writer left behind, and at the end;
// what it asks in between are atomics.
//
// Written bytes are enciphered into `out_` a few records at a time, and only as much as there is
// room for: what a step has reported stays said, whatever the caller wants to send next. What the
// stream below does not take at once leaves when that can be written to, without the caller.
// Read bytes go from the stream below into OpenSSL's own buffer and from there into the caller's
// memory; what remains there after a step was filled wakes the next reader at once (`more_`).
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/executor.h"
#include "base/log_pace.h"
#include "base/stream.h"
#include "transport/tls_context.h"

namespace memkv {

class TlsStream final : public Stream {
 public:
  struct Setting {
    std::shared_ptr<SSL_CTX> context;
    TlsSide side{};
    std::string host;  // of a client: the name or number that the certificate has to have
    std::uint64_t records_per_key = 0;
    std::shared_ptr<LogPace> refused;  // of a server: the lines about whom it refuses
  };
  // Nothing when OpenSSL has no memory. A client's first words leave at once.
  [[nodiscard]] static std::unique_ptr<Stream> over(std::unique_ptr<Stream> below,
                                                    Executor& executor, const Setting& setting);
  ~TlsStream() override;
  TlsStream(const TlsStream&) = delete;
  TlsStream& operator=(const TlsStream&) = delete;

  [[nodiscard]] IoStep read_some(std::span<const iovec> pieces) override;
  [[nodiscard]] IoStep write_some(std::span<const iovec> pieces) override;
  void when_readable(std::move_only_function<void()> ready, std::size_t enough) override;
  void when_writable(std::move_only_function<void()> ready) override;
  [[nodiscard]] std::size_t unread() const override;
  void close() override;
  [[nodiscard]] std::string peer() const override { return below_->peer(); }
  [[nodiscard]] std::string why() const override;

 private:
  using Ready = std::move_only_function<void()>;
  enum class Phase : std::uint8_t { shaking, open, broken };

  TlsStream(std::unique_ptr<Stream> below, Executor& executor, const Setting& setting);
  [[nodiscard]] bool begin(const Setting& setting);

  // OpenSSL's ends. They are called inside its steps, so with the lock, and never throw.
  static const BIO_METHOD* ends();
  static int take(BIO* bio, char* out, std::size_t bytes, std::size_t* taken);
  static int give(BIO* bio, const char* bytes, std::size_t count, std::size_t* given);

  // With the lock.
  [[nodiscard]] Code shake();
  [[nodiscard]] Code judge(int returned);
  void break_with(std::string why);
  [[nodiscard]] std::string reason() const;
  [[nodiscard]] std::string reason_of_certificate() const;
  [[nodiscard]] bool is_stranger() const;
  void tell_stranger();
  [[nodiscard]] std::size_t decipher(std::span<const iovec> pieces);
  [[nodiscard]] bool encipher(const void* bytes, std::size_t count);
  [[nodiscard]] bool room_for_record() const;
  Code flush();
  void note_step(Phase before, std::uint64_t taken_before, bool reads);

  // Thread: the mind.
  void kick_soon();
  void kick();
  void shake_on_mind();
  void wait_for_bytes(std::size_t enough);
  void wait_for_room();
  void on_below_readable();
  void on_below_writable();

  std::unique_ptr<Stream> below_;
  Executor& executor_;
  const TlsSide side_;
  const std::uint64_t records_per_key_;
  const std::shared_ptr<LogPace> refused_;

  mutable std::mutex mutex_;  // from here …
  SSL* ssl_ = nullptr;
  const std::shared_ptr<SSL_CTX> context_;
  std::vector<char> out_;      // enciphered; never grows beyond what is reserved
  std::size_t out_begin_ = 0;  // of what has not left
  std::uint64_t taken_ = 0;    // bytes ever taken from below
  std::uint64_t records_ = 0;  // ever enciphered
  bool over_ = false;          // the stream below has ended
  char first_ = 0x16;          // byte that came
  std::string why_;            // … to here

  std::atomic<Phase> phase_ = Phase::shaking;
  std::atomic<bool> more_ = false;     // a read may move bytes although none come from below
  std::atomic<bool> unsent_ = false;   // `out_` is not empty
  std::atomic<std::size_t> held_ = 0;  // bytes taken from below since a read moved any
  std::atomic<bool> kicked_ = false;   // kick() is on its way

  Ready reader_;  // the mind's from here on
  Ready writer_;
  bool waits_for_bytes_ = false;  // below
  bool waits_for_room_ = false;   // below
  bool closed_ = false;
  const std::shared_ptr<bool> life_ = std::make_shared<bool>();
};

}  // namespace memkv
