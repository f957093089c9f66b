"""The keeper: the one who changes the state, writes it, and publishes it.

    a call ──► Membership, _tenancy ──► Memory (a snapshot, etcd) ──► Published ──► whoever waits
                 (in memory)

Nothing is published or answered before it is written. Changes that come while a write is under way
go together into the next one. When it cannot be written, what was not written is taken back and
its callers are refused, so memory never says more than a restart would find.

With a snapshot there is one keeper, and it leads. With etcd there are several, and the replica of
each tells it to `lead` or `follow`; who does not lead publishes what the leader wrote and refuses
to change anything. Everything here runs in one event loop.
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
from memkv_nixl.control._memory import Memory, UnwrittenError
from memkv_nixl.control._publish import Published, publish
from memkv_nixl.control._refused import Reason, RefusalError
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
        memory: Memory,
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        loaded = memory.load()
        self.timing = timing
        self.clock = clock
        self.wall = wall
        self.started = clock()
        self._memory = memory
        self.counts = Counts()
        first = loaded.cluster or Cluster(history=secrets.randbits(63) + 1)
        self.state = Membership(first, timing, self.started, hears=memory.leads())
        self.term = asyncio.Event()  # set when this keeper does not lead any more
        self.snapshot_ok = True
        self._follows = ""  # the leader that was told
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
            await self._memory.put(self.state.cluster)
            self._rewrite = False
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
        """Writes what is not written, and lets the memory go."""
        self._stopping = True
        self._wanted.set()
        if self._ticker is not None:
            self._ticker.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticker
        if self._writer is not None:
            await self._writer
        await self._memory.release()

    # ---- who leads

    @property
    def leads(self) -> bool:
        """Whether it changes the state, and nodes speak to it."""
        return self.state.hears

    @property
    def leader(self) -> str:
        """The address of the replica that does, when it is another one and known."""
        return self._memory.leader()

    def lead(self, cluster: Cluster) -> None:
        """The state is this one, and only this keeper changes it; nodes are heard from now on."""
        self.step_down(RefusalError(Reason.NOT_LEADER, "another term began; try again"))
        self._take(cluster)
        self.term = asyncio.Event()
        self.state = Membership(self._durable, self.timing, self.clock())
        self._follows = ""
        self._tell(Happened("leads", "control", f"from epoch {self._durable.epoch} on"))
        if self._rewrite:
            self._wanted.set()

    def follow(self, cluster: Cluster, refusal: RefusalError) -> None:
        """The state is this one, and another keeper changes it, or nobody."""
        self.step_down(refusal)
        self._take(cluster)
        self._rewrite = False
        self.state = self._unheard()
        if self.leader != self._follows:
            self._follows = self.leader
            self._tell(Happened("follows", "control", self.leader or "nobody leads"))

    def step_down(self, refusal: RefusalError) -> None:
        """Changes nothing from now on; what is not written yet is taken back."""
        if not self.leads:
            return
        self.state = self._unheard()
        self.term.set()
        self._refuse_waiters(refusal)
        self._tell(Happened("leads_no_more", "control", str(refusal)))

    def check_term(self, term: asyncio.Event) -> None:
        """Refuses who began in a term that is over: what was heard then is forgotten."""
        self._memory.check_leads()
        if term.is_set() or term is not self.term:
            raise RefusalError(Reason.NOT_LEADER, "another term began; register again")

    def memory_is(self, well: bool, sentence: str) -> None:
        """Whether the state can be written, as far as is known; told when it changes."""
        if self.snapshot_ok == well:
            return
        self.snapshot_ok = well
        if well:
            self._tell(Happened("snapshot_written", "control", sentence))
        else:
            _log.error("%s", sentence)
            self._tell(Happened("snapshot_failed", "control", sentence))

    def _take(self, cluster: Cluster) -> None:
        """What is in memory; an epoch that is behind the published one is never published."""
        ours = self._published.cluster
        if cluster.history != ours.history or cluster.epoch > ours.epoch:
            self._durable = cluster
            self._show(cluster)
            return
        self._durable = ours
        if cluster.epoch < ours.epoch:  # somebody put an old copy there
            self._rewrite = True

    def _unheard(self) -> Membership:
        return Membership(self._durable, self.timing, self.clock(), hears=False)

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
        self._memory.check_leads()
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
        self._memory.check_leads()
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
            if self._memory.leads():
                self.note(lambda state, now: state.tick(now))

    async def _write_on(self) -> None:
        while not (self._stopping and self.state.cluster is self._durable):
            await self._wanted.wait()
            self._wanted.clear()
            cluster, term = self.state.cluster, self.term
            if cluster is self._durable and not self._rewrite:
                continue
            # Of what happens while this is written, `happened` belongs to the next one.
            happened = self.state.take_happened()
            began = time.monotonic()
            try:
                await self._memory.put(cluster)
            except UnwrittenError as error:
                self.counts.snapshots_failed += 1
                if term is self.term and not term.is_set():  # else that was taken back already
                    self._take_back(error)
            else:
                self.counts.snapshots.count(time.monotonic() - began)
                self._publish(cluster, happened)
            await asyncio.sleep(_WRITE_PAUSE_S)

    def _publish(self, cluster: Cluster, happened: list[Happened]) -> None:
        self._durable = cluster
        self._rewrite = False
        if not self.leads:  # not any more, since this was written
            self.state = self._unheard()
        self.memory_is(True, "the state can be written again")
        self._tell_all(happened)
        written = [waiter for waiter in self._waiters if waiter.cluster.epoch <= cluster.epoch]
        self._waiters = [waiter for waiter in self._waiters if waiter not in written]
        self._show(cluster)
        for waiter in written:
            if not waiter.done.done():
                waiter.done.set_result(None)

    def _show(self, cluster: Cluster) -> None:
        self._published = publish(cluster)
        self._changed.set()
        self._changed = asyncio.Event()

    def _take_back(self, error: UnwrittenError) -> None:
        self.state.restore(self._durable, self.clock())
        self.memory_is(False, str(error))
        self._refuse_waiters(RefusalError(Reason.STATE_UNWRITABLE, str(error)))

    def _refuse_waiters(self, refusal: RefusalError) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done.done():
                waiter.done.set_exception(refusal)

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
