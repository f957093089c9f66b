"""The parts of SGLang's backend that need no SGLang: runs, what counts, the router's index."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._mooncake_events import Index, check_endpoint, publishes_itself
from memkv_nixl.kvbm._sglang_fields import HARMLESS, HARMLESS_GROUPS, meaning_of
from memkv_nixl.kvbm._sglang_meaning import _refuse_coarse_images
from memkv_nixl.kvbm._sglang_pools import Ranks
from memkv_nixl.kvbm._sglang_runs import begins_run, refuse_lead, runs_of, sure_runs_of


def chain(pages: int, seed: int = 0) -> list[bytes]:
    """The keys of a prompt, each a hash over the one before it."""
    keys: list[bytes] = []
    for i in range(pages):
        before = keys[-1] if keys else b""
        keys.append(hashlib.sha256(before + b"%d %d" % (seed, i)).hexdigest().encode())
    return keys


def test_first_pages_cannot_lie_alone() -> None:
    refuse_lead(0)
    with pytest.raises(ConfigError, match="lead_blocks: 2, but SGLang"):
        refuse_lead(2)


@given(st.integers(0, 2**32), st.integers(1, 64), st.lists(st.integers(1, 40), max_size=8))
def test_whoever_stores_in_pieces_names_the_same_runs(
    seed: int, run_pages: int, pieces: list[int]
) -> None:
    keys = chain(sum(pieces), seed)
    whole = runs_of([], keys, run_pages)
    first = 0
    for pages in pieces:
        last = first + pages
        assert runs_of(keys[:first], keys[first:last], run_pages) == whole[first:last]
        first = last
    assert len(whole) == len(keys)


@given(st.integers(0, 2**32), st.integers(1, 64), st.integers(0, 60))
def test_whoever_loads_is_right_or_knows_that_it_is_not_sure(
    seed: int, run_pages: int, start: int
) -> None:
    keys = chain(100, seed)
    whole = runs_of([], keys, run_pages)
    sure = sure_runs_of(keys[start:], run_pages)
    for run, truth in zip(sure, whole[start:], strict=True):
        assert run is None or run == truth
    known = [run is not None for run in sure]
    assert all(not before or after for before, after in pairwise(known))  # sure from there on


def test_a_run_has_as_many_pages_as_was_said_on_the_average() -> None:
    keys = chain(20_000)
    for run_pages in (4, 16):
        begun = sum(begins_run(key, run_pages) for key in keys)
        assert 0.9 < begun * run_pages / len(keys) < 1.1


def test_every_setting_counts_unless_a_list_says_why_not() -> None:
    groups = {"dtype": "model", "host": "serving", "cuda_graph_bs_decode": "exec.graph"}
    groups |= {"hicache_size": "memory", "of_a_later_sglang": "exec.graphics", "no_group": ""}
    said = dict.fromkeys(groups, "x")
    assert set(meaning_of(said, groups)) == {"dtype", "of_a_later_sglang", "no_group"}
    assert "dtype" not in HARMLESS
    assert "model" not in HARMLESS_GROUPS


@pytest.mark.parametrize(
    ("ranks", "own", "shared"),
    [
        (Ranks(0, 1, 0, 1, 0, 1, False), "0", ""),
        (Ranks(3, 4, 0, 1, 0, 1, False), "3", ""),
        (Ranks(1, 2, 1, 2, 0, 1, False), "1_1", "1"),
        (Ranks(1, 2, 0, 1, 1, 2, False), "1_cp1", "cp1"),
    ],
)
def test_names_of_ranks_are_those_that_the_router_knows(
    ranks: Ranks, own: str, shared: str
) -> None:
    assert ranks.name(shared=False) == own
    assert ranks.name(shared=True) == shared


def test_one_rank_stores_what_all_hold_alike() -> None:
    assert [Ranks(tp, 4, 0, 1, 0, 1, True).writes_shared for tp in range(4)] == [True, *[False] * 3]
    assert all(Ranks(tp, 4, 0, 1, 0, 1, False).writes_shared for tp in range(4))


def told(events: list[dict[str, object]]) -> list[tuple[object, object]]:
    return [(event["event_type"], event["object_key"]) for event in events]


def test_the_router_is_told_once_and_only_of_what_it_knows() -> None:
    index = Index()
    assert told(index.learn(["a", "b"], [])) == [("stored", "a"), ("stored", "b")]
    assert index.learn(["a"], ["c"]) == []
    assert told(index.learn([], ["a", "a"])) == [("removed", "a")]
    assert told(index.everything()) == [("stored", "b")]


def test_there_are_never_more_keys_than_the_router_takes() -> None:
    index = Index(keys_max=3)
    index.learn(["a", "b", "c"], [])
    index.learn(["a"], [])  # heard of again
    assert told(index.learn(["d"], [])) == [("stored", "d"), ("removed", "b")]
    assert len(index) == 3


@pytest.mark.parametrize("endpoint", ["", "5557", "tcp://", "tcp://a", "ipc:///x", "tcp://a:1,b:2"])
def test_what_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        check_endpoint(endpoint)


def test_an_engine_publishes_itself_where_the_address_is_its_own() -> None:
    for endpoint, itself in (("tcp://*:5557", True), ("tcp://relay:5556", False)):
        check_endpoint(endpoint)
        assert publishes_itself(endpoint) is itself


def test_images_of_thirty_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {}}))
    with pytest.raises(ConfigError, match=r"30 bits.*0\.5\.23"):
        _refuse_coarse_images(tmp_path, "sglang/0.5.21")
    _refuse_coarse_images(tmp_path, "sglang/0.5.23")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Llama"]}))
    _refuse_coarse_images(tmp_path, "sglang/0.5.21")
