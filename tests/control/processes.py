"""The control plane and node agents as a user starts them: processes of their own."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from memkv_nixl.proto.memkv.v1 import admin_pb2, admin_pb2_grpc, placement_pb2, placement_pb2_grpc
from tests.integration.nodes import DEADLINE_S


@dataclass
class Served:
    """A `memkv … serve --json` that serves, and what it said."""

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.said["address"])

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)

    def end(self, number: signal.Signals = signal.SIGTERM) -> list[dict[str, Any]]:
        """A signal, upon which it ends cleanly; gives its log."""
        self.process.send_signal(number)
        errors = self.process.communicate(timeout=DEADLINE_S)[1]
        assert self.process.returncode == 0, errors
        return logs(errors)

    def died(self) -> tuple[int, str]:
        """It ends by itself: the exit code, and all that it said."""
        out, errors = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, out + errors


def logs(errors: str) -> list[dict[str, Any]]:
    """Each line of a JSON log."""
    found = [json.loads(line) for line in errors.splitlines()]
    assert all(list(line) == ["time", "level", "what", "node", "fields"] for line in found)
    return found


@contextmanager
def serve(*args: str) -> Iterator[Served]:
    """`memkv ARGS --json` that serves; it ends cleanly unless the test ended it."""
    command = [sys.executable, "-m", "memkv_nixl.cli", *args, "--json"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        served = Served(process, json.loads(line))
        assert "error" not in served.said, served.said
        try:
            yield served
        except BaseException:
            process.kill()
            raise
        if process.poll() is None:
            served.end()


@contextmanager
def control(folder: Path, *args: str, listen: str = "127.0.0.1:0") -> Iterator[Served]:
    """A control plane whose state is in this folder."""
    where = ("--listen", listen, "--state", str(folder))
    with serve("control", "serve", *where, *args) as served:
        yield served


def free_port() -> int:
    """A port that is free, and that no connection is given by chance (ip_local_port_range)."""
    while True:
        port = random.randrange(20_000, 32_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@dataclass
class Machine:
    """A place for one node: its device, its agent's folder, its address."""

    folder: Path
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")

    @contextmanager
    def agent(self, control_: str, *args: str) -> Iterator[Served]:
        """The agent of the node here."""
        device = ("--device", str(self.folder / "blocks"), "--capacity", "1GiB", "--dram", "256MiB")
        where = ("--listen", self.address, "--agent-dir", str(self.folder / "agent"))
        with serve("node", "serve", "--control", control_, *device, *where, *args) as served:
            assert served.address == self.address
            yield served

    def kill_memkvd(self) -> None:
        """Whatever memkvd is left here."""
        with contextlib.suppress(OSError, ValueError):
            record = json.loads((self.folder / "agent" / "memkvd.json").read_text("utf-8"))
            descriptor = os.pidfd_open(record["pid"])
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                select.select([descriptor], [], [], DEADLINE_S)
            finally:
                os.close(descriptor)


class Operator:
    """Calls of an operator."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._placement = placement_pb2_grpc.PlacementStub(channel)
        self._admin = admin_pb2_grpc.AdminStub(channel)

    def node(self) -> Any:
        """The one node."""
        (node,) = self.nodes()
        return node

    def nodes(self) -> list[Any]:
        """All of them."""
        request = placement_pb2.ListNodesRequest(with_stats=True)
        return list(self._placement.ListNodes(request, timeout=DEADLINE_S).nodes)

    def drain(self, address: str) -> int:
        """Gives the epoch of the map by which it drains."""
        request = placement_pb2.DrainNodeRequest(address=address)
        return int(self._placement.DrainNode(request, timeout=DEADLINE_S).epoch)

    def remove(self, address: str) -> None:
        request = placement_pb2.RemoveNodeRequest(address=address, force=True)
        self._placement.RemoveNode(request, timeout=DEADLINE_S)

    def wait_event(self, kind: str, count: int = 1) -> Any:
        """Waits until there were so many of this kind since the control plane started."""
        request = admin_pb2.WatchEventsRequest(follow=True)
        watch = self._admin.WatchEvents(request, timeout=DEADLINE_S)
        for event in watch:
            count -= event.kind == kind
            if count == 0:
                watch.cancel()
                return event
        raise AssertionError(f"no such event: {kind}")

    def wait_node(self, condition: Any) -> Any:
        """Waits until the one node is so; the next thing that is heard of it may make it so."""
        (node,) = self.wait_nodes(condition)
        return node

    def wait_nodes(self, condition: Any) -> list[Any]:
        """Waits until every node is so."""
        request = placement_pb2.WatchMapRequest()
        watch = self._placement.WatchMap(request, timeout=DEADLINE_S)
        try:
            nodes = self.nodes()
            while not all(condition(node) for node in nodes):
                assert watch.is_active(), f"it never was so: {nodes}"
                nodes = self.nodes()
        finally:
            watch.cancel()
        return nodes


@contextmanager
def operator(address: str) -> Iterator[Operator]:
    """An operator of the control plane there."""
    with grpc.insecure_channel(address) as channel:
        yield Operator(channel)
