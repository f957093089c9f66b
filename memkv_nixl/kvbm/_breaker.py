"""Breaker: whether the pool is asked at all.

Each node has a breaker of its own in the client; this one stands for the pool as a whole, so that
an engine whose pool is gone does not even wait for the answer that it is gone.

    closed ── suspect() ──▶ in doubt, a probe is due ── nobody answers ──▶ gone
      ▲                          │                                          │ a probe is due again,
      └──── somebody answers ◀───┴──────────────────────────────────────────┘ later each time

A tier that failed itself gives up: gone, and never probed again.

In doubt already nobody waits: a busy moment costs the hits of that moment, a pool that stands still
costs one look-up.

Thread: any.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)
_PAUSE_S_FIRST = 0.25
_PAUSE_S_LAST = 4.0


class Breaker:
    """Open, that is in doubt or gone: nobody waits for the pool."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._doubt = False
        self._gone = False
        self._pause = _PAUSE_S_FIRST
        self._probe_at: float | None = None
        self._times_opened = 0
        self._given_up = False

    @property
    def open(self) -> bool:
        """Whether the pool is left alone: it is gone, or a probe shall tell whether it is."""
        return self._gone or self._doubt

    @property
    def gone(self) -> bool:
        """Whether a probe was answered by nobody."""
        return self._gone

    @property
    def doubtful(self) -> bool:
        """Whether a probe shall tell whether anybody is there."""
        return self._doubt and not self._gone

    @property
    def times_opened(self) -> int:
        """How often it opened."""
        return self._times_opened

    def suspect(self) -> None:
        """Nobody answered something; a probe is due now."""
        with self._lock:
            if not self.open and not self._given_up:
                self._doubt = True
                self._probe_at = self._clock()

    def probe_in(self) -> float | None:
        """Seconds until a probe is due (0 and less: now), None while none is wanted."""
        with self._lock:
            return None if self._probe_at is None else self._probe_at - self._clock()

    def probed(self, anybody: bool) -> None:
        """What came of a probe: whether any node answered."""
        with self._lock:
            if self._given_up:
                return
            self._doubt = False
            if anybody:
                if self._gone:
                    _log.warning("MemKV: the pool answers again and is used again")
                self._gone = False
                self._pause = _PAUSE_S_FIRST
                self._probe_at = None
                return
            if not self._gone:
                _log.warning(
                    "MemKV: no node of the pool answers; until one does, everything is a miss and "
                    "nothing is stored"
                )
                self._gone = True
                self._times_opened += 1
            self._probe_at = self._clock() + self._pause
            self._pause = min(2 * self._pause, _PAUSE_S_LAST)

    def give_up(self) -> None:
        """Opens it for good: what would use the pool does not work any more."""
        with self._lock:
            self._times_opened += not self._gone
            self._given_up = self._gone = True
            self._doubt = False
            self._probe_at = None
