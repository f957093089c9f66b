"""What an operator sees: /metrics of the control plane and of agents, status and events."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from tests.control.processes import Machine, Served, control, free_port, operator
from tests.integration.nodes import DEADLINE_S, memkv
from tests.integration.scraping import documented, get, scrape, scrape_until
from tests.integration.test_metrics import RULED, WEAR

FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "60000")
ANYWHERE = ("--metrics", "127.0.0.1:0")
REGISTER = "Placement/RegisterNode"


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[Served]:
    with control(tmp_path / "state", *FAST, *ANYWHERE) as served:
        yield served


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    folder = tmp_path / "machine"
    folder.mkdir()
    made = Machine(folder)
    yield made
    made.kill_memkvd()


def status(plane: Served) -> tuple[int, dict[str, Any]]:
    said = memkv("status", "--control", plane.address, "--json")
    return said.returncode, json.loads(said.stdout)


def test_the_control_plane_says_how_it_is(machine: Machine, plane: Served, repo: Path) -> None:
    page = str(plane.said["metrics"])
    assert get(page, "/healthz") == (200, "ok\n")
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        we.wait_event("node_joined")
        with pytest.raises(grpc.RpcError, match=r"10\.0\.0\.9:1"):
            we.drain("10.0.0.9:1")
        found = scrape_until(page, lambda now: now.value("memkv_control_heartbeats_total") > 3)
        rows = documented(repo)
        assert found.metrics.items() <= rows.items()
        assert {name for name in rows if name.startswith("memkv_control_")} == set(found.metrics)

        assert found.value("memkv_control_nodes", state="serving") == 1
        assert found.value("memkv_control_nodes", state="lost") == 0
        assert found.value("memkv_control_agents") == 1
        assert found.value("memkv_control_leader") == 1
        assert found.value("memkv_control_events_total", kind="node_joined") == 1
        assert found.value("memkv_control_snapshot_write_seconds_count") >= 1
        assert found.value("memkv_control_snapshot_failures_total") == 0
        refused = {"method": "Placement/DrainNode", "status": "NOT_FOUND"}
        assert found.value("memkv_control_calls_total", **refused) == 1
        drained = found.value("memkv_control_call_seconds_count", method="Placement/DrainNode")
        assert drained == 1
        assert found.value("memkv_control_streams", method=REGISTER) == 1
        scrape_until(
            page, lambda now: now.value("memkv_control_node_map_lag", node=agent.address) == 0
        )
        agent.kill()
        we.wait_event("node_silent")
        # A stream is counted when it has ended, which may be after the event.
        after = scrape_until(
            page,
            lambda now: now.value("memkv_control_streams", method=REGISTER) == 0,
        )
        assert after.value("memkv_control_nodes", state="silent") == 1
        # Whether the end of its words or that of its connection is seen first is the network's.
        ended = {
            dict(labels)["status"]: value
            for (name, labels), value in after.samples.items()
            if name == "memkv_control_calls_total" and ("method", REGISTER) in labels
        }
        assert ended in ({"CANCELLED": 1}, {"OK": 1})
        assert after.value("memkv_control_streams", method=REGISTER) == 0


def test_an_agent_serves_its_nodes_page(machine: Machine, plane: Served, repo: Path) -> None:
    with machine.agent(plane.address, *ANYWHERE) as agent, operator(plane.address) as we:
        page = str(agent.said["metrics"])
        scrape_until(page, lambda now: now.value("memkv_node_registered") == 1)
        rule = ("namespaces", "create", "llama", "--copies", "2", "--control", plane.address)
        assert memkv(*rule).returncode == 0
        found = scrape_until(page, lambda now: now.value("memkv_node_namespaces_settled") == 1)
        rows = documented(repo)
        assert found.metrics.items() <= rows.items()
        absent = {name for name in rows if name.startswith("memkv_node_")} - found.metrics.keys()
        assert absent <= WEAR | RULED
        space = {"tenant": "1", "namespace": namespace_id("llama").hex()}
        assert found.value("memkv_node_namespace_copies_waiting", **space) == 0
        assert found.value("memkv_node_memkvd_starts_total") == 1
        machine.kill_memkvd()
        again = scrape_until(page, lambda now: now.value("memkv_node_memkvd_starts_total") == 2)
        we.wait_node(lambda node: node.stats.get("boot") == 2)
        again = scrape(page)
        assert (again.value("memkv_node_up"), again.value("memkv_node_boot")) == (1, 2)


def test_a_pool_on_one_screen(machine: Machine, plane: Served) -> None:
    code, before = status(plane)
    assert (code, before["health"], before["reasons"]) == (4, "down", ["no node has registered"])
    with machine.agent(plane.address) as agent, operator(plane.address) as we:
        client = Client([agent.address])
        request = client.put(namespace_id("s"), [b"k"], [bytes(5000)])
        assert request.wait(DEADLINE_S * 1000)
        client.close()
        we.wait_event("node_joined")
        we.wait_node(lambda node: node.stats.get("blocks") == 1)
        code, fine = status(plane)
        assert (code, fine["health"], fine["reasons"]) == (0, "healthy", [])
        assert (fine["blocks"], fine["block_bytes"]) == (1, 5000)
        assert fine["nodes_by_state"]["serving"] == 1
        assert fine["nodes"][0]["address"] == agent.address
        screen = memkv("status", "--control", plane.address).stdout.decode()
        assert screen.startswith(f"The pool at {plane.address} is healthy.\n")
        assert "nodes   1 serving\n" in screen
        assert "node_joined" in screen
        we.drain(agent.address)
        code, drained = status(plane)
        assert (code, drained["health"]) == (4, "down")
        assert drained["reasons"] == ["no node takes blocks"]
        agent.kill()
        we.wait_event("node_silent")
        code, silent = status(plane)
        assert (code, silent["health"]) == (4, "down")
        assert any("is silent: not heard for" in reason for reason in silent["reasons"])


def test_a_silent_node_beside_another_degrades_the_pool(plane: Served, tmp_path: Path) -> None:
    machines = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        machines.append(Machine(tmp_path / name))
    with machines[0].agent(plane.address), machines[1].agent(plane.address) as other:
        with operator(plane.address) as we:
            we.wait_event("node_joined", 2)
            other.kill()
            we.wait_event("node_silent")
        code, found = status(plane)
        assert (code, found["health"]) == (1, "degraded")
        assert [reason.split()[0] for reason in found["reasons"]] == [other.address]
    machines[1].kill_memkvd()


def test_a_state_that_cannot_be_written_is_seen(
    machine: Machine, plane: Served, tmp_path: Path
) -> None:
    page = str(plane.said["metrics"])
    with machine.agent(plane.address), operator(plane.address) as we:
        we.wait_event("node_joined")
        state = tmp_path / "state"
        state.rename(tmp_path / "away")
        refused = memkv("namespaces", "create", "llama", "--control", plane.address)
        assert refused.returncode == 1
        code, found = status(plane)
        assert (code, found["health"], found["snapshot_ok"]) == (1, "degraded", False)
        assert "cannot write its state" in found["reasons"][0]
        assert get(page, "/healthz") == (503, "the state cannot be written\n")
        failures = scrape(page).value("memkv_control_snapshot_failures_total")
        assert failures >= 1
        (tmp_path / "away").rename(state)
        assert memkv("namespaces", "create", "llama", "--control", plane.address).returncode == 0
        assert status(plane)[0] == 0


def test_events_are_listed_and_followed(plane: Served) -> None:
    listed = memkv("events", "--control", plane.address, "--json")
    assert listed.returncode == 0
    first = json.loads(listed.stdout.splitlines()[0])
    assert (first["sequence"], first["kind"], first["subject"]) == (1, "started", "control")
    assert first["reason"] == "a new pool"
    command = [sys.executable, "-m", "memkv_nixl.cli", "events", "--follow", "--json"]
    command += ["--after", "1", "--control", plane.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        made = memkv("namespaces", "create", "llama", "--control", plane.address)
        assert made.returncode == 0
        event = json.loads(follower.stdout.readline())
        assert (event["kind"], event["subject"]) == ("namespace_created", "default/llama")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(DEADLINE_S) == 130
    human = memkv("events", "--control", plane.address).stdout.decode()
    assert "  namespace_created  default/llama: " in human


def test_nobody_there_is_said(plane: Served) -> None:
    for command in ("status", "events"):
        said = memkv(command, "--control", f"127.0.0.1:{free_port()}", "--json")
        assert said.returncode == 1
        assert "does not answer" in json.loads(said.stdout)["error"]["message"]
