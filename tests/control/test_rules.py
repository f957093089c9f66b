"""What an operator settles holds on every node: a real control plane, agents and memkvd."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl._sizes import format_size
from memkv_nixl._stat import parse_stats
from memkv_nixl.control._limits import STATS_MAX
from memkv_nixl.store._node_metrics import node_page
from tests.control.processes import Machine, Served, control, operator
from tests.integration.nodes import DEADLINE_S, memkv
from tests.integration.scraping import parsed

SPACE = namespace_id("ruled")
BLOCK = bytes(100_000)
_COUNTED = 64  # kSpacesCounted
TTL_S = 6  # longer than a restart
FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "60000")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Served]:
    with control(tmp_path / "state", *FAST) as served:
        yield served


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path / "machine")
    made.folder.mkdir()
    yield made
    made.kill_memkvd()


def settle(plane: Served, *args: str) -> int:
    """`memkv namespaces ARGS`; the epoch of the map that has it."""
    done = memkv("namespaces", *args, "--control", plane.address, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return int(json.loads(done.stdout)["epoch"])


def holds(plane: Served, epoch: int) -> None:
    """Waits until the one node's memkvd says that it holds this map."""
    with operator(plane.address) as calls:
        calls.wait_node(lambda node: node.epoch >= epoch)


def put(client: Client, keys: list[bytes], generation: int = 0) -> list[str]:
    request = client.put(SPACE, keys, [BLOCK for _ in keys], generation=generation)
    assert request.wait(DEADLINE_S * 1000)
    return [CODES[code] for code in request.codes()]


def present(client: Client, keys: list[bytes], generation: int = 0) -> int:
    request = client.match(SPACE, keys, generation=generation)
    assert request.wait(DEADLINE_S * 1000)
    return sum(where > 0 for _, where, _ in request.matches())


def stats(machine: Machine) -> dict[str, int | float | str]:
    client = Client([machine.address])
    try:
        return parse_stats(client.stat(0, DEADLINE_S * 1000))
    finally:
        client.close()


def stat(machine: Machine, name: str) -> int:
    return int(stats(machine)[name])


def test_a_dropped_namespace_is_gone_also_from_a_node_that_was_away(
    plane: Served, machine: Machine
) -> None:
    keys = [f"key {i}".encode() for i in range(8)]
    settle(plane, "create", "ruled")
    with machine.agent(plane.address):
        client = Client([machine.address])
        assert put(client, keys) == ["ok"] * 8
        holds(plane, settle(plane, "drop", "ruled"))
        assert present(client, keys) == 0
        assert put(client, keys) == ["denied"] * 8
        assert put(client, keys, generation=1) == ["ok"] * 8
        client.close()
    epoch = settle(plane, "drop", "ruled")  # nobody hears of it now
    with machine.agent(plane.address):
        holds(plane, epoch)
        client = Client([machine.address])
        assert present(client, keys, generation=1) == 0
        assert put(client, keys, generation=1) == ["denied"] * 8
        assert put(client, keys, generation=2) == ["ok"] * 8
        client.close()


def test_quota_and_admission_hold(plane: Served, machine: Machine) -> None:
    with machine.agent(plane.address):
        holds(plane, settle(plane, "create", "ruled", "--quota", "1000000"))
        client = Client([machine.address])
        keys = [f"key {i}".encode() for i in range(30)]
        for key in keys:
            assert put(client, [key]) == ["ok"]
        assert 0 < present(client, keys) <= 10
        evicted = stat(machine, "quota_evicted_blocks")
        assert evicted >= 20
        # What is here of it is said by STAT, by /metrics, and by all nodes together.
        used = present(client, keys) * len(BLOCK)
        page = parsed(node_page(stats(machine)))
        space = {"tenant": "1", "namespace": SPACE.hex()}
        assert page.value("memkv_node_namespace_used_bytes", **space) == used
        assert page.value("memkv_node_namespace_quota_bytes", **space) == 1_000_000
        gone = page.value("memkv_node_namespace_blocks_gone_total", **space, reason="quota")
        assert gone == evicted
        with operator(plane.address) as calls:
            name = f"usage_1_{SPACE.hex()}"
            calls.wait_node(lambda node: node.stats.get(name) == used)
        done = memkv("namespaces", "list", "--control", plane.address, "--json")
        (listed,) = json.loads(done.stdout)["namespaces"]
        assert listed["used_bytes"] == used

        holds(plane, settle(plane, "update", "ruled", "--admission", "second-touch"))
        assert put(client, [b"once"]) == ["no_space"]
        assert put(client, [b"once"]) == ["ok"]
        assert stat(machine, "puts_not_admitted") == 1
        client.close()


