// What memkvd understands on its command line and in its flags file, and what it says about the
// rest.
#include "server/flags.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace memkv {
namespace {

Result<Flags> parse(std::vector<const char*> arguments, unsigned cores = 4) {
  return parse_flags(arguments, cores);
}
// With the one flag that must be there.
Result<Flags> parse_more(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), {"--device", "/dev/nvme0n1"});
  return parse(arguments);
}

testing::AssertionResult refused(const Result<Flags>& flags,
                                 const std::vector<std::string>& words) {
  if (flags) return testing::AssertionFailure() << "it was taken";
  for (const std::string& word : words) {
    if (flags.error().text.find(word) == std::string::npos) {
      return testing::AssertionFailure()
             << "'" << word << "' is missing in: " << flags.error().text;
    }
  }
  return testing::AssertionSuccess();
}

class FlagsFile {
 public:
  explicit FlagsFile(const std::string& text) {
    std::string pattern = (std::filesystem::temp_directory_path() / "memkv-flags-XXXXXX").string();
    const int fd = ::mkstemp(pattern.data());
    EXPECT_GE(fd, 0);
    ::close(fd);
    path_ = pattern;
    std::ofstream(path_) << text;
  }
  ~FlagsFile() { std::filesystem::remove(path_); }
  FlagsFile(const FlagsFile&) = delete;
  FlagsFile& operator=(const FlagsFile&) = delete;
  [[nodiscard]] const char* path() const { return path_.c_str(); }

 private:
  std::string path_;
};

