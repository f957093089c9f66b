"""The server: Admin, health, reflection, deadlines, certificates, a disk that takes nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from memkv_nixl._errors import ConfigError, UnreachableError
from memkv_nixl.control import _calls, _limits, _server, _watch_limit
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._refused import Reason
from memkv_nixl.control._server import ControlServer
from memkv_nixl.control._snapshot import Snapshot
from memkv_nixl.control._state import Timing
from memkv_nixl.proto.memkv.v1 import admin_pb2, placement_pb2, tenants_pb2
from tests.control.certificates import certificates
from tests.control.plane import Plane, refused, run, serving, settings

A, B = "10.0.0.1:9900", "10.0.0.2:9900"
Story = Callable[[Plane], Awaitable[None]]


def tell(folder: Path, story: Story, **changes: Any) -> None:
    """Runs a story with a control plane of its own."""

    async def with_plane() -> None:
        async with serving(folder, **changes) as plane:
            await story(plane)

    run(with_plane)


def test_every_reason_has_a_status() -> None:
    assert set(_calls.STATUS_OF) == set(Reason)
    assert grpc.StatusCode.OK not in _calls.STATUS_OF.values()


# ---- Admin


def test_status_counts_what_is_there(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        empty = await plane.admin.Status(admin_pb2.StatusRequest())
        assert (empty.agents, empty.tenants, empty.epoch_everywhere) == (0, 1, 0)
        first, second = await plane.join(A), await plane.join(B)
        await plane.placement.DrainNode(placement_pb2.DrainNodeRequest(address=B))
        status = await plane.admin.Status(admin_pb2.StatusRequest())
        counts = {count.state: count.count for count in status.nodes}
        assert counts == {"serving": 1, "silent": 0, "lost": 0, "draining": 1}
        assert (status.agents, status.snapshot_ok) == (2, True)
        assert status.epoch_everywhere == 0, "no node said yet that it holds a map"
        await first.beat(status.history, status.epoch)
        await second.beat(status.history, status.epoch - 1)
        status = await plane.admin.Status(admin_pb2.StatusRequest())
        assert status.epoch_everywhere == status.epoch - 1
        await second.beat(status.history + 1, status.epoch)
        status = await plane.admin.Status(admin_pb2.StatusRequest())
        assert status.epoch_everywhere == 0, "the same number of another history is another map"

    tell(tmp_path, story)


def test_events_are_told_in_order_and_from_where_one_was(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        await plane.join(A)
        watch = plane.admin.WatchEvents(admin_pb2.WatchEventsRequest())
        events = [event async for event in watch]
        assert [event.kind for event in events] == ["started", "node_joined"]
        assert [event.sequence for event in events] == [1, 2]
        assert events[1].epoch == await plane.epoch()
        follow = admin_pb2.WatchEventsRequest(after=2, follow=True)
        watch = plane.admin.WatchEvents(follow)
        await plane.join(B)
        event = await watch.read()
        assert (event.sequence, event.kind, event.subject) == (3, "node_joined", B)
        watch.cancel()
        former = admin_pb2.WatchEventsRequest(after=500)
        assert len([event async for event in plane.admin.WatchEvents(former)]) == 3

    tell(tmp_path, story)


def test_events_are_bounded(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        for _ in range(_limits.EVENTS_MAX + 5):
            plane.server.keeper.tell("noise", "test", "")
        watch = plane.admin.WatchEvents(admin_pb2.WatchEventsRequest())
        events = [event async for event in watch]
        assert len(events) == _limits.EVENTS_MAX
        assert events[-1].sequence - events[0].sequence == _limits.EVENTS_MAX - 1

    tell(tmp_path, story)


# ---- health, reflection, deadlines


def test_it_is_healthy_as_long_as_it_serves(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as plane:
            health: Any = health_pb2_grpc.HealthStub(plane.channel)
            for name in ("", "memkv.v1.Placement", "memkv.v1.Tenants"):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            stopped = asyncio.create_task(plane.server.stop())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            await stopped

    run(story)


def test_it_says_what_it_serves(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(plane.channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        (answer,) = [said async for said in stub.ServerReflectionInfo(asked)]
        names = {service.name for service in answer.list_services_response.service}
        services = {f"memkv.v1.{name}" for name in ("Admin", "Namespaces", "Placement", "Tenants")}
        assert names == services | {"grpc.health.v1.Health"}

    tell(tmp_path, story)


def test_watches_of_health_and_reflection_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch_limit, "WATCHES_AT_ONCE_MAX", 3)
    monkeypatch.setattr(_watch_limit, "REFLECTIONS_AT_ONCE_MAX", 2)
    full = ("RESOURCE_EXHAUSTED", "WATCHES_FULL")
    serves = health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest()

    async def story(plane: Plane) -> None:
        health: Any = health_pb2_grpc.HealthStub(plane.channel)
        reflection: Any = reflection_pb2_grpc.ServerReflectionStub(plane.channel)

        async def reflect() -> Any:
            stream = reflection.ServerReflectionInfo()
            await stream.write(reflection_pb2.ServerReflectionRequest(list_services=""))
            assert (await stream.read()).list_services_response.service
            return stream

        watches = [health.Watch(request) for _ in range(2)]
        for watch in watches:
            assert (await watch.read()).status == serves
        map_watch = plane.placement.WatchMap(placement_pb2.WatchMapRequest())
        await map_watch.read()
        streams = [await reflect(), await reflect()]
        for _ in range(3):
            assert await refused(health.Watch(request).read()) == full
            # It says nothing first: what is written behind the refusal is gRPC's own error.
            assert await refused(reflection.ServerReflectionInfo().read()) == full
        assert (await health.Check(request)).status == serves, "what has one answer goes on"
        agent = await plane.join(A)
        await agent.beat()
        for opened in (watches[0], streams[0]):
            opened.cancel()
        assert (await health.Watch(request).read()).status == serves
        await reflect()

    tell(tmp_path, story)


def test_a_call_ends_at_the_deadline_though_the_disk_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_calls, "CALL_DEADLINE_S", 0.1)

    async def story(plane: Plane) -> None:
        with slow_disk(plane, monkeypatch):
            call = plane.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="team"))
            assert await refused(call) == ("DEADLINE_EXCEEDED", "TOO_SLOW")
            hasty = plane.tenants.CreateTenant(
                tenants_pb2.CreateTenantRequest(name="team"), timeout=0.01
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await hasty
            assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        again = await plane.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="team"))
        assert again.tenant.name == "team", "a call that is sent again finds what the first did"

    tell(tmp_path, story)


def slow_disk(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes wait until this is closed."""
    import threading

    gate = threading.Event()
    write = Snapshot.write

    def waits(self: Snapshot, cluster: Any) -> None:
        gate.wait()
        write(self, cluster)

    monkeypatch.setattr(Snapshot, "write", waits)
    return closing(_Closing(gate.set))


