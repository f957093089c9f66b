// What a backend is created with: which place wins, and what is refused with which words.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/limits.h"
#include "nixl/config.h"
#include "nixl/config_file.h"

namespace memkv::nixl {
namespace {

class NixlConfigTest : public ::testing::Test {
 protected:
  NixlConfigTest()
      : folder_(std::filesystem::temp_directory_path() /
                ("memkv-config-" + std::to_string(getpid()))) {
    std::filesystem::create_directories(folder_);
  }
  ~NixlConfigTest() override { std::filesystem::remove_all(folder_); }

  std::string file(const std::string& name, const std::string& text) {
    const std::string path = folder_ / name;
    std::ofstream(path, std::ios::binary) << text;
    return path;
  }
  [[nodiscard]] Environment environment() const {
    return [this](const std::string& name) -> std::optional<std::string> {
      const auto found = variables_.find(name);
      return found == variables_.end() ? std::nullopt : std::optional(found->second);
    };
  }
  Result<Settings> load(const Parameters& given) { return load_settings(given, environment()); }
  // Why it is refused.
  std::string refusal(const Parameters& given) {
    const auto settings = load(given);
    if (settings) return "it is not refused";
    EXPECT_EQ(settings.error().code, Code::invalid);
    return settings.error().text;
  }
  // With the nodes given, which nothing works without.
  std::string refusal_of(const std::string& name, const std::string& value) {
    return refusal({{"nodes", "a:1"}, {name, value}});
  }

  std::filesystem::path folder_;
  std::map<std::string, std::string> variables_;
};

TEST_F(NixlConfigTest, NodesAloneAreEnough) {
  const auto settings = load({{"nodes", "a:1, b:2,,c:3,"}});
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, (std::vector<std::string>{"a:1", "b:2", "c:3"}));
  EXPECT_EQ(settings->space, *space_of("default", Dialect::raw));
  EXPECT_EQ(settings->dialect, Dialect::raw);
  EXPECT_EQ(settings->token_file, "");
  EXPECT_EQ(settings->tls.ca, "");
  EXPECT_EQ(settings->timeout_ms, kTimeoutMsDefault);
  EXPECT_EQ(settings->query_timeout_ms, kQueryTimeoutMsDefault);
}

TEST_F(NixlConfigTest, EveryParameterIsTaken) {
  const auto settings = load({{"nodes", "a:1"},
                              {"namespace", "llama"},
                              {"key_dialect", "cmx"},
                              {"token_file", "/run/token"},
                              {"tls_ca", "/run/ca"},
                              {"tls_cert", "/run/cert"},
                              {"tls_key", "/run/key"},
                              {"tls_server_name", "store"},
                              {"transport", "tcp"},
                              {"timeout_ms", "1234"},
                              {"query_timeout_ms", "56"},
                              {"verify", "client"}});
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->space, *space_of("llama", Dialect::cmx));
  EXPECT_EQ(settings->dialect, Dialect::cmx);
  EXPECT_EQ(settings->token_file, "/run/token");
  EXPECT_EQ(settings->tls.ca, "/run/ca");
  EXPECT_EQ(settings->tls.cert, "/run/cert");
  EXPECT_EQ(settings->tls.key, "/run/key");
  EXPECT_EQ(settings->tls.server_name, "store");
  EXPECT_EQ(settings->timeout_ms, 1234u);
  EXPECT_EQ(settings->query_timeout_ms, 56u);
}

TEST_F(NixlConfigTest, TheStrongerPlaceWins) {
  variables_["MEMKV_CONFIG"] = file("c.yaml",
                                    "nodes: [f:1]\nnamespace: file\ntimeout_ms: 11\n"
                                    "query_timeout_ms: 12\n");
  variables_["MEMKV_NAMESPACE"] = "environment";
  variables_["MEMKV_TIMEOUT_MS"] = "21";
  const auto settings = load({{"timeout_ms", "31"}});
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, std::vector<std::string>{"f:1"});
  EXPECT_EQ(settings->space, *space_of("environment", Dialect::raw));
  EXPECT_EQ(settings->timeout_ms, 31u);
  EXPECT_EQ(settings->query_timeout_ms, 12u);
}

