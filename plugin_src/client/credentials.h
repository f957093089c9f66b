// Credentials: the token that a client shows, and the key that proves that it may; out of a file
// that whoever issues tokens writes anew from time to time (docs/formats/token.md, the file).
//
// A file that cannot be read, or is none, leaves the client with the token it had. A client that
// never had one connects to nobody, and every request is `unreachable`: a wrong file costs hits,
// not the engine.
//
// Thread: the mind. It reads a small local file now and then; nothing else here blocks.
#pragma once

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "base/signature.h"
#include "client/client.h"

namespace memkv {

struct Credential {
  std::vector<std::byte> token;
  std::optional<PrivateKey> key;  // a secret; none where nodes want no proof (simulations)
  friend bool operator==(const Credential&, const Credential&) = default;
};

// Statuses: invalid; the sentence names the file and says what to do, and nothing of what is in it.
[[nodiscard]] Result<Credential> read_token_file(const std::string& path);

class Credentials {
 public:
  explicit Credentials(const ClientOptions& options);

  // Looks whether the file changed.
  void look();
  // Another number when there is another token to show.
  [[nodiscard]] std::uint64_t version() const { return version_; }
  // Looks, too: ok when there is something to show, also nothing at all where no file was named.
  [[nodiscard]] Status ready();
  // What to show: the token, and its proof to the node that challenges.
  [[nodiscard]] std::span<const std::byte> token() const { return held_.token; }
  [[nodiscard]] std::vector<std::byte> proof(std::span<const std::byte> nonce,
                                             std::uint64_t session, std::string_view address) const;
  // What a person should know when a node refused the token; empty when there is nothing.
  [[nodiscard]] std::string hint() const;

 private:
  // Whether the file is another one than when it was read; and what it is now.
  [[nodiscard]] bool changed();

  const std::string path_;  // empty: there is no file
  Credential held_;
  bool holds_ = false;
  std::uint64_t version_ = 0;
  Status trouble_;  // of the last reading
  struct stat seen_{};
};

}  // namespace memkv
