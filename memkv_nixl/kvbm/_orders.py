"""Orders: what a tier is asked to move, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from memkv_nixl._buffers import Extent
from memkv_nixl._port import Operation
from memkv_nixl.kvbm._chains import Block


class Found(NamedTuple):
    """The answer to a look-up: per block, whether the pool has it."""

    there: tuple[bool, ...]
    seconds: float


class Moved(NamedTuple):
    """What became of a load or store: per block, whether it is done.

    Of a load: every byte is in place and was verified. Of a store: the pool has the block.
    """

    done: tuple[bool, ...]
    moved_bytes: int
    seconds: float


def nothing_moved(count: int) -> Moved:
    """The outcome of an order of so many blocks that nobody took."""
    return Moved((False,) * count, 0, 0.0)


def settled(outcome: Moved) -> Future[Moved]:
    """A future that has its outcome already."""
    future: Future[Moved] = Future()
    future.set_result(outcome)
    return future


@dataclass(eq=False)
class Order:
    """One load or store, which may go out in several requests."""

    operation: Operation
    blocks: Sequence[Block]
    extents: Sequence[Extent]
    ordered_at: float
    deadline: float
    cost_us: int = 0  # of computing one block
    accepted: int = -1  # blocks from the first on; the others are not done. -1: all
    future: Future[Moved] = field(default_factory=Future)
    done: list[bool] = field(init=False)
    moved_bytes: int = 0
    outstanding: int = 0  # blocks without an outcome

    def __post_init__(self) -> None:
        self.done = [False] * len(self.blocks)
        if self.accepted < 0:
            self.accepted = len(self.blocks)
        self.outstanding = self.accepted
        self.future.set_running_or_notify_cancel()  # so that nobody cancels what is under way

    @property
    def size(self) -> int:
        """Bytes of the accepted blocks."""
        return sum(extent.length for extent in self.extents[: self.accepted])

    def finish(self, now: float) -> None:
        """Gives the outcome to whoever waits for it."""
        self.future.set_result(Moved(tuple(self.done), self.moved_bytes, now - self.ordered_at))


class Piece(NamedTuple):
    """A part of an order that goes out as one request: the blocks [first, last)."""

    order: Order
    first: int
    last: int


def pieces_of(order: Order, bytes_max: int) -> list[Piece]:
    """Cuts an order into pieces of at most so many bytes, each of at least one block."""
    pieces, first, size = [], 0, 0
    for i, extent in enumerate(order.extents[: order.accepted]):
        if i > first and size + extent.length > bytes_max:
            pieces.append(Piece(order, first, i))
            first, size = i, 0
        size += extent.length
    if first < order.accepted:
        pieces.append(Piece(order, first, order.accepted))
    return pieces
