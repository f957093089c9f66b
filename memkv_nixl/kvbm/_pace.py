"""Pace: how fast blocks come, how fast the engine computes, and so which of the two to choose.

Loading n bytes behind q queued ones takes (q + n) / bandwidth; computing their t tokens takes
t / speed. Both are measured: the bandwidth is bytes by time over the last loads, so that small
ones, which mostly wait, count little; the speed is that of the prompts the engine computed. Until
both are known the answer is to load, and so it is again now and then when the bandwidth was last
measured long ago, as nothing else would find out that the pool has become faster. Thread: any.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable

_HALF_BYTES = 256 << 20  # after so many more, what was measured before counts half
_HALF_S = 2.0  # or after so long
_STALE_S = 5.0
_SAMPLES = 32  # of computed prompts; the fastest counts, the slow ones waited for others


class Pace:
    """What is measured of loads and computed prompts."""

    def __init__(self, clock: Callable[[], float], compute_tokens_per_s: float = 0.0) -> None:
        self._clock = clock
        self._said_speed = compute_tokens_per_s
        self._lock = threading.Lock()
        self._arrived = 0.0  # bytes, the older the less
        self._took = 0.0  # seconds that they took
        self._measured_at = 0.0
        self._tried_at = 0.0
        self._under_way = 0  # bytes
        self._mark = 0.0  # since when bytes that arrive are counted
        self._speeds: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def bytes_per_s(self) -> float:
        """Of loads; 0 while unknown."""
        with self._lock:
            return self._bandwidth()

    @property
    def tokens_per_s(self) -> float:
        """Of the engine's own computation; 0 while unknown."""
        with self._lock:
            return self._said_speed or max(self._speeds, default=0.0)

    def began(self, size: int) -> None:
        """A load of so many bytes is wanted from now on."""
        with self._lock:
            if self._under_way == 0:
                self._mark = self._clock()
            self._under_way += size

    def ended(self, size: int, arrived: int) -> None:
        """A load of `size` bytes is over, and so many of them arrived."""
        with self._lock:
            now = self._clock()
            took = now - self._mark
            self._mark = now
            self._under_way -= size
            if took <= 0:
                return
            stale = now - self._measured_at > _STALE_S
            keep = 0.0 if stale else 0.5 ** (arrived / _HALF_BYTES + took / _HALF_S)
            self._arrived = keep * self._arrived + arrived
            self._took = keep * self._took + took
            self._measured_at = now

    def computed(self, tokens_per_s: float) -> None:
        """A prompt was computed at least this fast, waiting included; 0 says nothing."""
        if tokens_per_s > 0:
            with self._lock:
                self._speeds.append(tokens_per_s)

    def compute_s(self, tokens: int) -> float:
        """How long the engine needs for so many tokens; 0 while unknown."""
        speed = self.tokens_per_s
        return tokens / speed if speed else 0.0

    def load_s(self, size: int) -> float:
        """How long a load takes that is begun now; 0 while unknown."""
        with self._lock:
            if self._took == 0:
                return 0.0
            bandwidth = self._bandwidth()
            return (self._under_way + size) / bandwidth if bandwidth else math.inf

    def loading_wins(self, size: int, tokens: int) -> bool:
        """Whether to load so many bytes rather than compute so many tokens."""
        compute_s, load_s = self.compute_s(tokens), self.load_s(size)
        if compute_s == 0.0 or load_s == 0.0 or load_s < compute_s:
            return True
        with self._lock:
            now = self._clock()
            known_at = max(self._measured_at, self._tried_at)
            tries = self._under_way == 0 and now - known_at > _STALE_S
            if tries:
                self._tried_at = now  # one tries, the others go on computing
            return tries

    def _bandwidth(self) -> float:
        return self._arrived / self._took if self._took else 0.0
