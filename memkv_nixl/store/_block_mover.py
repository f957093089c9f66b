"""Moves blocks of one memkvd to other nodes: second copies of what many read or a rule wants on two
nodes, and drains.

    LIST ──▶ MATCH there ──▶ GET here ──▶ PUT there, held ──▶ MARK here ──▶ COMMIT there

Nothing that was dropped comes back by it: a copy becomes visible only when its source, asked after
every byte had arrived, still had that very block; and whoever drops a block drops it everywhere,
and then once more (docs/formats/wire.md, section 6). What fails is tried again by the next pass:
all that is remembered are the marks, and those are memkvd's.

Blocking; runs in a thread of the agent's.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memkv_nixl._errors import CODES, UnreachableError
from memkv_nixl._native import Client, Request, node_id_of, place, place_copy
from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._copy_rounds import CopyRounds, Look
from memkv_nixl.store._drain import MARK_OF_REFUSAL, REFUSAL_OF_MARK, Drain

_log = logging.getLogger(__name__)

HOT_READS = 8  # reads lately, each worth half after a minute, from which on a block gets a copy
COPIED = 1  # the mark of what lies on its second place, too
_TIMEOUT_MS = 5_000  # below what a node waits for a COMMIT
_BATCH_BYTES = 32 << 20
_BATCH_BLOCKS = 32
_PAGE = 256
_PASS_BYTES = 4 << 30  # copied by one pass at most
_REFUSED_MAX = 32  # of one namespace by one node; then a pass leaves the two alone
_DRAIN_READS = (HOT_READS, 1, 0)  # the hot ones first
_THERE = ("ok", "exists")


Space = tuple[bytes, int]  # a namespace and its drop generation


class Block(NamedTuple):
    """One of memkvd's blocks, as LIST says it."""

    namespace: bytes
    generation: int
    key: bytes
    incarnation: int
    length: int
    group: tuple[int, int]
    depth: int
    recompute_cost: int
    age_s: int  # since it was put first, wherever that was
    reads: int
    mark: int
    listed_at: float = 0.0  # by the clock of `time.monotonic`

    @property
    def age_now_s(self) -> int:
        """Not too little: what is a miss for its age stays one."""
        return self.age_s + math.ceil(time.monotonic() - self.listed_at)


@dataclass
class Moved:
    """What was done since the agent started."""

    blocks: int = 0
    bytes: int = 0
    copies: int = 0  # of these, second copies
    failed: int = 0  # tries


