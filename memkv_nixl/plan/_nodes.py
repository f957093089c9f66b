"""Simulated nodes: which blocks each one has, and which it lets go of when it is full.

`Node` never fills. `SmallNode` does what a node's engine does (docs/formats/segment.md): blocks go
to the tail of a log of segments; the oldest segment is taken back whole, and of its blocks those
that were asked for since they were written move to the tail, the shallower in the prefix chain
first, within a budget. All blocks have one length.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from memkv_nixl._errors import UsageError
from memkv_nixl._sizes import format_size

REWRITE_PERCENT = 12  # memkvd's own default
_PAGE = 4096  # of a segment's header, and of each block's
_SEGMENT_BYTES = 1 << 30
_SEGMENT_BYTES_MIN = 128 << 20
_SEGMENTS = 16
_SEGMENTS_MIN = 3  # one that fills, one that is ready, one that is full


class Node:
    """What one node has. There is always room."""

    def __init__(self) -> None:
        self.held: set[int] = set()

    def find(self, run: Sequence[int]) -> tuple[int, int]:
        """(leading, all): how many of these are there before the first gap, and how many in all."""
        held = self.held
        if held.issuperset(run):
            return len(run), len(run)
        there = 0
        leading = -1
        for place, block in enumerate(run):
            if block in held:
                there += 1
            elif leading < 0:
                leading = place
        return leading, there

    def put(self, run: Sequence[int]) -> None:
        """Has these blocks from now on."""
        self.held.update(run)

    def copy(self) -> Node:
        """Another node that has the same."""
        other = Node()
        other.held = self.held.copy()
        return other


class SmallNode(Node):
    """A node that holds so many bytes of blocks, in segments."""

    def __init__(
        self,
        capacity: int,
        block_bytes: int,
        depths: Sequence[int],
        rewrite_percent: int = REWRITE_PERCENT,
    ) -> None:
        super().__init__()
        self.written = 0  # blocks, those that moved to the tail again, too
        segment_bytes = _SEGMENT_BYTES
        while capacity // segment_bytes < _SEGMENTS and segment_bytes > _SEGMENT_BYTES_MIN:
            segment_bytes //= 2
        self._segments_max = capacity // segment_bytes
        with_header = -(-block_bytes // _PAGE) * _PAGE + _PAGE
        self._segment_blocks = (segment_bytes - _PAGE) // with_header
        if self._segments_max < _SEGMENTS_MIN or self._segment_blocks < 1:
            raise UsageError(
                f"a node of {format_size(capacity)} is too small for blocks of "
                f"{format_size(block_bytes)}: it has {self._segments_max} segments of "
                f"{format_size(segment_bytes)}; name a larger capacity or smaller blocks"
            )
        self._rewrites = segment_bytes * rewrite_percent // 100 // with_header
        self._depths = depths
        self._segments: deque[list[int]] = deque([[]])
        self._asked: set[int] = set()  # since they were written

    def find(self, run: Sequence[int]) -> tuple[int, int]:
        """As of a Node; what is found is asked for."""
        found = super().find(run)
        if found[1] == len(run):
            self._asked.update(run)
        else:
            self._asked.update(self.held.intersection(run))
        return found

    def put(self, run: Sequence[int]) -> None:
        """Has these blocks from now on, and fewer others."""
        for block in run:
            if block not in self.held:
                self._append(block)

    def copy(self) -> SmallNode:
        """Another node that has the same."""
        other = object.__new__(SmallNode)
        other.__dict__.update(self.__dict__)
        other.held = self.held.copy()
        other._segments = deque(segment.copy() for segment in self._segments)
        other._asked = self._asked.copy()
        return other

    def _append(self, block: int) -> None:
        if len(self._segments[-1]) >= self._segment_blocks:
            self._segments.append([])
            if len(self._segments) >= self._segments_max:  # one is always ready
                self._take_back()
        self._segments[-1].append(block)
        self.held.add(block)
        self.written += 1

    def _take_back(self) -> None:
        oldest = self._segments.popleft()
        asked = [block for block in oldest if block in self._asked]
        kept = sorted(asked, key=self._depths.__getitem__)[: self._rewrites]
        self.held.difference_update(oldest)
        self._asked.difference_update(oldest)
        for block in kept:
            self._append(block)
