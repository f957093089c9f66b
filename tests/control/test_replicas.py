"""Several replicas in the test's own process, with a real etcd: who leads, what is written, what
others read, and what happens to etcd itself."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from memkv_nixl._config import ControlSettings
from memkv_nixl._errors import ConfigError
from memkv_nixl.control import _replica
from memkv_nixl.control._cluster import Space, next_cluster
from memkv_nixl.control._etcd import remove, write
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._limits import ETCD_PART_BYTES_MAX
from memkv_nixl.control._server import ControlServer
from memkv_nixl.control._snapshot import decode
from memkv_nixl.control._state import Happened, Membership, NodeState
from memkv_nixl.proto.memkv.v1 import admin_pb2, namespaces_pb2, placement_pb2, tenants_pb2
from tests.control.certificates import certificates
from tests.control.etcds import EtcdProcess, running
from tests.control.plane import DEADLINE_S, Agent, Plane, reason_of, refused
from tests.control.test_refusals import CHANGES

A = "10.0.0.1:9900"
STATE, LEADER = b"/memkv/default/state", b"/memkv/default/leader"


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    with running(tmp_path / "etcd") as process:
        yield process


@asynccontextmanager
async def replica(process: EtcdProcess, **changes: Any) -> AsyncIterator[Plane]:
    wanted = ControlSettings(
        listen="127.0.0.1:0", etcd=(process.address,), lease_s=20, heartbeat_ms=50, deadline_ms=500
    )
    server = ControlServer(dataclasses.replace(wanted, **changes))
    try:
        address = await server.start()
        async with grpc.aio.insecure_channel(address) as channel:
            yield Plane(server, address, channel)
    finally:
        await server.stop()


Story = Callable[..., Awaitable[None]]


def tell(story: Story, etcd: EtcdProcess, count: int = 2, **changes: Any) -> None:
    """Runs a story with so many replicas, the leader first."""

    async def with_replicas() -> None:
        async with replica(etcd, **changes) as first:
            await until(first, lambda keeper: keeper.leads)
            others = [replica(etcd, **changes) for _ in range(count - 1)]
            entered = [await other.__aenter__() for other in others]
            try:
                for plane in entered:
                    await until(plane, lambda keeper: keeper.leader == first.address)
                await story(first, *entered)
            finally:
                for other in others:
                    await other.__aexit__(None, None, None)

    asyncio.run(asyncio.wait_for(with_replicas(), DEADLINE_S))


async def until(plane: Plane, condition: Callable[[Keeper], bool]) -> None:
    """Waits until it is so; what happens to a keeper is told, or is a map."""
    keeper = plane.server.keeper
    while not condition(keeper):
        waits = [
            asyncio.ensure_future(keeper.next_map(keeper.published)),
            asyncio.ensure_future(keeper.next_event(keeper.last_event)),
        ]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for one in waits:
            one.cancel()


async def until_epoch(plane: Plane, epoch: int) -> None:
    await until(plane, lambda keeper: keeper.published.epoch >= epoch)
    assert plane.server.keeper.published.epoch == epoch


async def create(plane: Plane, name: str) -> int:
    request = namespaces_pb2.CreateNamespaceRequest(name=name)
    return int((await plane.namespaces.CreateNamespace(request, timeout=DEADLINE_S)).epoch)


async def create_somehow(name: str, *planes: Plane) -> int:
    """As a caller does it: of the leader, and again when that is refused and things change."""
    while True:
        seen = [(plane.server.keeper, plane.server.keeper.last_event) for plane in planes]
        for plane in planes:
            if plane.server.keeper.leads and (epoch := await tried(plane, name)):
                return epoch
        news = [asyncio.ensure_future(keeper.next_event(last)) for keeper, last in seen]
        await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
        for one in news:
            one.cancel()


async def tried(plane: Plane, name: str) -> int:
    """The epoch; 0: it was refused, and may be sent again."""
    try:
        return await create(plane, name)
    except grpc.aio.AioRpcError as error:
        if reason_of(error) in ("NOT_LEADER", "STATE_UNWRITABLE"):
            return 0
        raise


async def map_of(plane: Plane) -> Any:
    return (await plane.placement.GetMap(placement_pb2.GetMapRequest(), timeout=DEADLINE_S)).map


async def read_on(agent: Agent) -> None:
    """Until the stream is ended."""
    while True:
        await agent.read()


def named_leader(error: grpc.aio.AioRpcError) -> str:
    status = rpc_status.from_call(error)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return str(info.metadata["leader"])


# ---- who leads


@pytest.mark.parametrize("name", CHANGES)
def test_whoever_does_not_lead_changes_nothing_and_names_the_leader(
    etcd: EtcdProcess, name: str
) -> None:
    async def story(first: Plane, second: Plane) -> None:
        await first.join(A)
        await create(first, "there")
        await first.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="team"))
        epoch = await first.epoch()
        await until_epoch(second, epoch)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await CHANGES[name](second)
        assert (caught.value.code().name, reason_of(caught.value)) == ("UNAVAILABLE", "NOT_LEADER")
        assert named_leader(caught.value) == first.address
        assert await first.epoch() == epoch

    tell(story, etcd, 2)


def test_one_leads_and_the_others_answer_what_only_reads(etcd: EtcdProcess) -> None:
    async def story(first: Plane, second: Plane, third: Plane) -> None:
        agent = await first.join(A)
        await agent.beat(blocks=7)
        epoch = await create(first, "llama")
        for other in (second, third):
            assert not other.server.keeper.leads
            await until_epoch(other, epoch)
            assert await map_of(other) == await map_of(first)
            nodes = await other.placement.ListNodes(placement_pb2.ListNodesRequest(with_stats=True))
            assert [node.address for node in nodes.nodes] == [A]
            assert (nodes.leader, nodes.nodes[0].silent_ms) == (first.address, 0)
            status = await other.admin.Status(admin_pb2.StatusRequest())
            assert (status.leads, status.leader) == (False, first.address)
            assert status.epoch == epoch
            spaces = await other.namespaces.ListNamespaces(namespaces_pb2.ListNamespacesRequest())
            assert [space.name for space in spaces.namespaces] == ["llama"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await create(other, "qwen")
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            assert reason_of(caught.value) == "NOT_LEADER"
            assert named_leader(caught.value) == first.address
            assert await refused(other.join(A)) == ("UNAVAILABLE", "NOT_LEADER")
        status = await first.admin.Status(admin_pb2.StatusRequest())
        assert (status.leads, status.leader, status.agents) == (True, "", 1)
        watch = third.placement.WatchMap(placement_pb2.WatchMapRequest())
        assert (await watch.read()).map.epoch == epoch
        assert await create(first, "qwen") == epoch + 1
        assert (await watch.read()).map.epoch == epoch + 1
        watch.cancel()

    tell(story, etcd, 3)


def test_a_leader_that_is_stopped_hands_over_at_once_and_nodes_register_again(
    etcd: EtcdProcess,
) -> None:
    async def story(first: Plane, second: Plane) -> None:
        agent = await first.join(A)
        epoch = await create(first, "llama")
        began = asyncio.get_running_loop().time()
        await first.server.stop()
        assert await refused(read_on(agent)) == ("UNAVAILABLE", "NOT_LEADER")
        assert await create_somehow("qwen", second) > epoch
        took = asyncio.get_running_loop().time() - began
        print(f"handed over in {took:.2f} s")
        assert took < 15, "it did not wait for the lease, which is 20 s"
        again = await second.join(A, membership=agent.heard.membership)
        assert again.heard.membership == agent.heard.membership
        nodes = await second.placement.ListNodes(placement_pb2.ListNodesRequest())
        assert (nodes.leader, len(nodes.nodes)) == ("", 1)

    tell(story, etcd)


def test_silence_counts_from_the_new_leaders_start(etcd: EtcdProcess) -> None:
    async def story(first: Plane, second: Plane) -> None:
        await first.join(A)
        await first.next_event("node_silent", A)
        keeper = second.server.keeper
        assert A in keeper.published.cluster.members
        state = keeper.state.node_state(keeper.clock(), A)
        assert state is NodeState.SERVING, "nobody speaks to it, which it does not wonder at"
        await first.server.stop()
        await until(second, lambda keeper: keeper.leads)
        assert not keeper.published.cluster.members[A].lost
        await second.next_event("node_silent", A)
        await second.next_event("node_lost", A)

    tell(story, etcd, lost_after_ms=2000)


# ---- who is deposed writes nothing


def test_a_deposed_leader_writes_nothing(
    etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not hear that another one took its place: etcd itself refuses what it writes."""

    async def story(first: Plane) -> None:
        await create(first, "llama")
        never = asyncio.Event()

        async def deaf(self: Any, *_: Any) -> None:
            await never.wait()

        monkeypatch.setattr(_replica.Replica, "_next_look", deaf)
        first.server._memory._again.set()  # type: ignore[union-attr]
        await create(first, "qwen")  # the next look is behind it: it hears nothing from now on
        before = (await etcd.keys(STATE))[STATE].mod_revision
        await etcd.do(remove(LEADER, LEADER + b"\0"))
        await etcd.do(write(LEADER, b"10.9.9.9:1"))
        assert first.server.keeper.leads, "it knows nothing of it"
        assert await refused(create(first, "other")) == ("UNAVAILABLE", "NOT_LEADER")
        assert (await etcd.keys(STATE))[STATE].mod_revision == before
        assert not first.server.keeper.leads
        assert len((await map_of(first)).namespaces) == 2, "nor did it publish it"

    tell(story, etcd, 1)


