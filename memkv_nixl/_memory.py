"""Registered memory: NIXL moves bytes only inside ranges that it was told of before.

A table counts how often each range is wanted, so that a range that is in use twice is registered
once and let go with its last user. Not safe from several threads; the agent holds its lock.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Collection, Sequence

from memkv_nixl._buffers import Extent

Range = tuple[int, int]  # address, length


class MemoryTable:
    """The ranges that are registered, over two functions that do it for a list of ranges."""

    def __init__(
        self,
        register: Callable[[Sequence[Range]], None],
        deregister: Callable[[Sequence[Range]], None],
    ) -> None:
        self._register = register
        self._deregister = deregister
        self._users: dict[Range, int] = {}
        self._kept: list[Range] = []  # of keep(), sorted: what a smaller range may lie in

    def __len__(self) -> int:
        return len(self._users)

    def keep(self, extents: Sequence[Extent]) -> None:
        """Registers ranges for long; whatever lies inside one needs no registration of its own."""
        for taken in self._take([(extent.address, extent.length) for extent in extents]):
            bisect.insort(self._kept, taken)

    def forget(self, extents: Sequence[Extent]) -> bool:
        """Undoes `keep` of the very same ranges; False when one of them is not kept."""
        ranges = [(extent.address, extent.length) for extent in extents]
        if any(ranges.count(wanted) > self._kept.count(wanted) for wanted in ranges):
            return False
        for wanted in ranges:
            self._kept.remove(wanted)
        self.release(ranges)
        return True

    def acquire(self, extents: Sequence[Extent]) -> list[Range]:
        """Makes every extent usable; gives what `release` takes back.

        NIXL finds the range that holds an extent by looking at the nearest one below it: where
        another range lies across a kept one that may be the wrong one, and deregistering it would
        end what goes on in it. Equal ranges are always found, so there each extent gets its own.
        """
        own = [(extent.address, extent.length) for extent in extents]
        found = [self._kept_around(extent) for extent in extents]
        kept = set(self._kept).intersection(found)
        others = [*self._users, *(one for one in found if one not in kept)]
        crossed = {one for one in kept if any(_overlap(one, other) for other in others)}
        return self._take(
            [mine if one in crossed else one for mine, one in zip(own, found, strict=True)]
        )

    def release(self, taken: Sequence[Range]) -> None:
        """Gives back what `acquire` gave; the last user of a range deregisters it."""
        unused: list[Range] = []
        for covering in taken:
            self._users[covering] -= 1
            if self._users[covering] == 0:
                del self._users[covering]
                unused.append(covering)
        if unused:
            self._deregister(unused)

    def clear(self, but: Collection[Range] = ()) -> None:
        """Deregisters everything but these."""
        ranges = [one for one in self._users if one not in but]
        self._users.clear()
        self._kept.clear()
        if ranges:
            self._deregister(ranges)

    def _take(self, ranges: list[Range]) -> list[Range]:
        fresh = [wanted for wanted in dict.fromkeys(ranges) if wanted not in self._users]
        if fresh:
            self._register(fresh)  # all or none: NIXL undoes a registration that fails
        for wanted in ranges:
            self._users[wanted] = self._users.get(wanted, 0) + 1
        return ranges

    def _kept_around(self, extent: Extent) -> Range:
        """A kept range that holds all of the extent, or the extent's own."""
        below = bisect.bisect_right(self._kept, extent.address, key=lambda kept: kept[0])
        if below:
            start, length = self._kept[below - 1]
            if start + length >= extent.end:
                return (start, length)
        return (extent.address, extent.length)


def _overlap(one: Range, other: Range) -> bool:
    """Whether two ranges that are not the same have a byte in common."""
    return one != other and one[0] < other[0] + other[1] and other[0] < one[0] + one[1]
