"""MemKVAdapter as LMCache itself makes it, over real nodes; no server and no engine is started.

`python -m tests.engines.lmcache_cases NODES` runs every `case_` here with LMCache's Python and
prints a line of JSON, as meaning_cases.py does. Keys, memory, events and the maker of the adapter
are LMCache's; only its two controllers, which order and poll, are played here.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lmcache
import numpy as np
import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.config import L1MemoryManagerConfig
from lmcache.v1.distributed.internal_api import L2AdapterListener
from lmcache.v1.distributed.l2_adapters import create_l2_adapter
from lmcache.v1.distributed.l2_adapters.config import parse_args_to_l2_adapters_config
from lmcache.v1.distributed.memory_manager.l1_memory_manager import L1MemoryManager
from lmcache.v1.platform import consume_fd

from memkv_nixl._errors import ConfigError
from memkv_nixl.cli._config_lmcache import server_flags
from memkv_nixl.kvbm._lmcache_keys import marked
from memkv_nixl.store import Cluster
from tests.agent import given
from tests.agent.given import halted

NODES: tuple[str, ...] = ()
BOUND_S = 30.0
MODEL = marked("/models/tiny", bytes(16))
LAYOUT = MemoryLayoutDesc([torch.Size([2, 4, 256, 64])], [torch.float32])  # 512 KiB
_salts = itertools.count(1)


class Listener(L2AdapterListener):  # type: ignore[misc]
    """Hears what the adapter says of its keys."""

    def __init__(self) -> None:
        self.stored: list[Any] = []
        self.accessed: list[Any] = []
        self.deleted: list[Any] = []

    def on_l2_keys_stored(self, keys: list[Any], sizes: list[int]) -> None:
        self.stored += list(zip(keys, sizes, strict=True))

    def on_l2_keys_accessed(self, keys: list[Any]) -> None:
        self.accessed += keys

    def on_l2_keys_deleted(self, keys: list[Any]) -> None:
        self.deleted += keys


class Side:
    """One server's memory and adapter."""

    def __init__(self, nodes: tuple[str, ...], settings: dict[str, Any]) -> None:
        self.memory = memory_of(64 << 20)
        patient = {"lookup_timeout_ms": 5000, "fetch_deadline_ms": 60_000}
        said = {"nodes": ",".join(nodes), **patient, **settings}
        self.adapter = adapter_of(said, self.memory.get_l1_memory_desc())
        self.listener = Listener()
        self.adapter.register_listener(self.listener)

    def objects(self, count: int, layout: Any = LAYOUT) -> list[Any]:
        error, objects = self.memory.allocate(layout, count)
        assert len(objects) == count, error
        return objects

    def filled(self, count: int, seed: int, layout: Any = LAYOUT) -> list[Any]:
        objects = self.objects(count, layout)
        draw = np.random.default_rng(seed)
        for item in objects:
            bytes_of(item)[:] = draw.integers(0, 256, item.get_size(), np.uint8)
        return objects

    def store(self, keys: list[Any], objects: list[Any]) -> Any:
        """The outcome of a store, as LMCache's store controller hears it."""
        task = self.adapter.submit_store_task(keys, objects)
        fd = self.adapter.get_store_event_fd()
        return polled(fd, lambda: self.adapter.pop_completed_store_tasks().get(task))

    def look_up(self, keys: list[Any], layout: Any = LAYOUT) -> list[bool]:
        task = self.adapter.submit_lookup_and_lock_task(keys, {0: layout})
        fd = self.adapter.get_lookup_and_lock_event_fd()
        found = polled(fd, lambda: self.adapter.query_lookup_and_lock_result(task))
        assert self.adapter.query_lookup_and_lock_result(task) is None  # once
        return bits(found)

    def load(self, keys: list[Any], objects: list[Any]) -> list[bool]:
        task = self.adapter.submit_load_task(keys, objects)
        fd = self.adapter.get_load_event_fd()
        return bits(polled(fd, lambda: self.adapter.query_load_result(task)))


def memory_of(size: int) -> Any:
    """LMCache's L1."""
    config = L1MemoryManagerConfig(size_in_bytes=size, use_lazy=False, shm_name="")
    return L1MemoryManager(config)


def adapter_of(settings: dict[str, Any], memory: Any) -> Any:
    """The adapter that LMCache makes of what `memkv config lmcache` prints."""
    said = argparse_namespace(server_flags(settings, 1 << 30, 5555, 256)[-1])
    (config,) = parse_args_to_l2_adapters_config(said).adapters
    assert config.shared
    return create_l2_adapter(config, memory)


