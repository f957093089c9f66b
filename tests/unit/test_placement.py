"""Placement in Python against its golden file, and the laws its page promises."""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl import _placement
from memkv_nixl._placement import (
    Fingerprint,
    PlacementNode,
    group_fingerprint,
    node_id_of,
    place,
    place_ranked,
)
from tests.golden import make_placement

ids = st.integers(0, 2**64 - 1)
weights = st.integers(0, 2**32 - 1) | st.integers(0, 3)
nodes = st.lists(
    st.builds(PlacementNode, ids, weights), max_size=12, unique_by=lambda node: node.id
)
groups = st.builds(Fingerprint, ids, ids)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(make_placement.FILE.read_text(encoding="utf-8"))
    return loaded


def test_the_golden_file_is_what_its_maker_makes(golden: dict[str, Any]) -> None:
    assert make_placement.golden() == golden
    assert make_placement.render(golden) == make_placement.FILE.read_text(encoding="utf-8")


def test_rows_by_the_public_functions(golden: dict[str, Any]) -> None:
    maps = [make_placement.map_nodes(row["weights"]) for row in golden["maps"]]
    for i, fingerprint, ranked in golden["rows"]:
        group = make_placement.key_fingerprint(i)
        assert f"{group.high:016x}{group.low:016x}" == fingerprint
        assert place_ranked(group, maps[i % len(maps)], 3) == ranked
        assert place(group, maps[i % len(maps)]) == (ranked[0] if ranked else None)


def test_the_table_is_the_floor_of_the_logarithm() -> None:
    table = _placement._log_table()
    with localcontext() as context:
        context.prec = 60
        for row in range(1025):
            log2 = (Decimal(1024 + row) / 1024).ln() / Decimal(2).ln()
            # ln() of 2 over itself is exactly 1 here, so that the last row is exact as well
            assert table[row] == int(log2 * 2**56), row


def test_the_page_has_the_right_example(repo: Any) -> None:
    page = (repo / "docs/formats/placement.md").read_text(encoding="utf-8")
    group = group_fingerprint(bytes(16), b"hello")
    assert f"high 0x{group.high:016x}, low 0x{group.low:016x}" in page
    for address, weight in (("a:1", 1), ("b:1", 3)):
        node_id = node_id_of(address)
        hashed = _placement._hash(group, node_id)
        distance = _placement._distance(hashed)
        row = f"| `{address}` | {weight} | 0x{node_id:016x} | 0x{hashed:016x} | {distance} |"
        assert row in page
    two = [PlacementNode(node_id_of("a:1"), 1), PlacementNode(node_id_of("b:1"), 3)]
    assert place_ranked(group, two, 2) == [1, 0]


def test_siphash_gives_what_openssl_gives() -> None:
    # openssl mac -macopt hexkey:00…00 -macopt size:16 -in <file> SIPHASH
    expected = {
        0: "5049d74780a3e07d4202ab47d4cef2f4",
        1: "d41e12e85e4cafb831f094e57538b801",
        7: "78369bf9405ce46157d77ff83381b2ff",
        8: "4b6534f901eb440ee95540294a75af84",
        9: "d8c7e44c0313eb9659b9a4f89b623e94",
        16: "81ad50ab90f25032a234bb58732a508b",
        21: "b34719645d1b766f9633ab2506cae002",
        100: "f0d44bcbe9d84929cca33124587392eb",
        255: "d891aabf480073f599d66818246b9964",
        256: "911dd6e828caa0253d0da47627abeebb",
    }
    for count, digits in expected.items():
        found = _placement._siphash128(bytes(i % 256 for i in range(count)))
        words = found.high.to_bytes(8, "little") + found.low.to_bytes(8, "little")
        assert words.hex() == digits, count


def test_a_namespace_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="16 bytes, this one 15"):
        group_fingerprint(bytes(15), b"key")


@pytest.mark.parametrize(
    "node", [PlacementNode(1, -1), PlacementNode(1, 2**32), PlacementNode(2**64, 1)]
)
def test_numbers_that_do_not_fit_are_refused(node: PlacementNode) -> None:
    with pytest.raises(ValueError, match="node 0 has"):
        place(Fingerprint(1, 2), [node])


def test_a_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0"):
        place_ranked(Fingerprint(1, 2), [PlacementNode(1, 1)], -1)


def test_nobody_with_a_weight_is_none() -> None:
    assert place(Fingerprint(1, 2), []) is None
    assert place(Fingerprint(1, 2), [PlacementNode(1, 0)]) is None
    assert place_ranked(Fingerprint(1, 2), [PlacementNode(1, 0)], 3) == []


@given(groups, nodes)
def test_ranking_is_place_with_the_better_ones_taken_away(
    group: Fingerprint, given_nodes: list[PlacementNode]
) -> None:
    left = list(given_nodes)
    for index in place_ranked(group, given_nodes, len(given_nodes)):
        assert place(group, left) == index
        left[index] = left[index]._replace(weight=0)
    assert place(group, left) is None


@given(groups, nodes, st.randoms(use_true_random=False))
def test_the_order_of_the_map_moves_nothing(
    group: Fingerprint, given_nodes: list[PlacementNode], random: Any
) -> None:
    shuffled = list(given_nodes)
    random.shuffle(shuffled)
    here = place(group, given_nodes)
    there = place(group, shuffled)
    if here is None or there is None:
        assert here is there
    else:
        assert given_nodes[here] == shuffled[there]


@given(groups, nodes, st.builds(PlacementNode, ids, weights))
def test_joining_moves_groups_only_to_the_new_node(
    group: Fingerprint, given_nodes: list[PlacementNode], new: PlacementNode
) -> None:
    assert place(group, [*given_nodes, new]) in (place(group, given_nodes), len(given_nodes))


@given(groups, nodes.filter(bool), weights)
def test_a_weight_moves_groups_only_in_its_own_direction(
    group: Fingerprint, given_nodes: list[PlacementNode], weight: int
) -> None:
    changed = [given_nodes[0]._replace(weight=weight), *given_nodes[1:]]
    before, after = place(group, given_nodes), place(group, changed)
    if before != after:
        assert (after if weight > given_nodes[0].weight else before) == 0


def test_share_is_the_weight() -> None:
    unequal = make_placement.map_nodes([1, 2, 3])
    count = [0, 0, 0]
    total = 100_000
    for i in range(total):
        index = place(Fingerprint(_placement._mix(i), i), unequal)
        assert index is not None
        count[index] += 1
    for node, found in zip(unequal, count, strict=True):
        assert found == pytest.approx(total * node.weight / 6, rel=0.05)
