// Whom a node believes: every token and proof that is not exactly right is refused.
#include "server/trust.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "support/tokens.h"

namespace memkv::testing {
namespace {

constexpr std::uint64_t kNow = 1'000'100;
constexpr std::uint64_t kSession = 77;
const std::string kNode = "10.0.0.7:9900";

class TrustTest : public ::testing::Test {
 protected:
  TrustTest() : nonce_(32, std::byte{0x5a}) { trust({{5, {.keys = {{TestKey(0x11), 0}}}}}); }

  void trust(const std::vector<std::pair<TenantId, TestTenant>>& tenants) {
    auto read = Trust::read(trust_body(tenants));
    ASSERT_TRUE(read) << read.error().message();
    trust_ = std::move(*read);
  }
  [[nodiscard]] Result<Pass> admit(const Body& token, const Body& proof, std::uint64_t now_s) {
    return trust_.admit({.token = token, .proof = proof, .nonce = nonce_, .session = kSession},
                        names_, now_s);
  }
  // With the proof of the token's own holder.
  [[nodiscard]] Result<Pass> admit(const TestToken& token, std::uint64_t now_s = kNow) {
    return admit(token.bytes(), proof_of(token.holder, nonce_, kSession, kNode), now_s);
  }
  // Refused, for this reason.
  ::testing::AssertionResult refused(const Result<Pass>& pass, std::string_view why = "") {
    if (pass) return ::testing::AssertionFailure() << "it was let in";
    if (pass.error().code != Code::denied || pass.error().text.find(why) == std::string::npos) {
      return ::testing::AssertionFailure() << "it says " << pass.error().message();
    }
    return ::testing::AssertionSuccess();
  }

