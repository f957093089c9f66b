"""Port: the few calls of NIXL that blocks need, typed, behind one lock.

NIXL's agent is not safe from several threads unless it is told so in ways that differ between its
versions; here one lock holds for all of them. A look-up is the one call that waits for the network:
it only reads what never changes after the backend was made, and goes without the lock.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import NixlError, UsageError
from memkv_nixl._memory import MemoryTable, Range
from memkv_nixl._nixl import PLUGIN, Nixl

Operation = Literal["READ", "WRITE"]
_DRAM_DEVICE = 0
_log = logging.getLogger("memkv_nixl")
# Requests that NIXL did not let go of, and their agents: they may still write to their memory.
_leaked: list[tuple[Any, Posted]] = []


@dataclass(frozen=True)
class Item:
    """One block of a request: its key as the plugin reads it, and the memory it moves."""

    record: bytes
    extent: Extent
    offset: int = 0


@dataclass(eq=False)
class Posted:
    """A request that NIXL has; `close_request` or `let_go` of the port takes it back."""

    tag: bytes
    items: Sequence[Item]  # which keep the memory alive that is written to
    handle: Any
    objects: Any  # the registered keys
    ranges: list[Range]
    failed: bool = False  # when it was posted
    statuses: bytes | None = None  # a byte for each block, once they are known


class Port:
    """One NIXL agent with one MEMKV backend. Thread: any."""

    def __init__(self, nixl: Nixl, name: str, parameters: Mapping[str, str]) -> None:
        self._nixl = nixl
        self._errors = nixl.errors
        # Always by `with` itself: whatever a signal handler raises, no other way lets go for sure.
        self._lock = threading.Lock()
        self._tags = itertools.count(1)
        self._devices = itertools.count(1)  # NIXL needs a devId of its own for every key
        self._open: dict[bytes, Posted] = {}  # by tag
        self._leaked_ranges: set[Range] = set()
        self._abandoned: deque[Posted] = deque()
        config = nixl.api.nixl_agent_config(backends=[])
        self._agent: Any = nixl.api.nixl_agent(name, config)
        try:
            self._agent.create_backend(PLUGIN, dict(parameters))
        except self._errors as error:
            raise NixlError(
                f"NIXL {nixl.version} could not create the {PLUGIN} backend ({error}); the line "
                "that the plugin wrote to standard error says why"
            ) from error
        self._memory = MemoryTable(self._register_dram, self._deregister_dram)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._agent is None

    def keep_memory(self, extents: Sequence[Extent]) -> None:
        """Registers memory until it is forgotten."""
        with self._lock:
            self._end_abandoned()
            self._need_open()
            self._memory.keep(extents)

    def forget_memory(self, extents: Sequence[Extent]) -> bool:
        """Undoes keep_memory of the very same extents."""
        with self._lock:
            self._end_abandoned()
            return self.closed or self._memory.forget(extents)

    def post(self, operation: Operation, items: Sequence[Item]) -> Posted:
        """Hands a request to NIXL; it is under way when this returns, unless it failed at once.

        When it raises (a signal handler may, anywhere), nothing is under way.
        """
        posted: Posted | None = None
        try:
            with self._lock:
                self._end_abandoned()
                self._need_open()
                posted = self._prepared(operation, items)
                self._open[posted.tag] = posted
                try:
                    posted.failed = self._agent.transfer(posted.handle) == "ERR"
                except self._errors:
                    posted.failed = True
            return posted
        except BaseException:
            if posted is not None:
                self.let_go(posted)
            raise

    def over(self, posted: Posted) -> bool:
        """Whether the request has ended, well or not.

        Told by its notification, which the plugin gives when all is over: asking for the state of a
        transfer instead makes NIXL log an error for every miss.
        """
        with self._lock:
            self._end_abandoned()
            if posted.tag not in self._open:
                return True
            self._read_notifications()
            return posted.failed or posted.statuses is not None

    def close_request(self, posted: Posted) -> None:
        """Takes a request back from NIXL, cancelling it where it is still under way.

        Afterwards nothing touches its memory any more, and `posted.statuses` is what it will ever
        be: None where the request was cancelled before there were any. Raises NixlError where NIXL
        does not let go of it, for which it has no reason: then its memory may still be touched, and
        one may try again.
        """
        with self._lock:
            self._end_abandoned()
            self._end(posted)

    def let_go(self, posted: Posted) -> None:
        """`close_request` for those who cannot try again.

        One that NIXL does not let go of is logged, and its memory is kept for good.
        """
        with self._lock:
            self._end_abandoned()
            self._end_or_leak(posted)

    def abandon(self, posted: Posted) -> None:
        """`let_go` for a destructor, which may run anywhere, also while we hold the lock.

        Where the port is busy just now, its next call does it.
        """
        self._abandoned.append(posted)
        if not self._lock.locked():  # so this thread has it not, and may wait for it
            with self._lock:
                self._end_abandoned()

    def query(self, records: Sequence[bytes]) -> list[dict[str, str] | None]:
        """What the store says of each key; None where it is not there or nobody could say."""
        with self._lock:
            self._end_abandoned()
            self._need_open()
            agent = self._agent
        keys = [(0, 0, i, record) for i, record in enumerate(records, 1)]
        try:
            return list(agent.query_memory(keys, PLUGIN, "OBJ"))
        except self._errors as error:
            raise NixlError(f"NIXL refused the look-up: {error}") from error

    def close(self) -> None:
        """Takes every request back and lets go of the agent."""
        with self._lock:
            self._end_abandoned()
            if not self.closed:
                for posted in list(self._open.values()):
                    self._end_or_leak(posted)
                try:
                    self._memory.clear(self._leaked_ranges)
                except self._errors as error:
                    _log.error("NIXL did not take back memory: %s", error)
                self._agent = None

    def _end_abandoned(self) -> None:
        """What destructors left behind; every call does it first."""
        while self._abandoned:
            self._end_or_leak(self._abandoned[0])  # and off the list only when it is done
            self._abandoned.popleft()

    def _end(self, posted: Posted) -> None:
        if posted.tag not in self._open:
            return
        self._read_notifications()
        try:
            posted.handle.release()
        except self._errors as error:
            raise NixlError(f"NIXL did not let go of a request: {error}") from error
        if posted.statuses is None:
            self._read_notifications()
        del self._open[posted.tag]
        try:
            self._memory.release(posted.ranges)
            self._agent.deregister_memory(posted.objects, [PLUGIN])
        except self._errors as error:
            _log.error("NIXL did not take back what a request had registered: %s", error)

    def _end_or_leak(self, posted: Posted) -> None:
        try:
            self._end(posted)
        except NixlError as error:
            _log.error("%s; its memory stays registered", error)
            _leaked.append((self._agent, posted))
            self._leaked_ranges.update(posted.ranges)
            del self._open[posted.tag]

    def _need_open(self) -> None:
        if self.closed:
            raise UsageError("the agent is closed")

    def _prepared(self, operation: Operation, items: Sequence[Item]) -> Posted:
        devices = [next(self._devices) for _ in items]
        objects = self._register_keys(items, devices)
        ranges: list[Range] = []
        try:
            ranges = self._memory.acquire([item.extent for item in items])
            tag = b"%d" % next(self._tags)
            handle = self._create(operation, items, devices, tag)
        except BaseException:
            self._memory.release(ranges)
            self._agent.deregister_memory(objects, [PLUGIN])
            raise
        return Posted(tag, items, handle, objects, ranges)

    def _create(
        self, operation: Operation, items: Sequence[Item], devices: Sequence[int], tag: bytes
    ) -> Any:
        local = [(item.extent.address, item.extent.length, _DRAM_DEVICE) for item in items]
        remote = [
            (item.offset, item.extent.length, device)
            for item, device in zip(items, devices, strict=True)
        ]
        agent = self._agent
        try:
            return agent.initialize_xfer(
                operation,
                agent.get_xfer_descs(local, "DRAM"),
                agent.get_xfer_descs(remote, "OBJ"),
                agent.name,
                tag,
                [PLUGIN],
            )
        except self._errors as error:
            raise NixlError(f"NIXL refused the request: {error}") from error

    def _register_keys(self, items: Sequence[Item], devices: Sequence[int]) -> Any:
        # Length 0: NIXL then admits any range of the block.
        keys = [(0, 0, device, item.record) for item, device in zip(items, devices, strict=True)]
        try:
            return self._agent.register_memory(keys, "OBJ", [PLUGIN])
        except self._errors as error:
            raise NixlError(f"NIXL refused the keys: {error}") from error

    def _register_dram(self, ranges: Sequence[Range]) -> None:
        try:
            self._agent.register_memory(self._dram_list(ranges), "DRAM", [PLUGIN])
        except self._errors as error:
            raise NixlError(f"NIXL refused the memory: {error}") from error

    def _deregister_dram(self, ranges: Sequence[Range]) -> None:
        descriptors = self._agent.get_reg_descs(self._dram_list(ranges), "DRAM")
        self._agent.deregister_memory(descriptors, [PLUGIN])

    @staticmethod
    def _dram_list(ranges: Sequence[Range]) -> list[tuple[int, int, int, str]]:
        return [(address, length, _DRAM_DEVICE, "") for address, length in ranges]

    def _read_notifications(self) -> None:
        """Hands the status bytes that came to the requests that they are of."""
        for texts in self._agent.get_new_notifs([PLUGIN]).values():
            for text in texts:
                tag, _, statuses = text.partition(b":")
                if (posted := self._open.get(tag)) is not None:
                    posted.statuses = statuses
