"""Blocks that move between nodes: second copies, a drain, and drops in the middle of both."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from memkv_nixl._errors import CODES
from memkv_nixl._native import Client
from memkv_nixl.proto.memkv.v1 import map_pb2, placement_pb2, placement_pb2_grpc
from memkv_nixl.store._block_mover import HOT_READS
from tests.control.processes import Machine, Served, control
from tests.control.test_clients import FAST, KEYS, SPACE, get, home, put, until, value_of
from tests.integration.authority import Authority
from tests.integration.nodes import DEADLINE_S

HOT = KEYS[:20]


@contextlib.contextmanager
def pool(
    machines: list[Machine], folder: Path, *flags: str, **credentials: Any
) -> Iterator[tuple[Served, Client, list[Served]]]:
    """A control plane, a client that knows all nodes, and the agents of the machines."""
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(folder / "state", *FAST))
        agents = [
            stack.enter_context(machine.agent(plane.address, "--weight", "100", *flags))
            for machine in machines
        ]
        client = Client([machines[0].address], **credentials)
        until(client, lambda now: len(client.health()) == len(machines))
        yield plane, client, agents
        client.close()


def stats_of(plane: Served, address: str) -> dict[str, int]:
    """The numbers of a node's last heartbeat."""
    with grpc.insecure_channel(plane.address) as channel:
        placement = placement_pb2_grpc.PlacementStub(channel)
        request = placement_pb2.ListNodesRequest(with_stats=True)
        for node in placement.ListNodes(request, timeout=DEADLINE_S).nodes:
            if node.address == address:
                return dict(node.stats)
    return {}


def memkv(plane: Served, *args: str) -> str:
    command = [sys.executable, "-m", "memkv_nixl.cli", *args, "--control", plane.address]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    return done.stdout


def drain(plane: Served, address: str) -> None:
    with grpc.insecure_channel(plane.address) as channel:
        placement = placement_pb2_grpc.PlacementStub(channel)
        placement.DrainNode(placement_pb2.DrainNodeRequest(address=address), timeout=DEADLINE_S)


def await_that(condition: Callable[[], bool], client: Client) -> None:
    """Asks the pool on until it is so."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if condition():
            return
        get(client, KEYS[:1])
    raise AssertionError("it never came to be")


def on_node(address: str, keys: list[bytes]) -> list[bytes]:
    """Those of the keys that this node has."""
    client = Client([address], follow=False)
    request = client.match(SPACE, keys)
    assert request.wait(DEADLINE_S * 1000)
    found = [key for key, (_, where, _) in zip(keys, request.matches(), strict=True) if where]
    client.close()
    return found


def copies(machines: list[Machine], keys: list[bytes]) -> dict[bytes, int]:
    """On how many nodes each lies."""
    found = [on_node(machine.address, keys) for machine in machines]
    return {key: sum(key in one for one in found) for key in keys}


def test_what_many_read_lies_on_two_nodes_is_read_from_both_and_outlives_one(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as (_, client, agents):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        for _ in range(HOT_READS):
            assert get(client, HOT) == ["ok"] * len(HOT)

        def on_two() -> bool:
            get(client, HOT)  # a read counts half after a minute, which may have just ended
            return set(copies(machines, HOT).values()) == {2}

        await_that(on_two, client)
        cold = KEYS[len(HOT) :]
        assert set(copies(machines, cold).values()) == {1}

        before = client.stats()["asked_copy"]
        get(client, HOT)  # the answers say that there are copies
        for _ in range(5):
            assert get(client, HOT) == ["ok"] * len(HOT)
        assert client.stats()["asked_copy"] > before

        dead = machines[1]
        agents[1].kill()
        dead.kill_memkvd()
        on_dead = [key for key in HOT if home(key, machines) == dead.address]
        assert on_dead, "nothing hot lay there: the test shows nothing"
        assert get(client, on_dead) == ["ok"] * len(on_dead)


def test_a_second_copy_lies_in_another_failure_domain(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Of two racks the first has two nodes: what lies on one of them never has its copy beside."""
    racks = dict(zip((machine.address for machine in machines), "aab", strict=True))
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(tmp_path / "state", *FAST))
        for machine in machines:
            flags = ("--weight", "100", "--failure-domain", f"rack {racks[machine.address]}")
            stack.enter_context(machine.agent(plane.address, *flags))
        client = Client([machines[0].address])
        until(client, lambda now: len(client.health()) == len(machines))
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        hot = [key for key in KEYS if racks[home(key, machines)] == "a"]
        assert {home(key, machines) for key in hot} == {machine.address for machine in machines[:2]}
        for _ in range(HOT_READS):
            assert get(client, hot) == ["ok"] * len(hot)

        def on_two() -> bool:
            get(client, hot)
            return set(copies(machines, hot).values()) == {2}

        await_that(on_two, client)
        assert sorted(on_node(machines[2].address, hot)) == sorted(hot)
        client.close()


