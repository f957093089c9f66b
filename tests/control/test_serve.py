"""`memkv control serve` as a user starts it: a process of its own, killed and started again."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl.proto.memkv.v1 import namespaces_pb2, namespaces_pb2_grpc
from tests.integration.nodes import DEADLINE_S, memkv


@contextmanager
def control(*args: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`memkv control serve --json ARGS` that serves; it ends cleanly unless the test ended it."""
    command = [sys.executable, "-m", "memkv_nixl.cli", "control", "serve", "--json", *args]
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
                for log in errors.splitlines():
                    assert json.loads(log).keys() == {"time", "level", "message"}


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    where = ("--listen", "127.0.0.1:0", "--state", str(tmp_path / "state"))
    for generation in range(3):
        with control(*where) as (process, said):
            assert said["state"] == str(tmp_path / "state")
            with grpc.insecure_channel(said["address"]) as channel:
                api = namespaces_pb2_grpc.NamespacesStub(channel)
                make = namespaces_pb2.CreateNamespaceRequest(name="llama")
                made = api.CreateNamespace(make, timeout=DEADLINE_S)
                assert made.namespace.drop_generation == generation
                drop = namespaces_pb2.DropNamespaceRequest(name="llama", drop_generation=generation)
                api.DropNamespace(drop, timeout=DEADLINE_S)
            process.kill()
            process.wait(DEADLINE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with control("--listen", "127.0.0.1:0", "--state", str(tmp_path)) as (process, _):
        process.send_signal(number)
        assert process.wait(DEADLINE_S) == 0


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    beyond = memkv("control", "serve", "--listen", "0.0.0.0:0", *state)
    assert beyond.returncode == 2
    assert b"--insecure" in beyond.stderr
    hasty = memkv("control", "serve", "--deadline-ms", "1000", *state)
    assert hasty.returncode == 2
    assert b"control.deadline_ms" in hasty.stderr
    with control("--listen", "127.0.0.1:0", *state):
        second = memkv("control", "serve", "--listen", "127.0.0.1:0", *state)
    assert second.returncode == 1
    assert b"another control plane" in second.stderr