TEST_F(NixlConfigTest, AnEmptyValueIsNone) {
  variables_["MEMKV_NODES"] = "e:1";
  variables_["MEMKV_NAMESPACE"] = "";
  variables_["MEMKV_CONFIG"] = "";
  const auto settings = load({{"nodes", ""}, {"namespace", ""}, {"timeout_ms", ""}});
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, std::vector<std::string>{"e:1"});
  EXPECT_EQ(settings->space, *space_of("default", Dialect::raw));
}

TEST_F(NixlConfigTest, TheDropGenerationIsAPartOfTheNamespace) {
  EXPECT_EQ(load({{"nodes", "a:1"}})->space.generation, 0u);
  variables_["MEMKV_CONFIG"] = file("c.yaml", "nodes: [a:1]\ndrop_generation: 1\n");
  EXPECT_EQ(load({})->space.generation, 1u);
  variables_["MEMKV_DROP_GENERATION"] = "2";
  EXPECT_EQ(load({})->space.generation, 2u);
  const auto given = load({{"drop_generation", "4294967295"}});
  ASSERT_TRUE(given.has_value()) << given.error().text;
  EXPECT_EQ(given->space.generation, 4294967295u);
  EXPECT_EQ(given->space.id, space_of("default", Dialect::raw)->id);
  for (const char* const wrong : {"4294967296", "-1", "1.0", "one"}) {
    EXPECT_NE(refusal_of("drop_generation", wrong).find("between 0 and 4294967295"),
              std::string::npos)
        << wrong;
  }
  // Whatever the backend's name is.
  variables_["MEMKV_NAMESPACE"] = "llama";
  EXPECT_EQ(load_settings({{"bucket", "kv"}}, environment(), kObjName)->space.generation, 2u);
}

// ---- the name OBJ

// What vLLM's own tier `obj` hands to NIXL.
const Parameters kOfVllm = {{"bucket", "kv"},       {"endpoint_override", "http://s3:9000"},
                            {"scheme", "http"},     {"access_key", "who"},
                            {"secret_key", "word"}, {"session_token", "t"},
                            {"region", "here"},     {"ca_bundle", "/ca"},
                            {"num_threads", "4"}};

TEST_F(NixlConfigTest, ByTheNameObjAStoresParametersAreTaken) {
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  const auto settings = load_settings(kOfVllm, environment(), kObjName);
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, std::vector<std::string>{"e:1"});
  EXPECT_EQ(settings->dialect, Dialect::obj);
  EXPECT_EQ(settings->space, *space_of("llama/kv", Dialect::obj));
  EXPECT_EQ(settings->token_file, "");
}

TEST_F(NixlConfigTest, ByTheNameObjOurOwnAreTakenBesideThem) {
  Parameters given = kOfVllm;
  given.insert({{"nodes", "p:1"}, {"namespace", "given"}, {"timeout_ms", "7"}});
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  const auto settings = load_settings(given, environment(), kObjName);
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, std::vector<std::string>{"p:1"});
  EXPECT_EQ(settings->space, *space_of("given/kv", Dialect::obj));
  EXPECT_EQ(settings->timeout_ms, 7u);
}

TEST_F(NixlConfigTest, ByTheNameObjOtherBucketsAreOtherNamespaces) {
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  const auto none = load_settings({}, environment(), kObjName);
  const auto one = load_settings({{"bucket", "one"}}, environment(), kObjName);
  const auto two = load_settings({{"bucket", "two"}}, environment(), kObjName);
  ASSERT_TRUE(none && one && two);
  EXPECT_EQ(none->space, *space_of("llama", Dialect::obj));
  EXPECT_NE(none->space, one->space);
  EXPECT_NE(one->space, two->space);
  // Who spells the 16 bytes has said all.
  const std::string spelled = "hex:000102030405060708090a0b0c0d0e0f";
  variables_["MEMKV_NAMESPACE"] = spelled;
  const auto hex = load_settings({{"bucket", "one"}}, environment(), kObjName);
  ASSERT_TRUE(hex.has_value()) << hex.error().text;
  EXPECT_EQ(hex->space, *space_of(spelled, Dialect::obj));
}