def test_a_drained_node_hands_all_over_and_can_go(machines: list[Machine], tmp_path: Path) -> None:
    with pool(machines, tmp_path) as (plane, client, agents):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        leaving = machines[2]
        held = on_node(leaving.address, KEYS)
        assert held

        done = memkv(plane, "nodes", "drain", leaving.address, "--wait", "--json")
        assert json.loads(done)["moved_blocks"] == len(held)
        assert leaving.address in memkv(plane, "nodes", "list")
        assert "drained" in memkv(plane, "nodes", "list")
        stats = stats_of(plane, leaving.address)
        assert stats["moved_blocks"] == len(held)
        assert stats["moved_bytes"] == sum(len(value_of(key)) for key in held)
        assert stats["moves_failed"] == 0
        agents[2].kill()
        leaving.kill_memkvd()
        assert get(client, KEYS) == ["ok"] * len(KEYS)


def test_blocks_move_over_tls_where_nodes_ask_each_other_for_certificates(
    machines: list[Machine], tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    certificate, key = map(str, authority.issue("any", "127.0.0.1"))
    ca = str(authority.file)
    flags = ("--data-tls-cert", certificate, "--data-tls-key", key)
    flags += ("--data-tls-ca", ca, "--data-tls-client-ca", ca)
    shown = {"tls_ca": ca, "tls_cert": certificate, "tls_key": key}
    with pool(machines, tmp_path, *flags, **shown) as (plane, client, agents):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        leaving = machines[2]
        held = [key for key in KEYS if home(key, machines) == leaving.address]
        assert held
        done = memkv(plane, "nodes", "drain", leaving.address, "--wait", "--json")
        assert json.loads(done)["moved_blocks"] == len(held)
        agents[2].kill()
        leaving.kill_memkvd()
        assert get(client, KEYS) == ["ok"] * len(KEYS)


def test_what_is_dropped_while_it_moves_stays_dropped(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Each round drops keys that are being copied and moved, then asks every node for them."""
    with pool(machines, tmp_path) as (plane, client, _):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        for _ in range(HOT_READS):
            get(client, HOT)
        drain(plane, machines[2].address)
        for begin in range(0, len(KEYS), 4):
            some = KEYS[begin : begin + 4]
            request = client.drop(SPACE, some)
            assert request.wait(DEADLINE_S * 1000)
            codes = [CODES[code] for code in request.codes()]
            dropped = [key for key, code in zip(some, codes, strict=True) if code != "busy"]
            assert set(copies(machines, dropped).values()) <= {0}, codes
        await_that(lambda: stats_of(plane, machines[2].address).get("drained") == 1, client)
        request = client.drop(SPACE, KEYS)
        assert request.wait(DEADLINE_S * 1000)
        assert set(copies(machines, KEYS).values()) == {0}


def test_a_drain_that_is_taken_back_leaves_the_blocks(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as (plane, client, _):
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        drain(plane, machines[0].address)
        with grpc.insecure_channel(plane.address) as channel:
            placement = placement_pb2_grpc.PlacementStub(channel)
            request = placement_pb2.DrainNodeRequest(address=machines[0].address, undo=True)
            placement.DrainNode(request, timeout=DEADLINE_S)
            listed = placement.ListNodes(placement_pb2.ListNodesRequest(), timeout=DEADLINE_S)
        assert map_pb2.NODE_STATE_DRAINING not in [node.state for node in listed.nodes]
        assert get(client, KEYS) == ["ok"] * len(KEYS)


def test_an_agent_asks_its_own_node_only(machines: list[Machine], tmp_path: Path) -> None:
    """When memkvd had a map from its start, its agent knocked at every node of it with its own
    token, each second, and was refused."""
    with pool(machines, tmp_path) as (plane, client, _):
        first = machines[0]
        await_that(lambda: stats_of(plane, first.address).get("map_nodes") == 3, client)
        first.kill_memkvd()
        await_that(lambda: stats_of(plane, first.address).get("boot") == 2, client)
        began = stats_of(plane, first.address)["uptime_ms"]
        await_that(lambda: stats_of(plane, first.address)["uptime_ms"] > began + 500, client)
    for machine in machines:
        log = (machine.folder / "agent" / "memkvd.log").read_text("utf-8")
        assert "is not let in" not in log
