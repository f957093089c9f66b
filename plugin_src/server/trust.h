// Trust: whose tokens a node believes, and what they allow; docs/formats/token.md.
//
// The control plane publishes it with the map, the node checks everything by itself and asks
// nobody. What a peer may do is a Pass: the tenant that its blocks belong to, its rights and
// namespaces, and until when. A refusal's sentence is for the node's own log and never for the
// peer: whoever is refused learns nothing but that. A stranger costs no arithmetic until he names a
// key that is trusted.
//
// Thread: the mind.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/identity.h"
#include "base/result.h"
#include "base/signature.h"

namespace memkv {

inline constexpr std::uint32_t kRightRead = 1;   // MATCH, GET, LIST, REPORT
inline constexpr std::uint32_t kRightWrite = 2;  // PUT, MARK
inline constexpr std::uint32_t kRightDrop = 4;   // DROP
inline constexpr std::uint32_t kRightsAll = kRightRead | kRightWrite | kRightDrop;

// Who may come without a token, for the blocks of the built-in tenant.
enum class Anonymous : std::uint8_t {
  yes,
  no,
  until_tenants,  // everybody, as long as the node trusts no tenant's key
};

using TrustId = std::array<std::byte, 16>;  // of a key, of a token

// What a connection says of who it is: AUTH, and what it answers.
struct Claim {
  std::span<const std::byte> token;  // empty: nobody in particular
  std::span<const std::byte> proof;
  std::span<const std::byte> nonce;  // ours, of CHALLENGE
  std::uint64_t session = 0;         // its, of HELLO
};

// What a connection may do. The default is that of the built-in tenant's, who has no token.
struct Pass {
  TenantId tenant = kDefaultTenant;
  std::uint32_t rights = kRightsAll;
  std::vector<NamespaceId> spaces;  // empty: all of the tenant's
  std::uint64_t token_until_s = 0;  // Unix seconds, skew and all; 0: it has no end
  std::uint64_t until_s = 0;        // the same, and the key's own end
  bool by_token = false;
  TrustId token{}, key{};

  [[nodiscard]] bool allows(std::uint32_t right) const { return (rights & right) == right; }
  [[nodiscard]] bool allows(const NamespaceId& space) const;
  [[nodiscard]] bool over(std::uint64_t now_s) const { return until_s != 0 && now_s >= until_s; }
};

// Who is behind a claim? What may they do, or denied.
using Authenticator = std::function<Result<Pass>(const Claim& claim)>;

class Trust {
 public:
  // Believes nobody.
  Trust() = default;
  // Out of the body of TRUST, docs/formats/map-file.md. Statuses: protocol, too_large.
  [[nodiscard]] static Result<Trust> read(std::span<const std::byte> body);

  // Whom a token speaks for. `names` are the addresses that this node goes by. Statuses: denied.
  [[nodiscard]] Result<Pass> admit(const Claim& claim, std::span<const std::string> names,
                                   std::uint64_t now_s) const;
  // Whether a pass that was given earlier, perhaps by another trust, would still be; its end may be
  // another now.
  [[nodiscard]] bool upholds(Pass& pass) const;
  // Whether there is a tenant that a token can speak for, the agent's own aside.
  [[nodiscard]] bool has_tenants() const;

 private:
  struct Key {
    PublicKey open{};
    std::uint64_t until_s = 0;  // 0: until further notice
  };
  struct Tenant {
    std::map<TrustId, Key> keys;
    std::set<TrustId> revoked;
  };
  [[nodiscard]] const Key* find_key(TenantId tenant, const TrustId& key) const;

  std::map<TenantId, Tenant> tenants_;
};

}  // namespace memkv
