"""What SGLang's own metrics of its storage are told."""

from __future__ import annotations

import threading
from typing import Any

from memkv_nixl.kvbm._orders import Moved

_MOVES_MAX = 4096  # that wait to be asked for


class Reporter:
    """Collects loads and stores until SGLang asks. Thread: any."""

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._lock = threading.Lock()
        self._loads: list[tuple[int, float]] = []  # pages, and GB/s
        self._stores: list[tuple[int, float]] = []

    def moved(self, loading: bool, pages: int, moved: Moved) -> None:
        """So many pages were loaded or stored."""
        with self._lock:
            moves = self._loads if loading else self._stores
            if self._wanted and pages and len(moves) < _MOVES_MAX:
                speed = moved.moved_bytes / max(moved.seconds, 1e-9) / (1 << 30)
                moves.append((pages, speed))

    def report(self) -> Any:
        """What came together since the last call; None where nobody wants it."""
        if not self._wanted:
            return None
        from sglang.srt.observability.metrics_collector import StorageMetrics

        with self._lock:
            loads, self._loads = self._loads, []
            stores, self._stores = self._stores, []
        return StorageMetrics(
            prefetch_pgs=[pages for pages, _ in loads],
            backup_pgs=[pages for pages, _ in stores],
            prefetch_bandwidth=[speed for _, speed in loads],
            backup_bandwidth=[speed for _, speed in stores],
        )
