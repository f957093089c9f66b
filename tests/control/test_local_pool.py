"""`memkv up --control-replicas`: a whole pool on this machine, broken and stopped."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl._errors import ConfigError
from memkv_nixl.proto.memkv.v1 import admin_pb2, admin_pb2_grpc
from memkv_nixl.store import LocalPool, _local_pool
from tests.control.etcds import BINARY
from tests.integration.nodes import DEADLINE_S, memkv
from tests.integration.test_up import get, put, runs, up, wait_gone

ONE = ("--nodes", "1", "--control-replicas", "1")


def listening(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def status_of(address: str) -> Any:
    with grpc.insecure_channel(address) as channel:
        stub = admin_pb2_grpc.AdminStub(channel)
        return stub.Status(admin_pb2.StatusRequest(), timeout=DEADLINE_S)


def leader_of(control: list[str]) -> int:
    """Which of them leads."""
    return [status_of(address).leads for address in control].index(True)


def asked(said: dict[str, Any], *args: str) -> Any:
    done = memkv(*args, "--control", ",".join(said["control"]), "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def said_of(process: subprocess.Popen[str], what: str) -> str:
    """What `memkv up` says when this one has ended; it is waited for."""
    assert process.stderr is not None
    return next(line for line in process.stderr if line.startswith(f"memkv: {what} ("))


@pytest.mark.skipif(not Path(BINARY).exists(), reason="no etcd; ./dev setup installs etcd-server")
def test_three_nodes_three_replicas_and_an_etcd() -> None:
    with up("--nodes", "3", "--control-replicas", "3") as (process, said):
        nodes = asked(said, "nodes", "list")["nodes"]
        assert [node["address"] for node in nodes] == sorted(said["nodes"])
        assert {node["state"] for node in nodes} == {"serving"}
        assert put(said["nodes"]) == ["ok"] * 32
        leader = leader_of(said["control"])
        os.kill(said["control_pids"][leader], signal.SIGKILL)
        assert "killed by SIGKILL" in said_of(process, f"control {leader}")
        assert asked(said, "namespaces", "create", "llama")["epoch"] > nodes[0]["epoch"]
        os.kill(said["etcd_pid"], signal.SIGKILL)
        assert "killed by SIGKILL" in said_of(process, "etcd")
        assert get(said["nodes"]) == ["ok"] * 32
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, errors
    pids = [*said["pids"], *said["control_pids"], said["etcd_pid"]]
    assert not any(runs(pid) for pid in pids)
    assert not any(listening(address) for address in (*said["nodes"], *said["control"]))
    assert not Path(said["folder"]).exists()


def test_one_control_process_needs_no_etcd_and_is_the_same_again(tmp_path: Path) -> None:
    with up(*ONE, "--dir", str(tmp_path)) as (_, first):
        assert first["etcd"] is None
        before = status_of(first["control"][0])
        assert put(first["nodes"]) == ["ok"] * 32
    with up(*ONE, "--dir", str(tmp_path)) as (_, second):
        assert (second["nodes"], second["control"]) == (first["nodes"], first["control"])
        assert get(second["nodes"]) == ["ok"] * 32
        after = status_of(second["control"][0])
        assert (after.history, after.leads) == (before.history, True)


def test_an_agent_that_dies_ends_it_with_its_memkvd() -> None:
    with up(*ONE) as (process, said):
        os.kill(said["pids"][0], signal.SIGKILL)
        answer, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert "node 0" in json.loads(answer)["error"]["message"]
    assert not listening(said["nodes"][0])
    assert not Path(said["folder"]).exists()


def test_nothing_outlives_an_up_that_is_killed(tmp_path: Path) -> None:
    with up(*ONE, "--dir", str(tmp_path)) as (process, said):
        memkvd = json.loads((tmp_path / "node0" / "memkvd.json").read_text("utf-8"))["pid"]
        process.kill()
        process.communicate()
        wait_gone([*said["pids"], *said["control_pids"], memkvd])


def test_what_cannot_be_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_local_pool, "_ETCD_PATHS", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match="apt-get install etcd-server"):
        LocalPool(1, 3)
    for count, replicas in ((0, 1), (1, 0), (1, 8)):
        with pytest.raises(ConfigError, match="is not between"):
            LocalPool(count, replicas)
