"""Traces of requests: which blocks each one's prompt consists of, and when it came.

`docs/guides/replay.md` is the format. A trace is somebody's data: it is read line by line, every
line is checked, and an error names the line.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeGuard

from memkv_nixl._errors import UsageError

LINE_BYTES_MAX = 4 << 20
REQUEST_BLOCKS_MAX = 1 << 17
TRACE_BLOCKS_MAX = 1 << 24  # of all requests together; a replay takes about 100 bytes for each

_MADE_BLOCKS_MAX = 248
_MADE_EVERY_S = 0.3


@dataclass(frozen=True)
class Trace:
    """Requests in the order of time. Blocks are numbered from 0; a number stands for a prefix."""

    name: str
    times: list[float]
    """Seconds, of each request."""
    requests: list[tuple[int, ...]]
    """The blocks of each request, from the prompt's beginning on."""
    depths: list[int]
    """Of each block, its place in the prompts that have it."""

    @property
    def asked(self) -> int:
        """Blocks of all requests together."""
        return sum(map(len, self.requests))


def read_trace(file: BinaryIO, name: str) -> Trace:
    """The trace in a file; UsageError names the first line that is wrong."""
    builder = _Builder(name)
    for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX + 1), b""), 1):
        if len(line) > LINE_BYTES_MAX:
            raise builder.error(number, f"has more than {LINE_BYTES_MAX} bytes")
        if line.strip():
            builder.add(number, *_parsed(builder, number, line))
    return builder.trace()


def make_trace(requests: int, seed: int) -> Trace:
    """A trace that is made up: chats that go on now and then, all behind one common first block."""
    if requests < 1:
        raise UsageError(f"a trace of {requests} requests is none; make one or more")
    builder = _Builder(f"{requests} made-up requests, seed {seed}")
    for number, (at_ms, ids) in enumerate(_made(requests, random.Random(seed)), 1):  # noqa: S311
        builder.add(number, at_ms, ids)
    return builder.trace()


class _Builder:
    """Gives blocks their numbers and holds them to what a chain is."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._numbers: dict[int, int] = {}
        self._before: list[int] = []  # of each block the one it follows; -1: it is a first one
        self._depths: list[int] = []
        self._asked = 0
        self._rows: list[tuple[float, tuple[int, ...]]] = []

    def error(self, number: int, what: str) -> UsageError:
        return UsageError(f"{self._name}, line {number}: {what}")

    def add(self, number: int, at_ms: float, ids: list[int]) -> None:
        before = -1
        chain = []
        for depth, block_id in enumerate(ids):
            block = self._numbers.setdefault(block_id, len(self._numbers))
            if block == len(self._depths):
                self._before.append(before)
                self._depths.append(depth)
            elif self._before[block] != before:
                raise self.error(
                    number,
                    f"the block {block_id} of hash_ids follows another one than it did before; an "
                    "id must stand for the whole prompt up to the block's end, not for its tokens",
                )
            chain.append(block)
            before = block
        self._asked += len(chain)
        if self._asked > TRACE_BLOCKS_MAX:
            raise self.error(number, f"more than {TRACE_BLOCKS_MAX} blocks; replay a part of it")
        self._rows.append((at_ms / 1000, tuple(chain)))

    def trace(self) -> Trace:
        if not self._rows:
            raise UsageError(f"{self._name}: has no request")
        self._rows.sort(key=lambda row: row[0])  # those of one time stay as they came
        times = [at for at, _ in self._rows]
        return Trace(self._name, times, [chain for _, chain in self._rows], self._depths)


def _parsed(builder: _Builder, number: int, line: bytes) -> tuple[float, list[int]]:
    try:
        said: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise builder.error(number, f"is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise builder.error(number, 'is no object such as {"timestamp": 0, "hash_ids": [1, 2]}')
    at_ms = said.get("timestamp")
    if not _is_number(at_ms):
        raise builder.error(number, f"timestamp is milliseconds, not {_short(at_ms)}")
    ids = said.get("hash_ids")
    if not isinstance(ids, list) or not all(type(block_id) is int for block_id in ids):
        raise builder.error(number, f"hash_ids is a list of whole numbers, not {_short(ids)}")
    if len(ids) > REQUEST_BLOCKS_MAX:
        raise builder.error(number, f"hash_ids has more than {REQUEST_BLOCKS_MAX} blocks")
    return at_ms, ids


def _is_number(value: Any) -> TypeGuard[float]:
    return type(value) in (int, float) and 0 <= value < 2**63 and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def _made(requests: int, chance: random.Random) -> Iterator[tuple[float, list[int]]]:
    fresh = itertools.count(1)
    chats: list[list[int]] = []
    at_ms = 0.0
    for _ in range(requests):
        at_ms += chance.expovariate(1 / _MADE_EVERY_S) * 1000
        if chats and chance.random() < 0.4:
            # The later a chat was begun, the likelier it goes on.
            index = max(0, len(chats) - 1 - int(chance.expovariate(1 / 200)))
            more = 1 + int(chance.expovariate(1 / 4))
        else:
            index = len(chats)
            chats.append([0])
            more = 1 + int(chance.lognormvariate(2.3, 1.0))
        more = min(more, _MADE_BLOCKS_MAX - len(chats[index]))
        chats[index] = chats[index] + list(itertools.islice(fresh, more))
        yield at_ms, chats[index]
