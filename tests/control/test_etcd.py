"""Replicas, etcd, a node with its agent and memkvd, all of them real processes: what is killed
heals in seconds, and blocks do not notice. Run with -s to see how long it took."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl.proto.memkv.v1 import (
    admin_pb2,
    admin_pb2_grpc,
    map_pb2,
    namespaces_pb2,
    namespaces_pb2_grpc,
    placement_pb2,
    placement_pb2_grpc,
)
from tests.control.etcds import running
from tests.control.plane import reason_of
from tests.control.processes import Machine, Served, free_port, serve
from tests.integration.nodes import DEADLINE_S, memkv

SPACE = namespace_id("replicas")
FAST = ("--heartbeat-ms", "50", "--deadline-ms", "1000", "--lease-s", "2")
HEALED_WITHIN_S = 10  # a lease of 2 s, and commands that have to be started


class Pool:
    """Three replicas with an etcd, and a node whose agent knows all three."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._stack = stack
        self.etcd = stack.enter_context(running(folder / "etcd"))
        self.addresses = [f"127.0.0.1:{free_port()}" for _ in range(3)]
        self.control = ",".join(self.addresses)
        self.replicas = {address: self._replica(address) for address in self.addresses}
        (folder / "machine").mkdir()
        self.machine = Machine(folder / "machine")
        stack.callback(self.machine.kill_memkvd)
        stack.enter_context(self.machine.agent(self.control))
        self._names = (f"space {i}" for i in range(1000))

    def _replica(self, address: str) -> Served:
        where = ("--listen", address, "--etcd", self.etcd.address)
        return self._stack.enter_context(serve("control", "serve", *where, *FAST))

    def start_again(self, address: str) -> None:
        self.replicas[address] = self._replica(address)

    def status(self, address: str) -> Any:
        with grpc.insecure_channel(address) as channel:
            stub = admin_pb2_grpc.AdminStub(channel)
            return stub.Status(admin_pb2.StatusRequest(), timeout=DEADLINE_S)

    def leader(self, but: str = "") -> str:
        """Its address, as soon as there is one; `but` is another one."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            for address in self.addresses:
                if address != but and self.status(address).leads:
                    return address
        raise AssertionError("nobody leads")

    def change(self, control: str = "") -> int:
        """A namespace is created by a command; gives the epoch."""
        create = ("namespaces", "create", next(self._names))
        said = memkv(*create, "--control", control or self.control, "--json")
        assert said.returncode == 0, said.stdout + said.stderr
        return int(json.loads(said.stdout)["epoch"])

    def wait_registered(self, leader: str) -> None:
        """Until that one hears the node, and hears that memkvd holds its map."""
        end = time.monotonic() + DEADLINE_S
        with grpc.insecure_channel(leader) as channel:
            stub = placement_pb2_grpc.PlacementStub(channel)
            while time.monotonic() < end:
                answer = stub.ListNodes(placement_pb2.ListNodesRequest(), timeout=DEADLINE_S)
                if not answer.nodes:
                    continue
                (node,) = answer.nodes
                if node.state == map_pb2.NODE_STATE_SERVING and node.epoch == answer.epoch:
                    assert not answer.leader
                    return
        raise AssertionError("the node did not register")

    def blocks(self, key: bytes) -> None:
        """A block is put and got."""
        client = Client([self.machine.address])
        put, got = client.put(SPACE, [key], [key * 99]), bytearray(len(key) * 99)
        assert put.wait(DEADLINE_S * 1000)
        get = client.get(SPACE, [key], [got])
        assert get.wait(DEADLINE_S * 1000)
        client.close()
        assert [CODES[code] for code in (*put.codes(), *get.codes())] == ["ok", "ok"]
        assert got == key * 99


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with contextlib.ExitStack() as stack:
        yield Pool(tmp_path_factory.mktemp("pool"), stack)


def test_a_change_goes_through_whichever_replica_is_named(pool: Pool) -> None:
    pool.wait_registered(pool.leader())
    epochs = [pool.change(address) for address in pool.addresses]
    assert epochs == list(range(epochs[0], epochs[0] + 3))
    for address in pool.addresses:
        said = memkv("nodes", "list", "--control", address, "--json")
        (node,) = json.loads(said.stdout)["nodes"]
        assert (node["state"], node["address"]) == ("serving", pool.machine.address)
        assert node["stats"], "it is the leader that was asked"


def test_a_leader_that_is_killed_is_replaced_within_seconds(pool: Pool) -> None:
    leader, before = pool.leader(), pool.change()
    pool.replicas[leader].kill()
    began = time.monotonic()
    pool.blocks(b"while nobody leads")
    assert pool.change() > before
    changed_s = time.monotonic() - began
    pool.start_again(leader)
    pool.wait_registered(pool.leader())
    registered_s = time.monotonic() - began
    print(f"killed leader: a change after {changed_s:.1f} s, the node after {registered_s:.1f} s")
    assert changed_s < HEALED_WITHIN_S
    assert registered_s < HEALED_WITHIN_S + 5  # a replica was started meanwhile


def test_without_etcd_reads_and_blocks_go_on_and_nothing_changes(pool: Pool) -> None:
    pool.wait_registered(pool.leader())
    before = pool.change()
    pool.etcd.kill()
    pool.blocks(b"without etcd")
    said = memkv("namespaces", "create", "never", "--control", pool.control)
    assert said.returncode == 1
    assert b"etcd at" in said.stderr
    for address in pool.addresses:
        status = pool.status(address)
        assert (status.epoch, status.snapshot_ok) == (before, False)
    listed = memkv("nodes", "list", "--control", pool.control)
    assert pool.machine.address.encode() in listed.stdout
    pool.etcd.start()
    began = time.monotonic()
    leader = pool.leader()
    assert pool.change() > before
    changed_s = time.monotonic() - began
    pool.wait_registered(leader)
    registered_s = time.monotonic() - began
    print(f"etcd is back: a change after {changed_s:.1f} s, the node after {registered_s:.1f} s")
    assert changed_s < HEALED_WITHIN_S
    assert registered_s < HEALED_WITHIN_S
    listed = json.loads(memkv("namespaces", "list", "--control", pool.control, "--json").stdout)
    assert "never" not in [space["name"] for space in listed["namespaces"]]


def test_a_leader_that_stood_still_writes_nothing_when_it_goes_on(pool: Pool) -> None:
    leader = pool.leader()
    pool.wait_registered(leader)
    pool.replicas[leader].process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with grpc.insecure_channel(leader) as channel:
        stub = namespaces_pb2_grpc.NamespacesStub(channel)
        late = stub.CreateNamespace.future(
            namespaces_pb2.CreateNamespaceRequest(name="late"), timeout=DEADLINE_S
        )
        others = ",".join(address for address in pool.addresses if address != leader)
        epoch = pool.change(others)
        changed_s = time.monotonic() - began
        successor = pool.leader(leader)
        pool.wait_registered(successor)
        registered_s = time.monotonic() - began
        held = asyncio.run(pool.etcd.keys(b"/memkv/default/state"))
        pool.replicas[leader].process.send_signal(signal.SIGCONT)
        error = late.exception(DEADLINE_S)
        assert isinstance(error, grpc.RpcError)
        assert reason_of(error) == "NOT_LEADER"
        assert asyncio.run(pool.etcd.keys(b"/memkv/default/state")) == held
        watch = placement_pb2_grpc.PlacementStub(channel).WatchMap(
            placement_pb2.WatchMapRequest(), timeout=DEADLINE_S
        )
        assert any(answer.map.epoch == epoch for answer in watch), "it publishes what others wrote"
        watch.cancel()
    print(f"stopped leader: a change after {changed_s:.1f} s, the node after {registered_s:.1f} s")
    assert changed_s < HEALED_WITHIN_S
    assert registered_s < HEALED_WITHIN_S
    assert pool.status(leader).leader == successor
