"""What a node's /metrics says: STAT's numbers as Prometheus metrics, and the device's wear.

memkvd counts; this only names. docs/reference/metrics.md is the page to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from memkv_nixl._metrics import Metric, Page
from memkv_nixl._stat import parse_durations, parse_pairs
from memkv_nixl.store._wear import Wear

Stats = Mapping[str, int | float | str]


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"memkv_node_{name}", "gauge", text, labels)


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"memkv_node_{name}_total", "counter", text, labels)


def _histogram(name: str, text: str) -> Metric:
    return Metric(f"memkv_node_{name}_seconds", "histogram", text)


UP = _gauge("up", "1 when memkvd answered STAT for this page, else 0 and nothing else is known")
INFO = _gauge("info", "Always 1; who this node is", "address", "software")
STARTS = _counter("memkvd_starts", "How often the agent started memkvd; only under an agent")
REGISTERED = _gauge(
    "registered", "1 while the control plane hears this node's agent; only under an agent"
)
MOVED_BYTES = _counter("moved_bytes", "Bytes put on other nodes by the agent; only under an agent")
COPIES_MADE = _counter(
    "copies_made", "Second copies that the agent put on other nodes; only under an agent"
)
MOVES_FAILED = _counter(
    "moves_failed", "Blocks that could not be moved or copied, each try; only under an agent"
)

_REQUESTS = _counter("requests", "Requests taken", "type")
_KEYS = _counter("asked", "Blocks and keys that requests named", "type")
_REFUSED = _counter("refused", "Requests and connections that were refused", "code")
_PUTS = _counter("puts", "Blocks offered by PUT, by how that ended; the rest goes on", "result")
_HITS = _counter("hits", "Blocks served by GET, by where they were", "tier")
_LOST = _counter("blocks_gone", "Blocks that are not here any more, by why", "reason")
_GONE_BYTES = _counter("evicted_bytes", "Bytes of blocks that were given up for room")
_DEVICE_BYTES = _counter("device_bytes", "Bytes read from and written to the device", "direction")
_NETWORK = _counter("network_bytes", "Bytes from and to peers, frames included", "direction")
_QUEUED = _gauge("queued", "What waits or is under way, by where", "queue")
_PEERS = _counter("peers", "Connections taken, by what became of them", "event")

# A number of STAT, the metric that it is a sample of, its labels, and what it is multiplied by.
_SAMPLES: tuple[tuple[str, Metric, tuple[str, ...], float], ...] = (
    ("weight", _gauge("weight", "Its share of the blocks beside other nodes' weights"), (), 1),
    ("epoch", _gauge("map_epoch", "Epoch of the map that it holds"), (), 1),
    ("map_nodes", _gauge("map_nodes", "Nodes in that map"), (), 1),
    ("maps_refused", _counter("maps_refused", "Map files that could not be used"), (), 1),
    ("namespaces_settled", _gauge("namespaces_settled",
        "Namespaces that the map has rules for"), (), 1),
    ("uptime_ms", _gauge("uptime_seconds", "Since it began to listen"), (), 1e-3),
    ("stopping", _gauge("stopping", "1 while it takes no new requests and ends"), (), 1),
    ("boot", _gauge("boot", "How often the store was opened on this device"), (), 1),
    ("peers", _gauge("peers_connected", "Connections that are open"), (), 1),
    ("peers_accepted", _PEERS, ("accepted",), 1),
    ("peers_welcome", _PEERS, ("welcome",), 1),
    ("peers_stalled", _PEERS, ("stalled",), 1),
    ("peers_slow", _PEERS, ("slow",), 1),
    ("peers_broke_protocol", _PEERS, ("broke_protocol",), 1),
    *((f"requests_{kind}", _REQUESTS, (kind,), 1) for kind in
      ("match", "put", "get", "drop", "stat", "map", "list", "mark")),
    ("match_keys", _KEYS, ("match",), 1),
    ("put_blocks", _KEYS, ("put",), 1),
    ("get_blocks", _KEYS, ("get",), 1),
    ("drop_keys", _KEYS, ("drop",), 1),
    ("match_found", _counter("match_found", "Keys of MATCH that are here"), (), 1),
    ("match_holes", _counter("match_holes",
        "Keys of MATCH that are not here, between two that are; the most there can be"), (), 1),
    ("cancels", _counter("cancels", "Requests and blocks that clients gave up"), (), 1),
    ("reports", _counter("reports", "Readers that found bytes wrong"), (), 1),
    ("reports_ignored", _counter("reports_ignored",
        "Reports of peers that sent more than 64 a second"), (), 1),
    *((f"refused_{code}", _REFUSED, (code,), 1) for code in
      ("busy", "too_large", "unsupported", "denied", "timeout", "shutdown", "protocol")),
    ("bytes_in", _NETWORK, ("in",), 1),
    ("bytes_out", _NETWORK, ("out",), 1),
    ("get_bytes", _counter("get_bytes", "Bytes of blocks served by GET"), (), 1),
    ("put_bytes", _counter("put_bytes", "Bytes of blocks published; device bytes written over "
        "this is the write amplification"), (), 1),
    ("puts_exist", _PUTS, ("exists",), 1),
    ("puts_conflict", _PUTS, ("conflict",), 1),
    ("puts_busy", _PUTS, ("busy",), 1),
    ("puts_rejected", _PUTS, ("rejected",), 1),
    ("puts_aborted", _PUTS, ("aborted",), 1),
    ("puts_ended", _PUTS, ("ended",), 1),
    ("puts_over_quota", _PUTS, ("over_quota",), 1),
    ("puts_not_admitted", _PUTS, ("not_admitted",), 1),
    ("hits_dram", _HITS, ("dram",), 1),
    ("hits_flash", _HITS, ("flash",), 1),
    ("misses", _counter("misses", "Blocks of GET that are not here"), (), 1),
    ("evicted_blocks", _LOST, ("evicted",), 1),
    ("quota_evicted_blocks", _LOST, ("quota",), 1),
    ("expired_blocks", _LOST, ("expired",), 1),
    ("ended_blocks", _LOST, ("ended",), 1),
    ("lost_blocks", _LOST, ("lost",), 1),
    ("dropped_blocks", _LOST, ("dropped",), 1),
    ("corrupt", _LOST, ("corrupt",), 1),
    ("foreign", _LOST, ("foreign",), 1),
    ("evicted_bytes", _GONE_BYTES, (), 1),
    ("rewritten_blocks", _counter("rewritten_blocks", "Blocks kept by writing them anew"), (), 1),
    ("rewritten_bytes", _counter("rewritten_bytes", "Bytes of these"), (), 1),
    ("device_bytes_written", _DEVICE_BYTES, ("write",), 1),
    ("device_bytes_read", _DEVICE_BYTES, ("read",), 1),
    ("device_errors", _counter("device_errors", "Operations of the device that failed"), (), 1),
    ("capacity_bytes", _gauge("capacity_bytes", "Of the device that the store uses"), (), 1),
    ("arena_bytes", _gauge("dram_bytes", "Of DRAM for blocks"), (), 1),
    ("segments", _gauge("segments", "Segments of the log"), (), 1),
    ("segments_free", _gauge("segments_free", "Of these, without a block"), (), 1),
    ("blocks", _gauge("blocks", "Blocks that are here"), (), 1),
    ("block_bytes", _gauge("block_bytes", "Bytes of these"), (), 1),
    ("dram_blocks", _gauge("dram_blocks", "Of these, in DRAM"), (), 1),
    ("dirty_bytes", _gauge("dirty_bytes", "Bytes in DRAM only, on their way to the device"), (), 1),
    ("copies_blocks", _gauge("copies_blocks",
        "Blocks of namespaces whose rule wants two copies"), (), 1),
    ("copies_waiting", _gauge("copies_waiting",
        "Of these, not known to lie on a second node"), (), 1),
    ("recovered_blocks", _gauge("recovered_blocks", "Blocks found when it was opened"), (), 1),
    ("recovery_ms", _gauge("recovery_seconds", "How long that took"), (), 1e-3),
    ("get_blocks_pinned", _gauge("pinned_blocks", "Blocks that are being sent"), (), 1),
    ("get_bytes_pinned", _gauge("pinned_bytes", "Bytes asked for or being sent"), (), 1),
    ("put_bytes_granted", _gauge("granted_bytes", "Bytes that writers may send"), (), 1),
    ("get_delay_us", _gauge("get_delay_seconds",
        "From asking the store for a block to having it, a moving average"), (), 1e-6),
    ("requests_open", _QUEUED, ("requests",), 1),
    ("put_blocks_queued", _QUEUED, ("put_blocks",), 1),
    ("get_blocks_queued", _QUEUED, ("get_blocks",), 1),
    ("puts_waiting", _QUEUED, ("put_memory",), 1),
    ("gets_waiting", _QUEUED, ("get_memory",), 1),
    ("records_waiting", _QUEUED, ("index_records",), 1),
    ("device_operations", _QUEUED, ("device",), 1),
)  # fmt: skip

_LATENCIES = {
    "get_first_byte": _histogram(
        "get_first_byte", "From taking a GET to handing a block of it to its connection"
    ),
    "get_whole": _histogram("get_whole", "From taking a GET until a block of it was sent whole"),
    "put": _histogram("put", "From the grant to the published block"),
    "device_read": _histogram("device_read", "One read of the device"),
    "device_write": _histogram("device_write", "One write to the device"),
}
_SPACE_LABELS = ("tenant", "namespace")
_SPACES = {
    name: _counter(f"namespace_{name}", text, *_SPACE_LABELS)
    for name, text in {
        "hits": "Blocks of the namespace served by GET",
        "misses": "Blocks of the namespace that GET did not find",
        "get_bytes": "Bytes of these hits",
        "keys": "Keys of MATCH in the namespace",
        "found": "Of these, here",
        "holes": "Of these, not here, between two that are; the most there can be",
        "puts": "Blocks of the namespace that were published",
        "put_bytes": "Bytes of these",
    }.items()
}
_USED = {
    name: _gauge(f"namespace_used_{name}", text, *_SPACE_LABELS)
    for name, text in {
        "bytes": "Bytes that are here of a namespace that has rules",
        "blocks": "Blocks of these",
    }.items()
}
_QUOTA = _gauge("namespace_quota_bytes", "Its share of this node; 0: no limit", *_SPACE_LABELS)
_RULED = _counter("namespace_blocks_gone",
    "Blocks that the namespace's rules took out, by why", *_SPACE_LABELS, "reason")  # fmt: skip
_RULED_REASONS = {"over_quota": "quota", "expired": "expired", "ended": "ended"}
_TENANT_USED = {
    "bytes": _gauge("tenant_used_bytes", "Bytes that are here of a tenant that the map has",
        "tenant"),
    "blocks": _gauge("tenant_used_blocks", "Blocks of these", "tenant"),
    "quota": _gauge("tenant_quota_bytes", "Its share of this node; 0: no limit", "tenant"),
}  # fmt: skip
SPACE_WAITING = _gauge(
    "namespace_copies_waiting",
    "Blocks of the namespace that its rule wants on two nodes, not known to lie there",
    *_SPACE_LABELS,
)
_WEAR = {
    "used_ratio": _gauge("device_wear_ratio", "Of the life its maker gave the drive; above 1 too"),
    "spare_ratio": _gauge("device_spare_ratio", "Of the drive's spare blocks that are left"),
    "bytes_written": _counter("drive_written_bytes", "By all who ever wrote to the drive"),
    "media_errors": _counter("drive_media_errors", "Of the drive's whole life"),
}
METRICS = tuple(
    dict.fromkeys(
        [
            UP,
            INFO,
            STARTS,
            REGISTERED,
            MOVED_BYTES,
            COPIES_MADE,
            MOVES_FAILED,
            *(metric for _, metric, _, _ in _SAMPLES),
            *_LATENCIES.values(),
            *_SPACES.values(),
            *_USED.values(),
            _QUOTA,
            _RULED,
            *_TENANT_USED.values(),
            SPACE_WAITING,
            *_WEAR.values(),
        ]
    )
)


@dataclass(frozen=True)
class AgentNumbers:
    """What only a node's agent knows."""

    starts: int
    registered: bool
    moved_bytes: int = 0
    copies_made: int = 0
    moves_failed: int = 0