TEST(Sizes, AreReadAsPeopleWriteThem) {
  EXPECT_EQ(parse_size("4096"), 4096U);
  EXPECT_EQ(parse_size("64MiB"), 64 * kMiB);
  EXPECT_EQ(parse_size("10GiB"), 10 * kGiB);
  EXPECT_EQ(parse_size("1TiB"), 1024 * kGiB);
  EXPECT_EQ(parse_size("3KB"), 3000U);
  EXPECT_EQ(parse_size("2GB"), 2'000'000'000U);
  EXPECT_EQ(parse_size("5 gib"), 5 * kGiB);
  EXPECT_EQ(parse_size("7b"), 7U);
}

TEST(Sizes, WhatIsNoneIsRefused) {
  for (const char* text : {"", "GiB", "-1", "1.5GiB", "10 GiBs", "0x10", "1G",
                           "99999999999999999999", "16777216TiB"}) {
    const auto size = parse_size(text);
    ASSERT_FALSE(size) << text;
    EXPECT_NE(size.error().text.find("64MiB"), std::string::npos) << "it shows how";
  }
}

TEST(Flags, HaveDefaults) {
  const auto flags = parse_more({});
  ASSERT_TRUE(flags) << flags.error().text;
  EXPECT_EQ(flags->device, "/dev/nvme0n1");
  EXPECT_EQ(flags->capacity_bytes, 0U);
  EXPECT_EQ(flags->dram_bytes, kGiB);
  EXPECT_EQ(flags->listen, "127.0.0.1:9900");
  EXPECT_EQ(flags->weight, 100U);
  EXPECT_EQ(flags->hands, 3U);
  EXPECT_FALSE(flags->format || flags->buffered || flags->insecure || flags->log_json);
}

TEST(Flags, HandsFollowTheCores) {
  EXPECT_EQ(default_hands(0), 0U);
  EXPECT_EQ(default_hands(1), 0U);
  EXPECT_EQ(default_hands(2), 0U);
  EXPECT_EQ(default_hands(3), 2U);
  EXPECT_EQ(default_hands(8), 7U);
  EXPECT_EQ(default_hands(128), 8U);
}

TEST(Flags, AllOfThemAreRead) {
  const auto flags = parse({"--device=/data/a b",
                            "--capacity",
                            "10GiB",
                            "--dram",
                            "2GiB",
                            "--listen",
                            "[::1]:0",
                            "--advertise",
                            "store:9900",
                            "--weight",
                            "7",
                            "--map-file",
                            "/run/map",
                            "--hands",
                            "0",
                            "--format",
                            "--buffered",
                            "--insecure",
                            "--segment-bytes",
                            "256MiB",
                            "--rewrite-percent",
                            "30",
                            "--write-budget",
                            "3GiB",
                            "--index-flush-ms",
                            "5",
                            "--ready-fd",
                            "3",
                            "--log-json",
                            "--log-level",
                            "debug"});
  ASSERT_TRUE(flags) << flags.error().text;
  EXPECT_EQ(flags->device, "/data/a b");
  EXPECT_EQ(flags->capacity_bytes, 10 * kGiB);
  EXPECT_EQ(flags->dram_bytes, 2 * kGiB);
  EXPECT_EQ(flags->listen, "[::1]:0");
  EXPECT_EQ(flags->advertise, "store:9900");
  EXPECT_EQ(flags->weight, 7U);
  EXPECT_EQ(flags->map_file, "/run/map");
  EXPECT_EQ(flags->hands, 0U);
  EXPECT_TRUE(flags->format && flags->buffered && flags->insecure && flags->log_json);
  EXPECT_EQ(flags->segment_bytes, 256 * kMiB);
  EXPECT_EQ(flags->rewrite_percent, 30U);
  EXPECT_EQ(flags->write_budget, 3 * kGiB);
  EXPECT_EQ(flags->index_flush_ms, 5U);
  EXPECT_EQ(flags->ready_fd, 3);
  EXPECT_EQ(flags->log_level, LogLevel::debug);
}

TEST(Flags, UnknownOnesAreNamedWithTheNearest) {
  EXPECT_TRUE(
      refused(parse_more({"--capasity", "1GiB"}), {"--capasity", "did you mean --capacity?"}));
  EXPECT_TRUE(refused(parse_more({"--segment", "1GiB"}), {"did you mean --segment-bytes?"}));
  EXPECT_TRUE(refused(parse_more({"--dev=x"}), {"--dev ", "did you mean --device?"}));
  EXPECT_TRUE(refused(parse_more({"--frobnicate"}), {"--frobnicate", "--help"}));
  EXPECT_TRUE(refused(parse_more({"10GiB"}), {"'10GiB' stands alone", "--device PATH"}));
}

TEST(Flags, WrongValuesAreNamedWithWhatToWrite) {
  EXPECT_TRUE(refused(parse({}), {"--device is missing", "--capacity 10GiB"}));
  EXPECT_TRUE(refused(parse({"--device"}), {"--device needs a value", "PATH"}));
  EXPECT_TRUE(refused(parse({"--device="}), {"--device", "empty"}));
  EXPECT_TRUE(
      refused(parse_more({"--capacity", "ten"}), {"--capacity", "'ten' is not a size", "10GiB"}));
  EXPECT_TRUE(refused(parse_more({"--capacity", "0"}), {"--capacity", "size of 0"}));
  EXPECT_TRUE(refused(parse_more({"--capacity", "100MiB"}), {"--capacity", "too small", "513MiB"}));
  EXPECT_TRUE(refused(parse_more({"--dram", "1MiB"}), {"--dram", "too small", "256MiB"}));
  EXPECT_TRUE(
      refused(parse_more({"--segment-bytes", "5000"}), {"--segment-bytes", "multiple of 4096"}));
  EXPECT_TRUE(
      refused(parse_more({"--segment-bytes", "2GiB"}), {"--segment-bytes", "at most 1GiB"}));
  EXPECT_TRUE(refused(parse_more({"--listen", "9900"}), {"--listen", "HOST:PORT"}));
  EXPECT_TRUE(refused(parse_more({"--listen", "localhost:99999"}), {"--listen", "HOST:PORT"}));
  EXPECT_TRUE(refused(parse_more({"--listen", "::1:9900"}), {"--listen", "[::1]:9900"}));
  EXPECT_TRUE(refused(parse_more({"--advertise", "store:0"}), {"--advertise", "HOST:PORT"}));
  EXPECT_TRUE(refused(parse_more({"--hands", "65"}), {"--hands", "0 to 64"}));
  EXPECT_TRUE(refused(parse_more({"--weight", "-1"}), {"--weight", "0 to 1000000"}));
  EXPECT_TRUE(refused(parse_more({"--rewrite-percent", "101"}), {"--rewrite-percent", "0 to 100"}));
  EXPECT_TRUE(refused(parse_more({"--index-flush-ms", "0"}), {"--index-flush-ms", "1 to 60000"}));
  EXPECT_TRUE(refused(parse_more({"--log-format", "xml"}), {"--log-format", "'xml'", "json"}));
  EXPECT_TRUE(refused(parse_more({"--log-level", "loud"}), {"--log-level", "'loud'", "warning"}));
  EXPECT_TRUE(refused(parse_more({"--format=yes"}), {"--format", "'yes'", "true"}));
}

TEST(Flags, ACertificateTakesItsKeyAndAClientsCaACertificate) {
  const auto flags = parse_more({"--tls-cert", "c", "--tls-key", "k", "--tls-client-ca", "ca"});
  ASSERT_TRUE(flags);
  EXPECT_EQ(flags->tls.cert + flags->tls.key + flags->tls.ca, "ckca");
  EXPECT_TRUE(refused(parse_more({"--tls-cert", "c"}), {"--tls-cert", "--tls-key"}));
  EXPECT_TRUE(refused(parse_more({"--tls-key", "k"}), {"--tls-cert", "--tls-key"}));
  EXPECT_TRUE(refused(parse_more({"--tls-client-ca", "ca"}), {"--tls-client-ca", "--tls-cert"}));
}

TEST(Flags, BeyondLoopbackOnlyWhenToldSo) {
  for (const char* address : {"127.0.0.1:1", "127.1.2.3:1", "localhost:1", "[::1]:1"}) {
    EXPECT_TRUE(parse_more({"--listen", address})) << address;
  }
  EXPECT_TRUE(refused(parse_more({"--listen", "10.0.0.7:9900"}),
                      {"10.0.0.7:9900", "beyond loopback", "--tls-cert", "--insecure"}));
  EXPECT_TRUE(parse_more({"--listen", "10.0.0.7:9900", "--tls-cert", "c", "--tls-key", "k"}));
  EXPECT_TRUE(parse_more({"--listen", "10.0.0.7:9900", "--insecure"}));
  EXPECT_EQ(parse_more({"--listen", "127.0.0.1:9900"})->anonymous, Anonymous::yes);
  EXPECT_EQ(parse_more({"--listen", "10.0.0.7:9900", "--insecure"})->anonymous,
            Anonymous::until_tenants);
  EXPECT_EQ(parse_more({"--anonymous", "no"})->anonymous, Anonymous::no);
  EXPECT_TRUE(refused(parse_more({"--anonymous", "maybe"}), {"--anonymous", "neither yes nor no"}));
  EXPECT_EQ(parse_more({"--also-known-as", "a:1,[::1]:2"})->also_known_as,
            (std::vector<std::string>{"a:1", "[::1]:2"}));
  EXPECT_TRUE(refused(parse_more({"--also-known-as", "a:1,b"}), {"--also-known-as", "HOST:PORT"}));
  EXPECT_TRUE(refused(parse_more({"--listen", "0.0.0.0:9900", "--insecure"}),
                      {"0.0.0.0:9900", "--advertise"}));
  EXPECT_TRUE(parse_more({"--listen", "[::]:9900", "--insecure", "--advertise", "store:9900"}));
}

TEST(Flags, HelpAndVersionNeedNothingElse) {
  EXPECT_TRUE(parse({"--help"})->help);
  EXPECT_TRUE(parse({"-h"})->help);
  EXPECT_TRUE(parse({"--version"})->version);
  const std::string help = help_text();
  for (const char* word :
       {"--device PATH", "--capacity SIZE", "--flags-file FILE", "examples:", "10GiB"}) {
    EXPECT_NE(help.find(word), std::string::npos) << word;
  }
  for (std::size_t at = 0; at < help.size();) {
    const std::size_t end = help.find('\n', at);
    EXPECT_LE(end - at, 120U) << help.substr(at, end - at);
    at = end + 1;
  }
}

TEST(Flags, AFileBringsTheSameFlags) {
  const FlagsFile file(
      "# a node\n"
      "device /data/x#1   # not the # in the path\n"
      "\n"
      "  --capacity = 2GiB\n"
      "dram\t512MiB\n"
      "format\n"
      "insecure false\n");
  const auto flags = parse({"--flags-file", file.path()});
  ASSERT_TRUE(flags) << flags.error().text;
  EXPECT_EQ(flags->device, "/data/x#1");
  EXPECT_EQ(flags->dram_bytes, 512 * kMiB);
  EXPECT_TRUE(flags->format);
  EXPECT_FALSE(flags->insecure);
}

TEST(Flags, TheCommandLineWinsOverTheFile) {
  const FlagsFile file("device /data/file\nweight 5\nformat\n");
  const auto flags = parse({"--weight", "9", "--format=false", "--flags-file", file.path()});
  ASSERT_TRUE(flags) << flags.error().text;
  EXPECT_EQ(flags->device, "/data/file");
  EXPECT_EQ(flags->weight, 9U);
  EXPECT_FALSE(flags->format);
}

TEST(Flags, AWrongLineOfAFileIsNamedByItsNumber) {
  const FlagsFile unknown("device /data/x\n\nwieght 5\n");
  EXPECT_TRUE(refused(parse({"--flags-file", unknown.path()}),
                      {unknown.path(), ":3: ", "did you mean --weight?"}));
  const FlagsFile wrong("weight many\n");
  EXPECT_TRUE(refused(parse({"--flags-file", wrong.path()}), {":1: ", "--weight", "'many'"}));
  const FlagsFile valueless("device\n");
  EXPECT_TRUE(refused(parse({"--flags-file", valueless.path()}),
                      {":1: ", "--device needs a value", "device PATH"}));
  const FlagsFile nested("flags-file /etc/other\n");
  EXPECT_TRUE(refused(parse({"--flags-file", nested.path()}), {":1: ", "command line"}));
  EXPECT_TRUE(
      refused(parse({"--flags-file", "/no/such.flags"}), {"--flags-file", "'/no/such.flags'"}));
}

}  // namespace
}  // namespace memkv
