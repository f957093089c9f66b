// memkv_nixl._native: the client as Python sees it, and nothing else.
//
// What it does: turns Python lists of keys and buffers into one request, keeps every buffer
// exported until the request is quiet, and lets go of the GIL wherever it waits. What it refuses to
// do: policy, retries, naming; that is Python's (memkv_nixl.agent, memkv_nixl.cli).
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/crc32c.h"
#include "base/fingerprint.h"
#include "base/wait.h"
#include "bindings/buffers.h"
#include "bindings/logs.h"
#include "client/client.h"
#include "client/placement.h"
#include "wire/wire.h"

namespace nb = nanobind;

namespace memkv::python {
namespace {

[[noreturn]] void raise(const Status& status) {
  const nb::object error = nb::module_::import_("memkv_nixl._errors")
                               .attr("error_from_code")(static_cast<int>(status.code), status.text);
  PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
  throw nb::python_error();
}

[[noreturn]] void raise_usage(const std::string& text) {
  raise(Status(Code::invalid, text));
}

// A request and everything of Python's that it reads or writes. Quiet before its buffers are let
// go.
class PyRequest {
 public:
  PyRequest(std::shared_ptr<Client> client, std::vector<std::string> texts,
            std::vector<Buffer> buffers)
      : client_(std::move(client)), texts_(std::move(texts)), buffers_(std::move(buffers)) {}
  ~PyRequest() {
    const nb::gil_scoped_release unlocked;
    request_.reset();
    client_.reset();
  }
  PyRequest(const PyRequest&) = delete;
  PyRequest& operator=(const PyRequest&) = delete;

  void begin(std::unique_ptr<Request> request) { request_ = std::move(request); }
  void begin(std::unique_ptr<HeldRequest> request) {
    held_ = request.get();
    request_ = std::move(request);
  }
  [[nodiscard]] bool wait_held(std::uint64_t timeout_ms) {
    const nb::gil_scoped_release unlocked;
    return held_ == nullptr ? request_->wait(timeout_ms) : held_->wait_held(timeout_ms);
  }
  void release() {
    if (held_ != nullptr) held_->release();
  }
  [[nodiscard]] Client& client() { return *client_; }
  [[nodiscard]] std::span<const Buffer> buffers() const { return buffers_; }

  [[nodiscard]] bool done() const { return request_->done(); }
  [[nodiscard]] bool wait(std::uint64_t timeout_ms) {
    const nb::gil_scoped_release unlocked;
    return request_->wait(timeout_ms);
  }
  void cancel() { request_->cancel(); }

  [[nodiscard]] std::vector<int> codes() const {
    need_done();
    std::vector<int> out;
    for (const Code code : request_->codes()) out.push_back(static_cast<int>(code));
    return out;
  }
  [[nodiscard]] std::vector<std::tuple<int, int, std::uint32_t>> matches() const {
    need_done();
    std::vector<std::tuple<int, int, std::uint32_t>> out;
    for (const Match& match : request_->matches()) {
      out.emplace_back(static_cast<int>(match.code), static_cast<int>(match.where), match.length);
    }
    return out;
  }

 private:
  void need_done() const {
    if (!request_->done()) raise_usage("the request is not over yet: wait() for it first");
  }

  std::shared_ptr<Client> client_;
  std::vector<std::string>
      texts_;  // keys and groups, owned here because requests only refer to them
  std::vector<Buffer> buffers_;
  std::unique_ptr<Request> request_;
  HeldRequest* held_ = nullptr;  // the same, of a held put
};

std::span<const std::byte> view(const std::string& text) {
  return as_bytes_of(text);
}

Namespace space_of(const nb::bytes& id, std::uint32_t generation) {
  Namespace space;
  if (id.size() != space.id.size()) raise_usage("a namespace id has 16 bytes");
  std::memcpy(space.id.data(), id.c_str(), space.id.size());
  space.generation = generation;
  return space;
}

using Texts = std::vector<nb::bytes>;
using Numbers = std::vector<std::uint32_t>;
using Prints = std::vector<std::pair<std::uint64_t, std::uint64_t>>;

void need_as_many(std::size_t got, std::size_t keys, const char* what) {
  if (got != 0 && got != keys) {
    raise_usage(std::string(what) + ": " + std::to_string(got) + " given for " +
                std::to_string(keys) + " keys");
  }
}

std::uint32_t number_at(const Numbers& numbers, std::size_t i) {
  return numbers.empty() ? 0 : numbers[i];
}

// Keys first, then groups: one vector that never moves again.
std::vector<std::string> own_texts(const Texts& keys, const Texts& groups) {
  need_as_many(groups.size(), keys.size(), "groups");
  std::vector<std::string> out;
  out.reserve(keys.size() + groups.size());
  for (const nb::bytes& key : keys) out.emplace_back(key.c_str(), key.size());
  for (const nb::bytes& group : groups) out.emplace_back(group.c_str(), group.size());
  return out;
}

// The views of one request's keys and groups.
class Names {
 public:
  explicit Names(const std::vector<std::string>& texts, std::size_t keys, bool grouped)
      : texts_(texts), keys_(keys), grouped_(grouped) {}
  [[nodiscard]] std::size_t size() const { return keys_; }
  [[nodiscard]] std::span<const std::byte> key(std::size_t i) const { return view(texts_[i]); }
  [[nodiscard]] std::span<const std::byte> group(std::size_t i) const {
    return grouped_ ? view(texts_[keys_ + i]) : std::span<const std::byte>{};
  }

