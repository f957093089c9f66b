// TlsContext: what a handshake is made with, out of files that are replaced from time to time.
//
// Thread: the mind. It reads small local files; nothing else here blocks.
#pragma once

#include <openssl/ssl.h>
#include <sys/stat.h>

#include <array>
#include <memory>
#include <string>

#include "base/result.h"
#include "transport/tls.h"

namespace memkv {

enum class TlsSide : bool { client, server };

class TlsContext {
 public:
  TlsContext(TlsSide side, TlsSettings settings) : side_(side), settings_(std::move(settings)) {}

  // Of the files as they are; where those are no good, as they were when they were. Statuses:
  // invalid, when they never were; the sentence names the file, and nothing of what is in it.
  [[nodiscard]] Result<std::shared_ptr<SSL_CTX>> current();
  [[nodiscard]] const TlsSettings& settings() const { return settings_; }

 private:
  using Seen = std::array<struct stat, 3>;
  [[nodiscard]] bool changed();
  [[nodiscard]] Result<std::shared_ptr<SSL_CTX>> load() const;

  const TlsSide side_;
  const TlsSettings settings_;
  std::shared_ptr<SSL_CTX> held_;
  Status trouble_;  // of the last reading
  Seen seen_{};
};

}  // namespace memkv
