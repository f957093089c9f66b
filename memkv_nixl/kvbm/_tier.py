"""Tier: one engine's way to the pool, the part that every block manager shares.

A tier owns one NIXL agent with the MEMKV plugin, the engine's memory (registered once: one region,
or several that `keep` is told of) and two threads: the seeker, which asks what the pool has, and
the mover, which loads and stores. Its own calls never wait; they give futures, which are polled
(`done()`), awaited (`result()`) or called back (`add_done_callback`, on one of the two threads; it
must not block), so that a block manager of any shape can stand on it.

    tier = Tier(settings, namespace, region)
    found = tier.look_up(blocks)              Future[Found]
    if tier.worth_loading(bytes, tokens): …
    moved = tier.load(blocks, extents)        Future[Moved], a verdict per block
    moved = tier.store(blocks, extents)       Future[Moved]

The engine never suffers: a look-up takes at most `lookup_timeout_ms`, a load `fetch_deadline_ms`,
a store `store_deadline_ms`, and while the pool is gone all of them are over at once. While that is
in doubt (`open` is False, too) a look-up is over at once and a store waits. When a load or store is
over, no byte of its memory is touched any more. What is not surely right is a miss.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from memkv_nixl._buffers import Extent, extent_of
from memkv_nixl._config import credentials_of
from memkv_nixl._errors import MemKVError
from memkv_nixl._namespace import Namespace
from memkv_nixl._nixl import announce, load_nixl, plugin_path
from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place
from memkv_nixl._port import Item, Operation, Port
from memkv_nixl._record import parameter_of, record_of
from memkv_nixl.kvbm._breaker import Breaker
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Counts, Numbers
from memkv_nixl.kvbm._mover import Mover
from memkv_nixl.kvbm._orders import Found, Moved, Order, nothing_moved, settled
from memkv_nixl.kvbm._pace import Pace
from memkv_nixl.kvbm._seeker import Seeker
from memkv_nixl.kvbm._settings import TierSettings

BLOCK_BYTES_MAX = 64 << 20  # kBlockBytesMax of plugin_src/base/limits.h
_PROBES_TRIED = 4096
_PROBE_S = 0.25  # nobody waits for a probe, and a busy machine needs its time
_names = itertools.count(1)
_log = logging.getLogger(__name__)


class Tier:
    """See the module. Thread: any; `close` from the one that made it."""

    def __init__(
        self,
        settings: TierSettings,
        namespace: Namespace,
        region: Any,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Registers the plugin and the region; nodes are connected in the background.

        Without a region (None) all memory comes through `keep`. Raises NixlError where NIXL is
        missing or does not take the plugin, UsageError for a region that is no writable contiguous
        memory.
        """
        self._settings = settings
        self._namespace = namespace
        self._clock = clock
        self._closed = False
        self._region: Extent | None = None if region is None else _extent_of(region)
        self._kept_bytes = 0
        nixl = load_nixl()
        announce(nixl, plugin_path())
        self._port = Port(nixl, f"memkv-tier-{os.getpid()}-{next(_names)}", self._parameters())
        if self._region is not None:
            self._keep(self._region)
        self._scratch = bytearray(1)
        self._groups = self._groups_of_nodes()
        self._counts = Counts()
        self._breaker = Breaker(clock)
        self._pace = Pace(clock, settings.compute_tokens_per_s)
        timeout_s = settings.lookup_timeout_ms / 1000
        probe_s = max(timeout_s, _PROBE_S)
        self._mover = Mover(
            self._port, self._breaker, self._pace, self._counts, self._probes(), probe_s, clock
        )
        self._seeker = Seeker(
            self._port, self._breaker, self._counts, timeout_s, clock, self._mover.wake
        )
        _log.info("MemKV: %d nodes, namespace %s", len(settings.nodes), namespace)

    @property
    def open(self) -> bool:
        """Whether the pool is there, as far as is known; not while that is in doubt."""
        return not self._breaker.open

    @property
    def closed(self) -> bool:
        """Whether close() was called; what is ordered afterwards is not done, and over at once."""
        return self._closed

    @property
    def times_gone(self) -> int:
        """How often the pool was found to be gone."""
        return self._breaker.times_opened

    @property
    def pace(self) -> Pace:
        """What was measured, and what it means for a choice between loading and computing."""
        return self._pace

    @property
    def numbers(self) -> Numbers:
        """What it did since it was made."""
        return self._counts.read()

    @property
    def busy(self) -> bool:
        """Whether any load or store is not over."""
        return self._mover.busy

    @property
    def groups_by_node(self) -> tuple[bytes, ...]:
        """A group name for each node that lies there, for whoever does not know a block's own."""
        return tuple(self._groups)

    def keep(self, region: Any) -> Extent:
        """Registers more of the engine's memory, until the tier is closed."""
        extent = _extent_of(region)
        self._keep(extent)
        return extent

    def part(self, offset: int, length: int) -> Extent:
        """A range of the region."""
        assert self._region is not None
        assert 0 <= offset <= self._region.length - length
        return Extent(self._region.address + offset, length, self._region.keeps)

    def look_up(self, blocks: Sequence[Block]) -> Future[Found]:
        """Which blocks the pool has: an answer, not a promise. All blocks go out in one request."""
        return self._seeker.look_up(blocks)

    def touch(self, blocks: Sequence[Block]) -> None:
        """Lets the pool know that blocks are in use elsewhere."""
        self._seeker.touch(blocks)

    def worth_loading(self, size: int, tokens: int) -> bool:
        """Whether loading so many bytes beats computing so many tokens."""
        return self._pace.loading_wins(size, tokens)

    def decline(self, blocks: int) -> None:
        """Notes that blocks were there and are computed all the same."""
        self._counts.declined(blocks)

    def load(
        self, blocks: Sequence[Block], extents: Sequence[Extent], tokens: int = 0
    ) -> Future[Moved]:
        """Fills extents of the region with blocks.

        It is given up at the deadline, and already when it has taken as long as computing its
        `tokens` would have taken, but not before 100 ms.
        """
        deadline_s = self._settings.fetch_deadline_ms / 1000
        if compute_s := self._pace.compute_s(tokens):
            deadline_s = min(deadline_s, max(compute_s, 0.1))
        return self._order("READ", blocks, extents, deadline_s)

    def store(
        self, blocks: Sequence[Block], extents: Sequence[Extent], tokens_per_block: int = 0
    ) -> Future[Moved]:
        """Puts blocks out of extents of the region; what the pool has already is not sent.

        Blocks are dropped at once, the last ones first, where too many wait already; all of them
        where the pool is gone.
        """
        accepted = 0 if self._breaker.gone else self._room_for(extents)
        if accepted < len(blocks):
            self._counts.dropped(len(blocks) - accepted)
        cost_us = min(int(self._pace.compute_s(tokens_per_block) * 1e6), 2**32 - 1)
        deadline_s = self._settings.store_deadline_ms / 1000
        return self._order("WRITE", blocks, extents, deadline_s, cost_us, accepted)

    def drain(self, timeout_s: float | None = None) -> bool:
        """Waits until nothing touches the region; whether that is so. Deadlines make it end."""
        return self._mover.wait_idle(timeout_s)

    def close(self) -> None:
        """Lets stores end for `drain_ms`, then ends everything and lets go of the region.

        A second call does nothing.
        """
        if self._closed:
            return
        self._closed = True
        self._seeker.close()
        if self.open:
            self._mover.wait_idle(self._settings.drain_ms / 1000)
        self._mover.close()
        try:
            self._port.close()
        except MemKVError as error:  # the port holds on to the memory then
            _log.error("MemKV: the region stays registered with NIXL: %s", error)
        self._region = None

    def _order(
        self,
        operation: Operation,
        blocks: Sequence[Block],
        extents: Sequence[Extent],
        deadline_s: float,
        cost_us: int = 0,
        accepted: int = -1,
    ) -> Future[Moved]:
        if self._closed:
            return settled(nothing_moved(len(blocks)))
        assert len(blocks) == len(extents)
        now = self._clock()
        order = Order(operation, blocks, extents, now, now + deadline_s, cost_us, accepted)
        if order.accepted:
            self._mover.order(order)
        else:
            order.finish(now)
        return order.future

    def _room_for(self, extents: Sequence[Extent]) -> int:
        """How many of the first extents may still wait to be stored."""
        queue_bytes = self._kept_bytes * self._settings.queue_percent // 100
        room = queue_bytes - self._mover.waiting_bytes
        for count, extent in enumerate(extents):
            room -= extent.length
            if room < 0:
                return count
        return len(extents)

    def _parameters(self) -> dict[str, str]:
        settings = self._settings
        longest = max(settings.fetch_deadline_ms, settings.store_deadline_ms)
        parameters = {
            "nodes": ",".join(settings.nodes),
            "namespace": parameter_of(self._namespace),
            "key_dialect": "full",
            "timeout_ms": str(longest),
            "query_timeout_ms": str(settings.lookup_timeout_ms),
        }
        return {**parameters, **credentials_of(settings)}

    def _keep(self, extent: Extent) -> None:
        self._port.keep_memory([extent])
        self._kept_bytes += extent.length

    def _probes(self) -> list[Item]:
        """A read of one byte for each node, of a block that is not there."""
        target = extent_of(self._scratch, writable=True, what="the probe")
        return [Item(record_of(group, group), target) for group in self._groups]

    def _groups_of_nodes(self) -> list[bytes]:
        """A group name for each node, in no order."""
        nodes = [PlacementNode(node_id_of(address), 1) for address in self._settings.nodes]
        space = self._namespace.fingerprint
        found: dict[int, bytes] = {}
        for i in range(_PROBES_TRIED):
            name = b"memkv-probe-%d" % i
            node = place(group_fingerprint(space, name), nodes)
            if node is not None and node not in found:
                found[node] = name
            if len(found) == len(nodes):
                break
        return list(found.values())


def _extent_of(region: Any) -> Extent:
    return extent_of(region, writable=True, what="the offload region")
