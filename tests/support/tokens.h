// Tokens and the trust in them, as a control plane makes both (docs/formats/token.md, map-file.md);
// it shares no code with what reads them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/signature.h"
#include "server/trust.h"
#include "support/raw_client.h"

namespace memkv::testing {

// A key, named by a byte that fills its private half and its id.
struct TestKey {
  explicit TestKey(std::uint8_t fill) {
    secret.fill(std::byte{fill});
    id.fill(std::byte{fill});
  }
  [[nodiscard]] PublicKey open() const { return public_half(secret); }

  PrivateKey secret{};
  TrustId id{};
};

inline TrustId trust_id(std::uint8_t fill) {
  TrustId id{};
  id.fill(std::byte{fill});
  return id;
}

inline void append(Body& body, std::span<const std::byte> bytes) {
  body.insert(body.end(), bytes.begin(), bytes.end());
}
template <typename Number>
void append_number(Body& body, Number number) {
  append(body, std::as_bytes(std::span(&number, 1)));
}

struct TestToken {
  std::string_view magic = "MKT1";
  TenantId tenant = 5;
  TestKey key{0x11};
  TrustId id = trust_id(0x44);
  std::uint64_t issued_s = 1'000'000, until_s = 1'003'600;
  std::uint32_t rights = kRightsAll;
  TestKey holder{0x22};
  std::vector<NamespaceId> spaces;

  [[nodiscard]] Body signed_by(const TestKey& signer) const {
    Body body = text_bytes(magic);
    append_number(body, tenant);
    append(body, key.id);
    append(body, id);
    append_number(body, issued_s);
    append_number(body, until_s);
    append_number(body, rights);
    append(body, holder.open());
    append_number(body, static_cast<std::uint16_t>(spaces.size()));
    for (const NamespaceId& space : spaces) append(body, space);
    Body message = text_bytes("memkv.token/1");
    append(message, body);
    append(body, sign(signer.secret, message));
    return body;
  }
  [[nodiscard]] Body bytes() const { return signed_by(key); }
};

inline Body proof_of(const TestKey& holder, std::span<const std::byte> nonce, std::uint64_t session,
                     std::string_view address) {
  Body message = text_bytes("memkv.hello/1");
  append(message, nonce);
  append_number(message, session);
  append_number(message, static_cast<std::uint16_t>(address.size()));
  append(message, text_bytes(address));
  const Signature signature = sign(holder.secret, message);
  return {signature.begin(), signature.end()};
}

struct TestTenant {
  std::vector<std::pair<TestKey, std::uint64_t>> keys;  // and until when
  std::vector<TrustId> revoked;
};

// The body of TRUST.
inline Body trust_body(const std::vector<std::pair<TenantId, TestTenant>>& tenants) {
  Body body;
  append_number(body, static_cast<std::uint32_t>(tenants.size()));
  append_number(body, std::uint32_t{0});
  for (const auto& [number, tenant] : tenants) {
    append_number(body, number);
    append_number(body, static_cast<std::uint32_t>(tenant.keys.size()));
    append_number(body, static_cast<std::uint32_t>(tenant.revoked.size()));
    for (const auto& [key, until_s] : tenant.keys) {
      append(body, key.id);
      append(body, key.open());
      append_number(body, until_s);
    }
    for (const TrustId& token : tenant.revoked) append(body, token);
  }
  return body;
}

}  // namespace memkv::testing
