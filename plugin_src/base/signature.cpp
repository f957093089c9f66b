#include "base/signature.h"

#include <sodium/crypto_sign_ed25519.h>
#include <sodium/utils.h>

#include "base/bytes.h"
#include "base/check.h"

namespace memkv {
namespace {

static_assert(crypto_sign_ed25519_PUBLICKEYBYTES == std::tuple_size_v<PublicKey>);
static_assert(crypto_sign_ed25519_SEEDBYTES == std::tuple_size_v<PrivateKey>);
static_assert(crypto_sign_ed25519_BYTES == kSignatureBytes);

[[nodiscard]] const unsigned char* octets(const std::byte* bytes) {
  return reinterpret_cast<const unsigned char*>(bytes);
}
[[nodiscard]] unsigned char* octets(std::byte* bytes) {
  return reinterpret_cast<unsigned char*>(bytes);
}

// Both halves as libsodium wants them; wiped when it is over.
struct Pair {
  explicit Pair(const PrivateKey& key) {
    const int made =
        crypto_sign_ed25519_seed_keypair(octets(open.data()), secret.data(), octets(key.data()));
    MEMKV_CHECK(made == 0, "every seed has a key");
  }
  ~Pair() { sodium_memzero(secret.data(), secret.size()); }
  Pair(const Pair&) = delete;
  Pair& operator=(const Pair&) = delete;

  PublicKey open{};
  std::array<unsigned char, crypto_sign_ed25519_SECRETKEYBYTES> secret{};
};

}  // namespace

bool is_signed_by(const PublicKey& key, std::span<const std::byte> message,
                  std::span<const std::byte> signature) {
  return signature.size() == kSignatureBytes &&
         crypto_sign_ed25519_verify_detached(octets(signature.data()), octets(message.data()),
                                             message.size(), octets(key.data())) == 0;
}

Signature sign(const PrivateKey& key, std::span<const std::byte> message) {
  const Pair pair(key);
  Signature out{};
  const int made = crypto_sign_ed25519_detached(octets(out.data()), nullptr, octets(message.data()),
                                                message.size(), pair.secret.data());
  MEMKV_CHECK(made == 0, "every key signs");
  return out;
}

PublicKey public_half(const PrivateKey& key) {
  return Pair(key).open;
}

std::vector<std::byte> proof_message(std::span<const std::byte> nonce, std::uint64_t session,
                                     std::string_view address) {
  const auto kind = as_bytes_of("memkv.hello/1");
  std::vector<std::byte> out(kind.size() + nonce.size() + sizeof session + sizeof(std::uint16_t) +
                             address.size());
  ByteWriter writer(out);
  writer.raw(kind);
  writer.raw(nonce);
  writer.u64(session);
  writer.u16(static_cast<std::uint16_t>(address.size()));
  writer.raw(as_bytes_of(address));
  MEMKV_CHECK(writer.ok(), "it was made long enough");
  return out;
}

}  // namespace memkv
