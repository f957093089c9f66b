"""How late this machine is: how long threads that want to run have to wait for a core.

Deadlines are promises of the store; when a thread gets to run is the machine's business. Whoever
judges by the clock adds what was measured here at the same time: `Noise` in the process that made a
request, `waited_s` of other processes, as the kernel counts it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

_EVERY_S = 0.005


def waited_s(pid: int) -> float:
    """How long the thread of this process that waited longest did so, since it started."""
    waits = [0]
    for stat in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            waits.append(int(stat.read_text("ascii").split()[1]))
    return max(waits) / 1e9


class Noise:
    """Measures from now on; use it in a `with`."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._late: list[tuple[float, float, float]] = []
        self._thread = threading.Thread(target=self._measure, name="noise", daemon=True)

    def __enter__(self) -> Noise:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def worst(self, begin: float = 0.0, end: float = float("inf")) -> float:
        """The longest wait of those that lie in or across this time."""
        return max((late for a, b, late in self._late if a <= end and b >= begin), default=0.0)

    def note(self, begin: float, end: float, late: float) -> None:
        """A thread that wanted to run at `begin` had to wait for so long, until `end`."""
        self._late.append((begin, end, late))

    def _measure(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(_EVERY_S):
            now = time.monotonic()
            late = now - last - _EVERY_S
            if late > _EVERY_S:
                self.note(last, now, late)
            last = now