TEST_F(NixlConfigTest, ByTheNameObjABucketHasNoSlash) {
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  const auto settings = load_settings({{"bucket", "one/two"}}, environment(), kObjName);
  ASSERT_FALSE(settings.has_value());
  EXPECT_NE(settings.error().text.find("bucket: 'one/two' has a slash"), std::string::npos)
      << settings.error().text;
}

TEST_F(NixlConfigTest, ByTheNameObjTheNamespaceHasToBeSaid) {
  variables_["MEMKV_NODES"] = "e:1";
  // `default` is what NIXL's list of our parameters hands to those who copy it.
  for (const Parameters& given : {kOfVllm, Parameters{{"namespace", "default"}}}) {
    const auto settings = load_settings(given, environment(), kObjName);
    ASSERT_FALSE(settings.has_value());
    EXPECT_EQ(settings.error().code, Code::invalid);
    EXPECT_NE(settings.error().text.find("Set MEMKV_NAMESPACE"), std::string::npos);
    EXPECT_NE(settings.error().text.find("llama-70b-rev2-tp8"), std::string::npos);
  }
}

TEST_F(NixlConfigTest, ByTheNameObjTheDialectIsObj) {
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  for (const char* const said : {"", "raw", "obj"}) {
    const auto settings = load_settings({{"key_dialect", said}}, environment(), kObjName);
    ASSERT_TRUE(settings.has_value()) << settings.error().text;
    EXPECT_EQ(settings->dialect, Dialect::obj);
  }
  const auto cmx = load_settings({{"key_dialect", "cmx"}}, environment(), kObjName);
  ASSERT_FALSE(cmx.has_value());
  EXPECT_NE(cmx.error().text.find("leave it out"), std::string::npos);
}

TEST_F(NixlConfigTest, AStoresParametersAreOfTheNameObjOnly) {
  for (const char* const name : {"bucket", "access_key", "endpoint_override", "type"}) {
    EXPECT_NE(refusal_of(name, "x").find("by the name OBJ"), std::string::npos) << name;
  }
  // By that name, too, a word that nobody knows is refused.
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  const auto settings = load_settings({{"buckets", "kv"}}, environment(), kObjName);
  ASSERT_FALSE(settings.has_value());
  EXPECT_NE(settings.error().text.find("no such parameter"), std::string::npos);
}

// It once said to create the backend by the name OBJ, to those who had done so.
TEST_F(NixlConfigTest, AStoresParametersAreNotOfTheFileWhateverTheName) {
  variables_ = {{"MEMKV_NODES", "e:1"}, {"MEMKV_NAMESPACE", "llama"}};
  variables_["MEMKV_CONFIG"] = file("c.yaml", "timeout_ms: 7\nbucket: kv\n");
  for (const std::string_view name : {std::string_view("MEMKV"), kObjName}) {
    const auto settings = load_settings({}, environment(), name);
    ASSERT_FALSE(settings.has_value()) << name;
    const std::string& said = settings.error().text;
    EXPECT_NE(said.find("c.yaml:2: bucket: "), std::string::npos) << said;
    EXPECT_NE(said.find("hand them to the one that is created by the name OBJ"), std::string::npos)
        << said;
    EXPECT_NE(said.find("`namespace: NAMESPACE/BUCKET`"), std::string::npos) << said;
    EXPECT_EQ(said.find("only where"), std::string::npos) << said;
  }
  // What it says to write is the same place as the bucket that a backend OBJ is handed.
  variables_ = {{"MEMKV_NODES", "e:1"}};
  variables_["MEMKV_CONFIG"] = file("d.yaml", "namespace: llama/kv\n");
  const auto written = load_settings({}, environment(), kObjName);
  ASSERT_TRUE(written.has_value()) << written.error().text;
  EXPECT_EQ(written->space, *space_of("llama/kv", Dialect::obj));
}

