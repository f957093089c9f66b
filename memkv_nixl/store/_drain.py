"""One drain of a node, from when its agent hears of it until that is taken back: how far it is.

It has ended when two passes on end found nothing that was not looked at before. What other nodes
refused is left behind: it bears a mark that says why, is tried once more by the next pass (a
namespace may admit a block when it is put for the second time) and then every ten minutes (it may
admit so much an hour). A node is drained when it has ended and nothing was left behind. Passes go
on after that: a client with a former map may still put a block here.

One thread makes the passes; another may read the numbers.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memkv_nixl.proto.memkv.v1.map_pb2 import ClusterMap

REFUSAL_OF_MARK = {2: "no_space", 3: "conflict", 4: "too_large", 5: "invalid"}
MARK_OF_REFUSAL = {code: mark for mark, code in REFUSAL_OF_MARK.items()}
_MARK_FIRST = 6  # 1 is that of a second copy
MARKS = 256 - _MARK_FIRST  # a mark is one byte
_RETRY_S = 600.0
_CLEAN_PASSES = 2


Places = tuple[tuple[int, int, str], ...]


def places_of(map_: ClusterMap) -> Places:
    """What of a map says where blocks belong; other maps may say the same."""
    return tuple((node.node_id, node.weight, node.failure_domain) for node in map_.nodes)


class Drain:
    """How far a drain is."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.moved_blocks = 0
        self.moved_bytes = 0
        self.swept: set[str] = set()  # tokens whose blocks bear no mark of a former drain
        self.last_listing = False  # this pass lists all blocks now, not only what is read
        self._clock = clock
        self._places: Places = ()
        self._mark = _MARK_FIRST
        self._clean = 0  # passes on end that found nothing
        self._found = 0
        self._left: Counter[str] = Counter()  # by this pass
        self._left_behind: Counter[str] = Counter()  # by the last pass that ended
        self._retries = False
        self._retry_at = 0.0  # 0: by the next pass

    def begin_pass(self, map_: ClusterMap) -> int:
        """The mark of what lies where this map has it; where another one has blocks elsewhere it is
        another mark."""
        if places_of(map_) != self._places:
            self._places = places_of(map_)
            self._mark = _MARK_FIRST + map_.epoch % MARKS
            self.again()
        self._found = 0
        self._left = Counter()
        self._retries = self._clock() >= self._retry_at
        if self._retries:
            self._retry_at = self._clock() + _RETRY_S
        return self._mark

    def end_pass(self) -> None:
        """Nothing kept this pass from being a whole one."""
        self._left_behind = self._left
        self._clean = 0 if self._found else self._clean + 1

    def again(self) -> None:
        """Whatever was looked at has to be looked at again."""
        self._clean = 0
        self._left_behind = Counter()
        self._retry_at = 0.0
        self.swept.clear()

    # ---- what a pass says

    def tries(self, mark: int) -> bool:
        """Whether a block with this mark is looked at now."""
        return mark not in REFUSAL_OF_MARK or (self._retries and self.last_listing)

    def saw(self, blocks: int) -> None:
        """So many that nobody had looked at, or that could not be moved yet."""
        self._found += blocks

    def moved(self, length: int) -> None:
        """A block lies elsewhere now."""
        self.moved_blocks += 1
        self.moved_bytes += length

    def refused(self, code: str, former_mark: int) -> None:
        """The node where a block belongs does not take it."""
        if self.last_listing:
            self._left[code] += 1
        if former_mark not in REFUSAL_OF_MARK:
            self._retry_at = 0.0

    def leaves(self, marks: Iterable[int]) -> None:
        """Blocks with these marks are not tried in this pass."""
        if self.last_listing:
            self._left.update(REFUSAL_OF_MARK[mark] for mark in marks)

    # ---- how far it is

    def drained_by(self, map_: ClusterMap) -> bool:
        """Whether every block lies on another node, where this map has it."""
        return self._ended(map_) and not self._left_behind

    def left_behind(self, map_: ClusterMap) -> dict[str, int]:
        """What is here still when nothing else is left to move, by why it was refused."""
        return dict(self._left_behind) if self._ended(map_) else {}

    def _ended(self, map_: ClusterMap) -> bool:
        return self._clean >= _CLEAN_PASSES and places_of(map_) == self._places
