// The token's file: what a client reads there, and what it does when that changes or goes bad.
#include "client/credentials.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "base/limits.h"

namespace memkv::testing {
namespace {

const std::string kKey(64, 'b');

std::string text_of(std::string_view token, std::string_view key = kKey) {
  return "memkv-token 1\n# for people\ntoken " + std::string(token) + "\nkey " + std::string(key) +
         "\n";
}

class CredentialsTest : public ::testing::Test {
 protected:
  CredentialsTest()
      : path_(std::filesystem::temp_directory_path() /
              ("memkv-token-" + std::to_string(::getpid()))) {}
  ~CredentialsTest() override { std::filesystem::remove_all(path_); }

  // As a tool that puts its file in place whole.
  void write(const std::string& text) {
    const std::string fresh = path_.string() + ".new";
    std::ofstream(fresh, std::ios::binary) << text;
    std::filesystem::rename(fresh, path_);
  }
  // The sentence of the refusal; it names the file, and says nothing of what is in it.
  std::string refusal(const std::string& text) {
    write(text);
    const auto read = read_token_file(path_);
    if (read) return "";
    EXPECT_EQ(read.error().code, Code::invalid);
    EXPECT_NE(read.error().text.find(path_.string()), std::string::npos) << read.error().text;
    EXPECT_EQ(read.error().text.find("bbbb"), std::string::npos) << read.error().text;
    return read.error().text;
  }
  [[nodiscard]] ClientOptions options() const { return {.token_file = path_.string()}; }

  std::filesystem::path path_;
};

TEST_F(CredentialsTest, AFileHoldsATokenAndItsKey) {
  write(text_of("00ff7f"));
  const auto read = read_token_file(path_);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(read->token, (std::vector{std::byte{0}, std::byte{0xff}, std::byte{0x7f}}));
  PrivateKey key{};
  key.fill(std::byte{0xbb});
  EXPECT_EQ(read->key, key);
  write("memkv-token 1\r\nkey " + kKey + "\r\ntoken 0a");  // as an editor leaves it
  EXPECT_TRUE(read_token_file(path_));
}

TEST_F(CredentialsTest, AnythingElseIsRefusedByName) {
  EXPECT_NE(refusal("").find("empty"), std::string::npos);
  EXPECT_NE(refusal("secret\n").find("memkv token issue"), std::string::npos);
  EXPECT_NE(refusal("memkv-token 2\ntoken 00\nkey " + kKey).find("memkv-token 1"),
            std::string::npos);
  EXPECT_NE(refusal("memkv-token 1\ntoken 00\n").find("lacks"), std::string::npos);
  EXPECT_NE(refusal("memkv-token 1\nkey " + kKey).find("lacks"), std::string::npos);
  EXPECT_NE(refusal(text_of("0")).find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of("")).find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of("0G")).find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of("00", kKey + "bb")).find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of("00") + "token 01\n").find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of("00") + "rights all\n").find("line"), std::string::npos);
  EXPECT_NE(refusal(text_of(std::string(2 * kTokenBytesMax + 2, '0'))).find("line"),
            std::string::npos);
  EXPECT_EQ(refusal(text_of(std::string(2 * kTokenBytesMax, '0'))), "");
  EXPECT_NE(refusal(std::string(kTokenFileBytesMax + 1, '#')).find("too long"), std::string::npos);
}

TEST_F(CredentialsTest, WhatIsNoFileIsNotWaitedFor) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_FALSE(read_token_file(path_));
  std::filesystem::remove(path_);
  std::filesystem::create_directory(path_);
  EXPECT_FALSE(read_token_file(path_));
  std::filesystem::remove(path_);
  const auto read = read_token_file(path_);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().text.find("is not there"), std::string::npos) << read.error().text;
}

TEST_F(CredentialsTest, WithoutAFileThereIsNothingToShow) {
  Credentials credentials(ClientOptions{});
  EXPECT_TRUE(credentials.ready().good());
  EXPECT_TRUE(credentials.token().empty());
  EXPECT_TRUE(credentials.proof({}, 1, "a:1").empty());
  EXPECT_EQ(credentials.hint(), "");
}

TEST_F(CredentialsTest, AFileThatComesLateIsTaken) {
  Credentials credentials(options());
  EXPECT_EQ(credentials.ready().code, Code::invalid);
  write("half of");
  EXPECT_EQ(credentials.ready().code, Code::invalid);
  write(text_of("01"));
  EXPECT_TRUE(credentials.ready().good());
  EXPECT_EQ(credentials.token().size(), 1U);
}

TEST_F(CredentialsTest, ANewTokenIsSeenAndABadFileKeepsTheOld) {
  write(text_of("01"));
  Credentials credentials(options());
  ASSERT_TRUE(credentials.ready().good());
  const std::uint64_t first = credentials.version();
  credentials.look();
  EXPECT_EQ(credentials.version(), first);
  write(text_of("01"));  // the same once more
  credentials.look();
  EXPECT_EQ(credentials.version(), first);
  write(text_of("0202"));
  credentials.look();
  EXPECT_NE(credentials.version(), first);
  EXPECT_EQ(credentials.token().size(), 2U);
  write("rubbish");
  EXPECT_TRUE(credentials.ready().good());
  std::filesystem::remove(path_);
  EXPECT_TRUE(credentials.ready().good());
  EXPECT_EQ(credentials.token().size(), 2U);
  write(text_of("030303"));
  credentials.look();
  EXPECT_EQ(credentials.token().size(), 3U);
}

TEST_F(CredentialsTest, TheProofIsTheKeysAndNamesTheNode) {
  write(text_of("01"));
  Credentials credentials(options());
  ASSERT_TRUE(credentials.ready().good());
  PrivateKey key{};
  key.fill(std::byte{0xbb});
  const std::vector<std::byte> nonce(32, std::byte{7});
  const auto proof = credentials.proof(nonce, 9, "store:9900");
  EXPECT_TRUE(is_signed_by(public_half(key), proof_message(nonce, 9, "store:9900"), proof));
  EXPECT_FALSE(is_signed_by(public_half(key), proof_message(nonce, 9, "store:9901"), proof));
}

TEST_F(CredentialsTest, TheHintSaysWhenItsTimeIsOver) {
  const std::string before(2 * 52, '0');
  write(text_of(before + "0100000000000000"));
  Credentials credentials(options());
  ASSERT_TRUE(credentials.ready().good());
  EXPECT_NE(credentials.hint().find("is past its time"), std::string::npos) << credentials.hint();
  write(text_of(before + "ffffffffffffff00"));
  credentials.look();
  EXPECT_NE(credentials.hint().find("is not past its time"), std::string::npos);
}

// RFC 8032, section 7.1, test 2: one message of one byte.
TEST(Signature, IsThatOfTheStandard) {
  const auto bytes = [](std::string_view hex) {
    std::vector<std::byte> out;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      out.push_back(static_cast<std::byte>(std::stoul(std::string(hex.substr(i, 2)), nullptr, 16)));
    }
    return out;
  };
  const auto seed = bytes("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb");
  const auto open = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  const auto expected = bytes(
      "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
      "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00");
  PrivateKey key{};
  std::ranges::copy(seed, key.begin());
  const auto message = bytes("72");
  const Signature made = sign(key, message);
  EXPECT_TRUE(std::ranges::equal(made, expected));
  EXPECT_TRUE(std::ranges::equal(public_half(key), open));
  EXPECT_TRUE(is_signed_by(public_half(key), message, made));
  EXPECT_FALSE(is_signed_by(public_half(key), bytes("73"), made));
}

}  // namespace
}  // namespace memkv::testing