TEST_F(NixlConfigTest, TheDefaultsAreWhatNothingGives) {
  variables_["MEMKV_NODES"] = "e:1";
  const Parameters defaults = default_parameters(environment());
  EXPECT_EQ(defaults.size(), 13u);
  EXPECT_EQ(defaults.at("drop_generation"), "0");
  EXPECT_EQ(defaults.at("nodes"), "e:1");
  EXPECT_EQ(defaults.at("key_dialect"), "raw");
  const auto settings = load(defaults);  // handing them back changes nothing
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->nodes, std::vector<std::string>{"e:1"});
  // Also when the file is wrong: whoever asks for the defaults is not the one to tell.
  variables_["MEMKV_CONFIG"] = "/nowhere/memkv.yaml";
  EXPECT_EQ(default_parameters(environment()).at("transport"), "tcp");
}

TEST_F(NixlConfigTest, UnknownParametersAreRefusedByName) {
  EXPECT_EQ(refusal_of("namespcae", "x"),
            "parameter namespcae: there is no such parameter; did you mean 'namespace'?");
  EXPECT_EQ(refusal_of("query_timeout", "1"),
            "parameter query_timeout: there is no such parameter; did you mean "
            "'query_timeout_ms'?");
  EXPECT_EQ(refusal_of("colour", "red"),
            "parameter colour: there is no such parameter; known are nodes, namespace, "
            "drop_generation, key_dialect, token_file, tls_ca, tls_cert, tls_key, tls_server_name, "
            "transport, timeout_ms, query_timeout_ms, verify");
  EXPECT_NE(refusal_of("", "red").find("known are"), std::string::npos);
  // Of several the same is named in every run.
  EXPECT_EQ(refusal({{"zzzzzz", "1"}, {"nodess", "1"}, {"yyyyyy", "1"}}),
            "parameter nodess: there is no such parameter; did you mean 'nodes'?");
}

TEST_F(NixlConfigTest, WrongValuesAreRefusedWithTheirPlace) {
  EXPECT_NE(refusal({}).find("no store nodes are named"), std::string::npos);
  EXPECT_NE(refusal({{"nodes", " , "}}).find("no store nodes are named"), std::string::npos);
  EXPECT_EQ(refusal_of("key_dialect", "RAW"),
            "parameter key_dialect: 'RAW' is no key dialect; there are raw, obj, cmx and full");
  for (const std::string value : {"0", "-1", "1.5", "5s", "86400001", "99999999999999999999"}) {
    EXPECT_EQ(refusal_of("timeout_ms", value),
              "parameter timeout_ms: '" + value +
                  "' is not a whole number of milliseconds between 1 and 86400000");
    EXPECT_NE(refusal_of("query_timeout_ms", value).find("query_timeout_ms"), std::string::npos);
  }
  EXPECT_EQ(refusal_of("transport", "rdma"),
            "parameter transport: 'rdma' is not there; this version speaks TCP only: write tcp");
  EXPECT_EQ(refusal_of("verify", "server"),
            "parameter verify: 'server' is not there; in this version the client verifies: write "
            "client");
  EXPECT_NE(refusal_of("namespace", "hex:12").find("parameter namespace: 'hex:12'"),
            std::string::npos);
  variables_["MEMKV_VERIFY"] = "server";
  EXPECT_NE(refusal_of("namespace", "x").find("environment: MEMKV_VERIFY"), std::string::npos);
}

// It may come later, and may change: the client looks for itself.
TEST_F(NixlConfigTest, ATokenFileNeedNotBeThereYet) {
  const auto settings = load({{"nodes", "a:1"}, {"token_file", folder_ / "none"}});
  ASSERT_TRUE(settings.has_value()) << settings.error().text;
  EXPECT_EQ(settings->token_file, folder_ / "none");
}