class BlockMover:
    """Moves the blocks of the memkvd at `address`, at most `rate` bytes a second.

    `tls` is what a client needs to speak to the nodes by TLS; empty where they do not."""

    def __init__(
        self, address: str, rate: int, stop: threading.Event, tls: Mapping[str, Any] | None = None
    ) -> None:
        self.moved = Moved()
        self._address = address
        self._rate = rate
        self._stop = stop
        self._tls = dict(tls or {})
        self._token = ""  # of the tenant whose blocks are moved now
        self._clients: dict[tuple[str, str], Client] = {}  # by address and token
        self._debt_until = 0.0  # when what was moved is paid by the rate
        self._still: Callable[[], bool] = lambda: True
        self._rounds = CopyRounds()
        self._drain: Drain | None = None  # whose pass this is

    def close(self) -> None:
        """Lets go of every node."""
        for client in self._clients.values():
            client.close()

    def copy_hot(
        self, map_: map_pb2.ClusterMap, tokens: Sequence[str], still: Callable[[], bool]
    ) -> None:
        """One pass: what many read lies on its second place, too, or on its first when that is not
        here any more. It ends when `still` says that the map or the node's state is another.

        `tokens` are files, each of one tenant whose blocks are moved; "" is the built-in one."""
        targets = _Targets(map_, self._address)
        self._still = still
        for token in [] if targets.alone else tokens:
            self._token = token
            self._copy_hot(targets)

    def _copy_hot(self, targets: _Targets) -> None:
        begun = self.moved.bytes
        for page in self._pages(Look(reads_min=HOT_READS)):
            for target, blocks in _by_target(page, targets.of_copy):
                self._move(target, self._missing(target, blocks, COPIED), COPIED)
            if not self._goes_on() or self.moved.bytes - begun > _PASS_BYTES:
                return

    def copy_settled(
        self,
        map_: map_pb2.ClusterMap,
        tokens: Sequence[str],
        still: Callable[[], bool],
        waiting: int,
    ) -> None:
        """One pass: blocks of namespaces whose rule wants two copies lie on their second place,
        too, or on their first; those in DRAM first, which cost the device no read. `waiting` is how
        many of them had no mark when memkvd was asked last. Otherwise as copy_hot().

        When the map's nodes changed, or one of them started anew, the blocks that have the mark are
        looked for, too."""
        targets = _Targets(map_, self._address)
        if targets.alone or not self._rounds.begins(map_, waiting, self._boots()):
            return
        self._still = still
        before, whole = self.moved.failed, False
        try:
            seen = [self._settle(token, targets) for token in tokens]
            whole = all(seen)
        finally:
            self._rounds.ended(whole=whole, failed=self.moved.failed > before)

    def _settle(self, token: str, targets: _Targets) -> bool:
        """True when every block of this tenant was looked at."""
        self._token = token
        begun = self.moved.bytes
        refused: Counter[tuple[str, Space]] = Counter()
        for look in self._rounds.looks:
            for page in self._pages(look):
                for target, blocks in _by_target(page, targets.of_copy):
                    self._settle_there(target, blocks, refused)
                if not self._goes_on() or self.moved.bytes - begun > _PASS_BYTES:
                    return False
        return True

    def _settle_there(
        self, target: str, blocks: list[Block], refused: Counter[tuple[str, Space]]
    ) -> None:
        for space, some in _by_space(blocks):
            if refused[target, space] < _REFUSED_MAX:
                before = self.moved.failed
                self._move(target, self._missing(target, some, COPIED), COPIED)
                refused[target, space] += self.moved.failed - before

    def drain(
        self, map_: map_pb2.ClusterMap, tokens: Sequence[str], still: Callable[[], bool], of: Drain
    ) -> None:
        """One pass over all blocks, the hot ones first; `of` has what it found. Otherwise as
        copy_hot()."""
        targets = _Targets(map_, self._address)
        self._still = still
        self._drain = of
        mark = of.begin_pass(map_)
        try:
            for token in tokens:
                self._token = token
                if targets.alone:
                    of.saw(1)  # whatever there is has no other place
                    continue
                if token not in of.swept and self._sweep(mark):
                    of.swept.add(token)
                self._drain_blocks(targets, mark, of)
        finally:
            self._drain = None
        if self._goes_on():
            of.end_pass()

    def _sweep(self, mark: int) -> bool:
        """Takes the marks of former drains off, which repeat; whether it came to its end."""
        stale = (mark, *REFUSAL_OF_MARK)
        found = 1
        while found and self._goes_on():  # what moves in the index may be missed by one listing
            found = 0
            for page in self._pages(Look()):
                for block in page:
                    if block.mark in stale:
                        found += self._mark(block, 0)
        return self._goes_on()

    def _drain_blocks(self, targets: _Targets, mark: int, of: Drain) -> None:
        for reads_min in _DRAIN_READS:
            of.last_listing = reads_min == 0
            for page in self._pages(Look(reads_min=reads_min, mark_not=mark)):
                of.leaves(block.mark for block in page if not of.tries(block.mark))
                tried = [block for block in page if of.tries(block.mark)]
                for target, blocks in _by_target(tried, targets.of):
                    of.saw(sum(block.mark not in REFUSAL_OF_MARK for block in blocks))
                    self._move(target, self._missing(target, blocks, mark), mark)
                if not self._goes_on():
                    return

    def _goes_on(self) -> bool:
        return not self._stop.is_set() and self._still()

    # ---- which

    def _pages(self, look: Look) -> Iterator[list[Block]]:
        cursor = 0
        while True:
            asked_at = time.monotonic()
            cursor, rows = self._own.list_blocks(
                0,
                cursor,
                count=_PAGE,
                reads_min=look.reads_min,
                mark_not=look.mark_not,
                copies_min=look.copies_min,
                dram=look.dram,
                timeout_ms=_TIMEOUT_MS,
            )
            if rows:
                yield [Block(*row, listed_at=asked_at) for row in rows]
            if cursor == 0:
                return

    def _missing(self, target: str, blocks: list[Block], mark: int) -> list[Block]:
        """Those that are not there, which have no mark from now on; the others get it. Those about
        which the node did not answer count as failed."""
        missing = []
        for (namespace, generation), some in _by_space(blocks):
            request = self._other(target).match(
                namespace, [block.key for block in some], generation=generation,
                timeout_ms=_TIMEOUT_MS,
            )  # fmt: skip
            _wait(request)
            for block, (code, where, length) in zip(some, request.matches(), strict=True):
                if CODES[code] != "ok":
                    self.moved.failed += 1
                elif where == 0 or length != block.length:
                    missing.append(self._unmarked(block))
                elif block.mark != mark:
                    self._mark(block, mark)
        return missing

    def _unmarked(self, block: Block) -> Block:
        """Nobody is to hear any more that it lies on its second place, too."""
        if block.mark != COPIED:
            return block
        self._mark(block, 0)
        return block._replace(mark=0)

    # ---- moving

    def _move(self, target: str, blocks: Sequence[Block], mark: int) -> None:
        for batch in _batches(blocks):
            self._pay(sum(block.length for block in batch))
            if not self._goes_on():
                return
            self._move_batch(target, batch, mark)

    def _move_batch(self, target: str, batch: Sequence[Block], mark: int) -> None:
        puts = [(block, self._hold(target, block, buffer)) for block, buffer in self._read(batch)]
        # One after the other: whoever waited for all of them would hold there what others wait for.
        for block, request in puts:
            request.wait_held(_TIMEOUT_MS)
            self._commit(block, request)
        for block, request in puts:
            _wait(request)
            self._count(block, CODES[request.codes()[0]], mark)
        self.moved.failed += len(batch) - len(puts)

    def _commit(self, block: Block, request: Request) -> None:
        """Lets a held block become visible there, if it is still here and still belongs there. The
        mark stays what it was: it is the question that counts."""
        if self._mark(block, block.mark) and self._goes_on():
            request.release()
        else:
            request.cancel()

    def _count(self, block: Block, code: str, mark: int) -> None:
        """What became of a put; the block's mark says that it is there, or why a drain left it."""
        if code in _THERE:
            self.moved.blocks += 1
            self.moved.bytes += block.length
            self.moved.copies += mark == COPIED
            self._mark(block, mark)
        else:
            self.moved.failed += 1
        if self._drain is not None:
            if code in _THERE:
                self._drain.moved(block.length)
            elif code in MARK_OF_REFUSAL and self._mark(block, MARK_OF_REFUSAL[code]):
                self._drain.refused(code, block.mark)

    def _read(self, batch: Sequence[Block]) -> list[tuple[Block, bytearray]]:
        """Those that are still here, with their bytes."""
        found = []
        for (namespace, generation), some in _by_space(batch):
            buffers = [bytearray(block.length) for block in some]
            request = self._own.get(
                namespace, [block.key for block in some], buffers, generation=generation,
                timeout_ms=_TIMEOUT_MS,
            )  # fmt: skip
            _wait(request)
            codes = request.codes()
            found += [
                (block, buffer)
                for block, buffer, code in zip(some, buffers, codes, strict=True)
                if CODES[code] == "ok"
            ]
        return found

    def _hold(self, target: str, block: Block, buffer: bytearray) -> Request:
        return self._other(target).put(
            block.namespace,
            [block.key],
            [buffer],
            depths=[block.depth],
            recompute_costs=[block.recompute_cost],
            group_prints=[block.group],
            ages=[block.age_now_s],
            hold=True,
            generation=block.generation,
            timeout_ms=_TIMEOUT_MS,
        )

    def _mark(self, block: Block, mark: int) -> bool:
        """False: that very block is not here any more."""
        code = self._own.mark(
            0,
            block.namespace,
            block.generation,
            block.key,
            block.incarnation,
            mark,
            timeout_ms=_TIMEOUT_MS,
        )
        return CODES[code] == "ok"

    def _pay(self, count: int) -> None:
        """Waits until the bytes moved before fit the rate."""
        now = time.monotonic()
        self._stop.wait(max(0.0, self._debt_until - now))
        self._debt_until = max(now, self._debt_until) + count / self._rate

    # ---- whom

    def _boots(self) -> dict[str, int]:
        """How often the stores of other nodes were opened, of those that are connected."""
        boots = {}
        for (address, _), client in self._clients.items():
            for node in client.health():
                if node["connected"] and address != self._address:
                    boots[address] = int(node["boot"])
        return boots

    @property
    def _own(self) -> Client:
        return self._other(self._address)

    def _other(self, address: str) -> Client:
        who = (address, self._token)
        if who not in self._clients:
            self._clients[who] = Client(
                [address],
                token_file=self._token,
                name="memkv-mover",
                timeout_ms=_TIMEOUT_MS,
                follow=False,
                **self._tls,
            )
        return self._clients[who]


