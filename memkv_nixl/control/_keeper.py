"""The keeper: the one who changes the state, writes it, and publishes it.

    a call ──► Membership, _tenancy ──► Snapshot (a thread) ──► Published ──► whoever waits
                 (in memory)             (both copies)

Nothing is published or answered before it is written. Changes that come while a write is under way
go together into the next one. When the disk takes nothing, what was not written is taken back and
its callers are refused, so memory never says more than the disk would after a restart.

Everything here runs in one event loop; only the writing is done in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from memkv_nixl._metrics import Durations
from memkv_nixl.control._cluster import Cluster
from memkv_nixl.control._limits import EVENTS_MAX
from memkv_nixl.control._publish import Published, publish
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._snapshot import Snapshot
from memkv_nixl.control._state import Happened, Membership, Timing

_log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TICKS_PER_DEADLINE = 10
_WRITE_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_WRITE_PAUSE_S = 0.02  # between two writes: of many changes at once few maps are made


class Event(NamedTuple):
    """Something that happened, with its number and time."""

    sequence: int
    time_ms: int
    what: Happened
    epoch: int


@dataclass
class Counts:
    """What a running control plane did, for its metrics."""

    heartbeats: int = 0
    snapshots_failed: int = 0
    snapshots: Durations = field(default_factory=lambda: Durations(_WRITE_BOUNDS_S))
    events: Counter[str] = field(default_factory=Counter)


@dataclass
class _Waiter:
    cluster: Cluster
    done: asyncio.Future[None]


class Keeper:
    """Owns the state of a running control plane. `start` and `stop` in its event loop."""

    def __init__(
        self,
        snapshot: Snapshot,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        loaded = snapshot.load()
        self.timing = timing
        self.clock = clock
        self.wall = wall
        self.started = clock()
        self.counts = Counts()
        self._snapshot = snapshot
        first = loaded.cluster or Cluster(history=secrets.randbits(63) + 1)
        self.state = Membership(first, timing, self.started)
        self.snapshot_ok = True
        self._durable = first
        self._published = publish(first)
        self._rewrite = loaded.cluster is None or bool(loaded.damage)
        self._wanted = asyncio.Event()
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._waiters: list[_Waiter] = []
        self._events: deque[Event] = deque(maxlen=EVENTS_MAX)
        self._last_event = 0
        self._stopping = False
        self._writer: asyncio.Task[None] | None = None
        self._ticker: asyncio.Task[None] | None = None
        how = "a new pool" if loaded.cluster is None else f"{len(first.members)} nodes known"
        self._tell(Happened("started", "control", how))
        for sentence in loaded.damage:
            self._tell(Happened("snapshot_damaged", "control", f"{sentence}; the other is whole"))

    async def start(self) -> None:
        """Writes what was not whole on disk, and begins to watch the clock."""
        if self._rewrite:
            await asyncio.to_thread(self._snapshot.write, self.state.cluster)
        self._writer = asyncio.create_task(self._write_on(), name="memkv-control-writer")
        self._ticker = asyncio.create_task(self._tick_on(), name="memkv-control-clock")

    async def failed(self) -> None:
        """Comes back, with the error, when one of its tasks has ended; it should not."""
        assert self._writer is not None, "start() first"
        assert self._ticker is not None
        ended, _ = await asyncio.wait(
            {self._writer, self._ticker}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in ended:
            await task

    async def stop(self) -> None:
        """Writes what is not written, and lets the folder go."""
        self._stopping = True
        self._wanted.set()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        if self._writer is not None:
            await self._writer
        self._snapshot.close()

    # ---- what is published

    @property
    def published(self) -> Published:
        """The map as everybody may know it."""
        return self._published

    async def next_map(self, known: Published) -> Published:
        """The map as soon as it is another one than `known`."""
        while self._published is known:
            await self._changed.wait()
        return self._published

    # ---- changes

    async def change(self, act: Callable[[Membership, float], _T]) -> _T:
        """Does it, and comes back when what it changed is written and published.

        Raises RefusalError when `act` does, or when nothing can be written; then nothing changed.
        """
        before = self.state.cluster
        result = act(self.state, self.clock())
        if self.state.cluster is not before:
            self._wanted.set()
        if self.state.cluster is not self._durable:
            # Also when it changed nothing itself: its answer may rest on what is not written yet.
            waiter = _Waiter(self.state.cluster, asyncio.get_running_loop().create_future())
            self._waiters.append(waiter)
            await waiter.done
        else:
            self._tell_all(self.state.take_happened())
        return result

    def note(self, act: Callable[[Membership, float], _T]) -> _T:
        """Does it and does not wait: for heartbeats, whose senders hear of the map later."""
        before = self.state.cluster
        result = act(self.state, self.clock())
        if self.state.cluster is not before:
            self._wanted.set()
        elif self.state.cluster is self._durable:
            self._tell_all(self.state.take_happened())
        return result

    # ---- events

    def tell(self, kind: str, subject: str, text: str) -> None:
        """Something happened that changes no state."""
        self._tell(Happened(kind, subject, text))

    @property
    def last_event(self) -> int:
        """The number of the latest event."""
        return self._last_event

    def events_after(self, sequence: int) -> list[Event]:
        """Those that are remembered."""
        return [event for event in self._events if event.sequence > sequence]

    async def next_event(self, sequence: int) -> None:
        """Comes back when there are events behind this number."""
        while self._last_event <= sequence:
            await self._news.wait()

    # ---- inside

    async def _tick_on(self) -> None:
        while True:
            await asyncio.sleep(self.timing.deadline_s / _TICKS_PER_DEADLINE)
            self.note(lambda state, now: state.tick(now))

    async def _write_on(self) -> None:
        while not (self._stopping and self.state.cluster is self._durable):
            await self._wanted.wait()
            self._wanted.clear()
            cluster = self.state.cluster
            if cluster is self._durable:
                continue
            # Of what happens while this is written, `happened` belongs to the next one.
            happened = self.state.take_happened()
            began = time.monotonic()
            try:
                await asyncio.to_thread(self._snapshot.write, cluster)
            except OSError as error:
                self.counts.snapshots_failed += 1
                self._take_back(error)
            else:
                self.counts.snapshots.count(time.monotonic() - began)
                self._publish(cluster, happened)
            await asyncio.sleep(_WRITE_PAUSE_S)

    def _publish(self, cluster: Cluster, happened: list[Happened]) -> None:
        self._durable = cluster
        self._published = publish(cluster)
        if not self.snapshot_ok:
            self.snapshot_ok = True
            self._tell(Happened("snapshot_written", "control", "the state can be written again"))
        self._tell_all(happened)
        written = [waiter for waiter in self._waiters if waiter.cluster.epoch <= cluster.epoch]
        self._waiters = [waiter for waiter in self._waiters if waiter not in written]
        for waiter in written:
            if not waiter.done.done():
                waiter.done.set_result(None)
        self._changed.set()
        self._changed = asyncio.Event()

    def _take_back(self, error: OSError) -> None:
        where = self._snapshot.folder
        sentence = f"{where}: the state cannot be written: {error.strerror}; nothing was changed"
        _log.error("%s", sentence)
        self.state.restore(self._durable, self.clock())
        if self.snapshot_ok:
            self.snapshot_ok = False
            self._tell(Happened("snapshot_failed", "control", sentence))
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done.done():
                waiter.done.set_exception(RefusalError(Reason.STATE_UNWRITABLE, sentence))

    def _tell_all(self, happened: list[Happened]) -> None:
        for one in happened:
            self._tell(one)

    def _tell(self, what: Happened) -> None:
        self._last_event += 1
        self.counts.events[what.kind] += 1
        self._events.append(
            Event(self._last_event, int(self.wall() * 1000), what, self._durable.epoch)
        )
        fields = {"kind": what.kind, "subject": what.subject, "epoch": self._durable.epoch}
        _log.info("%s %s: %s", what.kind, what.subject, what.text, extra={"fields": fields})
        self._news.set()
        self._news = asyncio.Event()
