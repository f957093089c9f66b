"""`memkv nodes` and `memkv namespaces` against a real control plane."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.control.certificates import certificates
from tests.control.processes import Machine, Served, control, free_port
from tests.integration.nodes import memkv

FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "60000")


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Served]:
    with control(tmp_path / "state", *FAST) as served:
        yield served


@dataclass
class Said:
    """What a command said, and how it ended."""

    returncode: int
    stdout: str
    stderr: str


def run_alone(*args: str) -> Said:
    done = memkv(*args)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def run(plane: Served, *args: str) -> Said:
    return run_alone(*args, "--control", plane.address)


def asked(plane: Served, *args: str) -> Any:
    """The document of a command that went well."""
    said = run(plane, *args, "--json")
    assert said.returncode == 0, said.stdout + said.stderr
    return json.loads(said.stdout)


def test_nodes_are_listed_drained_and_removed(plane: Served, tmp_path: Path) -> None:
    assert run(plane, "nodes", "list").stdout == "No node has registered.\n"
    folder = tmp_path / "machine"
    folder.mkdir()
    machine = Machine(folder)
    domain = ("--weight", "7", "--failure-domain", "rack 1")
    with machine.agent(plane.address, *domain) as agent:
        (node,) = asked(plane, "nodes", "list")["nodes"]
        assert (node["address"], node["state"]) == (agent.address, "serving")
        assert (node["weight"], node["failure_domain"]) == (7, "rack 1")
        human = run(plane, "nodes", "list").stdout.splitlines()
        assert human[0].split()[:2] == ["NODE", "STATE"]
        assert human[1].startswith(f"{agent.address}  serving  7")

        drained = asked(plane, "nodes", "drain", agent.address)
        assert drained["draining"]
        assert asked(plane, "nodes", "list")["nodes"][0]["state"] == "draining"
        alone = run(plane, "nodes", "drain", agent.address, "--wait")
        assert alone.returncode == 1
        assert "no other node takes blocks" in alone.stderr
        undone = asked(plane, "nodes", "drain", agent.address, "--undo")
        assert undone["epoch"] > drained["epoch"]
        assert asked(plane, "nodes", "list")["nodes"][0]["state"] == "serving"

        refused = run(plane, "nodes", "remove", agent.address)
        assert refused.returncode == 1
        assert "serves" in refused.stderr
        agent.end()
    assert asked(plane, "nodes", "remove", machine.address, "--force")["was_known"]
    assert not asked(plane, "nodes", "remove", machine.address)["was_known"]
    assert asked(plane, "nodes", "list") == {"nodes": []}
    unknown = run(plane, "nodes", "drain", "10.0.0.9:1", "--json")
    assert unknown.returncode == 1
    assert "10.0.0.9:1" in json.loads(unknown.stdout)["error"]["message"]


def test_namespaces_are_created_listed_and_dropped(plane: Served) -> None:
    assert run(plane, "namespaces", "list").stdout == "No namespace was created.\n"
    rules = ("--quota", "2GiB", "--ttl", "60", "--copies", "2")
    made = asked(plane, "namespaces", "create", "llama", *rules)
    assert (made["quota_bytes"], made["ttl_s"], made["copies"]) == (2 << 30, 60, 2)
    assert made["drop_generation"] == 0
    for generation in (1, 2):
        dropped = asked(plane, "namespaces", "drop", "llama")
        assert dropped["drop_generation"] == generation
    said = asked(plane, "namespaces", "list")
    (listed,) = said["namespaces"]
    assert (listed["name"], listed["drop_generation"]) == ("llama", 2)
    assert listed["used_bytes"] is None  # there is no node that could say
    assert listed["copies_waiting"] is None, "no node counts them"
    assert said["warnings"] == [], "no node, no failure"
    assert "2.0 GiB" in run(plane, "namespaces", "list").stdout
    unknown = run(plane, "namespaces", "drop", "qwen")
    assert unknown.returncode == 1
    assert "qwen" in unknown.stderr
    wrong = run(plane, "namespaces", "create", "x", "--quota", "much")
    assert wrong.returncode == 2
    assert "--quota" in wrong.stderr


def test_a_control_plane_that_is_not_there_is_said(plane: Served) -> None:
    address = f"127.0.0.1:{free_port()}"
    said = run_alone("nodes", "list", "--control", address)
    assert said.returncode == 1
    assert f"the control plane at {address} does not answer" in said.stderr


def test_certificates_are_shown(tmp_path: Path) -> None:
    certificates(tmp_path)
    tls = [
        word
        for name in ("tls_cert", "tls_key", "tls_ca")
        for word in (f"--{name.replace('_', '-')}", str(tmp_path / f"{name}.pem"))
    ]
    with control(tmp_path / "state", *FAST, *tls) as plane:
        assert asked(plane, "nodes", "list", *tls) == {"nodes": []}
        lacking = run(plane, "nodes", "list", *tls[:4])
        assert lacking.returncode == 2
        assert "TLS needs all three" in lacking.stderr
        missing = run(plane, "nodes", "list", *tls[:4], "--tls-ca", "nowhere.pem")
        assert missing.returncode == 2
        assert "nowhere.pem" in missing.stderr
