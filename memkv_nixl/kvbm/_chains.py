"""Chains: where a request's keys stand, and so which blocks lie together.

A prompt's blocks form a chain: each key stands for all tokens up to its end. Runs of `group_blocks`
of them are placed together under the name of the run's first key, their ancestor, so that a look-up
asks few nodes and a lost node costs whole runs, not a hole in every run. A writer and a reader find
the same name because the chain up to a key is the same for everybody who has that key.

The first `lead_blocks` lie each for itself: what all prompts begin with would draw the rest of its
run, of every prompt, onto its own node (docs/evidence/placement.md).
"""

from __future__ import annotations

from typing import NamedTuple


class Block(NamedTuple):
    """A block as the pool knows it."""

    key: bytes
    group: bytes
    depth: int


def run_begins(place: int, group_blocks: int, lead_blocks: int) -> int:
    """The place of the block that a place's run is named after."""
    behind = place - lead_blocks
    return place if behind < 0 else place - behind % group_blocks


class Chain:
    """The keys of one request in one series of blocks, by their place."""

    def __init__(self, tokens_per_block: int, group_blocks: int, lead_blocks: int = 0) -> None:
        self._tokens_per_block = tokens_per_block
        self._group_blocks = group_blocks
        self._lead_blocks = lead_blocks
        self._keys: dict[int, bytes] = {}

    def learn(self, key: bytes, end_token: int) -> None:
        """A key ends with this token (the first token is 1)."""
        if end_token % self._tokens_per_block == 0:  # a part of a block is nobody's ancestor
            self._keys[self.place_of(end_token)] = key

    def place_of(self, end_token: int) -> int:
        """The place of the block that ends with this token; the first is 0."""
        return (end_token - 1) // self._tokens_per_block

    def block(self, key: bytes, end_token: int) -> Block | None:
        """The block of a key; None where its ancestor was never learnt."""
        place = self.place_of(end_token)
        first = run_begins(place, self._group_blocks, self._lead_blocks)
        partial = end_token % self._tokens_per_block != 0
        ancestor = key if partial and first == place else self._keys.get(first)
        return None if ancestor is None else Block(key, ancestor, place)
