"""What the clients of this process do, for Prometheus.

    from memkv_nixl import metrics

    with metrics.serve("127.0.0.1:9912"):    # GET /metrics, on a thread of its own
        ...

or, where the process serves a page already, `metrics.text()` is a part to append to it. The numbers
are those of the NIXL plugin: sums over every backend of the process, also those that are gone.
docs/reference/metrics.md is the page to them.
"""

from __future__ import annotations

import asyncio
import re
import threading
from types import TracebackType

from memkv_nixl._metrics import CONTENT_TYPE, Metric, Page
from memkv_nixl._metrics_http import MetricsServer, listen
from memkv_nixl._plugin_stat import plugin_stat
from memkv_nixl._stat import parse_durations, parse_pairs

__all__ = ["CONTENT_TYPE", "Serving", "serve", "text"]


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"memkv_client_{name}_total", "counter", text, labels)


_LOADED = Metric(
    "memkv_client_loaded", "gauge", "1 when NIXL has loaded the plugin in this process, else 0"
)
_POISONED = Metric(
    "memkv_client_poisoned", "gauge", "1 after a broken invariant: everything is a miss since then"
)
_BACKENDS = Metric("memkv_client_backends", "gauge", "Backends that are open")
_ASKED = _counter("blocks", "Blocks asked for", "operation")
_PUTS = _counter("puts", "Blocks of PUT that are in the pool, by how", "result")
_GOT = _counter("hits", "Blocks of GET that came and were right")
_MISSES = _counter("misses", "Blocks of GET that are not in the pool")
_BYTES = _counter("bytes", "Bytes of blocks that came or went", "operation")
_FAILED = _counter("failed_blocks", "Blocks that failed, by why", "reason")
_RECONNECTS = _counter("reconnects", "Connections that were made anew")
_OLDER = _counter("older_places", "Blocks looked for by a former map, and found there", "result")
_SAMPLES: dict[str, tuple[Metric, tuple[str, ...]]] = {
    "poisoned": (_POISONED, ()),
    "backends": (_BACKENDS, ()),
    "puts": (_ASKED, ("put",)),
    "gets": (_ASKED, ("get",)),
    "matches": (_ASKED, ("match",)),
    "put_ok": (_PUTS, ("ok",)),
    "put_exists": (_PUTS, ("exists",)),
    "get_ok": (_GOT, ()),
    "get_misses": (_MISSES, ()),
    "bytes_put": (_BYTES, ("put",)),
    "bytes_got": (_BYTES, ("get",)),
    "corrupt": (_FAILED, ("corrupt",)),
    "timeouts": (_FAILED, ("timeout",)),
    "unreachable": (_FAILED, ("unreachable",)),
    "reconnects": (_RECONNECTS, ()),
    "asked_older": (_OLDER, ("asked",)),
    "found_older": (_OLDER, ("found",)),
}
_SECONDS = {
    kind: Metric(f"memkv_client_{kind}_seconds", "histogram", text, ("outcome",))
    for kind, text in {
        "get": "How long requests to get blocks took; hit: all came, miss: some are not there",
        "match": "How long look-ups took; hit: some of the blocks are there, miss: none",
        "put": "How long requests to put blocks took; refused: a node did not take some",
    }.items()
}
_MOVED = _counter(
    "request_bytes", "Bytes of blocks that these requests moved", "operation", "outcome"
)
METRICS = (
    _LOADED,
    *dict.fromkeys(metric for metric, _ in _SAMPLES.values()),
    *_SECONDS.values(),
    _MOVED,
)


def text() -> str:
    """The metrics of this process in Prometheus' text format 0.0.4 (`CONTENT_TYPE`)."""
    numbers = plugin_stat()
    page = Page()
    page.add(_LOADED, numbers is not None)
    for name, value in (numbers or {}).items():
        if name in _SAMPLES:
            metric, labels = _SAMPLES[name]
            page.add(metric, int(value), *labels)
        elif match := re.fullmatch(r"latency_(get|match|put)_([a-z]+)", name):
            kind, outcome = match.groups()
            page.add_durations(_SECONDS[kind], parse_durations(str(value)), outcome)
            page.add(_MOVED, parse_pairs(str(value))["bytes"], kind, outcome)
    return page.text()


def serve(address: str) -> Serving:
    """Serves GET /metrics and /healthz on HOST:PORT until it is closed.

    Without TLS and tokens: name a loopback address unless whoever reaches the other may read it.
    """
    return Serving(address)


class Serving:
    """A page that is served at `address`, on a thread of its own, until it is closed."""

    def __init__(self, address: str) -> None:
        listening = listen(address, "memkv_nixl.metrics")
        self._loop = asyncio.new_event_loop()
        self._server = MetricsServer(listening, _page, _trouble)
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="memkv-metrics", daemon=True
        )
        self._thread.start()
        # On that thread: whoever calls this may have an event loop that runs.
        self.address = asyncio.run_coroutine_threadsafe(self._server.start(), self._loop).result()

    def close(self) -> None:
        """Ends it. Twice is once."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._server.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


async def _page() -> str:
    return text()


async def _trouble() -> str:
    numbers = plugin_stat() or {}
    return "the plugin met a broken invariant" if numbers.get("poisoned") else ""