 private:
  const std::vector<std::string>& texts_;
  std::size_t keys_;
  bool grouped_;
};

class PyClient {
 public:
  PyClient(std::vector<std::string> nodes, std::string token_file, std::string name,
           std::uint64_t timeout_ms, bool follow, std::string tls_ca, std::string tls_cert,
           std::string tls_key, std::string tls_server_name) {
    ClientOptions options;
    options.follow = follow;
    options.nodes = std::move(nodes);
    options.token_file = std::move(token_file);
    options.name = std::move(name);
    options.timeout_ms = timeout_ms;
    options.tls.ca = std::move(tls_ca);
    options.tls.cert = std::move(tls_cert);
    options.tls.key = std::move(tls_key);
    options.tls.server_name = std::move(tls_server_name);
    Result<std::unique_ptr<Client>> client = fail(Code::internal);
    {
      const nb::gil_scoped_release unlocked;
      client = Client::open(options);
    }
    if (!client) raise(client.error());
    client_ = std::move(*client);
  }
  ~PyClient() { close(); }
  PyClient(const PyClient&) = delete;
  PyClient& operator=(const PyClient&) = delete;

  std::unique_ptr<PyRequest> put(const nb::bytes& space, const Texts& keys,
                                 const std::vector<nb::object>& blocks, const Texts& groups,
                                 const Numbers& depths, const Numbers& costs, const Prints& prints,
                                 const Numbers& ages, bool hold, std::uint32_t generation,
                                 std::uint64_t timeout_ms) {
    if (blocks.size() != keys.size()) raise_usage("as many buffers as keys are needed");
    need_as_many(depths.size(), keys.size(), "depths");
    need_as_many(costs.size(), keys.size(), "recompute_costs");
    need_as_many(prints.size(), keys.size(), "group_prints");
    need_as_many(ages.size(), keys.size(), "ages");
    std::vector<std::string> texts = own_texts(keys, groups);
    const Names names(texts, keys.size(), !groups.empty());
    std::vector<Buffer> buffers = export_all(blocks, false);
    std::vector<PutBlock> items(keys.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i] = {.key = names.key(i),
                  .group = names.group(i),
                  .bytes = buffers[i].bytes(),
                  .depth = number_at(depths, i),
                  .recompute_cost = number_at(costs, i),
                  .age_s = number_at(ages, i)};
      if (!prints.empty()) {
        items[i].group_print = Fingerprint{.high = prints[i].first, .low = prints[i].second};
      }
    }
    const Namespace where = space_of(space, generation);
    if (hold) {
      return begin(std::move(texts), std::move(buffers),
                   [&](Client& client) { return client.put_held(where, items, timeout_ms); });
    }
    return begin(std::move(texts), std::move(buffers),
                 [&](Client& client) { return client.put(where, items, timeout_ms); });
  }

  std::unique_ptr<PyRequest> get(const nb::bytes& space, const Texts& keys,
                                 const std::vector<nb::object>& targets, const Texts& groups,
                                 const Numbers& offsets, std::uint32_t generation,
                                 std::uint64_t timeout_ms) {
    if (targets.size() != keys.size()) raise_usage("as many buffers as keys are needed");
    need_as_many(offsets.size(), keys.size(), "offsets");
    std::vector<std::string> texts = own_texts(keys, groups);
    const Names names(texts, keys.size(), !groups.empty());
    std::vector<Buffer> buffers = export_all(targets, true);
    std::vector<GetBlock> items(keys.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i] = {.key = names.key(i),
                  .group = names.group(i),
                  .offset = number_at(offsets, i),
                  .target = buffers[i].writable_bytes()};
    }
    const Namespace where = space_of(space, generation);
    return begin(std::move(texts), std::move(buffers),
                 [&](Client& client) { return client.get(where, items, timeout_ms); });
  }

