"""MemKVAdapter under LMCache's own storage manager: its controllers order, poll, lock and unlock.

`python -m tests.engines.lmcache_manager_cases NODES` runs every `case_` here with LMCache's Python
and prints a line of JSON, as meaning_cases.py does. Only the engine that stores and prefetches is
played here.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from lmcache.v1.distributed.api import GroupedObjectKeys, ObjectKey, PrefetchTaskSpec
from lmcache.v1.distributed.config import get_arg_parser, parse_args_to_config
from lmcache.v1.distributed.storage_manager import StorageManager

from memkv_nixl.cli._config_lmcache import server_flags
from memkv_nixl.store import Cluster
from tests.engines.lmcache_cases import LAYOUT, bits, bytes_of, keys_of, outcome_of, salt, until

NODES: tuple[str, ...] = ()
RANKS = [ObjectKey.ComputeKVRank(2, rank, 2, rank) for rank in range(2)]
_OF_THE_MANAGER = ("--l1-size-gb", "--eviction-policy", "--l2-adapter")


@contextmanager
def manager(nodes: tuple[str, ...] = (), **settings: Any) -> Iterator[Any]:
    """A storage manager, set up as the server with the flags of `memkv config lmcache` does it."""
    patient = {"lookup_timeout_ms": 5000, "fetch_deadline_ms": 60_000}
    said = {"nodes": ",".join(nodes or NODES), **patient, **settings}
    flags = server_flags(said, 128 << 20, 5555, 256)
    pairs = dict(zip(flags[::2], flags[1::2], strict=True))
    words = [word for name in _OF_THE_MANAGER for word in (name, pairs[name])]
    one = StorageManager(parse_args_to_config(get_arg_parser().parse_args(words)))
    try:
        yield one
    finally:
        one.close()


def rows_of(count: int, name: int = 0) -> list[list[Any]]:
    """The keys of a prompt's chunks, a row per rank."""
    return [keys_of(count, name, kv_rank=rank) for rank in RANKS]


def store(one: Any, rows: list[list[Any]], seed: int) -> dict[Any, Any]:
    """Stores random bytes, and waits until they are in the pool; what was stored."""
    draw, written = np.random.default_rng(seed), {}
    before = numbers(one)["stored"]
    for row in rows:
        reserved = one.reserve_write(row, LAYOUT)
        assert list(reserved) == row
        for key, item in reserved.items():
            bytes_of(item)[:] = draw.integers(0, 256, item.get_size(), np.uint8)
            written[key] = bytes_of(item).copy()
        one.finish_write(row)
    until(lambda: numbers(one)["stored"] == before + len(written), "the pool has it")
    return written


def prefetch(one: Any, rows: list[list[Any]]) -> Any:
    groups = [GroupedObjectKeys(row, 0, LAYOUT) for row in rows]
    handle = one.submit_prefetch_task(PrefetchTaskSpec(groups))
    found: list[Any] = []

    def over() -> bool:
        result = one.query_prefetch_status(handle)
        if result is not None:
            found.append(result)
        return bool(found)

    until(over, "the prefetch is over")
    return found[0]


def numbers(one: Any) -> dict[str, Any]:
    (adapter,) = one.report_status()["l2_adapters"]
    return dict(adapter)


def check(one: Any, keys: list[Any], written: dict[Any, Any]) -> None:
    """Reads what was prefetched, as a worker does, and lets go of it."""
    with one.read_prefetched_results(keys) as objects:
        assert objects is not None
        for key, item in zip(keys, objects, strict=True):
            assert np.array_equal(bytes_of(item), written[key])
    one.finish_read_prefetched(keys)


def case_another_server_fetches_what_one_stored() -> None:
    word, rows = salt(), rows_of(6)
    with manager(salt=word) as one:
        written = store(one, rows, 1)
        local = prefetch(one, rows)
        assert (local.l1_hit_count, local.l2_hit_count) == (12, 0)
        for row in rows:
            one.finish_read_prefetched(row)
    with manager(salt=word) as other:
        found = prefetch(other, rows)
        assert [bits(row) for row in found.l2_hit_cells] == [[True] * 6] * 2
        assert found.l1_hit_count == 0
        for row in rows:
            check(other, row, written)
        assert numbers(other)["locked_keys"] == 0
        assert numbers(other)["loaded"] == 12


def case_a_chunk_that_a_rank_lacks_ends_the_hit() -> None:
    word, rows = salt(), rows_of(6)
    with manager(salt=word) as one:
        written = store(one, [rows[0], [key for i, key in enumerate(rows[1]) if i != 3]], 2)
    with manager(salt=word) as other:
        found = prefetch(other, rows)
        assert [bits(row) for row in found.hit_cells] == [[True] * 3 + [False] * 3] * 2
        for row in rows:
            check(other, row[:3], written)
        assert numbers(other)["locked_keys"] == 0


def case_a_pool_that_dies_in_between_is_a_miss_and_not_more() -> None:
    rows = rows_of(4)
    with (
        Cluster(1, die_with_parent=True) as cluster,
        manager(cluster.addresses, fetch_deadline_ms=2000) as one,
    ):
        store(one, rows, 3)
        one.clear()
        cluster.kill_node(0)
        found = prefetch(one, rows)
        assert (found.l1_hit_count, found.l2_hit_count) == (0, 0)
        status = one.report_status()
        assert status["is_healthy"]
        assert status["l1_manager"]["staging_object_count"] == 0
        assert numbers(one)["locked_keys"] == 0


def case_an_aborted_request_leaves_nothing_behind() -> None:
    """An error of LMCache's own while it loads: it frees memory that the load may still fill."""
    word, rows = salt(), rows_of(4)
    with manager(salt=word) as one:
        written = store(one, rows, 4)
        one.clear()
        controller = one._prefetch_controller
        poll, failures = controller._poll_load_results, [RuntimeError("once")]

        def fails_once(*given: Any) -> None:
            if failures:
                raise failures.pop()
            poll(*given)

        controller._poll_load_results = fails_once
        assert prefetch(one, rows).l2_hit_count == 0
        assert numbers(one)["locked_keys"] == 0
        found = prefetch(one, rows)
        assert found.l2_hit_count == 8
        for row in rows:
            check(one, row, written)


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    NODES = tuple(sys.argv[1].split(","))
    wanted = sys.argv[2:] or list(CASES)
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(CASES[name]) for name in wanted}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