  Body nonce_;
  std::vector<std::string> names_{kNode};
  Trust trust_;
};

TEST_F(TrustTest, WhatTheTokenSaysIsThePass) {
  const auto pass = admit(TestToken{.rights = kRightRead, .spaces = {trust_id(9)}});
  ASSERT_TRUE(pass) << pass.error().message();
  EXPECT_EQ(pass->tenant, 5U);
  EXPECT_TRUE(pass->allows(kRightRead));
  EXPECT_FALSE(pass->allows(kRightWrite));
  EXPECT_FALSE(pass->allows(kRightDrop));
  EXPECT_TRUE(pass->allows(NamespaceId(trust_id(9))));
  EXPECT_FALSE(pass->allows(NamespaceId(trust_id(8))));
  EXPECT_EQ(pass->until_s, 1'003'600U + kTokenSkewS);
}

// The page's token was made by other code than ours; its holder's private half is nobody's.
TEST_F(TrustTest, TheGoldenTokenIsGoodButForItsProof) {
  std::ifstream file("docs/formats/token.md");
  std::string line;
  while (std::getline(file, line) && line != "## Golden bytes") continue;
  Body token;
  while (std::getline(file, line)) {
    std::istringstream digits(line.starts_with("    ") ? line : "");
    for (unsigned byte = 0; digits >> std::hex >> byte;) token.push_back(std::byte(byte));
  }
  ASSERT_EQ(token.size(), 178U);
  TestKey key(0x11);
  key.id = trust_id(0x33);
  trust({{5, {.keys = {{key, 0}}}}});
  EXPECT_TRUE(refused(admit(token, Body(64), 1'700'000'000), "did not prove"));
}

TEST_F(TrustTest, NoChangedTokenIsBelieved) {
  const TestToken token{.spaces = {trust_id(9)}};
  const Body good = token.bytes();
  const Body proof = proof_of(token.holder, nonce_, kSession, kNode);
  ASSERT_TRUE(admit(good, proof, kNow));
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    Body bad = good;
    bad[bit / 8] ^= std::byte(1U << (bit % 8));
    EXPECT_TRUE(refused(admit(bad, proof, kNow))) << "bit " << bit;
  }
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_TRUE(
        refused(admit(Body(good.begin(), good.begin() + std::ptrdiff_t(length)), proof, kNow)))
        << length << " bytes";
  }
  Body longer = good;
  longer.push_back(std::byte{0});
  EXPECT_TRUE(refused(admit(longer, proof, kNow)));
}

TEST_F(TrustTest, NoChangedProofIsBelieved) {
  const TestToken token;
  const Body good = proof_of(token.holder, nonce_, kSession, kNode);
  for (std::size_t bit = 0; bit < 8 * good.size(); ++bit) {
    Body bad = good;
    bad[bit / 8] ^= std::byte(1U << (bit % 8));
    EXPECT_TRUE(refused(admit(token.bytes(), bad, kNow), "did not prove")) << "bit " << bit;
  }
  EXPECT_TRUE(refused(admit(token.bytes(), {}, kNow), "did not prove"));
  EXPECT_TRUE(refused(admit(token.bytes(), Body(63), kNow), "did not prove"));
}

TEST_F(TrustTest, AProofIsOfOneNonceOneSessionAndOneNode) {
  const TestToken token;
  const auto with = [&](const Body& nonce, std::uint64_t session, std::string_view address) {
    return admit(token.bytes(), proof_of(token.holder, nonce, session, address), kNow);
  };
  EXPECT_TRUE(with(nonce_, kSession, kNode));
  EXPECT_TRUE(refused(with(Body(32, std::byte{1}), kSession, kNode), "did not prove"));
  EXPECT_TRUE(refused(with(nonce_, kSession + 1, kNode), "did not prove"));
  EXPECT_TRUE(refused(with(nonce_, kSession, "10.0.0.8:9900"), "did not prove"));
  names_.push_back("10.0.0.8:9900");
  EXPECT_TRUE(with(nonce_, kSession, "10.0.0.8:9900"));
  const TestKey thief(0x66);
  EXPECT_TRUE(refused(admit(token.bytes(), proof_of(thief, nonce_, kSession, kNode), kNow),
                      "did not prove"));
}

TEST_F(TrustTest, OnlyTheTenantsOwnKeysSignForIt) {
  trust({{5, {.keys = {{TestKey(0x11), 0}}}}, {6, {.keys = {{TestKey(0x12), 0}}}}});
  EXPECT_TRUE(admit(TestToken{}));
  EXPECT_TRUE(admit(TestToken{.tenant = 6, .key = TestKey(0x12)}));
  EXPECT_TRUE(refused(admit(TestToken{.tenant = 6}), "no such key"));
  EXPECT_TRUE(refused(admit(TestToken{.tenant = 7}), "no such key"));
  EXPECT_TRUE(refused(admit(TestToken{.key = TestKey(0x12)}), "no such key"));
  const TestToken token;
  EXPECT_TRUE(refused(
      admit(token.signed_by(TestKey(0x12)), proof_of(token.holder, nonce_, kSession, kNode), kNow),
      "signed by another"));
}

TEST_F(TrustTest, ItsTimeIsKeptToWithinTheSkew) {
  const TestToken token;
  EXPECT_TRUE(admit(token, token.until_s));
  EXPECT_TRUE(admit(token, token.until_s + kTokenSkewS - 1));
  EXPECT_TRUE(refused(admit(token, token.until_s + kTokenSkewS), "is over"));
  EXPECT_TRUE(admit(token, token.issued_s - kTokenSkewS));
  EXPECT_TRUE(refused(admit(token, token.issued_s - kTokenSkewS - 1), "has not come"));
  trust({{5, {.keys = {{TestKey(0x11), kNow}}}}});
  EXPECT_TRUE(admit(token, kNow - 1));
  EXPECT_TRUE(refused(admit(token, kNow), "is over"));
  TestToken forever;
  forever.until_s = ~std::uint64_t{0};
  trust({{5, {.keys = {{TestKey(0x11), 0}}}}});
  EXPECT_TRUE(admit(forever));
}

TEST_F(TrustTest, WhatIsNoTokenOfThisVersionIsRefused) {
  EXPECT_TRUE(refused(admit(TestToken{.magic = "MKT2"}), "no token"));
  EXPECT_TRUE(refused(admit(TestToken{.rights = 0}), "no token"));
  EXPECT_TRUE(refused(admit(TestToken{.rights = kRightsAll + 1}), "no token"));
  EXPECT_TRUE(admit(TestToken{.spaces = std::vector<NamespaceId>(kTokenNamespacesMax)}));
  EXPECT_TRUE(refused(admit(TestToken{.spaces = std::vector<NamespaceId>(kTokenNamespacesMax + 1)}),
                      "no token"));
}

TEST_F(TrustTest, ARevokedTokenAndOnlyThatIsRefused) {
  trust({{5, {.keys = {{TestKey(0x11), 0}}, .revoked = {trust_id(1), trust_id(2)}}}});
  EXPECT_TRUE(refused(admit(TestToken{.id = trust_id(1)}), "revoked"));
  EXPECT_TRUE(refused(admit(TestToken{.id = trust_id(2)}), "revoked"));
  EXPECT_TRUE(admit(TestToken{.id = trust_id(3)}));
}

TEST_F(TrustTest, WhatWasGivenIsTakenBack) {
  auto pass = admit(TestToken{});
  ASSERT_TRUE(pass);
  EXPECT_TRUE(trust_.upholds(*pass));
  trust({{5, {.keys = {{TestKey(0x11), kNow + 5}, {TestKey(0x12), 0}}}}});  // rotated
  EXPECT_TRUE(trust_.upholds(*pass));
  EXPECT_FALSE(pass->over(kNow + 4));
  EXPECT_TRUE(pass->over(kNow + 5));
  trust({{5, {.keys = {{TestKey(0x12), 0}}}}});
  EXPECT_FALSE(trust_.upholds(*pass));
  trust({{5, {.keys = {{TestKey(0x11), 0}}, .revoked = {trust_id(0x44)}}}});
  EXPECT_FALSE(trust_.upholds(*pass));
  EXPECT_FALSE(Trust().upholds(*pass));
}

TEST_F(TrustTest, OnlyTheAgentsKeyMakesNoTenants) {
  EXPECT_FALSE(Trust().has_tenants());
  EXPECT_TRUE(trust_.has_tenants());
  trust({{0, {.keys = {{TestKey(0x11), 0}}}}});
  EXPECT_FALSE(trust_.has_tenants());
}

TEST_F(TrustTest, ABrokenBodyIsRefusedWhole) {
  const Body good =
      trust_body({{5, {.keys = {{TestKey(1), 0}}, .revoked = {trust_id(1)}}}, {6, {}}});
  ASSERT_TRUE(Trust::read(good));
  for (std::size_t length = 0; length < good.size(); ++length) {
    EXPECT_FALSE(Trust::read(std::span(good).first(length))) << length << " bytes";
  }
  Body longer = good;
  longer.push_back(std::byte{0});
  EXPECT_FALSE(Trust::read(longer));
  EXPECT_FALSE(Trust::read(trust_body({{5, {}}, {5, {}}})));
  EXPECT_FALSE(Trust::read(trust_body({{5, {.keys = {{TestKey(1), 0}, {TestKey(1), 1}}}}})));
  TestTenant many;
  for (std::uint8_t i = 0; i <= kTrustKeysMax; ++i) many.keys.emplace_back(TestKey(i), 0);
  EXPECT_EQ(Trust::read(trust_body({{5, many}})).error().code, Code::too_large);
  many.keys.pop_back();
  EXPECT_TRUE(Trust::read(trust_body({{5, many}})));
  many.revoked.resize(kTrustRevokedMax + 1);
  EXPECT_EQ(Trust::read(trust_body({{5, many}})).error().code, Code::too_large);
}

}  // namespace
}  // namespace memkv::testing
