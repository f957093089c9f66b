"""The tier's two threads over a port that does what a test wants: what fails, is slow, or stays."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, cast

import pytest

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import CODES, NixlError
from memkv_nixl._port import Item, Port, Posted
from memkv_nixl.kvbm._breaker import Breaker
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Counts
from memkv_nixl.kvbm._mover import Mover
from memkv_nixl.kvbm._orders import Found, Moved, Order
from memkv_nixl.kvbm._pace import Pace
from memkv_nixl.kvbm._seeker import Seeker

BOUND_S = 20.0


class Clock:
    """Time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class ScriptedPort:
    """A port whose requests end when they are taken back, unless a test says otherwise."""

    def __init__(self) -> None:
        self.posted = threading.Event()
        self.asked: list[int] = []
        self.operations: list[str] = []
        self.on_query: Callable[[int], list[Any]] = lambda count: [{}] * count
        self.on_over: Callable[[], bool] = lambda: False
        self.on_close: Callable[[], None] = lambda: None
        self.fails_at_post = False

    def query(self, records: Sequence[bytes]) -> list[Any]:
        self.asked.append(len(records))
        return self.on_query(len(records))

    def post(self, operation: str, items: Sequence[Item]) -> Posted:
        self.operations.append(operation)
        self.posted.set()
        return Posted(b"1", items, None, None, [], failed=self.fails_at_post)

    def over(self, posted: Posted) -> bool:
        return self.on_over()

    def close_request(self, posted: Posted) -> None:
        self.on_close()
        if not posted.failed:
            posted.statuses = bytes([CODES.index("not_found")] * len(posted.items))


def raises(error: Exception) -> Callable[..., Any]:
    def do(*_: Any) -> Any:
        raise error

    return do


def blocks(count: int) -> list[Block]:
    return [Block(b"%d" % i, b"0", i) for i in range(count)]


def order(operation: Any = "READ") -> Order:
    return Order(operation, blocks(2), [Extent(0, 10, None)] * 2, 100.0, 200.0)


class Rig:
    """Both threads on one port."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.port = ScriptedPort()
        self.breaker = Breaker(self.clock)
        port, counts = cast("Port", self.port), Counts()
        pace = Pace(self.clock)
        self.mover = Mover(port, self.breaker, pace, counts, [], 1.0, self.clock)
        self.seeker = Seeker(port, self.breaker, counts, 0.04, self.clock, self.mover.wake)

    def move(self, operation: Any = "READ") -> Future[Moved]:
        given = order(operation)
        self.mover.order(given)
        return given.future

    def look_up(self, count: int) -> Found:
        return self.seeker.look_up(blocks(count)).result(BOUND_S)


@pytest.fixture
def rig(caplog: pytest.LogCaptureFixture) -> Iterator[Rig]:
    caplog.set_level(logging.CRITICAL + 1, "memkv_nixl")
    rig = Rig()
    yield rig
    rig.port.on_close = lambda: None
    rig.seeker.close()
    rig.mover.close()


def nobody_waits(rig: Rig) -> None:
    assert rig.breaker.gone
    assert rig.breaker.probe_in() is None
    assert rig.look_up(3).there == (False,) * 3
    for operation in ("READ", "WRITE"):
        assert rig.move(operation).result(BOUND_S).done == (False, False)
    assert rig.mover.wait_idle(BOUND_S)


def test_a_mover_that_fails_leaves_nobody_waiting(rig: Rig) -> None:
    rig.port.on_over = raises(RuntimeError("once"))
    assert rig.move().result(BOUND_S).done == (False, False)
    rig.port.on_over = lambda: False
    nobody_waits(rig)


def test_only_what_cannot_be_taken_back_keeps_its_memory(rig: Rig) -> None:
    rig.port.on_close = raises(NixlError("it stays"))
    first = rig.move()
    assert rig.port.posted.wait(BOUND_S)
    rig.port.on_over = lambda: True
    rig.mover.wake()
    assert rig.mover.wait_idle(BOUND_S)  # a drain does not wait for it
    nobody_waits(rig)
    assert not first.done()
    rig.port.on_close = lambda: None
    rig.mover.wake()
    assert first.result(BOUND_S).done == (False, False)


def test_a_seeker_that_fails_leaves_nobody_waiting(rig: Rig) -> None:
    rig.port.on_query = raises(RuntimeError("once"))
    assert rig.look_up(5).there == (False,) * 5
    nobody_waits(rig)


def test_a_breaker_that_gave_up_stays_open() -> None:
    breaker = Breaker(Clock())
    breaker.suspect()
    breaker.give_up()
    breaker.probed(anybody=True)
    breaker.suspect()
    assert breaker.gone
    assert breaker.probe_in() is None
    assert breaker.times_opened == 1


def test_what_waits_for_an_answer_cannot_be_cancelled(rig: Rig) -> None:
    future = rig.move()
    assert not future.cancel()
    rig.port.on_over = lambda: True
    rig.mover.wake()
    assert future.result(BOUND_S).done == (False, False)
    assert not rig.breaker.open


def test_a_large_look_up_goes_out_in_slices(rig: Rig) -> None:
    assert rig.look_up(2500).there == (True,) * 2500
    assert rig.port.asked == [1024, 1024, 452]


def test_a_late_answer_is_no_silence(rig: Rig) -> None:
    def late(count: int) -> list[Any]:
        rig.clock.now += 0.05
        return [{}] + [None] * (count - 1)

    rig.port.on_query = late
    assert sum(rig.look_up(2000).there) == 2
    assert not rig.breaker.open


def test_late_and_nothing_is_silence(rig: Rig) -> None:
    def silent(count: int) -> list[Any]:
        rig.clock.now += 0.05
        return [None] * count

    rig.port.on_query = silent
    assert not any(rig.look_up(2000).there)
    assert rig.port.asked == [1024]  # in doubt nobody waits for the rest
    assert rig.breaker.times_opened or rig.breaker.open


def test_what_nixl_refuses_at_once_says_nothing_of_the_pool(rig: Rig) -> None:
    rig.port.fails_at_post = True
    rig.port.on_over = lambda: True
    assert rig.move().result(BOUND_S).done == (False, False)
    assert not rig.breaker.open
    assert rig.breaker.times_opened == 0


def test_in_doubt_a_store_waits_and_is_put_afterwards() -> None:
    rig = Rig()
    rig.port.on_over = lambda: True
    rig.breaker._doubt = True  # as while a probe is under way
    future = rig.move("WRITE")
    rig.move("READ").result(BOUND_S)
    assert rig.port.operations == ["READ"]
    assert rig.mover.waiting_bytes == 20
    rig.breaker.probed(anybody=True)
    rig.mover.wake()
    assert future.result(BOUND_S).done == (False, False)
    assert rig.port.operations == ["READ", "WRITE"]
    rig.seeker.close()
    rig.mover.close()
