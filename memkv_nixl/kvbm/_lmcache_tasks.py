"""Tasks: what LMCache ordered, and how it hears that it is done.

LMCache numbers what it orders, polls one event per kind of order, and asks for the outcome when
the event is set.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable
from typing import Any, Generic, Protocol, TypeVar

Outcome = TypeVar("Outcome")


class Event(Protocol):
    """LMCache's EventNotifier."""

    def fileno(self) -> int:
        """What is polled."""

    def notify(self) -> None:
        """Sets it."""

    def close(self) -> None:
        """Lets go of it."""


class Outcomes(Generic[Outcome]):
    """The outcomes of one kind of order. Thread: any."""

    def __init__(self, event: Event) -> None:
        self._event = event
        self._lock = threading.Lock()
        self._known: dict[int, Outcome] = {}
        self._closed = False

    def fileno(self) -> int:
        """What LMCache polls."""
        return self._event.fileno()

    def put(self, task: int, outcome: Outcome) -> None:
        """An order is over."""
        with self._lock:
            if self._closed:
                return  # NIXL let go of its memory only now; nobody asks any more
            self._known[task] = outcome
            self._event.notify()

    def take(self, task: int) -> Outcome | None:
        """The outcome of one order, once; None while it is not over."""
        with self._lock:
            return self._known.pop(task, None)

    def take_all(self) -> dict[int, Outcome]:
        """All outcomes that nobody took."""
        with self._lock:
            known, self._known = self._known, {}
            return known

    def close(self) -> None:
        """Lets go of the event; a second call does nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._event.close()


class Locks:
    """How often each key is locked by LMCache. Thread: any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Any] = Counter()

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, key: Any) -> bool:
        return key in self._counts

    def lock(self, keys: Iterable[Any]) -> None:
        """Each key once more."""
        with self._lock:
            self._counts.update(keys)

    def unlock(self, keys: Iterable[Any]) -> list[Any]:
        """Each key once less; those that nobody has locked now."""
        free = []
        with self._lock:
            for key in keys:
                self._counts[key] -= 1
                if self._counts[key] <= 0:
                    del self._counts[key]
                    free.append(key)
        return free