  std::unique_ptr<PyRequest> match(const nb::bytes& space, const Texts& keys, const Texts& groups,
                                   std::uint32_t generation, std::uint32_t hold_ms,
                                   std::uint64_t timeout_ms) {
    const Namespace where = space_of(space, generation);
    return begin_named(keys, groups, [&](Client& client, std::span<const NamedBlock> items) {
      return client.match(where, items, hold_ms, timeout_ms);
    });
  }

  std::unique_ptr<PyRequest> drop(const nb::bytes& space, const Texts& keys, const Texts& groups,
                                  std::uint32_t generation, std::uint64_t timeout_ms) {
    const Namespace where = space_of(space, generation);
    return begin_named(keys, groups, [&](Client& client, std::span<const NamedBlock> items) {
      return client.drop(where, items, timeout_ms);
    });
  }

  std::string stat(std::size_t node, std::uint64_t timeout_ms) {
    return await([&](Client& client, auto got) { client.stat(node, timeout_ms, std::move(got)); });
  }

  // (the cursor to go on with, a tuple per block)
  nb::tuple list_blocks(std::size_t node, std::uint64_t cursor, std::uint32_t count,
                        std::uint8_t reads_min, std::uint8_t mark_not, std::uint8_t copies_min,
                        bool dram, std::uint64_t timeout_ms) {
    const wire::List question{.cursor = cursor,
                              .count = count,
                              .reads_min = reads_min,
                              .mark_not = mark_not,
                              .copies_min = copies_min,
                              .dram = static_cast<std::uint8_t>(dram ? 1 : 0)};
    const std::string text =
        ask(node, wire::Type::list, wire::Type::list_reply, question, timeout_ms);
    auto reply = wire::ListReplyReader::open(as_bytes_of(text));
    if (!reply) raise(reply.error());
    nb::list blocks;
    while (const auto block = reply->next()) {
      blocks.append(nb::make_tuple(
          bytes_object(block->space.id), block->space.generation, bytes_object(block->key),
          block->incarnation, block->length,
          nb::make_tuple(block->traits.group.high, block->traits.group.low), block->traits.depth,
          block->traits.recompute_cost, block->traits.age_s, block->reads, block->mark));
    }
    return nb::make_tuple(reply->head().next, blocks);
  }

  int mark(std::size_t node, const nb::bytes& space, std::uint32_t generation, const nb::bytes& key,
           std::uint64_t incarnation, std::uint8_t mark, std::uint64_t timeout_ms) {
    const wire::Mark question{.space = space_of(space, generation),
                              .mark = mark,
                              .incarnation = incarnation,
                              .key = std::as_bytes(std::span(key.c_str(), key.size()))};
    const std::string text =
        ask(node, wire::Type::mark, wire::Type::mark_reply, question, timeout_ms);
    const auto reply = wire::decode_mark_reply(as_bytes_of(text));
    if (!reply) raise(reply.error());
    return static_cast<int>(reply->code);
  }

  nb::list health() {
    nb::list out;
    for (const NodeHealth& node : open_client()->health()) {
      nb::dict row;
      row["address"] = node.address;
      row["node"] = node.node;
      row["connected"] = node.connected;
      row["breaker_open"] = node.breaker_open;
      row["boot"] = node.boot;
      row["failures"] = node.failures;
      row["last_error"] = node.last_error;
      out.append(row);
    }
    return out;
  }

  nb::dict stats() {
    const ClientStats stats = open_client()->stats();
    nb::dict out;
    out["puts"] = stats.puts;
    out["gets"] = stats.gets;
    out["matches"] = stats.matches;
    out["drops"] = stats.drops;
    out["put_ok"] = stats.put_ok;
    out["put_exists"] = stats.put_exists;
    out["get_ok"] = stats.get_ok;
    out["get_misses"] = stats.get_misses;
    out["corrupt"] = stats.corrupt;
    out["timeouts"] = stats.timeouts;
    out["unreachable"] = stats.unreachable;
    out["bytes_put"] = stats.bytes_put;
    out["bytes_got"] = stats.bytes_got;
    out["reconnects"] = stats.reconnects;
    out["epoch"] = stats.epoch;
    out["asked_older"] = stats.asked_older;
    out["found_older"] = stats.found_older;
    out["asked_copy"] = stats.asked_copy;
    return out;
  }

