"""Transfer: a put or get under way, for whoever does not want to wait in the call itself."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Iterator

from memkv_nixl._errors import UnreachableError
from memkv_nixl._port import Port, Posted
from memkv_nixl._status import Status, status_of_code

# NIXL tells nobody when a request ends: one has to ask. Often at first, for small blocks, then
# less; at the longest pause asking costs less than 1 % of a core.
_PAUSE_S_FIRST = 20e-6
_PAUSE_S_LAST = 1e-3
_PAUSE_GROWS = 1.3


class Transfer:
    """Blocks under way; `wait()` for it or `await` it, once or often: a Status per key.

    Dropping it cancels it. Until it is over it keeps the buffers alive and they must not be
    written to (nor, of a get, be read). Safe from several threads.
    """

    def __init__(self, port: Port, posted: Posted | None, count: int, deadline_s: float) -> None:
        self._port = port
        self._posted = posted  # None when it is over
        self._count = count
        self._deadline = time.monotonic() + deadline_s
        self._lock = threading.Lock()
        self._statuses: list[Status] = []

    @property
    def done(self) -> bool:
        """Whether it is over; asks NIXL, never waits."""
        with self._lock:
            posted = self._posted
            if posted is not None:
                if self._port.over(posted):
                    self._finish(posted, Status.CANCELLED if self._port.closed else Status.INTERNAL)
                elif time.monotonic() > self._deadline:
                    # The plugin's own deadline has long passed: it does not hold its promise.
                    self._finish(posted, Status.TIMEOUT)
            return self._posted is None

    def wait(self, timeout_s: float | None = None) -> list[Status]:
        """Waits until it is over and gives a status per key, in the order of the keys.

        Raises UnreachableError (code timeout) after `timeout_s`; it then goes on, so wait again or
        cancel. Without one it ends by the agent's own deadline.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        for pause in _pauses():
            if self.done:
                break
            if end is not None and time.monotonic() >= end:
                raise UnreachableError(f"not over after {timeout_s:g} s", "timeout")
            time.sleep(pause)
        return list(self._statuses)

    def cancel(self) -> None:
        """Ends it now. Afterwards the buffers are the caller's; what was not over is CANCELLED."""
        with self._lock:
            if self._posted is not None:
                self._finish(self._posted, Status.CANCELLED)

    def surely_cancel(self) -> None:
        """`cancel`, also when a second signal breaks into the first."""
        try:
            self.cancel()
        finally:
            self.cancel()

    def __await__(self) -> Generator[object, None, list[Status]]:
        return self._awaited().__await__()

    async def _awaited(self) -> list[Status]:
        try:
            for pause in _pauses():
                if self.done:
                    break
                await asyncio.sleep(pause)
        except BaseException:  # a cancelled task, or what a signal handler raises
            self.surely_cancel()
            raise
        return list(self._statuses)

    def _finish(self, posted: Posted, without_statuses: Status) -> None:
        """Takes it back from NIXL; blocks that nothing is known of have `without_statuses`."""
        self._port.let_go(posted)
        codes = posted.statuses
        if codes is not None and len(codes) == self._count:
            self._statuses = [status_of_code(code) for code in codes]
        else:
            self._statuses = [without_statuses] * self._count
        self._posted = None  # and with it the buffers

    def __del__(self) -> None:
        posted = self.__dict__.get("_posted")
        if posted is not None:
            self._port.abandon(posted)


def _pauses() -> Iterator[float]:
    pause = _PAUSE_S_FIRST
    while True:
        yield pause
        pause = min(pause * _PAUSE_GROWS, _PAUSE_S_LAST)
