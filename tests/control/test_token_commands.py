"""Tenants and tokens as an operator and an engine have them: commands, agents, a client."""

from __future__ import annotations

import contextlib
import json
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from tests.control.processes import Machine, Served, control, operator
from tests.integration.nodes import DEADLINE_S, memkv

REVOKED_S_MAX = 5.0  # maps are pushed; -s prints what it was: 0.003 s on two busy cores

SPACE = namespace_id("default")


@dataclass
class Pool:
    """One node that takes nobody without a token, and its control plane."""

    plane: Served
    machine: Machine
    folder: Path

    def run(self, *args: str) -> dict[str, Any]:
        """A command of the operator's that succeeds."""
        done = memkv(*args, "--control", self.plane.address, "--json")
        assert done.returncode == 0, done.stdout
        said: dict[str, Any] = json.loads(done.stdout)
        return said

    def issue(self, tenant: str, name: str, *args: str) -> tuple[str, str]:
        """The file that a token was written to, and the token's id."""
        file = str(self.folder / name)
        said = self.run("token", "issue", "--tenant", tenant, "--out", file, *args)
        return file, str(said["token_id"])

    def blocks(self, *args: str, **named: Any) -> Any:
        """A command of an engine's user."""
        command, *rest = args
        return memkv(command, "--nodes", self.machine.address, *rest, **named)

    def client(self, file: str) -> Client:
        return Client([self.machine.address], token_file=file, timeout_ms=2000)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    machine = Machine(tmp_path / "machine")
    machine.folder.mkdir()
    with contextlib.ExitStack() as stack:
        stack.callback(machine.kill_memkvd)
        plane = stack.enter_context(control(tmp_path / "state", "--heartbeat-ms", "50"))
        stack.enter_context(machine.agent(plane.address, "--anonymous", "no"))
        yield Pool(plane, machine, tmp_path)


def put(client: Client, key: bytes) -> str:
    request = client.put(SPACE, [key], [b"block of " + key])
    assert request.wait(DEADLINE_S * 1000)
    return CODES[request.codes()[0]]


