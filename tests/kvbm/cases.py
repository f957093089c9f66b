"""What a Tier does with a real NIXL and real nodes; run as tests/agent/cases.py is."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from memkv_nixl.kvbm._chains import Block, Chain
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._tier import Tier
from memkv_nixl.store import Cluster
from tests.agent.cases import GIVEN, halted, main

SIZE = 256 << 10
ROWS = 128
BOUND_S = 20.0
Rows = np.ndarray[tuple[int, int], np.dtype[np.uint8]]


def region(seed: int) -> Rows:
    """An offload region of random bytes."""
    return np.random.default_rng(seed).integers(0, 256, (ROWS, SIZE), np.uint8)


def chain(count: int, name: bytes = b"chain") -> list[Block]:
    """The blocks of a prompt, in runs of 16."""
    keys = [b"%s-%d" % (name, i) for i in range(count)]
    places = Chain(128, 16)
    for i, key in enumerate(keys):
        places.learn(key, 128 * (i + 1))
    blocks = [places.block(key, 128 * (i + 1)) for i, key in enumerate(keys)]
    return [block for block in blocks if block is not None]


@contextmanager
def tier_on(rows: Rows, nodes: tuple[str, ...] = (), **given: Any) -> Iterator[Tier]:
    tier = Tier(TierSettings(nodes=nodes or GIVEN.nodes, **given), GIVEN.space, rows)
    try:
        yield tier
    finally:
        tier.close()


def row(tier: Tier, index: int) -> Any:
    return tier.part(index * SIZE, SIZE)


def rows_of(tier: Tier, indices: Any) -> list[Any]:
    return [row(tier, index) for index in indices]


def put(tier: Tier, blocks: list[Block], first: int = 0) -> None:
    """Stores blocks out of the rows from `first` on, not more at a time than the queue takes."""
    for i in range(0, len(blocks), 32):
        rows = rows_of(tier, range(first + i, first + min(i + 32, len(blocks))))
        assert all(tier.store(blocks[i : i + 32], rows).result(BOUND_S).done)


def until(condition: Callable[[], bool], what: str) -> None:
    """Asks again and again; there is no event for what it waits for."""
    end = time.monotonic() + BOUND_S
    while not condition():
        assert time.monotonic() < end, f"{what}: not after {BOUND_S:g} s"


def case_blocks_come_back_where_they_are_wanted() -> None:
    rows, blocks = region(1), chain(40)
    with tier_on(rows) as tier:
        assert not any(tier.look_up(blocks).result(BOUND_S).there)
        put(tier, blocks)
        assert all(tier.look_up(blocks).result(BOUND_S).there)
        moved = tier.load(blocks, rows_of(tier, range(60, 100))).result(BOUND_S)
        assert moved.done == (True,) * 40
        assert moved.moved_bytes == 40 * SIZE
        assert np.array_equal(rows[:40], rows[60:100])
        assert tier.numbers.found == 40
        assert tier.pace.bytes_per_s > 0


def case_the_region_is_registered_once() -> None:
    rows, blocks = region(2), chain(8)
    with tier_on(rows) as tier:
        assert len(tier._port._memory) == 1
        stored = tier.store(blocks, rows_of(tier, range(8)))
        assert len(tier._port._memory) == 1
        assert all(stored.result(BOUND_S).done)
        assert all(tier.load(blocks, rows_of(tier, range(8))).result(BOUND_S).done)
        assert len(tier._port._memory) == 1


def case_what_is_there_is_not_sent_again() -> None:
    rows, blocks = region(3), chain(20)
    with tier_on(rows) as tier:
        put(tier, blocks)
        again = tier.store(blocks, rows_of(tier, range(20))).result(BOUND_S)
        assert all(again.done)
        assert again.moved_bytes == 0
        assert tier.numbers.stored_bytes == 20 * SIZE


def case_what_is_missing_leaves_the_rest_loaded() -> None:
    rows, blocks = region(4), chain(32)
    with tier_on(rows) as tier:
        put(tier, blocks[:10])
        put(tier, blocks[12:], first=12)
        expected = rows[:32].copy()
        moved = tier.load(blocks, rows_of(tier, range(64, 96))).result(BOUND_S)
        assert [i for i, done in enumerate(moved.done) if not done] == [10, 11]
        for i in set(range(32)) - {10, 11}:
            assert np.array_equal(rows[64 + i], expected[i])
        assert tier.numbers.loads_failed == 2
        assert tier.open  # the pool answered


def case_another_namespace_has_nothing() -> None:
    rows, blocks = region(5), chain(4)
    with tier_on(rows) as tier:
        put(tier, blocks)
    GIVEN.space = type(GIVEN.space)(model="other", salt=GIVEN.space.salt)
    with tier_on(rows) as tier:
        assert not any(tier.look_up(blocks).result(BOUND_S).there)
        assert not any(tier.load(blocks, rows_of(tier, range(4))).result(BOUND_S).done)


def case_a_frozen_pool_costs_one_lookup_timeout_and_then_nothing() -> None:
    # A busy machine may stand in the way of one try, hardly of all.
    tries = [frozen_pool() for _ in range(3)]
    for name, bound_s in (("asked", 0.005), ("stood", 0.02), ("waited", 0.05), ("after", 0.005)):
        assert min(one[name] for one in tries) < bound_s, (name, tries)


def frozen_pool() -> dict[str, float]:
    """What a pool that answers nothing costs, in seconds."""
    rows, blocks = region(6), chain(16)
    with Cluster(1, die_with_parent=True) as cluster, tier_on(rows, cluster.addresses) as tier:
        put(tier, blocks)
        with halted(cluster):
            began = time.perf_counter()
            future = tier.look_up(blocks)
            cost = {"asked": time.perf_counter() - began}
            assert not any(future.result(BOUND_S).there)
            cost["waited"] = time.perf_counter() - began
            # Whoever schedules goes on while NIXL waits, or while the pool is being probed.
            cost["stood"] = longest_gap(tier.look_up(blocks).done)
            assert not tier.open
            began = time.perf_counter()
            assert not any(tier.look_up(blocks).result(0).there)
            cost["after"] = time.perf_counter() - began
            until(lambda: tier.times_gone == 1, "the pool is found to be gone")
            assert not any(tier.store(blocks, rows_of(tier, range(16))).result(0).done)
        until(lambda: tier.open, "the pool is used again")
        assert all(tier.look_up(blocks).result(BOUND_S).there)
    return cost


def longest_gap(done: Callable[[], bool]) -> float:
    """The longest that a busy thread stood still until it was done."""
    longest, last = 0.0, time.perf_counter()
    while not done():
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return longest


def case_a_killed_pool_costs_nothing_and_is_found_again() -> None:
    rows, blocks = region(7), chain(16)
    with Cluster(2, die_with_parent=True) as cluster, tier_on(rows, cluster.addresses) as tier:
        put(tier, blocks)
        for index in range(2):
            cluster.kill_node(index)
        assert not any(tier.look_up(blocks).result(BOUND_S).there)
        assert not any(tier.load(blocks, rows_of(tier, range(16))).result(BOUND_S).done)
        until(lambda: tier.times_gone == 1, "the pool is found to be gone")
        assert not any(tier.look_up(blocks).result(0).there)
        for index in range(2):
            cluster.restart_node(index)
        until(lambda: tier.open, "the pool is used again")
        later, rows_4 = chain(4, b"later"), rows_of(tier, range(4))
        until(lambda: all(tier.store(later, rows_4).result(BOUND_S).done), "its node is back, too")


def case_a_load_ends_at_its_deadline_and_touches_nothing_more() -> None:
    rows, blocks = region(8), chain(16)
    with (
        Cluster(1, die_with_parent=True) as cluster,
        tier_on(rows, cluster.addresses, fetch_deadline_ms=200) as tier,
    ):
        put(tier, blocks)
        with halted(cluster):
            began = time.perf_counter()
            moved = tier.load(blocks, rows_of(tier, range(64, 80))).result(BOUND_S)
            assert 0.15 < time.perf_counter() - began < 0.5
            assert not any(moved.done)
            rows[64:80] = 7
        until(lambda: tier.open, "the pool is used again")
        assert all(tier.look_up(blocks).result(BOUND_S).there)
        assert (rows[64:80] == 7).all()


def case_killed_in_the_middle_of_a_load() -> None:
    rows, blocks = region(9), chain(64)
    expected = rows.copy()
    with Cluster(1, die_with_parent=True) as cluster, tier_on(rows, cluster.addresses) as tier:
        put(tier, blocks)
        rows[:] = 0
        future = tier.load(blocks, rows_of(tier, range(64)))
        # Somewhere in the middle: the first block has begun to come.
        until(lambda: bool(rows[:64].any()) or future.done(), "the first bytes")
        cluster.kill_node(0)
        moved = future.result(BOUND_S)
        print(f"{sum(moved.done)} of 64 blocks had come")
        for i, done in enumerate(moved.done):
            assert not done or np.array_equal(rows[i], expected[i])


def case_one_node_of_three_is_gone() -> None:
    rows, blocks = region(10), chain(ROWS)
    with Cluster(3, die_with_parent=True) as cluster, tier_on(rows, cluster.addresses) as tier:
        expected = rows.copy()
        put(tier, blocks)
        cluster.kill_node(1)
        there = tier.look_up(blocks).result(BOUND_S).there
        runs = [there[i : i + 16] for i in range(0, ROWS, 16)]
        print(f"runs that are left: {[all(run) for run in runs]}")
        assert all(all(run) or not any(run) for run in runs)  # whole runs, no holes in them
        assert any(all(run) for run in runs)
        kept = [i for i, has in enumerate(there) if has]
        rows[:] = 0
        moved = tier.load([blocks[i] for i in kept], rows_of(tier, kept)).result(BOUND_S)
        assert all(moved.done)
        assert all(np.array_equal(rows[i], expected[i]) for i in kept)
        assert tier.open


def case_what_nobody_foresaw_leaves_nobody_waiting() -> None:
    rows, blocks = region(12), chain(16)
    with tier_on(rows) as tier:
        put(tier, blocks)
        over, failures = tier._port.over, [RuntimeError("once")]

        def fails_once(posted: Any) -> bool:
            if failures:
                raise failures.pop()
            return over(posted)

        tier._port.over = fails_once  # type: ignore[method-assign]
        moved = tier.load(blocks, rows_of(tier, range(64, 80))).result(BOUND_S)
        assert not any(moved.done)
        assert not tier._port._open  # NIXL has nothing of it any more
        assert not any(tier.look_up(blocks).result(0).there)
        assert not any(tier.load(blocks, rows_of(tier, range(16))).result(0).done)
        assert tier.drain(BOUND_S)


def case_in_doubt_a_store_waits_and_is_put() -> None:
    rows, blocks = region(15), chain(16)
    with tier_on(rows) as tier:
        tier._breaker._doubt = True  # as while a probe is under way
        assert not any(tier.look_up(blocks).result(0).there)
        stored = tier.store(blocks, rows_of(tier, range(16)))
        assert not stored.done()
        tier._breaker.probed(anybody=True)
        tier._mover.wake()
        assert all(stored.result(BOUND_S).done)
        assert tier.numbers.stores_dropped == 0


def case_a_post_that_fails_is_taken_back() -> None:
    rows, blocks = region(13), chain(16)
    with tier_on(rows) as tier:
        put(tier, blocks)
        agent = tier._port._agent
        transfer, failures = agent.transfer, [RuntimeError("once")]

        def fails_once(handle: Any) -> Any:
            if failures:
                raise failures.pop()
            return transfer(handle)

        agent.transfer = fails_once
        targets = rows_of(tier, range(64, 80))
        assert not any(tier.load(blocks, targets).result(BOUND_S).done)
        assert not tier._port._open
        assert tier.open  # it says nothing of the pool
        assert all(tier.load(blocks, targets).result(BOUND_S).done)
        assert np.array_equal(rows[:16], rows[64:80])


def case_what_is_ordered_after_the_end_is_not_done() -> None:
    rows, blocks = region(14), chain(4)
    with tier_on(rows) as tier:
        targets = rows_of(tier, range(4))
    for move in (tier.load, tier.store):
        assert move(blocks, targets).result(0).done == (False,) * 4
    assert tier.look_up(blocks).result(0).there == (False,) * 4


def case_closing_puts_what_was_ordered() -> None:
    rows, blocks = region(11), chain(32)
    with tier_on(rows) as tier:
        stored = tier.store(blocks, rows_of(tier, range(32)))
    assert all(stored.result(0).done)
    with tier_on(rows) as tier:
        assert all(tier.look_up(blocks).result(BOUND_S).there)


def case_closing_does_not_wait_for_a_frozen_pool() -> None:
    rows, blocks = region(12), chain(16)
    with Cluster(1, die_with_parent=True) as cluster:
        with tier_on(rows, cluster.addresses, drain_ms=100) as tier:
            put(tier, chain(1, b"warm"))
            os.kill(cluster.nodes[0].pid or 0, signal.SIGSTOP)
            stored = tier.store(blocks, rows_of(tier, range(16)))
            began = time.perf_counter()
        assert time.perf_counter() - began < 2.0
        assert not any(stored.result(0).done)
        os.kill(cluster.nodes[0].pid or 0, signal.SIGCONT)


def case_a_full_queue_drops_at_once() -> None:
    rows = region(13)
    with (
        Cluster(1, die_with_parent=True) as cluster,
        tier_on(rows, cluster.addresses, queue_percent=10, drain_ms=0) as tier,
    ):
        put(tier, chain(1, b"warm"))
        with halted(cluster):
            rows_8 = rows_of(tier, range(8))
            futures = [tier.store(chain(8, b"a%d" % i), rows_8) for i in range(100)]
            dropped = [future for future in futures if future.done()]
            assert dropped
            assert not any(any(future.result().done) for future in dropped)
            assert 8 * len(dropped) <= tier.numbers.stores_dropped <= 8 * len(dropped) + 7


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    sys.exit(main(CASES))