def node_page(
    stats: Stats | None, wear: Wear | None = None, agent: AgentNumbers | None = None
) -> str:
    """The page; `stats` is None when memkvd did not answer."""
    page = Page()
    page.add(UP, stats is not None)
    if agent is not None:
        page.add(STARTS, agent.starts)
        page.add(REGISTERED, agent.registered)
        page.add(MOVED_BYTES, agent.moved_bytes)
        page.add(COPIES_MADE, agent.copies_made)
        page.add(MOVES_FAILED, agent.moves_failed)
    if wear is not None:
        _add_wear(page, wear)
    if stats is not None:
        _add_stats(page, stats)
    return page.text()


def _add_stats(page: Page, stats: Stats) -> None:
    page.add(INFO, 1, str(stats.get("address", "")), str(stats.get("software", "")))
    for name, metric, labels, scale in _SAMPLES:
        value = stats.get(name)
        if isinstance(value, int):  # an older memkvd does not say all
            page.add(metric, value * scale, *labels)
    for name, metric in _LATENCIES.items():
        if line := stats.get(f"latency_{name}"):
            page.add_durations(metric, parse_durations(str(line)))
    for name, line in stats.items():
        if match := re.fullmatch(r"namespace_(?:(\d+)_([0-9a-f]{32})|other)", name):
            labels = (match[1], match[2]) if match[1] else ("other", "other")
            for what, number in parse_pairs(str(line)).items():
                if what in _SPACES:
                    page.add(_SPACES[what], number, *labels)
        elif match := re.fullmatch(r"copies_(\d+)_([0-9a-f]{32})", name):
            page.add(SPACE_WAITING, parse_pairs(str(line))["waiting"], match[1], match[2])
        elif match := re.fullmatch(r"usage_(\d+)(?:_([0-9a-f]{32}))?", name):
            _add_usage(page, match[1], match[2], parse_pairs(str(line)))


def _add_usage(page: Page, tenant: str, space: str | None, said: Mapping[str, int]) -> None:
    if space is None:
        for name, metric in _TENANT_USED.items():
            page.add(metric, said.get(name, 0), tenant)
        return
    for name, metric in _USED.items():
        page.add(metric, said.get(name, 0), tenant, space)
    page.add(_QUOTA, said.get("quota", 0), tenant, space)
    for name, reason in _RULED_REASONS.items():
        page.add(_RULED, said.get(name, 0), tenant, space, reason)


def _add_wear(page: Page, wear: Wear) -> None:
    for name, metric in _WEAR.items():
        page.add(metric, getattr(wear, name))