def until(condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
    """Asks again and again: each question is a round trip, or a breaker's answer."""
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, what


def test_tenants_by_the_commands(pool: Pool) -> None:
    assert pool.run("tenants", "create", "acme")["tenant"] > 1
    pool.run("tenants", "create", "umbrella")
    names = [row["name"] for row in pool.run("tenants", "list")["tenants"]]
    assert names == ["acme", "default", "umbrella"]
    acme, _ = pool.issue("acme", "acme.token")
    umbrella, _ = pool.issue("umbrella", "umbrella.token")
    assert stat.S_IMODE(Path(acme).stat().st_mode) == 0o600
    # The map with their keys is with the node when it lets them in.
    until(
        lambda: pool.blocks("put", "k", "-", "--token-file", acme, stdin=b"secret").returncode == 0,
        "the node does not learn of the tenant",
    )
    got = pool.blocks("get", "k", "-", "--token-file", acme)
    assert (got.returncode, got.stdout) == (0, b"secret")
    until(
        lambda: pool.blocks("get", "k", "-", "--token-file", umbrella).returncode == 3,
        "another tenant does not simply miss",
    )
    nobody = pool.blocks("get", "k", "-")
    assert nobody.returncode == 1
    assert b"wants a token" in nobody.stdout + nobody.stderr
    missing = pool.blocks("get", "k", "-", "--token-file", "/nowhere/token")
    assert missing.returncode == 1
    assert b"/nowhere/token" in missing.stdout + missing.stderr


def test_a_token_goes_into_a_pipe_and_nowhere_else(pool: Pool) -> None:
    pool.run("tenants", "create", "acme")
    issue = ("token", "issue", "--tenant", "acme", "--out", "-", "--control", pool.plane.address)
    piped = memkv(*issue)
    assert (piped.returncode, piped.stderr) == (0, b"")
    file = pool.folder / "piped.token"
    file.write_bytes(piped.stdout)
    until(
        lambda: pool.blocks("put", "k", "-", "--token-file", str(file), stdin=b"x").returncode == 0,
        "what was piped is no token",
    )
    refused = memkv(*issue, "--json")
    assert refused.returncode == 2
    assert b"leave --json out" in refused.stdout
    assert b"memkv-token" not in refused.stdout + refused.stderr


def test_a_token_may_be_for_less(pool: Pool) -> None:
    pool.run("tenants", "create", "acme")
    reader, _ = pool.issue("acme", "reader", "--rights", "read", "--namespace", "default")
    writer, _ = pool.issue("acme", "writer", "--rights", "write")
    elsewhere, _ = pool.issue("acme", "elsewhere", "--namespace", "llama")
    client = pool.client(writer)
    until(lambda: put(client, b"k") in ("ok", "exists"), "the writer may not write")
    client.close()
    assert pool.blocks("get", "k", "-", "--token-file", reader).stdout == b"block of k"
    for file, command in ((reader, "put"), (writer, "get"), (elsewhere, "get"), (reader, "drop")):
        rest = ("k",) if command == "drop" else ("k", "-")
        refused = pool.blocks(command, *rest, "--token-file", file, stdin=b"x")
        assert refused.returncode == 1, (file, command, refused)
        assert b"denied" in refused.stdout + refused.stderr


def test_keys_rotate_and_tokens_are_renewed_under_a_running_client(pool: Pool) -> None:
    signing = pool.run("tenants", "create", "acme")["keys"]
    file, _ = pool.issue("acme", "acme.token")
    client = pool.client(file)
    until(lambda: put(client, b"first") == "ok", "the client is not let in")
    rotated = pool.run("tenants", "rotate", "acme", "--overlap", "1h")["keys"]
    assert rotated[0] == signing[0]
    assert put(client, b"between") == "ok"
    former = pool.folder / "former.token"
    former.write_bytes(Path(file).read_bytes())
    pool.issue("acme", "acme.token")  # into the same file
    left = pool.run("tenants", "revoke", "acme", "--key", signing[0])["keys"]
    assert left == rotated[1:]
    late = pool.client(str(former))
    until(lambda: put(late, b"late") == "unreachable", "the former key is believed still")
    until(lambda: put(client, b"last") in ("ok", "exists"), "the fresh token is not taken")
    late.close()
    client.close()


def test_a_fresh_token_costs_no_request(pool: Pool) -> None:
    """The client connects again between two requests, and nothing fails."""
    pool.run("tenants", "create", "acme")
    file, first = pool.issue("acme", "acme.token")
    client = pool.client(file)
    until(lambda: put(client, b"0") == "ok", "the client is not let in")
    failures = client.health()[0]["failures"]

    def welcomes() -> int:
        return int(client.stat(0, 2000).split("peers_welcome ")[1].split()[0])

    before = welcomes()
    pool.issue("acme", "acme.token")
    count = 0

    def renewed() -> bool:
        nonlocal count
        count += 1
        assert put(client, b"%d" % count) == "ok"
        return welcomes() > before

    until(renewed, "the client does not look at its file")
    assert client.health()[0]["failures"] == failures
    # The old one is of no more use to it: taking it back is not felt.
    pool.run("tenants", "revoke", "acme", "--token", first)
    assert put(client, b"after") == "ok"
    client.close()


def test_what_is_revoked_ends_with_the_next_map(pool: Pool) -> None:
    pool.run("tenants", "create", "acme")
    file, token = pool.issue("acme", "acme.token")
    client = pool.client(file)
    until(lambda: put(client, b"first") == "ok", "the client is not let in")
    pool.run("tenants", "revoke", "acme", "--token", token)
    revoked_s = time.monotonic()
    until(lambda: put(client, b"second") not in ("ok", "exists"), "it is believed still")
    took_s = time.monotonic() - revoked_s
    print(f"believed for {took_s:.3f} s after the command that revokes had ended")
    assert took_s < REVOKED_S_MAX, "it was believed for too long"
    until(lambda: put(client, b"third") == "unreachable", "the breaker does not open")
    assert "denied" in client.health()[0]["last_error"]
    pool.issue("acme", "acme.token")
    until(lambda: put(client, b"third") == "ok", "a fresh token does not mend it")
    client.close()


def test_a_token_file_may_come_late(pool: Pool) -> None:
    pool.run("tenants", "create", "acme")
    file = str(pool.folder / "late.token")
    client = pool.client(file)
    until(lambda: put(client, b"k") == "unreachable", "without a token the pool is unreachable")
    assert file in client.health()[0]["last_error"]
    Path(file).write_text("half a fi", "utf-8")
    assert put(client, b"k") == "unreachable"
    pool.issue("acme", "late.token")
    until(lambda: put(client, b"k") == "ok", "the file is not read again")
    client.close()


def test_the_agent_is_heard_although_nobody_comes_in_without_a_token(pool: Pool) -> None:
    with operator(pool.plane.address) as calls:
        calls.wait_event("node_joined")
        node = calls.wait_node(lambda node: dict(node.stats).get("epoch", 0) >= 2)
    assert node.stats["refused_denied"] == 0
    own = pool.machine.folder / "agent" / "agent.token"
    assert stat.S_IMODE(own.stat().st_mode) == 0o600
    # It reads no block: there is none of its tenant's.
    got = pool.blocks("get", "k", "-", "--token-file", str(own))
    assert got.returncode == 3
    refused = pool.blocks("put", "k", "-", "--token-file", str(own), stdin=b"x")
    assert refused.returncode == 1
