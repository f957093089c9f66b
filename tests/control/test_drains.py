"""Drains that are not simple: rules that refuse blocks, marks that repeat, silent nodes."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._native import Client, node_id_of
from memkv_nixl.cli import EXIT_DISMISSED
from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._block_mover import HOT_READS, Block, BlockMover
from memkv_nixl.store._drain import MARKS, Drain
from tests.control.processes import Machine, Served, operator
from tests.control.test_clients import KEYS, SPACE, get, put, value_of
from tests.control.test_moving import await_that, drain, memkv, on_node, pool, stats_of
from tests.integration.nodes import DEADLINE_S, Node
from tests.integration.nodes import memkv as command


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    made = [Machine(tmp_path / f"machine{i}") for i in range(2)]
    for machine in made:
        machine.folder.mkdir()
    yield made
    for machine in made:
        machine.kill_memkvd()


def settle(plane: Served, *args: str) -> None:
    """`memkv namespaces ARGS`; every node's memkvd holds the map that has it."""
    epoch = json.loads(memkv(plane, "namespaces", *args, "--json"))["epoch"]
    with operator(plane.address) as calls:
        calls.wait_nodes(lambda node: node.epoch >= epoch)


def event_of(plane: Served, kind: str) -> Any:
    """The first event of this kind."""
    with operator(plane.address) as calls:
        return calls.wait_event(kind)


