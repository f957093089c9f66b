"""Placement: which node of the map holds a group; weighted rendezvous hashing in integers.

`docs/formats/placement.md` is the algorithm, step by step; `plugin_src/client/placement.cpp` is its
twin and `tests/golden/placement.json` holds the two together. Change none of them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, cmp_to_key
from typing import NamedTuple

__all__ = [
    "Fingerprint",
    "PlacementNode",
    "group_fingerprint",
    "node_id_of",
    "place",
    "place_copy",
    "place_ranked",
]

NAMESPACE_BYTES = 16
WEIGHT_MAX = 2**32 - 1
_MASK = 2**64 - 1
_FRACTION_BITS = 56
_ROWS = 1024


class Fingerprint(NamedTuple):
    """128 bits that stand for a text."""

    high: int
    low: int


class PlacementNode(NamedTuple):
    """A node of the map. A weight of 0 is never chosen; a domain of 0 is the node alone."""

    id: int
    weight: int
    domain: int = 0


def group_fingerprint(namespace: bytes, group: bytes) -> Fingerprint:
    """The fingerprint by which a group is placed. The namespace has 16 bytes."""
    if len(namespace) != NAMESPACE_BYTES:
        raise ValueError(f"a namespace has {NAMESPACE_BYTES} bytes, this one {len(namespace)}")
    return _siphash128(bytes(namespace) + bytes(group))


def node_id_of(address: str) -> int:
    """The id of the node whose address stands in the map as this text."""
    return _siphash128(address.encode()).high


def place(group: Fingerprint, nodes: Sequence[PlacementNode]) -> int | None:
    """The index of the node that holds the group; None when no node has a weight."""
    best: _Draw | None = None
    for draw in _draws(group, nodes):
        if best is None or _order(draw, best) < 0:
            best = draw
    return None if best is None else best.position


def place_ranked(group: Fingerprint, nodes: Sequence[PlacementNode], count: int) -> list[int]:
    """The indices of the best `count` nodes, the best first; fewer when fewer have a weight."""
    if count < 0:
        raise ValueError(f"count is how many nodes to name, at least 0, not {count}")
    ranked = sorted(_draws(group, nodes), key=cmp_to_key(_order))
    return [draw.position for draw in ranked[:count]]


def place_copy(group: Fingerprint, nodes: Sequence[PlacementNode]) -> int | None:
    """The index of the node for a second copy (section 4); None when there is no other node."""
    ranked = sorted(_draws(group, nodes), key=cmp_to_key(_order))
    if not ranked:
        return None
    first, *others = ranked
    domain = nodes[first.position].domain
    others = [draw for draw in others if draw.id != first.id]
    apart = [draw for draw in others if domain == 0 or nodes[draw.position].domain != domain]
    best = next(iter(apart or others), None)
    return None if best is None else best.position


class _Draw(NamedTuple):
    distance: int
    weight: int
    id: int
    position: int


def _draws(group: Fingerprint, nodes: Sequence[PlacementNode]) -> list[_Draw]:
    """What every node that has a weight draws for the group."""
    draws = []
    for index, node in enumerate(nodes):
        if not 0 <= node.weight <= WEIGHT_MAX:
            raise ValueError(
                f"node {index} has weight {node.weight}; weights are 0 to {WEIGHT_MAX}"
            )
        if not 0 <= node.id <= _MASK:
            raise ValueError(f"node {index} has id {node.id}; ids are unsigned 64-bit numbers")
        if node.weight > 0:
            distance = _distance(_hash(group, node.id))
            draws.append(_Draw(distance, node.weight, node.id, index))
    return draws


def _order(a: _Draw, b: _Draw) -> int:
    """Negative when a comes before b (section 4 of the page)."""
    difference = a.distance * b.weight - b.distance * a.weight
    if difference != 0:
        return difference
    return -1 if (a.id, a.position) < (b.id, b.position) else 1


def _hash(group: Fingerprint, node_id: int) -> int:
    """The number that the group has on the node (section 2)."""
    return _mix(_mix(group.high ^ node_id) ^ group.low)


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _MASK
    return z ^ (z >> 31)


def _distance(hashed: int) -> int:
    """-log2 of the hash read as a number in (0, 1), with 56 fractional bits (section 3)."""
    table = _log_table()
    middle = hashed | 1
    zeros = 64 - middle.bit_length()
    fraction = middle << (zeros + 1) & _MASK
    row = fraction >> 54
    into_row = fraction << 10 & _MASK
    log = table[row] + ((table[row + 1] - table[row]) * into_row >> 64)
    return ((zeros + 1) << _FRACTION_BITS) - log


@cache
def _log_table() -> tuple[int, ...]:
    """floor(2^56 * log2(1 + i / 1024)) for i = 0 to 1024 (section 5)."""
    return (*(_log2_of_row(row) for row in range(_ROWS)), 1 << _FRACTION_BITS)


def _log2_of_row(row: int) -> int:
    y = (_ROWS + row) << 53
    log = 0
    for _ in range(_FRACTION_BITS):
        y = y * y >> 63
        log <<= 1
        if y >> 64:
            y >>= 1
            log += 1
    return log


def _siphash128(text: bytes) -> Fingerprint:
    """SipHash-2-4 with 128-bit output under the published key of 16 zero bytes (section 1)."""
    v0, v1, v2, v3 = (
        0x736F6D6570736575,
        0x646F72616E646F6D ^ 0xEE,
        0x6C7967656E657261,
        0x7465646279746573,
    )
    tail = len(text) // 8 * 8
    last = text[tail:] + bytes(7 - len(text) % 8) + bytes([len(text) & 0xFF])
    for at in range(0, tail + 8, 8):
        word = int.from_bytes(text[at : at + 8] if at < tail else last, "little")
        v0, v1, v2, v3 = _rounds(2, v0, v1, v2, v3 ^ word)
        v0 ^= word
    v0, v1, v2, v3 = _rounds(4, v0, v1, v2 ^ 0xEE, v3)
    high = v0 ^ v1 ^ v2 ^ v3
    v0, v1, v2, v3 = _rounds(4, v0, v1 ^ 0xDD, v2, v3)
    return Fingerprint(high, v0 ^ v1 ^ v2 ^ v3)


def _rounds(count: int, v0: int, v1: int, v2: int, v3: int) -> tuple[int, int, int, int]:
    for _ in range(count):
        v0 = v0 + v1 & _MASK
        v1 = _rotate(v1, 13) ^ v0
        v0 = _rotate(v0, 32)
        v2 = v2 + v3 & _MASK
        v3 = _rotate(v3, 16) ^ v2
        v0 = v0 + v3 & _MASK
        v3 = _rotate(v3, 21) ^ v0
        v2 = v2 + v1 & _MASK
        v1 = _rotate(v1, 17) ^ v2
        v2 = _rotate(v2, 32)
    return v0, v1, v2, v3


def _rotate(z: int, bits: int) -> int:
    return (z << bits | z >> (64 - bits)) & _MASK
