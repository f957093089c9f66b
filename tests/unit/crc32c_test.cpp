// Every implementation of CRC32C that this CPU runs, against the known vectors and one bit at a
// time.
#include "base/crc32c.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <random>
#include <string>
#include <vector>

#include "base/bytes.h"

namespace memkv {
namespace {

using Bytes = std::vector<std::byte>;

Bytes random_bytes(std::size_t count, std::mt19937_64& random) {
  Bytes bytes(count);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The register after one more byte, as the definition has it.
std::uint32_t step(std::uint32_t reg, std::byte byte) {
  reg ^= std::to_integer<std::uint32_t>(byte);
  for (int bit = 0; bit < 8; ++bit) reg = (reg >> 1) ^ ((reg & 1) != 0 ? 0x82f63b78 : 0);
  return reg;
}

// Entry n is the CRC of the first n bytes.
std::vector<std::uint32_t> crcs_of_prefixes(std::span<const std::byte> bytes) {
  std::vector<std::uint32_t> crcs{0};
  std::uint32_t reg = 0xffffffff;
  for (const std::byte byte : bytes) {
    reg = step(reg, byte);
    crcs.push_back(~reg);
  }
  return crcs;
}

// Two pages of memory between two that must not be touched.
class FencedPages {
 public:
  FencedPages() {
    EXPECT_NE(memory_, MAP_FAILED);
    EXPECT_EQ(mprotect(memory_, page_, PROT_NONE), 0);
    EXPECT_EQ(mprotect(memory_ + 3 * page_, page_, PROT_NONE), 0);
  }
  ~FencedPages() { munmap(memory_, 4 * page_); }
  FencedPages(const FencedPages&) = delete;
  FencedPages& operator=(const FencedPages&) = delete;

  [[nodiscard]] std::span<std::byte> bytes() const { return {memory_ + page_, 2 * page_}; }

 private:
  const std::size_t page_ = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  std::byte* const memory_ = static_cast<std::byte*>(
      mmap(nullptr, 4 * page_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
};

class Crc32c : public testing::TestWithParam<Crc32cImplementation> {
 protected:
  static std::uint32_t crc(std::span<const std::byte> bytes, std::uint32_t seed = 0) {
    return GetParam().function(bytes, seed);
  }
};

TEST_P(Crc32c, KnownVectors) {
  Bytes bytes(32);
  EXPECT_EQ(crc(bytes), 0x8a9136aaU);
  std::fill(bytes.begin(), bytes.end(), std::byte{0xff});
  EXPECT_EQ(crc(bytes), 0x62a8ab43U);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  EXPECT_EQ(crc(bytes), 0x46dd794eU);
  std::reverse(bytes.begin(), bytes.end());
  EXPECT_EQ(crc(bytes), 0x113fdb5cU);
  EXPECT_EQ(crc(as_bytes_of("123456789")), 0xe3069283U);
}

TEST_P(Crc32c, NothingChangesNothing) {
  EXPECT_EQ(crc({}), 0U);
  EXPECT_EQ(crc({}, 0x12345678), 0x12345678U);
}

TEST_P(Crc32c, EveryLengthAtEveryAlignment) {
  constexpr std::size_t kLength = 4096;
  constexpr std::size_t kAlignments = 64;
  std::mt19937_64 random(1);
  const Bytes text = random_bytes(kLength, random);
  const std::vector<std::uint32_t> expected = crcs_of_prefixes(text);
  alignas(64) static std::array<std::byte, kLength + kAlignments> place;
  for (std::size_t alignment = 0; alignment < kAlignments; ++alignment) {
    std::copy(text.begin(), text.end(), place.begin() + alignment);
    for (std::size_t length = 0; length <= kLength; ++length) {
      ASSERT_EQ(crc(std::span(place).subspan(alignment, length)), expected[length])
          << "alignment " << alignment << " length " << length;
    }
  }
}

TEST_P(Crc32c, LongTexts) {
  std::mt19937_64 random(2);
  const Bytes text = random_bytes((1 << 20) + 64, random);
  const std::vector<std::uint32_t> expected = crcs_of_prefixes(text);
  std::vector<std::size_t> lengths{1 << 20, 65536, 65535, 65537, 3 * 4096, 3 * 4096 - 1};
  for (int i = 0; i < 200; ++i) lengths.push_back(4096 + random() % (1 << 20));
  for (const std::size_t length : lengths) {
    ASSERT_EQ(crc(std::span(text).first(length)), expected[length]) << length;
  }
}

TEST_P(Crc32c, AnySplitGivesTheSame) {
  std::mt19937_64 random(3);
  const Bytes text = random_bytes(1 << 16, random);
  for (int i = 0; i < 500; ++i) {
    const auto whole = std::span(text).first(random() % text.size());
    const std::size_t piece_max = std::size_t{1} << (random() % 17);
    std::uint32_t running = 0;
    for (auto left = whole; !left.empty();) {
      const std::size_t piece = std::min(left.size(), 1 + random() % piece_max);
      running = crc(left.first(piece), running);
      left = left.subspan(piece);
    }
    ASSERT_EQ(running, crc32c_portable(whole)) << "round " << i << " length " << whole.size();
  }
}

TEST_P(Crc32c, ReadsNothingOutsideTheText) {
  const FencedPages fenced;
  const std::span<std::byte> pages = fenced.bytes();
  std::mt19937_64 random(4);
  for (std::byte& byte : pages) byte = static_cast<std::byte>(random());
  for (std::size_t length = 0; length <= pages.size(); ++length) {
    ASSERT_EQ(crc(pages.last(length)), crc32c_portable(pages.last(length))) << length;
    ASSERT_EQ(crc(pages.first(length)), crc32c_portable(pages.first(length))) << length;
  }
}

TEST_P(Crc32c, EveryFlippedBitShows) {
  Bytes text(2048 + 13);
  const std::uint32_t before = crc(text);
  for (std::size_t bit = 0; bit < 8 * text.size(); ++bit) {
    text[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_NE(crc(text), before) << bit;
    text[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

std::string name_of(const testing::TestParamInfo<Crc32cImplementation>& info) {
  std::string name(info.param.name);
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}
INSTANTIATE_TEST_SUITE_P(Here, Crc32c, testing::ValuesIn(crc32c_implementations()), name_of);

TEST(Crc32cChoice, IsTheFirstImplementationAndPortableIsTheLast) {
  const auto all = crc32c_implementations();
  ASSERT_FALSE(all.empty());
  EXPECT_EQ(all.back().function, &crc32c_portable);
  std::mt19937_64 random(5);
  const Bytes text = random_bytes(10'000, random);
  EXPECT_EQ(crc32c(text), crc32c_portable(text));
  EXPECT_EQ(crc32c(text, 77), all.front().function(text, 77));
}

TEST(Crc32cCombine, IsTheCrcOfBothTexts) {
  std::mt19937_64 random(6);
  const Bytes text = random_bytes(1 << 16, random);
  for (int i = 0; i < 2'000; ++i) {
    const auto whole = std::span(text).first(random() % text.size());
    const std::size_t cut = whole.empty() ? 0 : random() % (whole.size() + 1);
    const auto b = whole.subspan(cut);
    ASSERT_EQ(crc32c_combine(crc32c(whole.first(cut)), crc32c(b), b.size()), crc32c(whole))
        << "round " << i << " length " << whole.size() << " cut " << cut;
  }
}

TEST(Crc32cCombine, WithNothing) {
  EXPECT_EQ(crc32c_combine(0x12345678, 0, 0), 0x12345678U);
  EXPECT_EQ(crc32c_combine(0, 0x12345678, 1000), 0x12345678U);
}

// However three texts are joined, also when they are longer than any memory.
TEST(Crc32cCombine, OrderOfJoiningDoesNotMatter) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 2'000; ++i) {
    const auto a = static_cast<std::uint32_t>(random());
    const auto b = static_cast<std::uint32_t>(random());
    const auto c = static_cast<std::uint32_t>(random());
    const std::uint64_t len_b = random() >> (1 + random() % 63);
    const std::uint64_t len_c = random() >> (1 + random() % 63);
    ASSERT_EQ(crc32c_combine(crc32c_combine(a, b, len_b), c, len_c),
              crc32c_combine(a, crc32c_combine(b, c, len_c), len_b + len_c))
        << "round " << i;
  }
}

}  // namespace
}  // namespace memkv
