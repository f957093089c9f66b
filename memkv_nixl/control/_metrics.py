"""What the control plane's /metrics says. docs/reference/metrics.md is the page to it."""

from __future__ import annotations

from collections import Counter

from memkv_nixl import __version__
from memkv_nixl._metrics import Metric, Page
from memkv_nixl.control._call_counts import CallCounts
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._placement_service import PlacementService
from memkv_nixl.control._publish import Published
from memkv_nixl.control._state import Heard, NodeState


def _metric(name: str, kind: str, text: str, *labels: str) -> Metric:
    return Metric(f"memkv_control_{name}", kind, text, labels)


INFO = _metric("info", "gauge", "Always 1; which release this is", "software")
LEADER = _metric("leader", "gauge", "1 while this replica is the one that changes the state")
UPTIME = _metric("uptime_seconds", "gauge", "Since it started")
EPOCH = _metric("map_epoch", "gauge", "Epoch of the map that is published")
NODES = _metric("nodes", "gauge", "Nodes in each state", "state")
AGENTS = _metric("agents", "gauge", "Streams of node agents that are open")
NODE_LAG = _metric("node_map_lag", "gauge", "Epochs that the node's map is behind", "node")
NODE_SILENT = _metric("node_silent_seconds", "gauge", "Since the node was heard", "node")
HEARTBEATS = _metric("heartbeats_total", "counter", "Heartbeats of node agents")
NAMESPACES = _metric("namespaces", "gauge", "Namespaces that were created")
TENANTS = _metric("tenants", "gauge", "Tenants that were created")
CALLS = _metric("calls_total", "counter", "Calls that ended", "method", "status")
CALL_SECONDS = _metric("call_seconds", "histogram", "How long calls with one answer took", "method")
STREAMS = _metric("streams", "gauge", "Calls that answer on and on and are open", "method")
EVENTS = _metric("events_total", "counter", "Events, by kind", "kind")
SNAPSHOT_OK = _metric("snapshot_ok", "gauge", "1 while the state can be written")
SNAPSHOT_SECONDS = _metric(
    "snapshot_write_seconds", "histogram", "How long it took to write the state, both copies"
)
SNAPSHOT_FAILED = _metric(
    "snapshot_failures_total", "counter", "Times that the state could not be written"
)
METRICS = (
    INFO,
    LEADER,
    UPTIME,
    EPOCH,
    NODES,
    AGENTS,
    NODE_LAG,
    NODE_SILENT,
    HEARTBEATS,
    NAMESPACES,
    TENANTS,
    CALLS,
    CALL_SECONDS,
    STREAMS,
    EVENTS,
    SNAPSHOT_OK,
    SNAPSHOT_SECONDS,
    SNAPSHOT_FAILED,
)


class ControlSource:
    """Gathers the page from those who know."""

    def __init__(self, keeper: Keeper, placement: PlacementService, calls: CallCounts) -> None:
        self._keeper = keeper
        self._placement = placement
        self._calls = calls

    async def page(self) -> str:
        """/metrics."""
        page = Page()
        self._add_state(page)
        self._add_nodes(page)
        self._add_calls(page)
        self._add_writing(page)
        return page.text()

    async def trouble(self) -> str:
        """/healthz."""
        return "" if self._keeper.snapshot_ok else "the state cannot be written"

    def _add_state(self, page: Page) -> None:
        keeper, published = self._keeper, self._keeper.published
        page.add(INFO, 1, f"memkv control {__version__}")
        page.add(LEADER, int(self._keeper.leads))
        page.add(UPTIME, keeper.clock() - keeper.started)
        page.add(EPOCH, published.epoch)
        page.add(NAMESPACES, len(published.cluster.spaces))
        page.add(TENANTS, len(published.cluster.tenants))

    def _add_nodes(self, page: Page) -> None:
        state, now = self._keeper.state, self._keeper.clock()
        addresses = sorted(state.cluster.members)
        counts = Counter(state.node_state(now, address) for address in addresses)
        for one in NodeState:
            page.add(NODES, counts[one], one.name.lower())
        page.add(AGENTS, self._placement.agents)
        page.add(HEARTBEATS, self._keeper.counts.heartbeats)
        for address in addresses:
            heard = state.heard(address)
            page.add(NODE_LAG, lag_of(heard, self._keeper.published), address)
            page.add(NODE_SILENT, max(0.0, now - heard.at), address)

    def _add_calls(self, page: Page) -> None:
        for (method, status), count in sorted(self._calls.ended.items()):
            page.add(CALLS, count, method, status)
        for method, took in sorted(self._calls.took.items()):
            page.add_durations(CALL_SECONDS, took, method)
        for method, count in sorted(self._calls.streams.items()):
            page.add(STREAMS, count, method)

    def _add_writing(self, page: Page) -> None:
        counts = self._keeper.counts
        for kind, count in sorted(counts.events.items()):
            page.add(EVENTS, count, kind)
        page.add(SNAPSHOT_OK, self._keeper.snapshot_ok)
        page.add_durations(SNAPSHOT_SECONDS, counts.snapshots)
        page.add(SNAPSHOT_FAILED, counts.snapshots_failed)


def lag_of(heard: Heard, published: Published) -> int:
    """How many epochs a node's map is behind; one of another history is behind by all."""
    held = heard.epoch if heard.history == published.history else 0
    return max(0, published.epoch - held)
