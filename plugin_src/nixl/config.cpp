#include "nixl/config.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <limits>
#include <map>
#include <numeric>
#include <utility>

#include "base/bytes.h"
#include "base/limits.h"
#include "nixl/config_file.h"

namespace memkv::nixl {
namespace {

constexpr std::string_view kNamespaceDefault = "default";
constexpr std::string_view kObjDialect = kDialectWords[static_cast<std::size_t>(Dialect::obj)];

struct Parameter {
  std::string_view name;
  std::string value;  // unless it is given
};

const std::array<Parameter, 13>& known_parameters() {
  static const auto* const kKnown = new std::array<Parameter, 13>{{
      {"nodes", ""},
      {"namespace", std::string(kNamespaceDefault)},
      {"drop_generation", "0"},
      {"key_dialect", "raw"},
      {"token_file", ""},
      {"tls_ca", ""},
      {"tls_cert", ""},
      {"tls_key", ""},
      {"tls_server_name", ""},
      {"transport", "tcp"},
      {"timeout_ms", std::to_string(kTimeoutMsDefault)},
      {"query_timeout_ms", std::to_string(kQueryTimeoutMsDefault)},
      {"verify", "client"},
  }};
  return *kKnown;
}

// What NIXL's own OBJ takes, and what its users hand to it.
constexpr std::string_view kBucket = "bucket";
constexpr std::array<std::string_view, 16> kStoreParameters = {
    kBucket,         "endpoint_override",
    "scheme",        "region",
    "access_key",    "secret_key",
    "session_token", "ca_bundle",
    "req_checksum",  "resp_checksum",
    "crtMinLimit",   "use_virtual_addressing",
    "accelerated",   "type",
    "num_threads",   "throughput_target_gbps"};

// Why they are refused: handed to a backend by another name, or in the file that all backends read.
constexpr std::string_view kStoreElsewhere =
    "an object store's parameters are taken only where the backend is created by the name OBJ";
constexpr std::string_view kStoreInFile =
    "an object store's parameters do not belong into this file, which every backend reads: hand "
    "them to the one that is created by the name OBJ. For a bucket without that, write "
    "`namespace: NAMESPACE/BUCKET` here";

// What else stands in the file and is for others.
constexpr std::array<std::string_view, 2> kSectionsOfOthers = {"node", "control"};

struct Given {
  std::string value;
  std::string where;  // for the sentence
};
using Values = std::map<std::string, Given, std::less<>>;

// How many letters must be changed, put in or taken out to make `b` of `a`.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 0; i < a.size(); ++i) {
    std::size_t corner = std::exchange(row[0], i + 1);
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t changed = corner + (a[i] == b[j] ? 0 : 1);
      corner = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, corner + 1});
    }
  }
  return row.back();
}

Result<void> check_known(std::string_view name, const std::string& where,
                         std::string_view no_store) {
  std::string all;
  const Parameter* nearest = nullptr;
  for (const Parameter& known : known_parameters()) {
    if (known.name == name) return {};
    if (nearest == nullptr || distance(name, known.name) < distance(name, nearest->name)) {
      nearest = &known;
    }
    all += (all.empty() ? "" : ", ") + std::string(known.name);
  }
  if (std::ranges::find(kStoreParameters, name) != kStoreParameters.end()) {
    return fail(Code::invalid, where + ": " + std::string(no_store) + "; known are " + all);
  }
  const bool close = distance(name, nearest->name) <= std::max<std::size_t>(2, name.size() / 3);
  return fail(Code::invalid, where + ": there is no such parameter; " +
                                 (close ? "did you mean '" + std::string(nearest->name) + "'?"
                                        : "known are " + all));
}

std::string variable_of(std::string_view name) {
  std::string out = "MEMKV_";
  for (const char c : name) out += static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return out;
}

Result<std::string> read_file(const std::string& path, std::size_t bytes_max) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  if (file) {
    text.resize(bytes_max + 1);
    file.read(text.data(), static_cast<std::streamsize>(text.size()));
    text.resize(static_cast<std::size_t>(file.gcount()));
  }
  if (!file.eof() && text.size() <= bytes_max) {
    return fail(Code::invalid,
                "cannot read '" + path + "'; is it there, and may this user read it?");
  }
  if (text.size() > bytes_max) {
    return fail(Code::invalid, "'" + path + "' is longer than " + std::to_string(bytes_max) +
                                   " bytes; is it the right file?");
  }
  return text;
}