class _Closing:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close


# ---- a disk that takes nothing


def test_what_cannot_be_written_is_neither_answered_nor_published(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        agent = await plane.join(A)
        before = await plane.placement.GetMap(placement_pb2.GetMapRequest())
        blocked = tmp_path / "state" / "control-a.new"
        blocked.mkdir()
        drain = placement_pb2.DrainNodeRequest(address=A)
        assert await refused(plane.placement.DrainNode(drain)) == (
            "UNAVAILABLE",
            "STATE_UNWRITABLE",
        )
        assert await plane.placement.GetMap(placement_pb2.GetMapRequest()) == before
        assert not (await plane.admin.Status(admin_pb2.StatusRequest())).snapshot_ok
        assert (await agent.beat()).epoch == before.map.epoch, "its heartbeats go on"
        blocked.rmdir()
        assert (await plane.placement.DrainNode(drain)).epoch == before.map.epoch + 1
        assert (await plane.admin.Status(admin_pb2.StatusRequest())).snapshot_ok
        await plane.next_event("snapshot_failed")
        await plane.next_event("snapshot_written")

    tell(tmp_path, story)


def test_a_damaged_copy_is_told_and_mended(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path) as plane:
            await plane.join(A)
        copy = tmp_path / "state" / "control-a.state"
        whole = copy.read_bytes()
        copy.write_bytes(whole[:50])
        async with serving(tmp_path) as plane:
            event = await plane.next_event("snapshot_damaged")
            assert "control-a.state" in event.text
        assert copy.read_bytes() == whole

    run(story)


def test_a_task_that_dies_ends_the_control_plane(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        with closing(Snapshot(tmp_path)) as snapshot:
            keeper = Keeper(snapshot, Timing(0.01, 0.02, 0.05))
            await keeper.start()
            monkeypatch.setattr(keeper.state, "tick", lambda now: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                await keeper.failed()
            with pytest.raises(ZeroDivisionError):
                await keeper.stop()

    run(story)


def test_a_broken_invariant_is_said_without_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(plane: Plane) -> None:
        monkeypatch.setattr(plane.server.keeper, "clock", lambda: 1 // 0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plane.placement.ListNodes(placement_pb2.ListNodesRequest())
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert "division" not in str(caught.value.details())
        assert "division" in caplog.text
        monkeypatch.undo()

    tell(tmp_path, story, deadline_ms=10**6, lost_after_ms=10**6)


# ---- who may come


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"listen": "0.0.0.0:0"}, "beyond loopback"),
        ({"tls_cert": "c.pem"}, "together"),
        ({"tls_cert": "no.pem", "tls_key": "no.pem", "tls_ca": "no.pem"}, "cannot be read"),
    ],
)
def test_settings_that_do_not_protect_are_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ControlServer(settings(tmp_path, **changes))