  // By kind and outcome: how many in each bucket, microseconds in all, bytes.
  nb::dict latencies() {
    const RequestStats requests = open_client()->stats().requests;
    nb::dict out;
    for (std::size_t kind = 0; kind < kRequestKinds; ++kind) {
      for (std::size_t outcome = 0; outcome < kOutcomes; ++outcome) {
        const RequestStats::Ended& ended = requests.of[kind][outcome];
        nb::list buckets;
        for (const std::uint64_t count : ended.took.buckets()) buckets.append(count);
        const auto asked = static_cast<RequestKind>(kind);
        const std::string name = std::string(kind_name(asked)) + "_" +
                                 std::string(outcome_name(asked, static_cast<Outcome>(outcome)));
        out[name.c_str()] = nb::make_tuple(buckets, ended.took.sum_us(), ended.bytes);
      }
    }
    return out;
  }

  void close() {
    // Taken out under the GIL: another thread may be inside open_client().
    std::shared_ptr<Client> last = std::move(client_);
    const nb::gil_scoped_release unlocked;
    last.reset();
  }

 private:
  template <typename Bytes>
  [[nodiscard]] static nb::bytes bytes_object(const Bytes& bytes) {
    return nb::bytes(bytes.data(), bytes.size());
  }

  template <typename Ask>
  std::string await(Ask&& begin_asking) {
    struct Answer {
      std::mutex mutex;
      std::condition_variable came;
      std::optional<Result<std::string>> text;
    };
    const auto answer = std::make_shared<Answer>();
    const std::shared_ptr<Client> client = open_client();
    {
      const nb::gil_scoped_release unlocked;
      begin_asking(*client, [answer](Result<std::string> text) {
        const std::lock_guard lock(answer->mutex);
        answer->text = std::move(text);
        answer->came.notify_all();
      });
      std::unique_lock lock(answer->mutex);
      wait_until(answer->came, lock, [&] { return answer->text.has_value(); });
    }
    if (!*answer->text) raise(answer->text->error());
    return **answer->text;
  }

  template <typename Body>
  std::string ask(std::size_t node, wire::Type asks, wire::Type answers, const Body& body,
                  std::uint64_t timeout_ms) {
    std::vector<std::byte> bytes(wire::kSmallBodyMax);
    bytes.resize(wire::encode(body, bytes));
    if (bytes.empty()) raise_usage("a number or key is out of its range");
    const Question question{.asks = asks, .answers = answers, .body = std::move(bytes)};
    return await(
        [&](Client& client, auto got) { client.ask(node, question, timeout_ms, std::move(got)); });
  }

  std::shared_ptr<Client> open_client() {
    if (!client_) raise_usage("the client is closed");
    return client_;
  }

  template <typename Begin>
  std::unique_ptr<PyRequest> begin(std::vector<std::string> texts, std::vector<Buffer> buffers,
                                   Begin&& submit) {
    auto request = std::make_unique<PyRequest>(open_client(), std::move(texts), std::move(buffers));
    decltype(submit(request->client())) under_way;
    {
      const nb::gil_scoped_release unlocked;
      under_way = submit(request->client());
    }
    request->begin(std::move(under_way));
    return request;
  }

  template <typename Submit>
  std::unique_ptr<PyRequest> begin_named(const Texts& keys, const Texts& groups, Submit&& submit) {
    std::vector<std::string> texts = own_texts(keys, groups);
    const Names names(texts, keys.size(), !groups.empty());
    std::vector<NamedBlock> items(keys.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      items[i] = {.key = names.key(i), .group = names.group(i)};
    }
    return begin(std::move(texts), {}, [&](Client& client) { return submit(client, items); });
  }

  std::shared_ptr<Client> client_;
};

std::pair<std::uint64_t, std::uint64_t> group_of(const nb::bytes& space, const nb::bytes& group) {
  const Namespace where = space_of(space, 0);
  const Fingerprint print =
      group_fingerprint(where.id, std::as_bytes(std::span(group.c_str(), group.size())));
  return {print.high, print.low};
}

