"""The pool that is broken: an etcd, three replicas of the control plane and three nodes, each on a
machine of its own, and each process kept running by nothing but its unit's policy."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from memkv_nixl.proto.memkv.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    map_pb2,
    placement_pb2,
    placement_pb2_grpc,
)
from tests.faults.network import Machine, Network
from tests.faults.noise import waited_s
from tests.faults.supervisor import Kept, Policy, policy_of

COUNT = 3
BLOCKS_PORT, CONTROL_PORT, ETCD_PORT = 9900, 9910, 2379
# A node is silent after a second and loses its share after two: both happen in a run.
TIMES = ("--heartbeat-ms", "200", "--deadline-ms", "1000", "--lost-after-ms", "2000")
LEASE_S = 2
_ASK_S = 1.0  # for an answer of one replica
_GONE_S = 10.0


@dataclass
class Node:
    """A machine with an agent and its memkvd."""

    index: int
    machine: Machine
    folder: Path
    agent: Kept

    @property
    def address(self) -> str:
        return f"{self.machine.host}:{BLOCKS_PORT}"

    @property
    def memkvd_pid(self) -> int:
        """Of the one that was started last. Raises OSError when none was."""
        record = json.loads((self.folder / "agent" / "memkvd.json").read_text("utf-8"))
        return int(record["pid"])

    def kill_memkvd(self) -> bool:
        """kill -9 of memkvd, and waits until it is gone; False when none runs."""
        try:
            pid = self.memkvd_pid
            descriptor = os.pidfd_open(pid)
        except OSError:
            return False
        try:
            # Looked at behind the pidfd: the number may be another process's by now.
            if Path(f"/proc/{pid}/comm").read_text("utf-8") != "memkvd\n":
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            return bool(select.select([descriptor], [], [], _GONE_S)[0])
        except OSError:  # it is gone
            return False
        finally:
            os.close(descriptor)


@dataclass
class Replica:
    """A machine with a process of the control plane."""

    machine: Machine
    process: Kept
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self._admin = admin_pb2_grpc.AdminStub(self.channel)
        self._placement = placement_pb2_grpc.PlacementStub(self.channel)

    def status(self) -> Any:
        """How it is. Raises grpc.RpcError."""
        return self._admin.Status(admin_pb2.StatusRequest(), timeout=_ASK_S)

    def nodes(self) -> Any:
        """What it knows of nodes. Raises grpc.RpcError."""
        return self._placement.ListNodes(placement_pb2.ListNodesRequest(), timeout=_ASK_S)


class Pool:
    """All of it; `here` is the machine that this process, and so every client, is on."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self.network = Network()
        self.here = self.network.here("clients")
        control = policy_of("memkv-control.service")
        node = policy_of("memkv-node@.service")
        self.etcd_machine, self.etcd = self._start_etcd(Policy("always", control.after_s))
        self.replicas = [self._start_replica(i, control) for i in range(COUNT)]
        addresses = [f"{one.machine.host}:{CONTROL_PORT}" for one in self.replicas]
        self.nodes = [self._start_node(i, ",".join(addresses), node) for i in range(COUNT)]

    @property
    def addresses(self) -> list[str]:
        """Where clients find the nodes."""
        return [node.address for node in self.nodes]

    @property
    def machines(self) -> list[Machine]:
        """Every machine that has a link to cut."""
        others = [*(one.machine for one in self.replicas), *(one.machine for one in self.nodes)]
        return [self.here, self.etcd_machine, *others]

    @property
    def processes(self) -> list[Kept]:
        """Those that are kept running; each memkvd is its agent's."""
        return [
            self.etcd,
            *(one.process for one in self.replicas),
            *(one.agent for one in self.nodes),
        ]

    def leader(self) -> int | None:
        """Which replica says that it leads."""
        for index, replica in enumerate(self.replicas):
            with contextlib.suppress(grpc.RpcError):
                if replica.status().leads:
                    return index
        return None

    def what_is_wrong(self) -> str:
        """Why the control plane does not say that all is well; empty: it does."""
        try:
            statuses = [replica.status() for replica in self.replicas]
        except grpc.RpcError as error:
            return f"a replica does not answer: {_words(error)}"
        leaders = [i for i, status in enumerate(statuses) if status.leads]
        if len(leaders) != 1:
            return f"{len(leaders)} replicas lead"
        if not all(status.snapshot_ok for status in statuses):
            return "a replica cannot reach its memory"
        if len({(status.history, status.epoch) for status in statuses}) != 1:
            return f"the replicas publish the epochs {[status.epoch for status in statuses]}"
        try:
            listed = self.replicas[leaders[0]].nodes()
        except grpc.RpcError as error:
            return f"the leader does not list nodes: {_words(error)}"
        for node in self.nodes:
            said = [one for one in listed.nodes if one.address == node.address]
            if not said:
                return f"node {node.index} is not in the map"
            if said[0].state != map_pb2.NODE_STATE_SERVING:
                return f"node {node.index} is {map_pb2.NodeState.Name(said[0].state)}"
            if said[0].epoch != listed.epoch:
                return f"node {node.index} holds the map {said[0].epoch}, not {listed.epoch}"
        return ""

    def waits(self) -> dict[str, dict[int, float]]:
        """How long each process had to wait for a core since it started, by its kind and number."""
        waits: dict[str, dict[int, float]] = {}
        for process in self.processes:
            waits.setdefault(process.what.rstrip("0123456789"), {})[process.pid] = waited_s(
                process.pid
            )
        for node in self.nodes:
            with contextlib.suppress(OSError):
                waits.setdefault("memkvd", {})[node.memkvd_pid] = waited_s(node.memkvd_pid)
        return waits

    def _start_etcd(self, policy: Policy) -> tuple[Machine, Kept]:
        machine = self.network.machine("etcd")
        url, nobody = f"http://{machine.host}:{ETCD_PORT}", "http://127.0.0.1:1"
        command = [shutil.which("etcd") or "/usr/bin/etcd", "--name", "one"]
        command += ["--data-dir", str(self._folder / "etcd")]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", "http://127.0.0.1:0", "--logger", "zap"]
        command += ["--initial-advertise-peer-urls", nobody, "--initial-cluster", f"one={nobody}"]
        return machine, self._keep("etcd", machine, command, policy)

    def _start_replica(self, index: int, policy: Policy) -> Replica:
        machine = self.network.machine(f"control{index}")
        address = f"{machine.host}:{CONTROL_PORT}"
        etcd = ("--etcd", f"{self.etcd_machine.host}:{ETCD_PORT}", "--lease-s", str(LEASE_S))
        command = _memkv("control", "serve", "--listen", address, "--insecure", *etcd, *TIMES)
        process = self._keep(f"control{index}", machine, command, policy)
        # A connection that was lost is not waited for longer than it takes to ask again.
        options = (
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 500),
        )
        channel = self._stack.enter_context(grpc.insecure_channel(address, options))
        return Replica(machine, process, channel)

    def _start_node(self, index: int, control: str, policy: Policy) -> Node:
        machine = self.network.machine(f"node{index}")
        folder = self._folder / f"node{index}"
        folder.mkdir()
        words = ["node", "serve", "--control", control, "--insecure"]
        words += ["--listen", f"{machine.host}:{BLOCKS_PORT}", "--failure-domain", machine.name]
        words += ["--device", str(folder / "blocks"), "--capacity", "1GiB", "--dram", "256MiB"]
        words += ["--agent-dir", str(folder / "agent")]
        agent = self._keep(f"agent{index}", machine, _memkv(*words), policy)
        node = Node(index, machine, folder, agent)
        self._stack.callback(node.kill_memkvd)
        self._stack.callback(agent.stop)
        return node

    def _keep(self, what: str, machine: Machine, command: list[str], policy: Policy) -> Kept:
        kept = Kept(what, machine.command(*command), self._folder / f"{what}.log", policy)
        self._stack.callback(kept.stop)
        return kept


@contextlib.contextmanager
def pool(folder: Path) -> Iterator[Pool]:
    """One that runs."""
    with contextlib.ExitStack() as stack:
        yield Pool(folder, stack)


def _memkv(*words: str) -> list[str]:
    return [sys.executable, "-m", "memkv_nixl.cli", *words, "--json"]


def _words(error: grpc.RpcError) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.Call) else str(error)
