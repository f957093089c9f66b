"""When the copies that rules want are looked after, and which blocks a pass looks at.

Most passes look at the blocks without a mark, and there is none to make while memkvd counts none.
After the map's nodes changed, or one of them started anew (and may have lost what was in its DRAM),
one pass looks at all of them: a mark says what was so.
A pass in which something failed is followed by a pause, longer each time: what a node refuses, or
does not answer, is read and offered for nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from memkv_nixl.proto.memkv.v1.map_pb2 import ClusterMap
from memkv_nixl.store._drain import Places, places_of

_REST_S = (5.0, 60.0)  # the first pause, and the longest
_COPIED = 1


class Look(NamedTuple):
    """Which blocks LIST is to name, docs/formats/wire.md; by itself all."""

    reads_min: int = 0
    mark_not: int = 0
    copies_min: int = 0
    dram: bool = False


_ALL = Look(copies_min=2)
_UNMARKED = _ALL._replace(mark_not=_COPIED)


class CopyRounds:
    """Of one node."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: Places = ()
        self._all = True  # nobody asked for those that have the mark since the nodes changed
        self._boots: dict[str, int] = {}
        self._rest_s = 0.0
        self._rest_until = 0.0

    def begins(self, map_: ClusterMap, waiting: int, boots: Mapping[str, int]) -> bool:
        """Whether there is something to look at now. `boots`: how often other nodes' stores were
        opened, of those that are known."""
        for address, boot in boots.items():
            self._all = self._all or self._boots.get(address, boot) != boot
        self._boots.update(boots)
        places = places_of(map_)
        if places != self._places:
            self._places, self._all = places, True
            self._rest_s = self._rest_until = 0.0
        settled = any(space.rules.copies > 1 for space in map_.namespaces)
        due = self._all or waiting > 0
        return settled and due and self._clock() >= self._rest_until

    @property
    def looks(self) -> tuple[Look, ...]:
        """What the pass lists, one after the other."""
        return (_ALL,) if self._all else (_UNMARKED._replace(dram=True), _UNMARKED)

    def ended(self, *, whole: bool, failed: bool) -> None:
        """The pass is over; `whole`: it looked at every block."""
        self._all = self._all and (failed or not whole)
        self._rest_s = min(max(_REST_S[0], 2 * self._rest_s), _REST_S[1]) if failed else 0.0
        self._rest_until = self._clock() + self._rest_s