std::optional<std::size_t> place_of(
    std::pair<std::uint64_t, std::uint64_t> group,
    const std::vector<std::pair<std::uint64_t, std::uint32_t>>& nodes) {
  std::vector<PlacementNode> list;
  for (const auto& [id, weight] : nodes) list.push_back({.id = id, .weight = weight});
  return place({.high = group.first, .low = group.second}, list);
}

std::optional<std::size_t> copy_place_of(
    std::pair<std::uint64_t, std::uint64_t> group,
    const std::vector<std::tuple<std::uint64_t, std::uint32_t, std::uint64_t>>& nodes) {
  std::vector<PlacementNode> list;
  for (const auto& [id, weight, domain] : nodes) {
    list.push_back({.id = id, .weight = weight, .domain = domain});
  }
  return place_copy({.high = group.first, .low = group.second}, list);
}

std::vector<std::vector<std::size_t>> places_of(
    const nb::bytes& space, const Texts& groups,
    const std::vector<std::pair<std::uint64_t, std::uint32_t>>& nodes, std::size_t count) {
  const Namespace where = space_of(space, 0);
  std::vector<PlacementNode> list;
  for (const auto& [id, weight] : nodes) list.push_back({.id = id, .weight = weight});
  std::vector<Fingerprint> prints;
  prints.reserve(groups.size());
  for (const nb::bytes& group : groups) {
    prints.push_back(
        group_fingerprint(where.id, std::as_bytes(std::span(group.c_str(), group.size()))));
  }
  const nb::gil_scoped_release others_go_on;
  std::vector<std::vector<std::size_t>> all;
  all.reserve(prints.size());
  std::vector<std::size_t> best(std::min(count, list.size()));
  for (const Fingerprint& print : prints) {
    const auto found = static_cast<std::ptrdiff_t>(place_ranked(print, list, best));
    all.emplace_back(best.begin(), best.begin() + found);
  }
  return all;
}

std::vector<std::uint64_t> latency_bounds_us() {
  std::vector<std::uint64_t> bounds(Histogram::kBounds);
  for (std::size_t i = 0; i < bounds.size(); ++i) bounds[i] = Histogram::bound_us(i);
  return bounds;
}