TEST_F(NixlConfigTest, TheFileIsNamedInRefusals) {
  const std::string path = file("c.yaml", "nodes: a:1\n\nnamspace: x\n");
  variables_["MEMKV_CONFIG"] = path;
  EXPECT_EQ(refusal({}),
            path + ":3: namspace: there is no such parameter; did you mean 'namespace'?");
  variables_["MEMKV_CONFIG"] = file("d.yaml", "nodes: a:1\ntimeout_ms: soon\n");
  EXPECT_NE(refusal({}).find("d.yaml:2: timeout_ms: 'soon'"), std::string::npos);
  variables_["MEMKV_CONFIG"] = file("e.yaml", "nodes\n");
  EXPECT_NE(refusal({}).find("e.yaml:1: write `name: value`"), std::string::npos);
  variables_["MEMKV_CONFIG"] = folder_ / "none.yaml";
  EXPECT_NE(refusal({}).find("MEMKV_CONFIG: cannot read"), std::string::npos);
}

// ---- the reader of the file

constexpr std::string_view kSections[] = {"node", "control"};

std::map<std::string, std::string> read(const std::string& text) {
  const auto entries = parse_config(text, kSections);
  EXPECT_TRUE(entries.has_value()) << entries.error().text;
  std::map<std::string, std::string> out;
  if (entries) {
    for (const auto& [name, entry] : *entries) out[name] = entry.value;
  }
  return out;
}

TEST(NixlConfigFileTest, WhatItReads) {
  using Map = std::map<std::string, std::string>;
  EXPECT_EQ(read(""), Map{});
  EXPECT_EQ(read("---\n# only this\n\n   # and this\n"), Map{});
  EXPECT_EQ(read("a: 1"), (Map{{"a", "1"}}));
  EXPECT_EQ(read("a: x y  # why\r\nb: 'x # y'\nc: \"z: w\"\nd: x#y\ne:\n"),
            (Map{{"a", "x y"}, {"b", "x # y"}, {"c", "z: w"}, {"d", "x#y"}, {"e", ""}}));
  EXPECT_EQ(read("a: [x:1, 'y:2', \"z:3\"]\nb: []\nc: [ one ]\n"),
            (Map{{"a", "x:1,y:2,z:3"}, {"b", ""}, {"c", "one"}}));
  EXPECT_EQ(read("a:\n  - x:1\n  - 'y:2'  # second\nb: 2\nc:\n- z\n"),
            (Map{{"a", "x:1,y:2"}, {"b", "2"}, {"c", "z"}}));
  EXPECT_EQ(read("node:\n  device: {odd: &yaml *here}\n  - |\n\na: 1\n"), (Map{{"a", "1"}}));
  EXPECT_EQ(read("node: {device: /dev/x, dram: 1GiB}  # all of it\na: 1\n"), (Map{{"a", "1"}}));
}

TEST(NixlConfigFileTest, WhatItRefuses) {
  for (const std::string text : {"a",
                                 "a:1",
                                 ": 1",
                                 "a b: 1",
                                 "  a: 1",
                                 "- a",
                                 "a: 1\n  - b",
                                 "a: {b: c}",
                                 "a: &x 1",
                                 "a: *x",
                                 "a: |",
                                 "a: >",
                                 "a: !tag 1",
                                 "a: b: c",
                                 "a: 'open",
                                 "a: \"x\\n\"",
                                 "a: [x",
                                 "a: x]\n?",
                                 "a: 1\na: 2",
                                 "a:\n  b: 1",
                                 "a:\n  - b: 1",
                                 "a:\n  -",
                                 "{a: 1}",
                                 "%YAML 1.2",
                                 "a: 1\n---\n",
                                 "node:\n  x: 1\nnode:\n  y: 2",
                                 "node: {x: 1}\nnode: {y: 2}",
                                 "node: {x: 1",
                                 "node: {x: 1}\n  y: 2"}) {
    const auto entries = parse_config(text, kSections);
    EXPECT_FALSE(entries.has_value()) << text;
    if (entries) continue;
    EXPECT_NE(entries.error().text.find(": "), std::string::npos);
  }
}

TEST(NixlConfigFileTest, NoTextBreaksIt) {
  constexpr std::string_view kAlphabet = "a: -[]'\"#,\n\\node&";
  std::uint64_t state = 1;
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (int i = 0; i < 30; ++i) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      text += kAlphabet[(state >> 33) % kAlphabet.size()];
    }
    (void)parse_config(text, kSections);
  }
}

}  // namespace
}  // namespace memkv::nixl
