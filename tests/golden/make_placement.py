"""Makes tests/golden/placement.json, which holds all implementations of placement together.

Run from the project's root: `python -m tests.golden.make_placement`. The file tells its own rules,
so that an implementation in any language can be held against it; what it follows is
docs/formats/placement.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from memkv_nixl import _placement
from memkv_nixl._placement import Fingerprint, PlacementNode

FILE = Path(__file__).with_name("placement.json")

KEYS = 10_000
KEYS_PER_DIGEST = 100
ROWS = 64
RANKED = 3
DOMAINS = 4
MISSING = 0xFFFFFFFF
MASK = 2**64 - 1

RULES = {
    "numbers": "texts of hex digits are unsigned numbers; a fingerprint is high, then low",
    "maps": "node n of a map has the address node-<n>.memkv.test:7440 and the n-th weight",
    "key i": "namespace[j] = (3 i + j) mod 256 for j = 0..15; the group is the text group-<i> and"
    " then i mod 90 bytes of value i mod 251; it is placed in map i mod <number of maps>",
    "node_ids": "[address, id]",
    "distances": "[hash, distance]",
    "ties": "[fingerprint, [[id, weight] of each node], the best 3 places]",
    "rows": f"[i, fingerprint, the best {RANKED} places] of the first {ROWS} keys",
    "copies": f"for each {KEYS_PER_DIGEST} keys the fingerprint, as below, of the second places of"
    " their groups (ffffffff: none), where node n of a map is in the failure domain"
    f" (n * 7) mod {DOMAINS}, and 0 is the node alone",
    "digests": f"for each {KEYS_PER_DIGEST} keys the fingerprint, under the published key, of"
    f" their best {RANKED} places as 32-bit little-endian numbers, ffffffff where there is none",
}

MAPS: dict[str, list[int]] = {
    "one": [1],
    "one without weight": [0],
    "two equal": [5, 5],
    "two unequal": [1, 1000],
    "three equal": [1, 1, 1],
    "three, one drained": [7, 0, 7],
    "seven unequal": [1, 2, 3, 4, 5, 6, 7],
    "seven with the largest weights": [MISSING, MISSING - 1, 0, 1, 2**31, 65536, MISSING],
    "125 equal": [16] * 125,
    "125 unequal": [0 if n % 17 == 5 else 1 + n * n % 11 for n in range(125)],
}

ADDRESSES = ["", "a", "node-0.memkv.test:7440", "10.0.0.1:7440", "[fd00::1]:7440", "knoten-ü:1"]


def address(index: int) -> str:
    return f"node-{index}.memkv.test:7440"


def map_nodes(weights: list[int]) -> list[PlacementNode]:
    return [
        PlacementNode(_placement.node_id_of(address(index)), weight)
        for index, weight in enumerate(weights)
    ]


def key_fingerprint(i: int) -> Fingerprint:
    namespace = bytes((3 * i + j) % 256 for j in range(16))
    return _placement.group_fingerprint(
        namespace, f"group-{i}".encode() + bytes([i % 251]) * (i % 90)
    )


def hex64(number: int) -> str:
    return f"{number:016x}"


def fingerprint_text(fingerprint: Fingerprint) -> str:
    return hex64(fingerprint.high) + hex64(fingerprint.low)


def distance_rows() -> list[list[str]]:
    """The edges of the range, of the powers of two and of the table's rows, and some in between."""
    hashes = {0, 1, 2, 3, MASK, MASK - 1}
    for bit in (1, 2, 9, 10, 11, 31, 32, 52, 53, 54, 62, 63):
        hashes |= {(1 << bit) - 1, 1 << bit, (1 << bit) + 1}
    for row in (0, 1, 511, 512, 1022, 1023):
        hashes |= {1 << 63 | row << 53, 1 << 63 | row << 53 | (1 << 53) - 1}
    hashes |= {_placement._mix(seed) >> seed for seed in range(64)}
    return [[hex64(hashed), hex64(_placement._distance(hashed))] for hashed in sorted(hashes)]


def unmix(z: int) -> int:
    """The number whose mix() is z."""
    z ^= z >> 31 ^ z >> 62
    z = z * pow(0x94D049BB133111EB, -1, 2**64) & MASK
    z ^= z >> 27 ^ z >> 54
    z = z * pow(0xBF58476D1CE4E5B9, -1, 2**64) & MASK
    return z ^ z >> 30 ^ z >> 60


def tie_rows() -> list[list[Any]]:
    """Nodes whose hashes differ in the dropped bit alone, so that they draw the same."""
    rows: list[list[Any]] = []
    for i in range(8):
        group = key_fingerprint(i)
        one = _placement.node_id_of(address(i))
        hashed = _placement._hash(group, one)
        other = group.high ^ unmix(unmix(hashed ^ 1) ^ group.low)
        for ids in ((one, other), (other, one), (other, other, one), (one, other, one)):
            nodes = [PlacementNode(node_id, 9) for node_id in ids]
            rows.append(
                [
                    fingerprint_text(group),
                    [[hex64(node.id), node.weight] for node in nodes],
                    _placement.place_ranked(group, nodes, RANKED),
                ]
            )
    return rows


def place_keys() -> list[tuple[Fingerprint, list[int]]]:
    maps = [map_nodes(weights) for weights in MAPS.values()]
    placed = []
    for i in range(KEYS):
        group = key_fingerprint(i)
        placed.append((group, _placement.place_ranked(group, maps[i % len(maps)], RANKED)))
    return placed


def digest(placed: list[tuple[Fingerprint, list[int]]], each: int = RANKED) -> str:
    text = b"".join(
        index.to_bytes(4, "little")
        for _, ranked in placed
        for index in ranked + [MISSING] * (each - len(ranked))
    )
    return fingerprint_text(_placement._siphash128(text))


def copy_keys() -> list[tuple[Fingerprint, list[int]]]:
    maps = [
        [node._replace(domain=n * 7 % DOMAINS) for n, node in enumerate(map_nodes(weights))]
        for weights in MAPS.values()
    ]
    placed = []
    for i in range(KEYS):
        group = key_fingerprint(i)
        copy = _placement.place_copy(group, maps[i % len(maps)])
        placed.append((group, [MISSING if copy is None else copy]))
    return placed


def golden() -> dict[str, Any]:
    placed = place_keys()
    copies = copy_keys()
    return {
        "made_by": "python -m tests.golden.make_placement",
        "rules": RULES,
        "maps": [{"name": name, "weights": weights} for name, weights in MAPS.items()],
        "node_ids": [[text, hex64(_placement.node_id_of(text))] for text in ADDRESSES],
        "distances": distance_rows(),
        "ties": tie_rows(),
        "rows": [
            [i, fingerprint_text(group), ranked] for i, (group, ranked) in enumerate(placed[:ROWS])
        ],
        "copies": [
            digest(copies[start : start + KEYS_PER_DIGEST], 1)
            for start in range(0, KEYS, KEYS_PER_DIGEST)
        ],
        "digests": [
            digest(placed[start : start + KEYS_PER_DIGEST])
            for start in range(0, KEYS, KEYS_PER_DIGEST)
        ],
    }


def render(values: dict[str, Any]) -> str:
    """JSON with one row a line, so that a change shows as the rows it changes."""
    fields = []
    for name, value in values.items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            fields.append(f'"{name}": [\n{rows}\n]')
        else:
            fields.append(f'"{name}": {json.dumps(value, ensure_ascii=False, indent=2)}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(render(golden()), encoding="utf-8")
    print(f"wrote {FILE.name}")