// CRCs, where blocks belong, and how latencies are counted.
void bind_functions(nb::module_& module) {
  module.def(
      "crc32c",
      [](const nb::object& data, std::uint32_t seed) {
        const Buffer buffer(data, false);
        const nb::gil_scoped_release unlocked;
        return crc32c(buffer.bytes(), seed);
      },
      nb::arg("data"), nb::arg("seed") = 0, "CRC32C of a contiguous buffer.");
  module.def("group_fingerprint", &group_of, nb::arg("namespace"), nb::arg("group"),
             "(high, low) of a group's place.");
  module.def("node_id_of", &node_id_of, nb::arg("address"),
             "The id that placement knows a node by.");
  module.def("place", &place_of, nb::arg("group"), nb::arg("nodes"),
             "The index of the (id, weight) that a group belongs to, or None.");
  module.def("place_copy", &copy_place_of, nb::arg("group"), nb::arg("nodes"),
             "The index of the (id, weight, domain) for a group's second copy, or None.");
  module.def("place_ranked", &places_of, nb::arg("namespace"), nb::arg("groups"), nb::arg("nodes"),
             nb::arg("count"),
             "For each group the indices of its best (id, weight), the best first.");
  module.def("latency_bounds_us", &latency_bounds_us,
             "What Client.latencies() counts up to, in microseconds, in rising order.");
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "The native client of MemKV-NIXL; memkv_nixl's own modules are the public face.";
  module.attr("KEY_BYTES_MAX") = kKeyBytesMax;
  module.attr("BLOCK_BYTES_MAX") = kBlockBytesMax;
  module.attr("WIRE_VERSION") = wire::kVersionMax;

  nb::class_<PyRequest>(module, "Request",
                        "A request under way; dropping it cancels it and waits until it is quiet.")
      .def_prop_ro("done", &PyRequest::done, "True when every block has a code.")
      .def("wait", &PyRequest::wait, nb::arg("timeout_ms"),
           "Waits at most so long, without the GIL; True when the request is over.")
      .def("wait_held", &PyRequest::wait_held, nb::arg("timeout_ms"),
           "Of a held put: waits until every block is with its node or has a code.")
      .def("release", &PyRequest::release, "Of a held put: its blocks become visible.")
      .def("cancel", &PyRequest::cancel, "Asks it to end soon; wait() still has to be called.")
      .def("codes", &PyRequest::codes, "A code's number per block, in the order given.")
      .def("matches", &PyRequest::matches,
           "Of a match: (code, where, length) per block; where is 0 absent, 1 flash, 2 dram.");

  nb::class_<PyClient>(module, "Client", "One pool of store nodes. Safe from any thread.")
      .def(nb::init<std::vector<std::string>, std::string, std::string, std::uint64_t, bool,
                    std::string, std::string, std::string, std::string>(),
           nb::arg("nodes"), nb::kw_only(), nb::arg("token_file") = "", nb::arg("name") = "memkv",
           nb::arg("timeout_ms") = 0, nb::arg("follow") = true, nb::arg("tls_ca") = "",
           nb::arg("tls_cert") = "", nb::arg("tls_key") = "", nb::arg("tls_server_name") = "")
      .def("put", &PyClient::put, nb::arg("namespace"), nb::arg("keys"), nb::arg("buffers"),
           nb::kw_only(), nb::arg("groups") = Texts(), nb::arg("depths") = Numbers(),
           nb::arg("recompute_costs") = Numbers(), nb::arg("group_prints") = Prints(),
           nb::arg("ages") = Numbers(), nb::arg("hold") = false, nb::arg("generation") = 0,
           nb::arg("timeout_ms") = 0, "Puts whole blocks out of any contiguous buffers.")
      .def("get", &PyClient::get, nb::arg("namespace"), nb::arg("keys"), nb::arg("buffers"),
           nb::kw_only(), nb::arg("groups") = Texts(), nb::arg("offsets") = Numbers(),
           nb::arg("generation") = 0, nb::arg("timeout_ms") = 0,
           "Fills writable contiguous buffers with exactly their length of bytes.")
      .def("match", &PyClient::match, nb::arg("namespace"), nb::arg("keys"), nb::kw_only(),
           nb::arg("groups") = Texts(), nb::arg("generation") = 0, nb::arg("hold_ms") = 0,
           nb::arg("timeout_ms") = 0, "Which of these blocks are there?")
      .def("drop", &PyClient::drop, nb::arg("namespace"), nb::arg("keys"), nb::kw_only(),
           nb::arg("groups") = Texts(), nb::arg("generation") = 0, nb::arg("timeout_ms") = 0,
           "Takes blocks out; ok means that no restart brings them back.")
      .def("stat", &PyClient::stat, nb::arg("node"), nb::arg("timeout_ms"),
           "One node's numbers: lines of `name value`.")
      .def("list_blocks", &PyClient::list_blocks, nb::arg("node"), nb::arg("cursor"), nb::kw_only(),
           nb::arg("count") = 256, nb::arg("reads_min") = 0, nb::arg("mark_not") = 0,
           nb::arg("copies_min") = 0, nb::arg("dram") = false, nb::arg("timeout_ms") = 0,
           nb::sig("def list_blocks(self, node: int, cursor: int, *, count: int = 256, "
                   "reads_min: int = 0, mark_not: int = 0, copies_min: int = 0, "
                   "dram: bool = False, timeout_ms: int = 0) -> "
                   "tuple[int, list[tuple[bytes, int, bytes, int, int, tuple[int, int], int, int, "
                   "int, int, int]]]"),
           "LIST: the next cursor, and per block (namespace, generation, key, incarnation, length, "
           "group print, depth, recompute cost, age in seconds, reads, mark).")
      .def("mark", &PyClient::mark, nb::arg("node"), nb::arg("namespace"), nb::arg("generation"),
           nb::arg("key"), nb::arg("incarnation"), nb::arg("mark"), nb::kw_only(),
           nb::arg("timeout_ms") = 0, "MARK: the number of the code that answers it.")
      .def("health", &PyClient::health, nb::sig("def health(self) -> list[dict[str, int | str]]"),
           "A dict per node: address, connected, breaker_open, …")
      .def("stats", &PyClient::stats, nb::sig("def stats(self) -> dict[str, int]"),
           "What this client did, as a dict of numbers.")
      .def("latencies", &PyClient::latencies,
           nb::sig("def latencies(self) -> dict[str, tuple[list[int], int, int]]"),
           "How long requests took, by kind and outcome (get_hit, put_refused, …): how many up to "
           "each of latency_bounds_us() and beyond them, microseconds in all, bytes moved.")
      .def("close", &PyClient::close,
           "Lets go; requests under way keep the connections until they end.");

  bind_functions(module);
  bind_logs(module);
}

}  // namespace memkv::python