def argparse_namespace(adapter: str) -> Any:
    import argparse

    from lmcache.v1.distributed.l2_adapters.config import add_l2_adapters_args

    parser = add_l2_adapters_args(argparse.ArgumentParser())
    return parser.parse_args(["--l2-adapter", adapter])


@contextmanager
def side(nodes: tuple[str, ...] = (), **settings: Any) -> Iterator[Side]:
    one = Side(nodes or NODES, settings)
    try:
        yield one
    finally:
        one.adapter.close()
        one.memory.close()


def salt() -> str:
    """Of this case alone, on nodes that all share."""
    return f"case-{os.getpid()}-{next(_salts)}"


def keys_of(count: int, name: int = 0, **fields: Any) -> list[Any]:
    said = {"model_name": MODEL, "kv_rank": ObjectKey.ComputeKVRank(1, 0, 1, 0), **fields}
    return [ObjectKey(chunk_hash=bytes([name, i]) * 16, **said) for i in range(count)]


def bytes_of(item: Any) -> Any:
    return np.frombuffer(memoryview(item.byte_array).cast("B"), np.uint8)


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(bytes_of(a), bytes_of(b)) for a, b in zip(one, other, strict=True))


def bits(bitmap: Any) -> list[bool]:
    return [bool(bitmap.test(i)) for i in range(len(bitmap))]


