"""Announcer: what a router is told of the pool, through the engine's own stream of events.

vLLM describes a block (tokens, parent) only while it remembers what a key consists of: from a store
or a look-up that its host memory answered, until the block leaves host memory. An event about any
other key would be empty, and a router drops it. So keys are announced right after these moments.

Dynamo's router counts how often it was told of a block, and believes that it is gone when it was
told so as often; and it forgets everything when an engine empties its own cache, which nobody tells
a tier. So a key that is announced again is first taken back.

Nobody is told that a block left the pool until somebody asks for it there and it is missing.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from vllm.v1.kv_offload.base import Medium, OffloadingEvent

_REMEMBERED_MAX = 1 << 18  # announced keys; of older ones nobody is told that they are gone


class Announcer:
    """The events of one tier. `publishes` is False where nobody listens."""

    def __init__(self, medium: Medium, publishes: bool) -> None:
        self._medium = medium
        self._publishes = publishes
        self._announced: OrderedDict[bytes, None] = OrderedDict()
        self._events: list[Any] = []

    def there(self, keys: Sequence[bytes]) -> None:
        """The pool has these, and vLLM knows what they consist of."""
        if not self._publishes or not keys:
            return
        self.gone(keys)
        self._announced.update(dict.fromkeys(keys))
        while len(self._announced) > _REMEMBERED_MAX:
            self._announced.popitem(last=False)
        self._events.append(self._event(keys, removed=False))

    def gone(self, keys: Sequence[bytes]) -> None:
        """The pool does not have these; said of those that were announced."""
        gone = [key for key in keys if key in self._announced]
        for key in gone:
            del self._announced[key]
        if gone:
            self._events.append(self._event(gone, removed=True))

    def take(self) -> list[Any]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def forget(self) -> None:
        """vLLM forgets what its keys consist of: what was not taken yet cannot be described."""
        self._events = [event for event in self._events if event.removed]

    def _event(self, keys: Sequence[bytes], *, removed: bool) -> Any:
        # Neither locality nor ownership: Dynamo drops events with a REMOTE one or any owner.
        return OffloadingEvent(keys=list(keys), medium=self._medium, removed=removed)
