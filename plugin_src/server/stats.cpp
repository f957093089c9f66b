#include "server/stats.h"

#include <initializer_list>
#include <string_view>
#include <utility>

namespace memkv {
namespace {

class Lines {
 public:
  void add(std::string_view name, std::string_view value) {
    text_.append(name).append(" ").append(value).append("\n");
  }
  void add(std::string_view name, std::uint64_t value) { add(name, std::to_string(value)); }
  [[nodiscard]] std::string take() { return std::move(text_); }

 private:
  std::string text_;
};

// What of tenants and namespaces a text may name.
class Sight {
 public:
  // `pass` nullptr: everything.
  explicit Sight(const Pass* pass) : pass_(pass) {}
  [[nodiscard]] bool all() const { return pass_ == nullptr; }
  [[nodiscard]] bool shows(TenantId tenant, const NamespaceId& id) const {
    return all() || (tenant == pass_->tenant && pass_->allows(id));
  }
  // A tenant's whole is more than a token for some of its namespaces may see.
  [[nodiscard]] bool shows(TenantId tenant) const {
    return all() || (tenant == pass_->tenant && pass_->spaces.empty());
  }

 private:
  const Pass* pass_;
};

void add_server(Lines& lines, const ServerContext& context, const ServerNow& now) {
  const ServerCounters& c = context.counters;
  lines.add("software", "memkvd " MEMKV_VERSION);
  lines.add("address", context.address);
  lines.add("node", context.node);
  lines.add("weight", context.options.weight);
  lines.add("epoch", context.epoch);
  lines.add("map_nodes", context.map_nodes);
  lines.add("maps_refused", context.maps_refused);
  lines.add("namespaces_settled", context.namespaces_settled);
  lines.add("uptime_ms", now.uptime_ms);
  lines.add("stopping", context.stopping ? 1 : 0);

  lines.add("peers", now.peers);
  lines.add("peers_accepted", c.peers_accepted);
  lines.add("peers_welcome", c.peers_welcome);
  lines.add("peers_stalled", c.peers_stalled);
  lines.add("peers_slow", c.peers_slow);
  lines.add("peers_broke_protocol", c.peers_broke_protocol);

  lines.add("requests_open", now.requests);
  lines.add("requests_match", c.requests_match);
  lines.add("requests_put", c.requests_put);
  lines.add("requests_get", c.requests_get);
  lines.add("requests_drop", c.requests_drop);
  lines.add("requests_stat", c.requests_stat);
  lines.add("requests_map", c.requests_map);
  lines.add("requests_list", c.requests_list);
  lines.add("requests_mark", c.requests_mark);
  lines.add("cancels", c.cancels);
  lines.add("reports", c.reports);
  lines.add("reports_ignored", c.reports_ignored);

  lines.add("match_keys", c.match_keys);
  lines.add("match_found", c.match_found);
  lines.add("match_holes", c.match_holes);
  lines.add("put_blocks", c.put_blocks);
  lines.add("get_blocks", c.get_blocks);
  lines.add("get_bytes", c.get_bytes);
  lines.add("drop_keys", c.drop_keys);

  lines.add("bytes_in", c.bytes_in_closed + now.bytes_in);
  lines.add("bytes_out", c.bytes_out_closed + now.bytes_out);
  lines.add("put_bytes_granted", now.bytes_granted);
  lines.add("get_bytes_pinned", now.bytes_pinned);
  lines.add("get_blocks_pinned", now.blocks_pinned);
  lines.add("put_blocks_queued", now.puts_queued);
  lines.add("get_blocks_queued", now.gets_queued);
  lines.add("get_delay_us", context.get_delay_ns / 1000);

  for (const Code code : {Code::busy, Code::too_large, Code::unsupported, Code::denied,
                          Code::timeout, Code::shutdown, Code::protocol}) {
    lines.add("refused_" + std::string(code_name(code)), c.refused[static_cast<std::size_t>(code)]);
  }
}

void add_store(Lines& lines, const StoreStats& s) {
  lines.add("boot", s.boot);
  lines.add("capacity_bytes", s.capacity_bytes);
  lines.add("arena_bytes", s.arena_bytes);
  lines.add("segment_bytes", s.segment_bytes);
  lines.add("segments", s.segments);
  lines.add("segments_free", s.segments_free);
  lines.add("blocks", s.blocks);
  lines.add("block_bytes", s.block_bytes);
  lines.add("dram_blocks", s.dram_blocks);
  lines.add("dirty_bytes", s.dirty_bytes);
  lines.add("records_waiting", s.records_waiting);
  lines.add("puts", s.puts);
  lines.add("put_bytes", s.put_bytes);
  lines.add("puts_exist", s.puts_exist);
  lines.add("puts_conflict", s.puts_conflict);
  lines.add("puts_busy", s.puts_busy);
  lines.add("puts_rejected", s.puts_rejected);
  lines.add("puts_aborted", s.puts_aborted);
  lines.add("puts_ended", s.puts_ended);
  lines.add("puts_over_quota", s.puts_over_quota);
  lines.add("puts_not_admitted", s.puts_not_admitted);
  lines.add("puts_waiting", s.puts_waiting);
  lines.add("gets", s.gets);
  lines.add("hits_dram", s.hits_dram);
  lines.add("hits_flash", s.hits_flash);
  lines.add("misses", s.misses);
  lines.add("corrupt", s.corrupt);
  lines.add("foreign", s.foreign);
  lines.add("gets_waiting", s.gets_waiting);
  lines.add("evicted_blocks", s.evicted_blocks);
  lines.add("evicted_bytes", s.evicted_bytes);
  lines.add("quota_evicted_blocks", s.quota_evicted_blocks);
  lines.add("expired_blocks", s.expired_blocks);
  lines.add("ended_blocks", s.ended_blocks);
  lines.add("rewritten_blocks", s.rewritten_blocks);
  lines.add("rewritten_bytes", s.rewritten_bytes);
  lines.add("lost_blocks", s.lost_blocks);
  lines.add("dropped_blocks", s.dropped_blocks);
  lines.add("device_bytes_written", s.device_bytes_written);
  lines.add("device_bytes_read", s.device_bytes_read);
  lines.add("device_errors", s.device_errors);
  lines.add("device_operations", s.device_operations);
  lines.add("recovered_blocks", s.recovered_blocks);
  lines.add("recovery_ms", s.recovery_ms);
  lines.add("copies_blocks", s.copies.blocks);
  lines.add("copies_waiting", s.copies.waiting);
}

void add_pairs(Lines& lines, std::string_view name,
               std::initializer_list<std::pair<const char*, std::uint64_t>> pairs) {
  std::string text;
  for (const auto& [what, number] : pairs) {
    text += (text.empty() ? "" : " ") + std::string(what) + "=" + std::to_string(number);
  }
  lines.add(name, text);
}

void add_space(Lines& lines, std::string_view name, const SpaceCounters& space) {
  add_pairs(lines, name,
            {{"hits", space.hits},
             {"misses", space.misses},
             {"get_bytes", space.get_bytes},
             {"keys", space.keys},
             {"found", space.found},
             {"holes", space.holes},
             {"puts", space.puts},
             {"put_bytes", space.put_bytes}});
}

[[nodiscard]] std::string name_of(std::string_view what, TenantId tenant, const NamespaceId& id) {
  std::string name = std::string(what) + "_" + std::to_string(tenant) + "_";
  for (const std::byte byte : id) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    name += kDigits[std::to_integer<std::size_t>(byte >> 4)];
    name += kDigits[std::to_integer<std::size_t>(byte & std::byte{15})];
  }
  return name;
}

void add_spaces(Lines& lines, const Spaces& spaces, const Sight& sight) {
  for (const SpaceCounters& space : spaces.own()) {
    if (!sight.shows(space.tenant, space.id)) continue;
    add_space(lines, name_of("namespace", space.tenant, space.id), space);
  }
  if (sight.all()) add_space(lines, "namespace_other", spaces.other());
}

void add_usage(Lines& lines, const RulesUsage& usage, const Sight& sight) {
  for (const SpaceUsage& space : usage.spaces) {
    if (!sight.shows(space.tenant, space.id)) continue;
    add_pairs(lines, name_of("usage", space.tenant, space.id),
              {{"quota", space.quota_bytes},
               {"bytes", space.bytes},
               {"blocks", space.blocks},
               {"over_quota", space.over_quota},
               {"expired", space.expired},
               {"ended", space.ended}});
  }
  for (const TenantUsage& tenant : usage.tenants) {
    if (!sight.shows(tenant.tenant)) continue;
    add_pairs(lines, "usage_" + std::to_string(tenant.tenant),
              {{"quota", tenant.quota_bytes}, {"bytes", tenant.bytes}, {"blocks", tenant.blocks}});
  }
}

void add_copies(Lines& lines, const std::vector<SpaceCopies>& copies, const Sight& sight) {
  for (const SpaceCopies& space : copies) {
    if (!sight.shows(space.tenant, space.id)) continue;
    lines.add(name_of("copies", space.tenant, space.id),
              "blocks=" + std::to_string(space.counts.blocks) +
                  " waiting=" + std::to_string(space.counts.waiting));
  }
}

}  // namespace

std::string stats_text_of(const ServerContext& context, const ServerNow& now, const Pass* pass) {
  const Sight sight(pass == nullptr || context.sees_all(*pass) ? nullptr : pass);
  Lines lines;
  add_server(lines, context, now);
  const StoreStats store = context.store.stats();
  add_store(lines, store);
  lines.add("latency_get_first_byte", context.counters.get_first_byte.text());
  lines.add("latency_get_whole", context.counters.get_whole.text());
  lines.add("latency_put", context.counters.put.text());
  lines.add("latency_device_read", store.device_reads.text());
  lines.add("latency_device_write", store.device_writes.text());
  add_spaces(lines, context.spaces, sight);
  add_usage(lines, store.usage, sight);
  add_copies(lines, context.store.copies(), sight);
  return lines.take();
}

}  // namespace memkv