def test_what_is_admitted_at_the_second_touch_is_drained(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as (plane, client, agents):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        settle(plane, "create", "clients", "--admission", "second-touch")
        leaving, staying = (machine.address for machine in machines)
        held = on_node(leaving, KEYS)
        assert held
        done = command("nodes", "drain", leaving, "--wait", "--control", plane.address)
        assert done.returncode == 0, done.stderr
        assert f"is drained, {len(held)} blocks moved".encode() in done.stdout
        assert re.search(rb"draining: \d+ blocks moved", done.stderr), "it says how far it is"
        assert on_node(staying, held) == held
        assert f"{len(held)} blocks moved" in event_of(plane, "node_drained").text
        memkv(plane, "nodes", "remove", leaving)
        assert agents[0].died()[0] == EXIT_DISMISSED


def test_what_others_refuse_is_left_behind_and_said(
    machines: list[Machine], tmp_path: Path
) -> None:
    budget = ("--write-budget", "4KiB")  # a day: what is put before the rule is far more
    with pool(machines, tmp_path, *budget) as (plane, client, agents):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        settle(plane, "create", "clients", "--admission", "budget")
        leaving, staying = (machine.address for machine in machines)
        held = len(on_node(leaving, KEYS))
        assert held
        other = Client([staying], follow=False)
        spend = (f"spent {i}".encode() for i in itertools.count())
        while put(other, [next(spend)]) == ["ok"]:
            pass  # until the hour's worth is written
        other.close()
        waited = command("nodes", "drain", leaving, "--wait", "--control", plane.address)
        assert waited.returncode == 1
        assert b"is not drained: 0 blocks moved" in waited.stderr
        assert f"{held} no_space".encode() in waited.stderr
        stats = stats_of(plane, leaving)
        assert (stats["drained"], stats["left_no_space"]) == (0, held)
        listed = memkv(plane, "nodes", "list")
        assert f"{leaving}  drain refused" in listed
        assert f"({held} no_space)" in listed
        assert f"{held} no_space" in event_of(plane, "node_drain_refused").text
        refused = command("nodes", "remove", leaving, "--control", plane.address)
        assert refused.returncode == 1
        assert f"{held} no_space".encode() in refused.stderr
        assert get(client, KEYS) == ["ok"] * len(KEYS)
        memkv(plane, "nodes", "remove", leaving, "--force")
        assert staying in memkv(plane, "nodes", "list")
        assert agents[0].died()[0] == EXIT_DISMISSED


def test_a_block_that_comes_after_the_last_pass_is_moved_too(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as (plane, client, _):
        leaving, staying = (machine.address for machine in machines)
        memkv(plane, "nodes", "drain", leaving, "--wait")
        late = KEYS[:3]
        former = Client([leaving], follow=False)  # it knows the map from before
        assert put(former, late) == ["ok"] * len(late)
        former.close()
        await_that(lambda: on_node(staying, late) == late, client)
        await_that(lambda: stats_of(plane, leaving)["drained"] == 1, client)


def test_a_node_that_nobody_hears_is_not_waited_for(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as (plane, client, agents):
        agents[1].kill()
        machines[1].kill_memkvd()
        drain(plane, machines[1].address)
        with operator(plane.address) as calls:
            calls.wait_event("node_silent")
        args = ("nodes", "drain", machines[1].address, "--wait", "--control", plane.address)
        done = command(*args)
        assert done.returncode == 1
        assert re.search(rb"is (silent|lost): nobody hears it", done.stderr)
        get(client, KEYS[:1])


def test_a_memkvd_that_died_is_an_event(machines: list[Machine], tmp_path: Path) -> None:
    with pool(machines, tmp_path) as (plane, client, _):
        # What a heartbeat never said cannot be seen to change.
        await_that(lambda: stats_of(plane, machines[1].address).get("memkvd_starts") == 1, client)
        machines[1].kill_memkvd()
        assert event_of(plane, "memkvd_restarted").subject == machines[1].address


# ---- the mover alone


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[str]]:
    """The addresses of two nodes without agents; the first one has all blocks."""
    made = [Node(tmp_path / f"{i}.dat") for i in range(2)]
    try:
        yield [node.start().address for node in made]
    finally:
        for node in made:
            node.kill()


def emptied(nodes: list[str], epoch: int) -> Drain:
    """The first node after a drain by the map of this epoch."""
    shares = zip(nodes, (0, 100), strict=True)
    map_ = map_pb2.ClusterMap(
        epoch=epoch,
        nodes=[
            map_pb2.MapNode(address=address, node_id=node_id_of(address), weight=weight)
            for address, weight in shares
        ],
    )
    mover, state = BlockMover(nodes[0], 1 << 30, threading.Event()), Drain()
    for _ in range(3):
        mover.drain(map_, [""], lambda: True, state)
    mover.close()
    assert state.drained_by(map_)
    return state


def test_what_is_read_often_moves_first(nodes: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails when the mover lists all blocks at once."""
    order: list[bytes] = []
    real = BlockMover._move_batch

    def seen(self: BlockMover, target: str, batch: list[Block], mark: int) -> None:
        order.extend(block.key for block in batch)
        real(self, target, batch, mark)

    monkeypatch.setattr(BlockMover, "_move_batch", seen)
    client = Client([nodes[0]], follow=False)
    assert put(client, KEYS) == ["ok"] * len(KEYS)
    hot = KEYS[7::12]
    for _ in range(2 * HOT_READS):
        assert get(client, hot) == ["ok"] * len(hot)
    client.close()
    drained = emptied(nodes, 5)
    assert sorted(order[: len(hot)]) == sorted(hot)
    assert sorted(order) == sorted(KEYS)
    assert drained.moved_bytes == sum(len(value_of(key)) for key in KEYS)


def test_a_block_that_is_moved_is_as_old_as_it_was(nodes: list[str]) -> None:
    leaving, staying = (Client([address], follow=False) for address in nodes)
    hour = 3600
    request = leaving.put(
        SPACE, KEYS, [value_of(key) for key in KEYS], ages=[hour] * len(KEYS), timeout_ms=10_000
    )
    assert request.wait(DEADLINE_S * 1000)
    assert emptied(nodes, 5).moved_blocks == len(KEYS)
    _, rows = staying.list_blocks(0, 0, count=len(KEYS))
    ages = [Block(*row).age_s for row in rows]
    assert len(ages) == len(KEYS)
    assert hour <= min(ages)
    assert max(ages) < 2 * hour
    for client in (leaving, staying):
        client.close()


def test_a_drain_whose_mark_was_used_before_moves_all(nodes: list[str]) -> None:
    """A mark is one byte, so that of a later epoch may be that of a drain that was taken back."""
    leaving, staying = (Client([address], follow=False) for address in nodes)
    assert put(leaving, KEYS) == ["ok"] * len(KEYS)
    assert emptied(nodes, 5).moved_blocks == len(KEYS)
    dropped = staying.drop(SPACE, KEYS)  # what was marked lies on the first one alone again
    assert dropped.wait(DEADLINE_S * 1000)
    assert emptied(nodes, 5 + MARKS).moved_blocks == len(KEYS)
    assert get(staying, KEYS) == ["ok"] * len(KEYS)
    for client in (leaving, staying):
        client.close()
