"""Mover: the thread that moves a tier's blocks through NIXL.

It posts loads at once and whole; stores go out in pieces, two at a time, so that a load that comes
later need not wait behind them. It watches what is under way, takes it back at its deadline, and
probes the pool when the breaker wants to know. Nobody else posts or releases a transfer.

Should something fail that nobody foresaw, the breaker is opened for good and every order has its
outcome, but for those whose request NIXL does not let go of: their memory may still be touched.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import CODES, MemKVError
from memkv_nixl._port import Item, Operation, Port, Posted
from memkv_nixl._record import record_of
from memkv_nixl.kvbm._breaker import Breaker
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Counts
from memkv_nixl.kvbm._orders import Order, Piece, pieces_of
from memkv_nixl.kvbm._pace import Pace

STORE_PIECE_BYTES = 64 << 20
_STORES_AT_A_TIME = 2
_LOAD_PIECE_BYTES = 1 << 62
# NIXL tells nobody when a request ends: one has to ask, often at first, then less.
_PAUSE_S_FIRST = 50e-6
_PAUSE_S_LAST = 1e-3
_PAUSE_GROWS = 1.3

_TRY_AGAIN_S = 1.0  # to take back what NIXL does not let go of
_log = logging.getLogger(__name__)

_GOOD: Final = {CODES.index("ok"), CODES.index("exists")}
_MOVED: Final = CODES.index("ok")  # `exists` moves no bytes
# What says that nobody answered, and not what the pool has.
_SILENT: Final = {
    CODES.index(name) for name in ("timeout", "unreachable", "cancelled", "shutdown", "internal")
}


@dataclass(eq=False)
class Flight:
    """A request that NIXL has. A probe belongs to no order."""

    posted: Posted
    piece: Piece | None
    deadline: float


class Mover:
    """Owner of every transfer of one port. `order_*` may be called from any thread."""

    def __init__(
        self,
        port: Port,
        breaker: Breaker,
        pace: Pace,
        counts: Counts,
        probes: Sequence[Item],
        probe_timeout_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._port = port
        self._breaker = breaker
        self._pace = pace
        self._counts = counts
        self._probes = probes
        self._probe_timeout_s = probe_timeout_s
        self._clock = clock
        self._changed = threading.Condition()
        self._loads: deque[Piece] = deque()
        self._stores: deque[Piece] = deque()
        self._waiting_bytes = 0  # of stores that are not posted
        self._orders: set[Order] = set()  # without an outcome
        self._held: set[Order] = set()  # of these, what NIXL does not let go of
        self._closing = False
        self._fallen = False
        self._flights: list[Flight] = []
        self._probing: list[Flight] = []  # one for each node
        self._thread = threading.Thread(target=self._run, name="memkv-mover", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """Bytes of stores that were not posted yet."""
        return self._waiting_bytes

    @property
    def busy(self) -> bool:
        """Whether any order has no outcome yet."""
        return bool(self._orders)

    def order(self, order: Order) -> None:
        """Takes an order; its future has the outcome by its deadline."""
        loading = order.operation == "READ"
        pieces = pieces_of(order, _LOAD_PIECE_BYTES if loading else STORE_PIECE_BYTES)
        with self._changed:
            refused = self._closing or self._fallen
            if not refused:
                self._orders.add(order)
                (self._loads if loading else self._stores).extend(pieces)
                self._waiting_bytes += 0 if loading else order.size
                if loading:
                    self._pace.began(order.size)
                self._changed.notify_all()
        if refused:
            order.finish(self._clock())

    def wait_idle(self, timeout_s: float | None = None) -> bool:
        """Waits until every order has its outcome; whether that is so.

        What NIXL does not let go of is not waited for: it may never have one.
        """
        with self._changed:
            return self._changed.wait_for(lambda: self._orders <= self._held, timeout_s)

    def wake(self) -> None:
        """Makes the thread look again, say at the breaker."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Ends every order now and the thread; afterwards no byte of the region is touched.

        But for the orders that NIXL does not let go of, which have no outcome then, either.
        """
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
            self._end_everything()
        except Exception:  # noqa: BLE001 - logged, and nobody waits
            _log.exception(
                "MemKV: moving blocks failed in a way that nobody foresaw. The pool is left alone "
                "from now on: everything is a miss and nothing is stored"
            )
            self._fall()

    def _serve(self) -> None:
        pause = _PAUSE_S_FIRST
        while True:
            with self._changed:
                if self._closing:
                    return
                if not self._anything_to_post():
                    self._changed.wait(self._patience(pause))
            posted = self._post_some()
            ended = self._look_at_flights()
            pause = _PAUSE_S_FIRST if posted or ended else min(pause * _PAUSE_GROWS, _PAUSE_S_LAST)

    def _anything_to_post(self) -> bool:
        return bool(self._loads or (self._stores and self._may_store()))

    def _may_store(self) -> bool:
        """Whether a store may go out: one that fails in doubt would be lost for nothing."""
        return not self._breaker.doubtful and self._stores_under_way() < _STORES_AT_A_TIME

    def _stores_under_way(self) -> int:
        pieces = [flight.piece for flight in self._flights if flight.piece is not None]
        return sum(1 for piece in pieces if piece.order.operation == "WRITE")

    def _patience(self, pause: float) -> float | None:
        """How long to wait for news, None for as long as it takes."""
        if self._flights or self._probing:
            return pause
        due = self._breaker.probe_in()
        return None if due is None else max(due, 0.0)

    def _post_some(self) -> bool:
        """Posts what may go out now."""
        posted = False
        while (piece := self._next_piece()) is not None:
            self._post(piece)
            posted = True
        due = self._breaker.probe_in()
        if not self._probing and due is not None and due <= 0:
            self._post_probes()
            posted = True
        return posted

    def _next_piece(self) -> Piece | None:
        with self._changed:
            if self._loads:
                return self._loads.popleft()
            if self._stores and self._may_store():
                piece = self._stores.popleft()
                self._waiting_bytes -= _size_of(piece)
                return piece
            return None

    def _post(self, piece: Piece) -> None:
        order = piece.order
        if self._breaker.gone or self._clock() >= order.deadline:
            self._conclude(piece, None)
            return
        try:
            posted = self._port.post(order.operation, _items_of(piece))
        except MemKVError as error:
            self._counts.failed(error)
            self._conclude(piece, None)
            return
        except Exception:  # noqa: BLE001 - logged; a post that raises leaves nothing under way
            _log.exception("MemKV: NIXL failed in a way that nobody foresaw")
            self._conclude(piece, None)
            return
        self._flights.append(Flight(posted, piece, order.deadline))

    def _post_probes(self) -> None:
        deadline = self._clock() + self._probe_timeout_s
        try:
            for probe in self._probes:
                self._probing.append(Flight(self._port.post("READ", [probe]), None, deadline))
        except MemKVError as error:
            self._counts.failed(error)
        if not self._probing:
            self._breaker.probed(anybody=False)

    def _look_at_probes(self, now: float) -> bool:
        """Whether the probes are over: the first answer of any node is enough."""
        over = [flight for flight in self._probing if self._is_over(flight, now)]
        answers = [status for flight in over for status in self._take_back(flight) or b""]
        self._probing = [flight for flight in self._probing if flight not in over]
        anybody = any(status not in _SILENT for status in answers)
        if not over or (self._probing and not anybody):
            return False
        for flight in self._probing:
            self._take_back(flight)
        self._probing = []
        self._breaker.probed(anybody)
        return True

    def _look_at_flights(self) -> bool:
        """Takes back what is over or late; whether there was any."""
        now = self._clock()
        over = [flight for flight in self._flights if self._is_over(flight, now)]
        for flight in over:
            assert flight.piece is not None
            statuses = self._take_back(flight)
            self._flights.remove(flight)  # not before its memory is free
            self._conclude(flight.piece, statuses)
        return self._look_at_probes(now) or bool(over)

    def _is_over(self, flight: Flight, now: float) -> bool:
        return self._port.over(flight.posted) or now >= flight.deadline

    def _take_back(self, flight: Flight) -> bytes | None:
        """The statuses of a request, which touches no memory any more; none where it had none.

        None where it failed when it was posted: that says nothing of the pool.
        """
        self._port.close_request(flight.posted)
        if flight.posted.failed and flight.posted.statuses is None:
            return None
        return flight.posted.statuses or b""

    def _conclude(self, piece: Piece, statuses: bytes | None) -> None:
        """Notes the outcome of a piece, and with the last one of its order. None: not under way."""
        order, count = piece.order, piece.last - piece.first
        known = statuses if statuses is not None and len(statuses) == count else b""
        if statuses is not None and all(status in _SILENT for status in known):
            self._breaker.suspect()
        arrived = 0
        for i, status in enumerate(known, piece.first):
            order.done[i] = status in _GOOD
            arrived += order.extents[i].length if status == _MOVED else 0
        order.moved_bytes += arrived
        order.outstanding -= count
        if order.operation == "READ":
            self._pace.ended(_size_of(piece), arrived)
        if order.outstanding == 0:
            self._counts.moved(order)
            order.finish(self._clock())
            with self._changed:
                self._orders.discard(order)
                self._changed.notify_all()

    def _end_everything(self) -> None:
        while self._flights:
            flight = self._flights[-1]
            assert flight.piece is not None
            statuses = self._take_back(flight)
            self._flights.pop()
            self._conclude(flight.piece, statuses)
        for flight in self._probing:
            self._take_back(flight)
        self._probing = []
        for piece in (*self._loads, *self._stores):
            self._conclude(piece, None)
        self._loads.clear()
        self._stores.clear()

    def _fall(self) -> None:
        """Ends what can be ended, and goes on trying with the rest until it is closed."""
        self._breaker.give_up()
        with self._changed:
            self._fallen = True
            self._loads.clear()
            self._stores.clear()
            self._waiting_bytes = 0
        self._let_go()
        if self._held:
            _log.error("MemKV: NIXL does not let go of %d orders; they stay open", len(self._held))
        while self._held:
            with self._changed:
                if self._closing:
                    return
                self._changed.wait(_TRY_AGAIN_S)
            self._let_go()

    def _let_go(self) -> None:
        """Gives their outcome to all orders whose memory nobody touches."""
        self._flights = [flight for flight in self._flights if not self._lets_go(flight)]
        self._probing = [flight for flight in self._probing if not self._lets_go(flight)]
        held = {flight.piece.order for flight in self._flights if flight.piece is not None}
        for order in self._orders - held:
            if not order.future.done():
                order.finish(self._clock())
        with self._changed:
            self._orders = self._held = held
            self._changed.notify_all()

    def _lets_go(self, flight: Flight) -> bool:
        try:
            self._take_back(flight)
        except Exception as error:  # noqa: BLE001 - whatever it is, its memory is not free
            _log.debug("MemKV: a request cannot be taken back: %s", error)
            return False
        return True


def _size_of(piece: Piece) -> int:
    extents = piece.order.extents
    return sum(extents[i].length for i in range(piece.first, piece.last))


def _items_of(piece: Piece) -> list[Item]:
    order = piece.order
    return [
        item_of(order.operation, order.blocks[i], order.extents[i], order.cost_us)
        for i in range(piece.first, piece.last)
    ]


def item_of(operation: Operation, block: Block, extent: Extent, cost_us: int = 0) -> Item:
    """A block as the port takes it; depth and cost count when it is written."""
    if operation == "READ":
        return Item(record_of(block.key, block.group), extent)
    return Item(record_of(block.key, block.group, block.depth, cost_us), extent)
