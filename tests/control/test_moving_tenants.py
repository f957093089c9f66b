"""Blocks of tenants that move: each with its tenant's own token, from a pool that takes nobody
without one. The tenants' blocks have the same keys, lengths and places, and other bytes."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from memkv_nixl._errors import CODES
from memkv_nixl._native import Client
from tests.control.processes import Machine, Served, control
from tests.control.test_clients import FAST, KEYS, SPACE, home
from tests.control.test_moving import memkv, stats_of
from tests.integration.nodes import DEADLINE_S

TENANTS = ("acme", "umbrella")
BYTES = 20_000
MORE = [f"later {i}".encode() for i in range(30)]


def value_of(tenant: str, key: bytes) -> bytes:
    return random.Random(f"{tenant} {key.hex()}").randbytes(BYTES)


@dataclass
class Pool:
    """Three nodes that take nobody without a token, and a client of each tenant."""

    plane: Served
    agents: list[Served]
    machines: list[Machine]
    folder: Path
    clients: dict[str, Client] = field(default_factory=dict)

    def issue(self, tenant: str) -> str:
        """The file that the tenant's token lies in; it is written anew."""
        file = str(self.folder / f"{tenant}.token")
        memkv(self.plane, "token", "issue", "--tenant", tenant, "--out", file)
        return file

    def join(self, tenant: str) -> Client:
        """A client of the tenant's that knows all nodes."""
        client = Client([self.machines[0].address], token_file=self.issue(tenant), timeout_ms=2000)
        self.clients[tenant] = client
        self.until_put(tenant, [b"to be let in"])
        self.until(
            lambda: bool(self.get(tenant, KEYS[:1])) and len(client.health()) == 3,
            f"{tenant} does not hear of all nodes",
        )
        return client

    def put(self, tenant: str, keys: list[bytes]) -> set[str]:
        values = [value_of(tenant, key) for key in keys]
        request = self.clients[tenant].put(SPACE, keys, values)
        assert request.wait(DEADLINE_S * 1000)
        return {CODES[code] for code in request.codes()}

    def get(self, tenant: str, keys: list[bytes]) -> list[str]:
        """Codes; what is `ok` are this tenant's bytes."""
        targets = [bytearray(BYTES) for _ in keys]
        request = self.clients[tenant].get(SPACE, keys, targets)
        assert request.wait(DEADLINE_S * 1000)
        codes = [CODES[code] for code in request.codes()]
        for key, target, code in zip(keys, targets, codes, strict=True):
            assert code != "ok" or target == value_of(tenant, key), (tenant, key)
        return codes

    def until_put(self, tenant: str, keys: list[bytes]) -> None:
        self.until(lambda: self.put(tenant, keys) <= {"ok", "exists"}, f"{tenant} is not let in")

    def until_got(self, tenant: str, keys: list[bytes]) -> None:
        self.until(
            lambda: self.get(tenant, keys) == ["ok"] * len(keys), f"blocks of {tenant} are missing"
        )

    def drain(self, machine: Machine) -> int:
        """Until it is empty and every client knows; how many blocks moved."""
        said = json.loads(memkv(self.plane, "nodes", "drain", machine.address, "--wait", "--json"))
        for tenant in self.clients:
            self.until_holds(tenant, said["epoch"])
        return int(said["moved_blocks"])

    def until_holds(self, tenant: str, epoch: int) -> None:
        """The tenant's client goes by this map."""
        client = self.clients[tenant]
        self.until(
            lambda: bool(self.get(tenant, KEYS[:1])) and client.stats()["epoch"] >= epoch,
            f"{tenant} does not hear of a map",
        )

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Asks again and again: each question is a round trip, or a breaker's answer."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, what

    def lose(self, index: int) -> None:
        """kill -9 of a node's agent and its memkvd."""
        self.agents[index].kill()
        self.machines[index].kill_memkvd()


@contextlib.contextmanager
def pool(machines: list[Machine], folder: Path) -> Iterator[Pool]:
    with contextlib.ExitStack() as stack:
        plane = stack.enter_context(control(folder / "state", *FAST))
        for tenant in (*TENANTS, "nosy"):
            memkv(plane, "tenants", "create", tenant)
        flags = ("--weight", "100", "--anonymous", "no")
        agents = [stack.enter_context(one.agent(plane.address, *flags)) for one in machines]
        made = Pool(plane, agents, machines, folder)
        for tenant in (*TENANTS, "nosy"):
            stack.callback(made.join(tenant).close)
        yield made


def test_a_drain_moves_each_tenants_blocks_with_its_own_token(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as we:
        for tenant in TENANTS:
            assert we.put(tenant, KEYS) == {"ok"}
        held = [key for key in KEYS if home(key, machines) == machines[2].address]
        assert held
        moved = we.drain(machines[2])
        assert moved >= 2 * len(held), "each tenant's"
        we.lose(2)
        for tenant in TENANTS:
            assert we.get(tenant, KEYS) == ["ok"] * len(KEYS)
        assert set(we.get("nosy", KEYS)) == {"not_found"}
        for machine in machines[:2]:
            assert stats_of(we.plane, machine.address)["corrupt"] == 0


def test_second_copies_are_made_with_each_tenants_own_token(
    machines: list[Machine], tmp_path: Path
) -> None:
    with pool(machines, tmp_path) as we:
        for tenant in TENANTS:
            assert we.put(tenant, KEYS) == {"ok"}
            memkv(we.plane, "namespaces", "create", "clients", "--tenant", tenant, "--copies", "2")

        def counted(name: str) -> int:
            return sum(stats_of(we.plane, one.address).get(name, 0) for one in machines)

        # And each tenant's block that let it in.
        we.until(
            lambda: (
                counted("copies_blocks") == 2 * len(TENANTS) * (len(KEYS) + 1)
                and counted("copies_waiting") == 0
            ),
            "not all blocks lie on two nodes",
        )
        we.lose(0)
        for tenant in TENANTS:
            we.until_got(tenant, KEYS)
        assert "ok" not in we.get("nosy", KEYS)


def test_a_mover_takes_the_token_that_is_issued_into_the_same_file(
    machines: list[Machine], tmp_path: Path
) -> None:
    """Its clients live as long as the agent; the tokens that they began with are taken back."""
    with pool(machines, tmp_path) as we:
        for tenant in TENANTS:
            assert we.put(tenant, KEYS) == {"ok"}
        leaving = machines[2].address
        assert we.drain(machines[2]) > 0, "the mover has clients of each tenant now"
        memkv(we.plane, "nodes", "drain", leaving, "--undo")
        for tenant in TENANTS:
            memkv(we.plane, "tenants", "rotate", tenant)  # without overlap: all tokens are over
            we.issue(tenant)
        for tenant in TENANTS:
            we.until_put(tenant, MORE)
        held = [key for key in MORE if home(key, machines) == leaving]
        assert held
        assert we.drain(machines[2]) >= 2 * len(held)
        we.lose(2)
        for tenant in TENANTS:
            assert we.get(tenant, KEYS + MORE) == ["ok"] * len(KEYS + MORE)
        assert set(we.get("nosy", KEYS + MORE)) == {"not_found"}