def test_two_servers_never_share_a_port(tmp_path: Path) -> None:
    async def story() -> None:
        async with serving(tmp_path / "a") as plane:
            second = ControlServer(settings(tmp_path / "b", listen=plane.address))
            with pytest.raises(UnreachableError, match="another control plane"):
                await second.start()
            await second.stop()

    run(story)


def test_with_certificates_only_who_has_one_comes_in(tmp_path: Path) -> None:
    pem = certificates(tmp_path)
    tls = {name: str(tmp_path / f"{name}.pem") for name in ("tls_cert", "tls_key", "tls_ca")}

    async def story() -> None:
        server = ControlServer(settings(tmp_path, **tls))
        try:
            address = await server.start()
            known = grpc.ssl_channel_credentials(pem["tls_ca"], pem["tls_key"], pem["tls_cert"])
            for credentials, code in (
                (known, None),
                (grpc.ssl_channel_credentials(pem["tls_ca"]), grpc.StatusCode.UNAVAILABLE),
            ):
                async with grpc.aio.secure_channel(address, credentials) as channel:
                    assert await outcome(Plane(server, address, channel)) is code
            async with grpc.aio.insecure_channel(address) as channel:
                assert await outcome(Plane(server, address, channel)) is not None
        finally:
            await server.stop()

    run(story)


async def outcome(plane: Plane) -> grpc.StatusCode | None:
    try:
        await plane.admin.Status(admin_pb2.StatusRequest(), timeout=5)
    except grpc.aio.AioRpcError as error:
        return error.code()
    return None


HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize("encrypted", [True, False])
def test_who_connects_and_says_nothing_is_hung_up_on(tmp_path: Path, encrypted: bool) -> None:
    pem = certificates(tmp_path)
    tls = {name: str(tmp_path / f"{name}.pem") for name in ("tls_cert", "tls_key", "tls_ca")}
    known = ssl.create_default_context(cafile=tls["tls_ca"])
    known.load_cert_chain(tls["tls_cert"], tls["tls_key"])
    known.set_alpn_protocols(["h2"])
    encrypted_ways = [(b"", None), (b"\x16\x03\x01", None), (b"", known), (HTTP2, known)]
    plain_ways: list[tuple[bytes, Any]] = [(b"", None), (HTTP2, None)]

    async def story() -> None:
        server = ControlServer(settings(tmp_path, **(tls if encrypted else {})))
        address = await server.start()
        try:
            ways = encrypted_ways if encrypted else plain_ways
            waited = await asyncio.gather(*(hung_up_on(address, *way) for way in ways))
            assert all(1.5 < seconds < 10 for seconds in waited), waited
            channel = grpc.aio.insecure_channel(address)
            if encrypted:
                ours = grpc.ssl_channel_credentials(pem["tls_ca"], pem["tls_key"], pem["tls_cert"])
                channel = grpc.aio.secure_channel(address, ours)
            async with channel:
                assert await outcome(Plane(server, address, channel)) is None
        finally:
            await server.stop()

    run(story)


async def hung_up_on(address: str, said: bytes, context: ssl.SSLContext | None) -> float:
    """Seconds until the server closes the connection of somebody who says this and no more."""
    clock = asyncio.get_running_loop().time
    began = clock()
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=context)
    writer.write(said)
    while await asyncio.wait_for(reader.read(4096), 20):
        pass
    writer.close()
    return clock() - began


def test_connections_are_bounded_and_those_that_are_there_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "grpc.max_allowed_incoming_connections"
    options = dict(_server._OPTIONS)
    assert options[name] == _limits.CONNECTIONS_MAX
    monkeypatch.setattr(_server, "_OPTIONS", tuple((options | {name: 2}).items()))

    async def story(plane: Plane) -> None:
        assert await outcome(plane) is None
        for _ in range(3):  # who was closed makes room
            let_in = 0
            while let_in == 0:  # it may be counted for a moment after it saw its end
                each = (hung_up_on(plane.address, b"", None) for _ in range(4))
                let_in = sum(seconds > 1.5 for seconds in await asyncio.gather(*each))
            assert let_in == 1
            assert await outcome(plane) is None

    tell(tmp_path, story)