def test_a_state_that_somebody_else_wrote_is_not_written_over(etcd: EtcdProcess) -> None:
    async def story(first: Plane) -> None:
        await create(first, "llama")
        value = (await etcd.keys(STATE))[STATE].value
        cluster = decode(value, "it")
        await etcd.do(write(STATE, _replica.encode(next_cluster(cluster, spaces={}))))
        assert await create_somehow("qwen", first) == cluster.epoch + 2
        assert len((await map_of(first)).namespaces) == 1

    tell(story, etcd, 1)


# ---- large states


def test_a_state_beyond_etcds_limit_is_kept_in_parts(etcd: EtcdProcess) -> None:
    def grow(state: Membership, _: float, count: int) -> None:
        spaces = {
            ("default", f"{i:05}" + "x" * 500, "raw"): Space(
                "default", f"{i:05}" + "x" * 500, "raw", i.to_bytes(16, "big")
            )
            for i in range(count)
        }
        cluster = next_cluster(state.cluster, spaces=spaces)
        state.change(cluster, Happened("namespace_created", "many", f"{count}"))

    async def story(first: Plane, second: Plane) -> None:
        for count, parts in ((5000, True), (3000, True), (10, False)):
            await first.server.keeper.change(lambda state, now, n=count: grow(state, now, n))
            held = await etcd.keys(STATE)
            size = len(_replica.encode(first.server.keeper.published.cluster))
            assert (size > ETCD_PART_BYTES_MAX) is parts
            wanted = 1 + (-(-size // ETCD_PART_BYTES_MAX) if parts else 0)
            assert len(held) == wanted, "parts of former states are gone"
            assert sum(len(kv.value) for kv in held.values()) > 600 * count
            assert all(len(kv.value) <= ETCD_PART_BYTES_MAX for kv in held.values())
            ours = first.server.keeper.published
            await until_epoch(second, ours.epoch)
            assert second.server.keeper.published.cluster == ours.cluster

    tell(story, etcd)


def test_a_damaged_state_is_refused_and_never_published(etcd: EtcdProcess) -> None:
    async def story(first: Plane, second: Plane) -> None:
        epoch = await create(first, "llama")
        whole = (await etcd.keys(STATE))[STATE].value
        await etcd.do(write(STATE, whole.replace(b"llama", b"lxama")))
        await first.next_event("snapshot_failed")
        assert (await refused(create(first, "qwen")))[1] == "STATE_UNWRITABLE"
        assert (await map_of(first)).epoch == epoch
        with pytest.raises(ConfigError, match="SHA-256"):
            async with replica(etcd):
                pass
        await etcd.do(write(STATE, whole))
        await create_somehow("qwen", first, second)

    tell(story, etcd)


# ---- etcd itself


def test_what_was_cut_off_is_not_answered_and_comes_to_one_end(
    etcd: EtcdProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """etcd stands still while a change is on its way: it may be done or not, but not both."""
    monkeypatch.setattr(_replica, "_CALL_S", 0.3)

    async def story(first: Plane, second: Plane) -> None:
        before = await create(first, "llama")
        await until_epoch(second, before)
        etcd.send(signal.SIGSTOP)
        assert await refused(create(first, "qwen")) == ("UNAVAILABLE", "STATE_UNWRITABLE")
        assert (await map_of(first)).epoch == before
        assert (await map_of(second)).epoch == before
        etcd.send(signal.SIGCONT)
        done = await create_somehow("qwen", first, second)
        assert done == before + 1, "it was done once, the first time or the second"
        await until_epoch(first, done)
        await until_epoch(second, done)
        assert await map_of(first) == await map_of(second)

    tell(story, etcd)


def test_epochs_never_go_back_when_etcd_does(etcd: EtcdProcess) -> None:
    async def story(first: Plane) -> None:
        await create(first, "llama")
        old = (await etcd.keys(STATE))[STATE].value
        for name in ("a", "b", "c"):
            epoch = await create(first, name)
        await etcd.do(write(STATE, old))  # somebody restored a backup
        assert await create_somehow("d", first) > epoch
        assert len((await map_of(first)).namespaces) == 5, "what it knew is written again"
        await etcd.do(remove(b"/memkv/", b"/memkv0"))  # … or lost all of it
        assert await create_somehow("e", first) > epoch + 1
        assert len((await map_of(first)).namespaces) == 6

    tell(story, etcd, 1)


def test_of_several_endpoints_one_that_answers_is_enough(etcd: EtcdProcess) -> None:
    """… also when the one that was spoken to goes in the middle of a watch and a lease."""

    async def story() -> None:
        host, _, port = etcd.address.rpartition(":")
        open_ones: set[asyncio.StreamWriter] = set()

        async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there, back = await asyncio.open_connection(host, int(port))
            open_ones.update((writer, back))
            await asyncio.gather(pump(reader, back), pump(there, writer))

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    writer.write(data)
            writer.close()

        way = await asyncio.start_server(forward, "127.0.0.1", 0)
        through = f"127.0.0.1:{way.sockets[0].getsockname()[1]}"
        endpoints = ("127.0.0.1:1", through, etcd.address)
        async with replica(etcd, etcd=endpoints) as plane:
            await until(plane, lambda keeper: keeper.leads)
            epoch = await create(plane, "llama")
            assert open_ones, "it speaks to etcd by the second endpoint"
            way.close()
            for one in open_ones:
                one.transport.abort()
            assert await create_somehow("qwen", plane) == epoch + 1
            await until(plane, lambda keeper: keeper.leads and keeper.snapshot_ok)

    asyncio.run(asyncio.wait_for(story(), DEADLINE_S))


def test_etcd_may_want_certificates(tmp_path: Path) -> None:
    certificates(tmp_path)
    pem = {name: str(tmp_path / f"tls_{name}.pem") for name in ("cert", "key", "ca")}
    flags = ["--client-cert-auth", "--trusted-ca-file", pem["ca"]]
    flags += ["--cert-file", pem["cert"], "--key-file", pem["key"]]
    ours = {f"etcd_{name}": path for name, path in pem.items()}

    async def story(first: Plane) -> None:
        assert await create(first, "llama") > 2

    with running(tmp_path / "etcd", "https", *flags) as etcd:
        tell(story, etcd, 1, **ours)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"listen": "0.0.0.0:0", "insecure": True}, "--advertise"),
        ({"etcd_cert": "c.pem"}, "etcd_ca"),
        ({"etcd": ("127.0.0.1:1", "10.0.0.1:2379")}, r"10\.0\.0\.1:2379 .* in the clear"),
        ({"etcd_ca": "nowhere.pem"}, "nowhere.pem"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, Any], sentence: str) -> None:
    wanted = ControlSettings(listen="127.0.0.1:0", etcd=("127.0.0.1:1",))
    with pytest.raises(ConfigError, match=sentence):
        ControlServer(dataclasses.replace(wanted, **changes))


def test_etcd_in_the_clear_is_for_who_insists() -> None:
    beyond = ControlSettings(listen="127.0.0.1:0", etcd=("10.0.0.1:2379",))
    ControlServer(dataclasses.replace(beyond, insecure=True))
    ControlServer(dataclasses.replace(beyond, etcd=("127.0.0.1:1", "[::1]:1", "localhost:1")))
