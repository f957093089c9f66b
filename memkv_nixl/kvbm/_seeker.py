"""Seeker: the thread that asks the pool what it has.

A look-up through NIXL waits for the network, so it has a thread of its own. What was asked for
while another look-up was under way goes out together in the next one. Touching (blocks that
somebody uses from elsewhere, and that the pool should therefore keep) is a look-up whose answer
nobody wants, and waits until there is no other.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from memkv_nixl._errors import MemKVError
from memkv_nixl._port import Port
from memkv_nixl._record import record_of
from memkv_nixl.kvbm._breaker import Breaker
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Counts
from memkv_nixl.kvbm._orders import Found

_TOUCHES_MAX = 4096  # that wait; more are forgotten
_LATE = 0.9  # of the time-out: somebody did not answer
_SLICE = 1024  # keys that are asked for at a time
_log = logging.getLogger(__name__)


class _Wanted(NamedTuple):
    blocks: Sequence[Block]
    future: Future[Found]
    asked_at: float


class Seeker:
    """Owner of every look-up of one port. Thread: any."""

    def __init__(
        self,
        port: Port,
        breaker: Breaker,
        counts: Counts,
        timeout_s: float,
        clock: Callable[[], float],
        suspected: Callable[[], None],
    ) -> None:
        self._port = port
        self._breaker = breaker
        self._counts = counts
        self._timeout_s = timeout_s
        self._clock = clock
        self._suspected = suspected
        self._changed = threading.Condition()
        self._wanted: list[_Wanted] = []
        self._asking: list[_Wanted] = []  # what the thread has taken, and not answered yet
        self._touches: dict[bytes, Block] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="memkv-seeker", daemon=True)
        self._thread.start()

    def look_up(self, blocks: Sequence[Block]) -> Future[Found]:
        """Asks for blocks; while the breaker is open the answer is there at once."""
        future: Future[Found] = Future()
        future.set_running_or_notify_cancel()  # so that nobody cancels what is under way
        with self._changed:
            if blocks and not self._closing and not self._breaker.open:
                self._wanted.append(_Wanted(blocks, future, self._clock()))
                self._changed.notify_all()
                return future
        future.set_result(Found((False,) * len(blocks), 0.0))
        return future

    def touch(self, blocks: Sequence[Block]) -> None:
        """Lets the pool know that blocks are in use; forgotten when there is too much to do."""
        with self._changed:
            if self._closing or self._breaker.open:
                return
            for block in blocks:
                if len(self._touches) >= _TOUCHES_MAX:
                    break
                self._touches[block.key] = block
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the thread; what was not answered is answered with misses."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._serve()
        except Exception:  # noqa: BLE001 - logged, and nobody waits
            _log.exception(
                "MemKV: a look-up failed in a way that nobody foresaw. The pool is left alone from "
                "now on: everything is a miss and nothing is stored"
            )
            self._breaker.give_up()
            self._suspected()
        with self._changed:
            self._closing = True
            left, self._asking, self._wanted = self._asking + self._wanted, [], []
        for one in left:
            if not one.future.done():
                one.future.set_result(Found((False,) * len(one.blocks), 0.0))

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._touches or self._closing)
                if self._closing:
                    return
                self._asking, self._wanted = self._wanted, []
                touches = [] if self._asking else self._some_touches()
            if self._asking:
                blocks = [block for one in self._asking for block in one.blocks]
                self._answer(self._asking, self._ask(blocks))
                self._asking = []
            else:
                self._ask(touches)

    def _some_touches(self) -> list[Block]:
        keys = list(itertools.islice(self._touches, _SLICE))
        return [self._touches.pop(key) for key in keys]

    def _ask(self, blocks: Sequence[Block]) -> list[bool]:
        there: list[bool] = []
        for first in range(0, len(blocks), _SLICE):
            there += self._ask_slice(blocks[first : first + _SLICE])
        return there

    def _ask_slice(self, blocks: Sequence[Block]) -> list[bool]:
        if self._breaker.open:
            return [False] * len(blocks)
        records = [record_of(block.key, block.group) for block in blocks]
        began = self._clock()
        try:
            answers = self._port.query(records)
        except MemKVError as error:
            self._counts.failed(error)
            return [False] * len(blocks)
        late = self._clock() - began >= _LATE * self._timeout_s
        there = [answer is not None for answer in answers]
        if late and not any(there):
            self._breaker.suspect()
            self._suspected()
        return there

    def _answer(self, wanted: Sequence[_Wanted], there: Sequence[bool]) -> None:
        first = 0
        for one in wanted:
            last = first + len(one.blocks)
            found = Found(tuple(there[first:last]), self._clock() - one.asked_at)
            self._counts.looked_up(len(found.there), sum(found.there), found.seconds)
            one.future.set_result(found)
            first = last
