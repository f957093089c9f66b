"""How a child of the longest-hit connector has to be spoken to.

vLLM asks a connector again when a request had to wait or was preempted, and reports all blocks of a
request again after a load. Its contract allows both. KVBM 1.6.1 stands neither, on stock vLLM and
without anybody beside it (tests/engines/test_kvbm.py holds each of these):

- It keeps its first answer and repeats it when vLLM found more of the prompt itself meanwhile; the
  two together are longer than the prompt.
- Asked about a request that was preempted it raises, which ends the engine.
- It appends the blocks that it is told of. Told of all of them again, it saves the bytes of one
  block under the hash of another, and hands them out later. So it does where a load by another
  child failed and the request begins again with other blocks.

`KvbmManners` keeps these from happening. Nothing here knows vLLM. Thread: the scheduler's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Hit = tuple["int | None", bool]
NO_HIT: Hit = (0, False)


def manners_of(child: Any) -> Manners:
    """By the class: KVBM's own, or one derived from it."""
    staging = any(
        cls.__name__ == "DynamoConnector" and cls.__module__.split(".")[0] == "kvbm"
        for cls in type(child).__mro__
    )
    return KvbmManners(child) if staging else Manners(child)


class Manners:
    """Says everything as vLLM does."""

    def __init__(self, child: Any) -> None:
        self.child = child

    def hit(self, request: Any, computed: int) -> Hit:
        """What the child has beyond `computed` tokens."""
        answer: Hit = self.child.get_num_new_matched_tokens(request, computed)
        return answer

    def allocated(self, request: Any, blocks: Any, tokens: int) -> None:
        """The request has these blocks, and the child is to load so many tokens."""
        self.child.update_state_after_alloc(request, blocks, tokens)

    def forget(self, request_id: str) -> None:
        """The request is over."""


@dataclass
class _Told:
    """What the child knows of a request."""

    staged_at: int | None = None  # how many tokens were computed when it said what it has
    blocks: int = 0  # of each group, that it was told of
    scheduled: bool = False
    preemptions: int = 0
    preempted: bool = False


class KvbmManners(Manners):
    """Asks while the answer can be right, and says every block once."""

    def __init__(self, child: Any) -> None:
        super().__init__(child)
        self._told: dict[str, _Told] = {}

    def hit(self, request: Any, computed: int) -> Hit:
        told = self._told.setdefault(request.request_id, _Told())
        told.preempted |= told.scheduled and request.num_preemptions > told.preemptions
        if told.preempted:
            return NO_HIT
        if told.scheduled:  # and asked about again, not preempted: what another child loaded failed
            self.child.request_finished(request, [])
            told = self._told[request.request_id] = _Told()
        if told.staged_at is not None and told.staged_at != computed:
            return NO_HIT
        answer = super().hit(request, computed)
        if answer[0]:
            told.staged_at = computed
        return answer

    def allocated(self, request: Any, blocks: Any, tokens: int) -> None:
        told = self._told.setdefault(request.request_id, _Told())
        if not told.scheduled:
            told.scheduled, told.preemptions = True, request.num_preemptions
        if told.preempted:  # it starts anew with the blocks of the step in which it goes on
            return
        groups = tuple(list(group)[told.blocks :] for group in blocks.blocks)
        told.blocks = max(len(group) for group in blocks.blocks)
        super().allocated(request, type(blocks)(groups), tokens)

    def forget(self, request_id: str) -> None:
        self._told.pop(request_id, None)