def test_a_block_lives_as_long_as_its_ttl_also_across_a_restart(
    plane: Served, machine: Machine
) -> None:
    """Fails when its age counts from the restart: before that it was as old as it may become."""
    with machine.agent(plane.address):
        client = Client([machine.address])
        assert put(client, [b"old"]) == ["ok"]
        end = time.monotonic() + TTL_S + 1
        while time.monotonic() < end:
            assert present(client, [b"old"]) == 1, "nothing is settled yet"
        client.close()
    with machine.agent(plane.address):
        client = Client([machine.address])
        assert present(client, [b"old"]) == 1
        holds(plane, settle(plane, "create", "ruled", "--ttl", str(TTL_S)))
        assert present(client, [b"old"]) == 0
        assert stat(machine, "expired_blocks") == 1
        assert put(client, [b"new"]) == ["ok"]
        while present(client, [b"new"]):  # as long as that; the test's own limit ends it
            pass
        client.close()


def listed_use(plane: Served, tenant: str, held: int) -> tuple[int, int]:
    """What `memkv tenants list` says that a tenant holds, when the nodes have said it; its quota.

    Also that no heartbeat will be too long, however many there are of whom a node counts the use.
    """
    end = time.monotonic() + DEADLINE_S
    rows: dict[str, Any] = {}
    while not rows or rows[tenant]["used_bytes"] != held:
        assert time.monotonic() < end, rows
        said = memkv("tenants", "list", "--control", plane.address, "--json")
        rows = {row["name"]: row for row in json.loads(said.stdout)["tenants"]}
    text = memkv("tenants", "list", "--control", plane.address).stdout.decode()
    (line,) = (line for line in text.splitlines() if line.startswith(f"{tenant} "))
    assert f"  {format_size(held)}  " in line
    with operator(plane.address) as calls:
        for node in calls.nodes():
            assert node.stats
            assert len(node.stats) + 3 * _COUNTED <= STATS_MAX
    return rows[tenant]["used_bytes"], rows[tenant]["quota_bytes"]


def test_a_tenants_quota_is_of_all_nodes_together(plane: Served, tmp_path: Path) -> None:
    machines = [Machine(tmp_path / f"node{i}") for i in range(2)]
    quota = 2_000_000
    try:
        with contextlib.ExitStack() as stack:
            for one in machines:
                one.folder.mkdir()
                stack.enter_context(one.agent(plane.address, "--weight", "100"))
            said = memkv(
                "tenants", "create", "acme", "--quota", str(quota), "--control", plane.address
            )
            assert said.returncode == 0, said.stderr
            file = str(tmp_path / "acme.token")
            flags = ("--tenant", "acme", "--out", file, "--control", plane.address)
            issued = memkv("token", "issue", *flags)
            assert issued.returncode == 0, issued.stderr
            with operator(plane.address) as calls:
                epoch = max(node.epoch for node in calls.nodes())
                calls.wait_nodes(lambda node: node.epoch >= epoch)
            client = Client([machines[0].address], token_file=file)
            keys = [f"key {i}".encode() for i in range(60)]  # three times the quota
            end = time.monotonic() + DEADLINE_S
            while len(client.health()) < 2 or put(client, keys[:1]) not in (["ok"], ["exists"]):
                assert time.monotonic() < end, f"not two nodes: {client.health()}"
            for key in keys:
                assert put(client, [key])[0] in ("ok", "exists")
            held = len(BLOCK) * present(client, keys)
            assert quota / 2 < held <= quota
            evicted = [stat(one, "quota_evicted_blocks") for one in machines]
            assert min(evicted) > 0, "one node alone keeps to its share"
            assert listed_use(plane, "acme", held) == (held, quota)
            assert listed_use(plane, "default", 0) == (0, 0), "also whom nobody set a quota"
            client.close()
    finally:
        for one in machines:
            one.kill_memkvd()
