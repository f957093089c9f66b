#include "server/trust.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"

namespace memkv {
namespace {

constexpr std::string_view kTokenKind = "memkv.token/1";
constexpr std::string_view kTokenMagic = "MKT1";
constexpr std::size_t kIdBytes = std::tuple_size_v<TrustId>;

// A token's fields; who signed it was not checked yet.
struct Token {
  TenantId tenant = 0;
  TrustId key{}, id{};
  std::uint64_t issued_s = 0, until_s = 0;
  std::uint32_t rights = 0;
  PublicKey holder{};
  std::vector<NamespaceId> spaces;
  std::span<const std::byte> body, signature;
};

template <std::size_t kBytes>
void take(ByteReader& reader, std::array<std::byte, kBytes>& into) {
  const auto bytes = reader.raw(kBytes);
  if (!bytes.empty()) std::ranges::copy(bytes, into.begin());
}

[[nodiscard]] std::optional<Token> parse(std::span<const std::byte> text) {
  if (text.size() < kSignatureBytes) return std::nullopt;
  Token token;
  token.body = text.first(text.size() - kSignatureBytes);
  token.signature = text.last(kSignatureBytes);
  ByteReader reader(token.body);
  if (as_text_of(reader.raw(kTokenMagic.size())) != kTokenMagic) return std::nullopt;
  token.tenant = reader.u64();
  take(reader, token.key);
  take(reader, token.id);
  token.issued_s = reader.u64();
  token.until_s = reader.u64();
  token.rights = reader.u32();
  take(reader, token.holder);
  const std::size_t count = reader.u16();
  if (count > kTokenNamespacesMax) return std::nullopt;
  token.spaces.resize(count);
  for (NamespaceId& space : token.spaces) take(reader, space);
  if (!reader.finished() || token.rights == 0 || (token.rights & ~kRightsAll) != 0) {
    return std::nullopt;
  }
  return token;
}

[[nodiscard]] bool is_signed(const Token& token, const PublicKey& key) {
  const auto kind = as_bytes_of(kTokenKind);
  std::vector<std::byte> message(kind.begin(), kind.end());
  message.insert(message.end(), token.body.begin(), token.body.end());
  return is_signed_by(key, message, token.signature);
}

[[nodiscard]] bool is_proven(const Claim& claim, const PublicKey& holder,
                             std::span<const std::string> names) {
  return std::ranges::any_of(names, [&](const std::string& name) {
    return is_signed_by(holder, proof_message(claim.nonce, claim.session, name), claim.proof);
  });
}

[[nodiscard]] std::uint64_t plus(std::uint64_t a, std::uint64_t b) {
  return a > std::numeric_limits<std::uint64_t>::max() - b
             ? std::numeric_limits<std::uint64_t>::max()
             : a + b;
}

[[nodiscard]] std::uint64_t sooner(std::uint64_t end, std::uint64_t key_end) {
  return key_end == 0 ? end : std::min(end, key_end);
}

}  // namespace

bool Pass::allows(const NamespaceId& space) const {
  return spaces.empty() || std::ranges::find(spaces, space) != spaces.end();
}

Result<Trust> Trust::read(std::span<const std::byte> body) {
  Trust trust;
  ByteReader reader(body);
  const std::uint32_t tenants = reader.u32();
  reader.zeros(4);
  if (tenants > kTrustTenantsMax) return fail(Code::too_large, "TRUST: more than 1025 tenants");
  std::size_t revoked_in_all = 0;
  for (std::uint32_t i = 0; i < tenants && reader.ok(); ++i) {
    const TenantId number = reader.u64();
    const std::uint32_t keys = reader.u32();
    const std::uint32_t revoked = reader.u32();
    revoked_in_all += revoked;
    if (keys > kTrustKeysMax || revoked > kTrustRevokedMax || revoked_in_all > kTrustRevokedMax) {
      return fail(Code::too_large, "TRUST: more keys or revoked tokens than there may be");
    }
    const auto [place, fresh] = trust.tenants_.try_emplace(number);
    if (!fresh) return fail(Code::protocol, "TRUST: a tenant stands there twice");
    for (std::uint32_t k = 0; k < keys; ++k) {
      TrustId id{};
      Key key;
      take(reader, id);
      take(reader, key.open);
      key.until_s = reader.u64();
      place->second.keys.emplace(id, key);
    }
    for (std::uint32_t r = 0; r < revoked; ++r) {
      TrustId id{};
      take(reader, id);
      place->second.revoked.insert(id);
    }
    if (place->second.keys.size() != keys) return fail(Code::protocol, "TRUST: a key twice");
  }
  if (!reader.finished()) return fail(Code::protocol, "TRUST: a body too short or too long");
  return trust;
}

const Trust::Key* Trust::find_key(TenantId tenant, const TrustId& key) const {
  const auto owner = tenants_.find(tenant);
  if (owner == tenants_.end()) return nullptr;
  const auto found = owner->second.keys.find(key);
  return found == owner->second.keys.end() ? nullptr : &found->second;
}

Result<Pass> Trust::admit(const Claim& claim, std::span<const std::string> names,
                          std::uint64_t now_s) const {
  const auto token = parse(claim.token);
  if (!token) return fail(Code::denied, "what it showed is no token of version 1");
  const Key* key = find_key(token->tenant, token->key);
  if (key == nullptr) return fail(Code::denied, "no such key is trusted for its tenant");
  if (!is_signed(*token, key->open)) return fail(Code::denied, "its token was signed by another");
  Pass pass{.tenant = token->tenant,
            .rights = token->rights,
            .spaces = token->spaces,
            .token_until_s = plus(token->until_s, kTokenSkewS),
            .by_token = true,
            .token = token->id,
            .key = token->key};
  if (!upholds(pass)) return fail(Code::denied, "its token was revoked");
  if (pass.over(now_s)) return fail(Code::denied, "the time of its token, or of its key, is over");
  if (token->issued_s > plus(now_s, kTokenSkewS)) {
    return fail(Code::denied, "its token is of a time that has not come: look at the clocks");
  }
  if (!is_proven(claim, token->holder, names)) {
    return fail(Code::denied,
                "it did not prove that it holds the token's key, to this node by one of its names "
                "(--also-known-as tells of more)");
  }
  return pass;
}

bool Trust::upholds(Pass& pass) const {
  const Key* key = find_key(pass.tenant, pass.key);
  if (key == nullptr || tenants_.at(pass.tenant).revoked.contains(pass.token)) return false;
  pass.until_s = sooner(pass.token_until_s, key->until_s);
  return true;
}

bool Trust::has_tenants() const {
  return std::ranges::any_of(tenants_, [](const auto& entry) {
    return entry.first >= kDefaultTenant && !entry.second.keys.empty();
  });
}

}  // namespace memkv