Result<void> add_file(const std::string& path, Values& values) {
  const auto text = read_file(path, kConfigBytesMax);
  if (!text) return fail(Code::invalid, "MEMKV_CONFIG: " + text.error().text);
  const auto entries = parse_config(*text, kSectionsOfOthers);
  if (!entries) return fail(Code::invalid, path + ":" + entries.error().text);
  for (const auto& [name, entry] : *entries) {
    const std::string where = path + ":" + std::to_string(entry.line) + ": " + name;
    if (auto known = check_known(name, where, kStoreInFile); !known) return known;
    if (!entry.value.empty()) values[name] = {.value = entry.value, .where = where};
  }
  return {};
}

Result<Values> gather(const Parameters& given, const Environment& environment) {
  Values values;
  for (const Parameter& known : known_parameters()) {
    values[std::string(known.name)] = {.value = known.value, .where = std::string(known.name)};
  }
  if (const auto path = environment("MEMKV_CONFIG"); path && !path->empty()) {
    if (const auto added = add_file(*path, values); !added) return fail(added.error());
  }
  for (const Parameter& known : known_parameters()) {
    const std::string variable = variable_of(known.name);
    const auto value = environment(variable);
    if (value && !value->empty()) {
      values[std::string(known.name)] = {.value = *value, .where = "environment: " + variable};
    }
  }
  // In the order of their names, so that of two wrong ones the same is always refused.
  for (const auto& [name, value] : std::map(given.begin(), given.end())) {
    const std::string where = "parameter " + name;
    if (const auto known = check_known(name, where, kStoreElsewhere); !known)
      return fail(known.error());
    if (!value.empty()) values[name] = {.value = value, .where = where};
  }
  return values;
}

Result<std::uint64_t> whole_number(const Given& given, std::uint64_t least, std::uint64_t most,
                                   std::string_view of) {
  std::uint64_t value = 0;
  const char* const end = given.value.data() + given.value.size();
  const auto [stop, error] = std::from_chars(given.value.data(), end, value);
  if (error != std::errc() || stop != end || value < least || value > most) {
    return fail(Code::invalid, given.where + ": '" + given.value + "' is not a whole number " +
                                   std::string(of) + "between " + std::to_string(least) + " and " +
                                   std::to_string(most));
  }
  return value;
}

Result<std::uint64_t> milliseconds(const Given& given) {
  return whole_number(given, 1, kTimeoutMsMax, "of milliseconds ");
}

std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> out;
  while (!list.empty()) {
    const std::size_t end = std::min(list.find(','), list.size());
    std::string item(list.substr(0, end));
    std::erase_if(item, [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; });
    if (!item.empty()) out.push_back(std::move(item));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return out;
}

Result<Dialect> dialect_of(const Given& given) {
  const auto* const word = std::ranges::find(kDialectWords, std::string_view(given.value));
  if (word == kDialectWords.end()) {
    return fail(Code::invalid, given.where + ": '" + given.value +
                                   "' is no key dialect; there are raw, obj, cmx and full");
  }
  return static_cast<Dialect>(word - kDialectWords.begin());
}

Result<void> check_word(const Given& given, std::string_view only, std::string_view why) {
  if (given.value == only) return {};
  return fail(Code::invalid, given.where + ": '" + given.value + "' is not there; " +
                                 std::string(why) + ": write " + std::string(only));
}

