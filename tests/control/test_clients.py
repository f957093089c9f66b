"""A client that was given one node of a pool: real memkvd, agents and a control plane."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place
from tests.control.processes import Machine, control, operator
from tests.integration.nodes import DEADLINE_S

SPACE = namespace_id("clients")
FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "1000")
KEYS = [f"key {i}".encode() for i in range(60)]


def value_of(key: bytes) -> bytes:
    return key * 400


def put(client: Client, keys: list[bytes]) -> list[str]:
    request = client.put(SPACE, keys, [value_of(key) for key in keys])
    assert request.wait(DEADLINE_S * 1000)
    return [CODES[code] for code in request.codes()]


def get(client: Client, keys: list[bytes]) -> list[str]:
    """Codes; what is `ok` has been compared."""
    targets = [bytearray(len(value_of(key))) for key in keys]
    request = client.get(SPACE, keys, targets)
    assert request.wait(DEADLINE_S * 1000)
    codes = [CODES[code] for code in request.codes()]
    for key, target, code in zip(keys, targets, codes, strict=True):
        assert code != "ok" or target == value_of(key)
    return codes


def until(client: Client, condition: Callable[[dict[str, int]], bool]) -> None:
    """Asks until the client's numbers are so: an answer says which map its node holds."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        if condition(client.stats()):
            return
        get(client, KEYS[:4])
    raise AssertionError(f"the client's numbers stay {client.stats()}")


def home(key: bytes, machines: list[Machine]) -> str:
    """The address where the key belongs by a map of these."""
    nodes = [PlacementNode(node_id_of(machine.address), 100) for machine in machines]
    found = place(group_fingerprint(SPACE, key), nodes)
    assert found is not None
    return machines[found].address


def test_one_node_is_enough_and_growing_costs_no_hits(
    machines: list[Machine], tmp_path: Path
) -> None:
    weight = ("--weight", "100")
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(tmp_path / "state", *FAST))
        for machine in machines[:2]:
            stack.enter_context(machine.agent(plane.address, *weight))
        client = Client([machines[0].address])
        until(client, lambda now: now["epoch"] >= 3 and len(client.health()) == 2)
        assert put(client, KEYS) == ["ok"] * len(KEYS)

        before = client.stats()["epoch"]
        stack.enter_context(machines[2].agent(plane.address, *weight))
        until(client, lambda now: now["epoch"] > before and len(client.health()) == 3)
        found_before = client.stats()["found_older"]
        assert get(client, KEYS) == ["ok"] * len(KEYS)
        moved = [key for key in KEYS if home(key, machines) == machines[2].address]
        assert client.stats()["found_older"] - found_before == len(moved) > 0
        assert set(put(client, KEYS)) == {"ok", "exists"}
        client.close()


def test_who_comes_while_the_pool_grows_or_a_node_drains_misses_nothing(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Fails when a client knows former places only from maps that it saw itself."""
    slow = ("--weight", "100", "--move-rate", "1")
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(tmp_path / "state", *FAST))
        for machine in machines[:2]:
            stack.enter_context(machine.agent(plane.address, *slow))
        client = Client([machines[0].address])
        until(client, lambda now: now["epoch"] >= 3 and len(client.health()) == 2)
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        client.close()

        stack.enter_context(machines[2].agent(plane.address, *slow))
        with operator(plane.address) as calls:
            calls.wait_event("node_joined", 3)
            calls.wait_nodes(lambda node: node.epoch >= 4)
        newcomer = Client([machines[2].address])
        assert get(newcomer, KEYS) == ["ok"] * len(KEYS)
        moved = [key for key in KEYS if home(key, machines) == machines[2].address]
        assert newcomer.stats()["found_older"] == len(moved) > 0
        newcomer.close()

        with operator(plane.address) as calls:
            drains = calls.drain(machines[0].address)
        newcomer = Client([machines[2].address])
        until(newcomer, lambda now: now["epoch"] >= drains)
        found = newcomer.stats()["found_older"]
        assert get(newcomer, KEYS) == ["ok"] * len(KEYS)
        assert newcomer.stats()["found_older"] > found
        newcomer.close()


def test_a_node_that_dies_costs_its_blocks_and_the_rest_goes_on_without_a_control_plane(
    machines: list[Machine], tmp_path: Path
) -> None:
    weight = ("--weight", "100")
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(tmp_path / "state", *FAST))
        agents = [stack.enter_context(one.agent(plane.address, *weight)) for one in machines]
        client = Client([machines[0].address])
        until(client, lambda now: len(client.health()) == 3)
        until(client, lambda now: all(node["connected"] for node in client.health()))
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        lost = [key for key in KEYS if home(key, machines) == machines[1].address]
        kept = [key for key in KEYS if key not in lost]
        before = client.stats()["epoch"]

        agents[1].kill()
        machines[1].kill_memkvd()
        assert get(client, kept) == ["ok"] * len(kept)
        assert "ok" not in get(client, lost)
        until(client, lambda now: now["epoch"] > before)  # it is lost, its share with the others
        assert put(client, lost) == ["ok"] * len(lost)
        assert get(client, KEYS) == ["ok"] * len(KEYS)

        plane.kill()
        assert get(client, KEYS) == ["ok"] * len(KEYS)
        newcomer = Client([machines[2].address])
        assert get(newcomer, KEYS) == ["ok"] * len(KEYS)
        newcomer.close()
        client.close()
