"""`copies: 2` of a namespace: every block comes to lie on two nodes, and outlives either."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from memkv_nixl._errors import CODES
from memkv_nixl._native import Client
from memkv_nixl.store._block_mover import HOT_READS
from tests.control.processes import Machine, Served, control
from tests.control.test_clients import FAST, KEYS, SPACE, get, home, put, until
from tests.control.test_moving import await_that, copies, memkv, on_node
from tests.integration.nodes import DEADLINE_S

NAME = "clients"  # that SPACE is made of
DOMAINS = ("rack-1", "rack-1", "rack-2")
READ = """
import json, sys
from memkv_nixl._native import Client
from tests.control.test_clients import KEYS, get
client = Client([sys.argv[1]])
print(json.dumps(get(client, KEYS)))
client.close()
"""


@contextlib.contextmanager
def pool(machines: list[Machine], folder: Path) -> Iterator[tuple[Served, Client, list[Served]]]:
    """A control plane, a client that knows all nodes, and the agents, in two failure domains."""
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(folder / "state", *FAST))
        agents = [
            stack.enter_context(
                machine.agent(plane.address, "--weight", "100", "--failure-domain", domain)
            )
            for machine, domain in zip(machines, DOMAINS, strict=True)
        ]
        client = Client([machines[0].address])
        until(client, lambda now: len(client.health()) == len(machines))
        yield plane, client, agents
        client.close()


def read_elsewhere(machine: Machine, repo: Path) -> list[str]:
    """The codes of all keys in another process, which knows this node; what came was compared."""
    done = subprocess.run(
        [sys.executable, "-c", READ, machine.address],
        capture_output=True, text=True, check=True, cwd=repo, timeout=DEADLINE_S,
    )  # fmt: skip
    codes: list[str] = json.loads(done.stdout)
    return codes


def waiting(plane: Served) -> int | None:
    """How many blocks `memkv namespaces list` says wait for their second copy."""
    (row,) = json.loads(memkv(plane, "namespaces", "list", "--json"))["namespaces"]
    count: int | None = row["copies_waiting"]
    return count


def held_by_all(plane: Served) -> int:
    """The epoch of a map that every memkvd holds."""
    nodes = json.loads(memkv(plane, "nodes", "list", "--json"))["nodes"]
    return min(int(node["epoch"]) for node in nodes)


def drop(client: Client, keys: list[bytes]) -> list[str]:
    request = client.drop(SPACE, keys)
    assert request.wait(DEADLINE_S * 1000)
    return [CODES[code] for code in request.codes()]


def test_every_block_lies_in_two_domains_and_outlives_its_first_node(
    machines: list[Machine], tmp_path: Path, repo: Path
) -> None:
    with pool(machines, tmp_path) as (plane, client, agents):
        memkv(plane, "namespaces", "create", NAME, "--copies", "2")
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        await_that(lambda: set(copies(machines, KEYS).values()) == {2}, client)
        assert on_node(machines[2].address, KEYS) == KEYS, "the one node of the other domain"
        await_that(lambda: waiting(plane) == 0, client)

        dead = machines[2]
        firsts = [key for key in KEYS if home(key, machines) == dead.address]
        assert firsts, "nothing had its first place there: the test shows nothing"
        agents[2].kill()
        dead.kill_memkvd()
        assert read_elsewhere(machines[0], repo) == ["ok"] * len(KEYS)

        # When the map knows it, too, the copies that are left get others, in the one domain.
        alive = machines[:2]
        await_that(lambda: set(copies(alive, KEYS).values()) == {2}, client)
        assert read_elsewhere(machines[1], repo) == ["ok"] * len(KEYS)
        assert (
            "warning: clients: all nodes that take blocks are in the failure domain 'rack-1'"
            in (memkv(plane, "namespaces", "list"))
        )


def test_a_drop_takes_both(machines: list[Machine], tmp_path: Path) -> None:
    """Also of blocks that are being copied: each round drops a few and asks every node for them."""
    with pool(machines, tmp_path) as (plane, client, _):
        memkv(plane, "namespaces", "create", NAME, "--copies", "2")
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        for begin in range(0, len(KEYS), 4):
            some = KEYS[begin : begin + 4]
            codes = drop(client, some)
            dropped = [key for key, code in zip(some, codes, strict=True) if code != "busy"]
            assert set(copies(machines, dropped).values()) <= {0}, codes
        assert set(put(client, KEYS)) <= {"ok", "exists"}
        await_that(lambda: set(copies(machines, KEYS).values()) == {2}, client)
        await_that(lambda: waiting(plane) == 0, client)
        assert drop(client, KEYS) == ["ok"] * len(KEYS)
        assert set(copies(machines, KEYS).values()) == {0}


def test_a_rule_that_comes_later_and_one_that_is_taken_back(
    machines: list[Machine], tmp_path: Path
) -> None:
    before, hot, cold = KEYS[:20], KEYS[20:30], KEYS[30:]
    with pool(machines, tmp_path) as (plane, client, _):
        memkv(plane, "namespaces", "create", NAME)
        assert put(client, before) == ["ok"] * len(before)
        assert waiting(plane) is None
        memkv(plane, "namespaces", "update", NAME, "--copies", "2")
        await_that(lambda: set(copies(machines, before).values()) == {2}, client)

        done = memkv(plane, "namespaces", "update", NAME, "--copies", "1", "--json")
        await_that(lambda: held_by_all(plane) >= json.loads(done)["epoch"], client)
        assert waiting(plane) is None
        assert put(client, hot + cold) == ["ok"] * len(hot + cold)
        for _ in range(HOT_READS):
            get(client, hot)

        def on_two() -> bool:
            get(client, hot)
            return set(copies(machines, hot).values()) == {2}

        await_that(on_two, client)
        assert set(copies(machines, cold).values()) == {1}
        assert set(copies(machines, before).values()) == {2}, "what there is stays"


def test_what_a_node_lost_comes_back_from_the_copy(machines: list[Machine], tmp_path: Path) -> None:
    """A node that starts anew may have lost what was in its DRAM only."""
    with pool(machines, tmp_path) as (plane, client, _):
        memkv(plane, "namespaces", "create", NAME, "--copies", "2")
        assert put(client, KEYS) == ["ok"] * len(KEYS)
        await_that(lambda: set(copies(machines, KEYS).values()) == {2}, client)
        await_that(lambda: waiting(plane) == 0, client)
        losing = machines[2]
        lost = KEYS[::2]
        alone = Client([losing.address], follow=False)
        assert set(drop(alone, lost)) == {"ok"}
        alone.close()
        losing.kill_memkvd()  # its agent starts it again
        await_that(lambda: on_node(losing.address, KEYS) == KEYS, client)
        assert get(client, KEYS) == ["ok"] * len(KEYS)
