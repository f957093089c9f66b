"""`memkv control serve` as a user starts it: killed, started again, asked for what it cannot do."""

from __future__ import annotations

import signal
from pathlib import Path

import grpc
import pytest

from memkv_nixl.proto.memkv.v1 import namespaces_pb2, namespaces_pb2_grpc
from tests.control.processes import control
from tests.integration.nodes import DEADLINE_S, memkv


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    for generation in range(3):
        with control(tmp_path / "state") as served:
            assert served.said["state"] == str(tmp_path / "state")
            with grpc.insecure_channel(served.address) as channel:
                api = namespaces_pb2_grpc.NamespacesStub(channel)
                make = namespaces_pb2.CreateNamespaceRequest(name="llama")
                made = api.CreateNamespace(make, timeout=DEADLINE_S)
                assert made.namespace.drop_generation == generation
                drop = namespaces_pb2.DropNamespaceRequest(name="llama", drop_generation=generation)
                api.DropNamespace(drop, timeout=DEADLINE_S)
            served.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with control(tmp_path) as served:
        lines = served.end(number)
        assert lines[-1]["what"] == "stops"
        assert {line["node"] for line in lines} == {"control"}
        started = {"kind": "started", "subject": "control", "epoch": 2}
        assert next(line["fields"] for line in lines if line["fields"]) == started


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    beyond = memkv("control", "serve", "--listen", "0.0.0.0:0", *state)
    assert beyond.returncode == 2
    assert b"--insecure" in beyond.stderr
    shaped = memkv("control", "serve", "--log-format", "xml", *state)
    assert shaped.returncode == 2
    assert b"control.log_format: 'xml'" in shaped.stderr
    hasty = memkv("control", "serve", "--deadline-ms", "1000", *state)
    assert hasty.returncode == 2
    assert b"control.deadline_ms" in hasty.stderr
    with control(tmp_path):
        second = memkv("control", "serve", "--listen", "127.0.0.1:0", *state)
    assert second.returncode == 1
    assert b"another control plane" in second.stderr


def test_without_grpc_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "grpc.py").write_text("raise ImportError('there is no grpc here')\n")
    for command in (
        ("control", "serve", "--state", str(tmp_path)),
        ("node", "serve", "--control", "127.0.0.1:1", "--device", str(tmp_path / "d")),
    ):
        said = memkv(*command, PYTHONPATH=str(tmp_path))
        assert said.returncode == 2
        assert b"pip install 'memkv-nixl[control]'" in said.stderr