def polled(fd: int, ask: Callable[[], Any]) -> Any:
    """The outcome, asked for whenever the event is set, as LMCache's controllers do it."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    end = time.monotonic() + BOUND_S
    while time.monotonic() < end:
        if poller.poll(1000):
            consume_fd(fd)
            if (outcome := ask()) is not None:
                return outcome
    raise AssertionError(f"no outcome within {BOUND_S:g} s")


def case_objects_come_back() -> None:
    word = salt()
    with side(salt=word) as one:
        keys, objects = keys_of(20), one.filled(20, 1)
        assert one.look_up(keys) == [False] * 20
        result = one.store(keys, objects)
        assert result.is_successful()
        assert result.bytes_transferred() == sum(item.get_size() for item in objects)
        assert one.listener.stored == [(key, 512 << 10) for key in keys]
        again = one.store(keys, objects)
        assert (again.is_successful(), again.bytes_transferred()) == (True, 0)
        expected = [bytes_of(item).copy() for item in objects]
    with side(salt=word) as other:
        assert other.look_up(keys) == [True] * 20
        assert other.listener.accessed == keys
        targets = other.objects(20)
        assert other.load(keys, targets) == [True] * 20
        assert all(np.array_equal(bytes_of(a), b) for a, b in zip(targets, expected, strict=True))
        other.adapter.submit_unlock(keys)
        assert other.adapter.report_status()["locked_keys"] == 0


def case_the_memory_is_registered_once() -> None:
    with side(salt=salt()) as one:
        memory = one.adapter._tier._port._memory
        assert len(memory) == 1
        assert one.store(keys_of(4), one.filled(4, 2)).is_successful()
        assert len(memory) == 1


def case_what_is_missing_leaves_the_rest() -> None:
    with side(salt=salt()) as one:
        keys, objects = keys_of(6), one.filled(6, 3)
        kept = [0, 1, 3, 5]
        one.store([keys[i] for i in kept], [objects[i] for i in kept])
        assert one.look_up(keys) == [i in kept for i in range(6)]
        targets = one.objects(6)
        assert one.load(keys, targets) == [i in kept for i in range(6)]
        assert same([targets[i] for i in kept], [objects[i] for i in kept])


def case_whatever_differs_is_a_miss() -> None:
    with side(salt=salt()) as one:
        one.store(keys_of(1), one.filled(1, 4))
        assert one.look_up(keys_of(1)) == [True]
        for fields in (
            {"kv_rank": ObjectKey.ComputeKVRank(2, 0, 2, 0)},
            {"cache_salt": "alice"},
            {"object_group_id": 1},
            {"model_name": marked("/models/tiny", b"\1" * 16)},
        ):
            (key,) = keys_of(1, **fields)
            assert one.look_up([key]) == [False], fields
            assert one.load([key], one.objects(1)) == [False], fields
        half = MemoryLayoutDesc([torch.Size([2, 4, 512, 64])], [torch.float16])  # as many bytes
        assert one.look_up(keys_of(1), half) == [False]
        assert one.load(keys_of(1), one.objects(1, half)) == [False]
    for settings in ({"salt": salt()}, {"generation": 1}, {"weights": "others"}):
        with side(**settings) as other:
            assert other.look_up(keys_of(1)) == [False], settings


def case_the_place_of_a_model_means_nothing() -> None:
    with side(salt=salt()) as one:
        one.store(keys_of(1), one.filled(1, 5))
        assert one.look_up(keys_of(1, model_name=marked("org/tiny", bytes(16)))) == [True]


def case_a_model_without_a_mark_is_not_kept() -> None:
    unmarked = keys_of(2, model_name="/models/tiny")
    with side(salt=salt()) as one:
        assert not one.store(unmarked, one.filled(2, 6)).is_successful()
        assert one.look_up(unmarked) == [False] * 2
        assert one.load(unmarked, one.objects(2)) == [False] * 2
        mixed = [unmarked[0], *keys_of(1)]
        assert not one.store(mixed, one.filled(2, 7)).is_successful()
        assert one.look_up(mixed) == [False, True]
        assert [key for key, _ in one.listener.stored] == keys_of(1)
    with side(salt=salt(), weights="of May") as vouched:
        assert vouched.store(unmarked, vouched.filled(2, 6)).is_successful()
        assert vouched.look_up(unmarked) == [True] * 2


def case_hashes_that_may_collide_are_not_kept() -> None:
    short = [ObjectKey(b"\1" * 8, MODEL, 0)]
    with side(salt=salt()) as one:
        assert not one.store(short, one.filled(1, 8)).is_successful()
        assert one.look_up(short) == [False]


def case_what_was_serialised_is_not_kept() -> None:
    row = MemoryLayoutDesc([torch.Size([4096])], [torch.uint8])
    with side(salt=salt()) as one:
        assert not one.store(keys_of(1), one.filled(1, 9, row)).is_successful()


def case_a_chunk_larger_than_a_block_is_not_kept() -> None:
    large = MemoryLayoutDesc([torch.Size([2, 4, 1 << 15, 65])], [torch.float32])
    with side(salt=salt()) as one:
        memory = memory_of(128 << 20)
        _, objects = memory.allocate(large, 1)
        assert not one.store(keys_of(1), objects).is_successful()
        memory.close()


def case_memory_beside_the_l1_is_moved_too() -> None:
    with side(salt=salt()) as one:
        other = memory_of(8 << 20)
        _, objects = other.allocate(LAYOUT, 2)
        for item in objects:
            bytes_of(item)[:] = 7
        assert one.store(keys_of(2), objects).is_successful()
        targets = one.objects(2)
        assert one.load(keys_of(2), targets) == [True] * 2
        assert same(targets, objects)
        other.close()


def case_a_pool_that_is_gone_costs_misses_and_is_found_again() -> None:
    with Cluster(1, die_with_parent=True) as cluster, side(cluster.addresses) as one:
        keys = keys_of(4)
        assert one.store(keys, one.filled(4, 10)).is_successful()
        cluster.kill_node(0)
        assert one.look_up(keys) == [False] * 4
        assert one.load(keys, one.objects(4)) == [False] * 4
        until(lambda: not one.adapter.report_status()["pool_open"], "the pool is gone")
        began = time.perf_counter()
        assert one.look_up(keys) == [False] * 4
        assert not one.store(keys, one.filled(4, 10)).is_successful()
        assert time.perf_counter() - began < 1.0
        assert one.adapter.report_status()["is_healthy"]  # L1 serves on
        cluster.restart_node(0)
        until(lambda: one.adapter.report_status()["pool_open"], "the pool is back")
        fresh = keys_of(4, name=1)
        until(lambda: one.store(fresh, one.filled(4, 11)).is_successful(), "it is used again")


def case_ordering_never_waits() -> None:
    with (
        Cluster(1, die_with_parent=True) as cluster,
        side(cluster.addresses, fetch_deadline_ms=500, store_deadline_ms=500) as one,
    ):
        keys, objects = keys_of(4), one.filled(4, 12)
        assert one.store(keys, objects).is_successful()
        with halted(cluster):
            adapter, targets = one.adapter, one.objects(4)
            began = time.perf_counter()
            tasks = [
                adapter.submit_lookup_and_lock_task(keys, {0: LAYOUT}),
                adapter.submit_load_task(keys, targets),
                adapter.submit_store_task(keys_of(4, name=1), objects),
            ]
            assert time.perf_counter() - began < 0.2
            assert len(set(tasks)) == 3
            load = polled(adapter.get_load_event_fd(), lambda: adapter.query_load_result(tasks[1]))
            assert bits(load) == [False] * 4
            assert 0.3 < time.perf_counter() - began < 5.0


def case_an_unlock_waits_for_all_loads_of_its_objects() -> None:
    with (
        Cluster(1, die_with_parent=True) as cluster,
        side(cluster.addresses, fetch_deadline_ms=500) as one,
    ):
        keys = keys_of(4)
        assert one.store(keys, one.filled(4, 13)).is_successful()
        for _ in range(2):  # two requests of the same prompt
            assert one.look_up(keys) == [True] * 4
        first, second = one.objects(4), one.objects(4)
        with halted(cluster):
            one.adapter.submit_load_task(keys, first)
            one.adapter.submit_load_task(keys, second)
            began = time.perf_counter()
            one.adapter.submit_unlock(keys)  # one is given up: LMCache uses its memory again now
            assert 0.3 < time.perf_counter() - began < 5.0
            began = time.perf_counter()
            one.adapter.submit_unlock(keys)  # the other one; nothing is under way any more
            assert time.perf_counter() - began < 0.2
            for item in first + second:
                bytes_of(item)[:] = 9
        until(lambda: one.look_up(keys) == [True] * 4, "the pool is used again")
        assert all((bytes_of(item) == 9).all() for item in first + second)


def case_closing_ends_everything() -> None:
    with Cluster(1, die_with_parent=True) as cluster, side(cluster.addresses, drain_ms=100) as one:
        one.store(keys_of(1), one.filled(1, 14))
        with halted(cluster):
            one.adapter.submit_store_task(keys_of(4, name=1), one.filled(4, 15))
            began = time.perf_counter()
            one.adapter.close()
            assert time.perf_counter() - began < 3.0
        one.adapter.close()  # LMCache may, when it fails to start


def case_usage_is_what_this_server_put() -> None:
    with side(salt=salt()) as one:
        one.store(keys_of(2, cache_salt="alice"), one.filled(2, 16))
        usage = one.adapter.get_usage()
        assert usage.bytes_by_cache_salt == {"alice": 1 << 20}
        assert usage.usage_fraction == -1.0  # how much the pool may hold is not LMCache's to know
        assert not one.adapter.supports_global_eviction


def case_what_is_deleted_is_gone_for_everybody() -> None:
    word = salt()
    with side(salt=word) as one, side(salt=word) as other:
        keys = keys_of(4)
        one.store(keys, one.filled(4, 17))
        assert one.look_up(keys[:1]) == [True]  # locked
        one.adapter.delete(keys[:3])
        assert one.listener.deleted == keys[1:3]
        assert one.adapter.get_usage().total_bytes_used == 1 << 20
        assert other.look_up(keys) == [True, False, False, True]
        one.adapter.submit_unlock(keys[:1])
        one.adapter.delete(keys[:1])
        assert other.look_up(keys) == [False, False, False, True]


def case_what_may_still_be_there_is_not_said_to_be_gone() -> None:
    with (
        Cluster(1, die_with_parent=True) as cluster,
        side(cluster.addresses, store_deadline_ms=500) as one,
    ):
        keys = keys_of(2)
        one.adapter.delete(keys)  # nobody knows what they look like
        one.store(keys, one.filled(2, 18))
        cluster.kill_node(0)
        one.adapter.delete(keys)
        assert one.listener.deleted == []
        assert one.adapter.get_usage().total_bytes_used == 1 << 20


def case_wrong_settings_are_said() -> None:
    memory = memory_of(8 << 20)
    with refused("did you mean 'fetch_deadline_ms'"):
        adapter_of({"nodes": NODES[0], "fetch_deadline": 3}, memory.get_l1_memory_desc())
    with refused("no store nodes are named"):
        adapter_of({}, memory.get_l1_memory_desc())
    with refused("where its L1 lies"):
        adapter_of({"nodes": NODES[0]}, None)
    memory.close()


def case_another_lmcache_is_refused() -> None:
    known = lmcache.__version__
    try:
        lmcache.__version__ = "0.5.7"
        with refused("this is LMCache 0.5.7"):
            adapter_of({"nodes": NODES[0]}, None)
    finally:
        lmcache.__version__ = known


def refused(sentence: str) -> Any:
    return given.refused(ConfigError, sentence)


def outcome_of(case: Callable[[], None]) -> str:
    try:
        case()
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        return traceback.format_exc()
    return "ok"


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again; there is no event for what it waits for."""
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {BOUND_S:g} s"


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    NODES = tuple(sys.argv[1].split(","))
    wanted = sys.argv[2:] or list(CASES)
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(CASES[name]) for name in wanted}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