// The name OBJ: what nobody said has another default, and the bucket counts.
Result<void> speak_obj(Values& values, const std::string& bucket) {
  Given& dialect = values.find("key_dialect")->second;
  if (dialect.value == kDialectWords[static_cast<std::size_t>(Dialect::raw)])
    dialect.value = kObjDialect;
  if (dialect.value != kObjDialect) {
    return fail(Code::invalid, dialect.where + ": '" + dialect.value +
                                   "' is not there by the name OBJ, whose keys are of the dialect "
                                   "obj; leave it out, or create the backend MEMKV");
  }
  Given& space = values.find("namespace")->second;
  if (space.value == kNamespaceDefault) {
    return fail(Code::invalid,
                space.where +
                    ": by the name OBJ it has to be said, because the keys that are written there "
                    "do not tell other weights or another tensor-parallel size apart. Set "
                    "MEMKV_NAMESPACE (or `namespace:` in the file that MEMKV_CONFIG names) to a "
                    "word that changes when they do, say llama-70b-rev2-tp8");
  }
  // So that one name is one namespace and one bucket; no store has such buckets.
  if (bucket.contains('/')) {
    return fail(Code::invalid, "parameter bucket: '" + bucket +
                                   "' has a slash in it; blocks lie in NAMESPACE/BUCKET");
  }
  if (!bucket.empty() && !space.value.starts_with(kHexPrefix)) space.value += "/" + bucket;
  return {};
}

// The values as the backend's name wants them read.
Result<Values> values_for(std::string_view name, const Parameters& given,
                          const Environment& environment) {
  if (name != kObjName) return gather(given, environment);
  Parameters ours = given;
  const auto bucket = ours.find(std::string(kBucket));
  const std::string said = bucket != ours.end() ? bucket->second : "";
  for (const std::string_view store : kStoreParameters) ours.erase(std::string(store));
  auto values = gather(ours, environment);
  if (!values) return values;
  if (const auto fine = speak_obj(*values, said); !fine) return fail(fine.error());
  return values;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* const value = std::getenv(name.c_str());
    return value != nullptr ? std::optional<std::string>(value) : std::nullopt;
  };
}

Result<Settings> load_settings(const Parameters& given, const Environment& environment,
                               std::string_view backend) {
  const auto values = values_for(backend, given, environment);
  if (!values) return fail(values.error());
  const auto at = [&values](std::string_view name) -> const Given& {
    return values->find(name)->second;
  };

  Settings settings;
  settings.nodes = split(at("nodes").value);
  if (settings.nodes.empty()) {
    return fail(Code::invalid,
                "no store nodes are named: give the parameter nodes as HOST:PORT,…, set "
                "MEMKV_NODES, or write `nodes:` into the file that MEMKV_CONFIG names");
  }
  const auto dialect = dialect_of(at("key_dialect"));
  if (!dialect) return fail(dialect.error());
  settings.dialect = *dialect;
  const auto space = space_of(at("namespace").value, settings.dialect);
  if (!space) return fail(Code::invalid, at("namespace").where + ": " + space.error().text);
  settings.space = *space;
  constexpr std::uint64_t kGenerationMax = std::numeric_limits<std::uint32_t>::max();
  const auto generation = whole_number(at("drop_generation"), 0, kGenerationMax, "");
  if (!generation) return fail(generation.error());
  settings.space.generation = static_cast<std::uint32_t>(*generation);
  settings.token_file = at("token_file").value;
  settings.tls.ca = at("tls_ca").value;
  settings.tls.cert = at("tls_cert").value;
  settings.tls.key = at("tls_key").value;
  settings.tls.server_name = at("tls_server_name").value;
  const auto timeout_ms = milliseconds(at("timeout_ms"));
  if (!timeout_ms) return fail(timeout_ms.error());
  settings.timeout_ms = *timeout_ms;
  const auto query_timeout_ms = milliseconds(at("query_timeout_ms"));
  if (!query_timeout_ms) return fail(query_timeout_ms.error());
  settings.query_timeout_ms = *query_timeout_ms;
  if (auto fine = check_word(at("transport"), "tcp", "this version speaks TCP only"); !fine) {
    return fail(fine.error());
  }
  if (auto fine = check_word(at("verify"), "client", "in this version the client verifies");
      !fine) {
    return fail(fine.error());
  }
  return settings;
}

Parameters default_parameters(const Environment& environment) {
  Parameters out;
  auto values = gather({}, environment);
  for (const Parameter& known : known_parameters()) {
    const std::string name(known.name);
    out[name] = values ? values->at(name).value : known.value;
  }
  return out;
}

}  // namespace memkv::nixl
