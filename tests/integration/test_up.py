"""The embedded cluster and `memkv up`: started, used, broken, stopped, started again."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl._errors import CODES, ConfigError, RefusedError, UnreachableError
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl._signals import wake_on_signals
from memkv_nixl.store import Cluster
from tests.integration.nodes import DEADLINE_S, memkv

SPACE = namespace_id("up")
SMALL = ("--capacity", "1GiB", "--dram", "256MiB")


@contextmanager
def up(*args: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`memkv up --json ARGS` that serves; it must end cleanly unless the test ended it."""
    command = [sys.executable, "-m", "memkv_nixl.cli", "up", "--json", *SMALL, *args]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        try:
            yield process, json.loads(line)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                errors = process.communicate(timeout=DEADLINE_S)[1]
                assert process.returncode == 0, errors


def runs(pid: int) -> bool:
    """Whether a process runs (and is no zombie that waits to be reaped)."""
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pids: list[int]) -> None:
    """Waits until processes that are not our children have ended."""
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            assert select.select([descriptor], [], [], DEADLINE_S)[0], f"process {pid} lives on"
        finally:
            os.close(descriptor)


def put(nodes: tuple[str, ...] | list[str], count: int = 32) -> list[str]:
    client = Client(list(nodes))
    keys = [b"key-%d" % i for i in range(count)]
    request = client.put(SPACE, keys, [b"block of " + key for key in keys])
    assert request.wait(DEADLINE_S * 1000)
    client.close()
    return [CODES[code] for code in request.codes()]


def get(nodes: tuple[str, ...] | list[str], count: int = 32) -> list[str]:
    client = Client(list(nodes))
    keys = [b"key-%d" % i for i in range(count)]
    targets = [bytearray(len(b"block of " + key)) for key in keys]
    request = client.get(SPACE, keys, targets)
    assert request.wait(DEADLINE_S * 1000)
    client.close()
    words = [CODES[code] for code in request.codes()]
    for key, target, word in zip(keys, targets, words, strict=True):
        assert word != "ok" or target == b"block of " + key
    return words


def test_a_folder_is_served_again_at_the_same_addresses(tmp_path: Path) -> None:
    with up("--nodes", "3", "--dir", str(tmp_path)) as (_, first):
        assert len(first["nodes"]) == 3
        assert put(first["nodes"]) == ["ok"] * 32
    with up("--nodes", "3", "--dir", str(tmp_path)) as (_, second):
        assert second["nodes"] == first["nodes"]
        assert get(second["nodes"]) == ["ok"] * 32


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_temporary_folder_goes_with_it(number: signal.Signals) -> None:
    with up("--nodes", "1") as (process, said):
        folder = Path(said["folder"])
        assert folder.is_dir()
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
    assert not folder.exists()
    assert not any(runs(pid) for pid in said["pids"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with up("--dir", str(tmp_path)) as (process, said):
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0
    assert not any(runs(pid) for pid in said["pids"])
    assert "stopped" in Path(said["logs"][0]).read_text(encoding="utf-8")


def test_a_second_signal_kills_what_does_not_stop_and_leaves_nothing() -> None:
    with up("--nodes", "2") as (process, said):
        os.kill(said["pids"][0], signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        wait_gone(said["pids"][1:])  # all were asked, and it waits for the other
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 130
    assert not any(runs(pid) for pid in said["pids"])
    assert not Path(said["folder"]).exists()


def test_a_node_that_dies_ends_it_with_its_last_words(tmp_path: Path) -> None:
    with up("--dir", str(tmp_path)) as (process, said):
        os.kill(said["pids"][1], signal.SIGKILL)
        answer, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    error = json.loads(answer)["error"]["message"]
    assert said["nodes"][1] in error
    assert "SIGKILL" in error
    assert "serves on" in error
    assert not any(runs(pid) for pid in said["pids"])


def test_no_node_outlives_a_killed_up(tmp_path: Path) -> None:
    with up("--dir", str(tmp_path)) as (process, said):
        process.kill()
        process.communicate()
        wait_gone(said["pids"])


def test_a_folder_has_one_cluster_at_a_time(tmp_path: Path) -> None:
    with Cluster(1, folder=tmp_path), pytest.raises(RefusedError, match="another cluster"):
        Cluster(1, folder=tmp_path).start()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    with Cluster(1, folder=tmp_path) as cluster:
        host, _, port = cluster.addresses[0].rpartition(":")
    with socket.create_server((host, int(port))), Cluster(1, folder=tmp_path) as again:
        assert again.addresses != (f"{host}:{port}",)
        assert f"{host}:{port} is taken" in again.moved[0]


def test_a_node_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "node1.dat").mkdir()
    cluster = Cluster(3, folder=tmp_path)
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(UnreachableError, match=r"node1\.dat"):
        cluster.start()
    assert cluster.addresses == ()
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
    said = memkv("up", "--json", "--nodes", "2", "--dir", str(tmp_path), *SMALL)
    assert said.returncode == 1
    assert "node1.dat" in json.loads(said.stdout)["error"]["message"]


def test_a_node_dies_and_comes_back_warm() -> None:
    with Cluster(2) as cluster:
        assert put(cluster.addresses) == ["ok"] * 32
        cluster.stop_node(1)
        assert cluster.ended() is None  # it was told to
        assert [node.running for node in cluster.nodes] == [True, False]
        assert set(get(cluster.addresses)) == {"ok", "unreachable"}
        cluster.restart_node(1)
        assert get(cluster.addresses) == ["ok"] * 32
        cluster.kill_node(0)
        assert cluster.ended() is None
        assert cluster.nodes[0].pid is None  # it may be another process's by now


def test_watch_tells_a_death_from_a_signal() -> None:
    with Cluster(1) as cluster, wake_on_signals(signal.SIGUSR1) as wake:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert cluster.watch(wake) is None
        assert wake.recv(16)
        pid = cluster.nodes[0].pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        ended = cluster.watch(wake, DEADLINE_S)
        assert ended is not None
        assert ended.status == -signal.SIGKILL


@pytest.mark.parametrize("wrong", [{"count": 0}, {"count": 65}, {"capacity": "much"}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Cluster(**wrong)


def test_up_for_a_person(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "memkv_nixl.cli", "up", "--dir", str(tmp_path), *SMALL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    assert "2 store nodes serve" in lines[0]
    assert str(tmp_path) in lines[0]
    assert "export MEMKV_NODES=127.0.0.1:" in lines[2]
