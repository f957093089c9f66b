"""What a tier remembers of each of vLLM's requests; all on the scheduler's thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from memkv_nixl.kvbm._chains import Block, Chain

_LOADS_MAX = 2  # of one key for one request: it may be evicted from host memory once, not forever
_TOKENS_MIN = 128  # a shorter computation says little


def group_of(key: bytes) -> int:
    """The index of the cache group that an OffloadKey ends with."""
    return int.from_bytes(key[-4:], "big")


@dataclass
class RequestState:
    """One request: where its keys stand, what the pool has of them, how fast it is computed."""

    context: Any
    tokens_per_block: Callable[[int], int]
    group_blocks: int
    lead_blocks: int = 0
    verdicts: dict[bytes, bool | None] = field(default_factory=dict)  # None: asked, no answer yet
    loads: dict[bytes, int] = field(default_factory=dict)
    loaded: dict[bytes, None] = field(default_factory=dict)  # and not announced yet, in order
    scheduled: bool = False
    finished: bool = False
    _chains: dict[int, Chain] = field(default_factory=dict)
    _learnt: int = 0
    tokens_per_s: float = 0.0  # that its prompt was computed with, at least; 0 while unknown
    _began: tuple[float, int] | None = None

    def block(self, key: bytes) -> Block | None:
        """The block of a key; None where vLLM never said its place."""
        end = self.context.get_offload_key_position(key)
        if end is None:
            return None
        self._learn()
        chain = self._chains.get(group_of(key))
        return None if chain is None else chain.block(key, end)

    def end_of(self, key: bytes) -> int:
        """The end token of a key."""
        end: int = self.context.get_offload_key_position(key) or 0
        return end

    def _learn(self) -> None:
        """The scheduler notes the place of every key of a request before it asks for one."""
        places = self.context._offload_key_positions
        if len(places) == self._learnt:
            return
        for key, end in islice(places.items(), self._learnt, None):
            group = group_of(key)
            chain = self._chains.get(group)
            if chain is None:
                tokens = self.tokens_per_block(group)
                chain = Chain(tokens, self.group_blocks, self.lead_blocks)
                self._chains[group] = chain
            chain.learn(key, end)
        self._learnt = len(places)

    def may_load(self, key: bytes) -> bool:
        """Whether the pool has a key and the request may still have it loaded."""
        return bool(self.verdicts.get(key)) and self.loads.get(key, 0) < _LOADS_MAX

    def load_began(self, keys: Iterable[bytes]) -> None:
        """Keys are being loaded, and nobody knows from when on the rest is computed."""
        self._began = None
        for key in keys:
            self.loads[key] = self.loads.get(key, 0) + 1

    def load_failed(self, keys: Iterable[bytes]) -> None:
        """The request computes these, whatever the pool says."""
        for key in keys:
            self.verdicts[key] = False

    def computing_from(self, token: int, now: float) -> None:
        """Nothing is loaded: what follows this token is computed from now on."""
        self._began = (now, token)

    def computed_to(self, token: int, now: float) -> None:
        """The prompt is computed up to a token, as its stores show, which come somewhat later.

        Always counted from its beginning: what is stored together was not computed together.
        """
        if self._began is None or now <= self._began[0]:
            return
        tokens = token - self._began[1]
        if tokens >= _TOKENS_MIN:
            self.tokens_per_s = max(self.tokens_per_s, tokens / (now - self._began[0]))


def leading(keys: Sequence[bytes], there: Sequence[bool]) -> dict[int, int]:
    """Per cache group, how many keys can be used: those before the first hole.

    A group whose first key is missing counts all it has: vLLM asks a sliding window from its end.
    """
    counts: dict[int, int] = {}
    totals: dict[int, int] = {}
    broken: set[int] = set()
    for key, has in zip(keys, there, strict=True):
        group = group_of(key)
        if has:
            totals[group] = totals.get(group, 0) + 1
            if group not in broken:
                counts[group] = counts.get(group, 0) + 1
        else:
            broken.add(group)
    return {group: counts.get(group, 0) or total for group, total in totals.items()}
