"""The parts of LMCache's adapter that know nothing of LMCache."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._lmcache_keys import block_of, is_serialized, layout_of, marked, meaning_of
from memkv_nixl.kvbm._lmcache_settings import DEADLINE_MS_MAX, adapter_settings
from memkv_nixl.kvbm._lmcache_tasks import Locks, Outcomes
from memkv_nixl.kvbm._lmcache_version import engine_name, refuse_unknown_lmcache


@dataclasses.dataclass(frozen=True)
class Key:
    """The fields of LMCache's ObjectKey; tests/engines holds the real one against this."""

    chunk_hash: bytes = b"\1" * 32
    model_name: str = "a model"
    kv_rank: int = 0x01000100
    object_group_id: int = 0
    cache_salt: str = ""


HALF = layout_of([[2, 4, 256, 128]], ["torch.float16"])


def test_the_name_says_what_it_means_and_not_where_it_lies() -> None:
    name = marked("/models/x", bytes(range(16)))
    assert meaning_of(name) == "##memkv-000102030405060708090a0b0c0d0e0f"
    assert meaning_of(name) == meaning_of(marked("org/other", bytes(range(16))))
    assert meaning_of(name) != meaning_of(marked("/models/x", bytes(16)))
    # LMCache adds what it knows of context parallelism.
    assert meaning_of(name + "##lmcache-dcp-layout-v1-d2-interleave4") not in (
        None,
        meaning_of(name),
    )


@pytest.mark.parametrize("name", ["x", "x##memkv-", "x##memkv-0123", "x##memkv-" + 33 * "0"])
def test_without_a_whole_mark_a_name_means_nothing(name: str) -> None:
    assert meaning_of(name) is None


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_hash": b"\2" * 32},
        {"kv_rank": 0x02000200},
        {"object_group_id": 1},
        {"cache_salt": "alice"},
    ],
)
def test_whatever_the_key_says_counts(change: dict[str, Any]) -> None:
    key = Key()
    assert (
        block_of(key, "m", HALF).key != block_of(dataclasses.replace(key, **change), "m", HALF).key
    )


def test_meaning_and_layout_count() -> None:
    keys = {
        block_of(Key(), meaning, layout).key
        for meaning in ("m", "n")
        for layout in (
            HALF,
            layout_of([[2, 4, 256, 128]], ["torch.bfloat16"]),
            layout_of([[2, 8, 128, 128]], ["torch.float16"]),
            layout_of([[2, 4, 256], [128]], ["torch.float16", "torch.float16"]),
        )
    }
    assert len(keys) == 8


def test_a_row_of_bytes_is_told_from_a_cache_of_bytes() -> None:
    assert is_serialized(layout_of([[4096]], ["torch.uint8"]))
    assert not is_serialized(layout_of([[2, 4, 256, 128]], ["torch.uint8"]))
    assert not is_serialized(layout_of([[4096]], ["torch.float16"]))


def test_fields_do_not_run_into_one_another() -> None:
    one = block_of(Key(cache_salt='b",1'), "a", HALF)
    assert one.key != block_of(Key(cache_salt=",1"), 'a","b"', HALF).key


def test_the_ranks_of_a_chunk_lie_together() -> None:
    blocks = [block_of(Key(kv_rank=rank), "m", HALF) for rank in (1, 2, 3)]
    assert len({block.key for block in blocks}) == 3
    assert len({block.group for block in blocks}) == 1
    assert all(len(block.key) <= 512 for block in blocks)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"lora": "fixed"}, "lora"),
        ({"group_blocks": 8}, "group_blocks"),
        ({"event": True}, "event"),
        ({"fetch_deadline_ms": DEADLINE_MS_MAX + 1}, "fetch_deadline_ms"),
        ({"store_deadline_ms": DEADLINE_MS_MAX + 1}, "store_deadline_ms"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(given: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: "):
        adapter_settings({"nodes": "a:1", **given}, environment={})


@pytest.mark.parametrize("version", ["0.5.5", "0.5.7", "0.6.0", "0.5.60", "1.0"])
def test_another_lmcache_is_refused(version: str) -> None:
    with pytest.raises(ConfigError, match=r"knows 0\.5\.6"):
        refuse_unknown_lmcache(version)


def test_a_build_of_a_known_release_is_that_release() -> None:
    refuse_unknown_lmcache("0.5.6+cu13")
    assert engine_name("0.5.6+cu13") == engine_name("0.5.6") == "lmcache/0.5.6"


class PipeEvent:
    """An event as LMCache makes them where there is no eventfd."""

    def __init__(self) -> None:
        self.reading, self._writing = os.pipe()
        os.set_blocking(self.reading, False)
        self.closed = 0

    def fileno(self) -> int:
        return self.reading

    def notify(self) -> None:
        os.write(self._writing, b"\1")

    def close(self) -> None:
        self.closed += 1
        os.close(self.reading)
        os.close(self._writing)


def test_an_outcome_is_there_once_and_the_event_says_so() -> None:
    event = PipeEvent()
    outcomes: Outcomes[str] = Outcomes(event)
    assert outcomes.take(7) is None
    outcomes.put(7, "seven")
    outcomes.put(8, "eight")
    assert os.read(outcomes.fileno(), 9) == b"\1\1"
    assert outcomes.take(7) == "seven"
    assert outcomes.take(7) is None
    assert outcomes.take_all() == {8: "eight"}
    assert outcomes.take_all() == {}
    outcomes.close()
    outcomes.close()
    outcomes.put(9, "too late")  # touches no event that is closed
    assert event.closed == 1


def locked_twice(locks: Locks) -> None:
    locks.lock(["a", "b"])
    locks.lock(["a"])


@pytest.mark.parametrize(
    ("unlocks", "free"), [(["a"], []), (["b"], ["b"]), (["a", "a"], ["a"]), (["c"], ["c"])]
)
def test_the_last_unlock_counts(unlocks: list[str], free: list[str]) -> None:
    locks = Locks()
    locked_twice(locks)
    assert locks.unlock(unlocks) == free


def test_nothing_stays_of_what_is_unlocked() -> None:
    locks = Locks()
    locked_twice(locks)
    locks.unlock(["a", "b", "a"])
    assert len(locks) == 0