class _Targets:
    """Where a block of this node belongs, by one map."""

    def __init__(self, map_: map_pb2.ClusterMap, own: str) -> None:
        nodes = map_.nodes
        self._addresses = [node.address for node in nodes]
        self._nodes = [(node.node_id, node.weight) for node in nodes]
        self._with_domains = [
            (
                node.node_id,
                node.weight,
                node_id_of(node.failure_domain) if node.failure_domain else 0,
            )
            for node in nodes
        ]
        self._own = own
        self.alone = not any(node.weight and node.address != own for node in nodes)

    def of(self, group: tuple[int, int]) -> str | None:
        """The holder; None when that is this node."""
        return self._other(place(group, self._nodes))

    def of_copy(self, group: tuple[int, int]) -> str | None:
        """The second place; the holder when that is another node."""
        return self.of(group) or self._other(place_copy(group, self._with_domains))

    def _other(self, index: int | None) -> str | None:
        if index is None or self._addresses[index] == self._own:
            return None
        return self._addresses[index]


def _by_target(
    blocks: Sequence[Block], target_of: Callable[[tuple[int, int]], str | None]
) -> list[tuple[str, list[Block]]]:
    """Those that belong to another node, by it."""
    wanted: dict[str, list[Block]] = defaultdict(list)
    for block in blocks:
        target = target_of(block.group)
        if target is not None:
            wanted[target].append(block)
    return list(wanted.items())


def _by_space(blocks: Sequence[Block]) -> Iterator[tuple[Space, list[Block]]]:
    """One request is about one namespace."""
    spaces: dict[Space, list[Block]] = defaultdict(list)
    for block in blocks:
        spaces[block.namespace, block.generation].append(block)
    yield from spaces.items()


def _batches(blocks: Sequence[Block]) -> Iterator[list[Block]]:
    rest = iter(blocks)
    batch: list[Block] = []
    for block in rest:
        full = len(batch) == _BATCH_BLOCKS or sum(b.length for b in batch) >= _BATCH_BYTES
        if full:
            yield batch
            batch = []
        batch.append(block)
    if batch:
        yield batch


def _wait(request: Request) -> None:
    """A request ends by its own deadline; whoever waits longer waits for nothing."""
    for _ in itertools.repeat(None, 4):
        if request.wait(_TIMEOUT_MS):
            return
    raise UnreachableError("a request to a node did not end by its deadline")
