"""Counts: what a tier did, for whoever publishes it. Thread: any."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from dataclasses import dataclass

from memkv_nixl._errors import MemKVError
from memkv_nixl.kvbm._orders import Order

_log = logging.getLogger(__name__)
_QUIET_S = 30.0


@dataclass
class Numbers:
    """Since the tier was made; blocks unless the name says otherwise."""

    asked: int = 0
    found: int = 0
    lookup_seconds: float = 0.0
    declined: int = 0  # were there, and computing them was faster
    loaded: int = 0
    loads_failed: int = 0
    loaded_bytes: int = 0
    stored: int = 0
    stores_failed: int = 0
    stored_bytes: int = 0  # that moved; what the pool had already moves none
    stores_dropped: int = 0  # the queue was full, or the pool gone
    refused_calls: int = 0  # by NIXL


class Counts:
    """The numbers behind a lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = Numbers()
        self._said_at = float("-inf")

    def read(self) -> Numbers:
        """A copy of them as they are now."""
        with self._lock:
            return dataclasses.replace(self._numbers)

    def looked_up(self, asked: int, found: int, seconds: float) -> None:
        """A look-up was answered."""
        with self._lock:
            self._numbers.asked += asked
            self._numbers.found += found
            self._numbers.lookup_seconds += seconds

    def declined(self, blocks: int) -> None:
        """Blocks were left in the pool because computing them is faster."""
        with self._lock:
            self._numbers.declined += blocks

    def dropped(self, blocks: int) -> None:
        """Blocks were not stored because too many wait for it already."""
        with self._lock:
            self._numbers.stores_dropped += blocks

    def moved(self, order: Order) -> None:
        """An order has its outcome."""
        done = sum(order.done)
        failed = order.accepted - done
        with self._lock:
            numbers = self._numbers
            if order.operation == "READ":
                numbers.loaded += done
                numbers.loads_failed += failed
                numbers.loaded_bytes += order.moved_bytes
            else:
                numbers.stored += done
                numbers.stores_failed += failed
                numbers.stored_bytes += order.moved_bytes

    def failed(self, error: MemKVError) -> None:
        """NIXL refused a call; said in the log now and then."""
        with self._lock:
            self._numbers.refused_calls += 1
            now = time.monotonic()
            quiet = now - self._said_at < _QUIET_S
            if not quiet:
                self._said_at = now
        if not quiet:
            _log.warning("MemKV: %s; its blocks count as misses", error)
