"""What docs/formats/control.md says of refusals, call by call, where no other test does."""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl.control import _calls, _limits, _server, _state, _watch_limit
from memkv_nixl.proto.memkv.v1 import admin_pb2 as admin
from memkv_nixl.proto.memkv.v1 import namespaces_pb2 as spaces
from memkv_nixl.proto.memkv.v1 import placement_pb2 as nodes
from memkv_nixl.proto.memkv.v1 import tenants_pb2 as tenants
from tests.control.plane import Plane, refused, run, serving

A, B = "10.0.0.1:9900", "10.0.0.2:9900"
Story = Callable[[Plane], Awaitable[None]]


def tell(folder: Path, story: Story) -> None:
    """Runs a story with a control plane of its own."""

    async def with_plane() -> None:
        async with serving(folder) as plane:
            await story(plane)

    run(with_plane)


# ---- every call that changes something, on a disk that takes nothing


def _rotate(plane: Plane) -> Any:
    (key,) = plane.server.keeper.published.cluster.tenants["team"].keys[-1:]
    return plane.tenants.RotateKey(tenants.RotateKeyRequest(tenant="team", from_key=key.id))


async def furnish(plane: Plane) -> None:
    """What the calls below are about."""
    await plane.join(A)
    await plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="there"))
    await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))


CHANGES: dict[str, Callable[[Plane], Awaitable[Any]]] = {
    "RegisterNode": lambda plane: plane.join(B),
    "DrainNode": lambda plane: plane.placement.DrainNode(nodes.DrainNodeRequest(address=A)),
    "RemoveNode": lambda plane: plane.placement.RemoveNode(
        nodes.RemoveNodeRequest(address=A, force=True)
    ),
    "CreateNamespace": lambda plane: plane.namespaces.CreateNamespace(
        spaces.CreateNamespaceRequest(name="more")
    ),
    "UpdateNamespace": lambda plane: plane.namespaces.UpdateNamespace(
        spaces.UpdateNamespaceRequest(name="there", rules={"ttl_s": 60})
    ),
    "DropNamespace": lambda plane: plane.namespaces.DropNamespace(
        spaces.DropNamespaceRequest(name="there")
    ),
    "CreateTenant": lambda plane: plane.tenants.CreateTenant(
        tenants.CreateTenantRequest(name="more")
    ),
    "UpdateTenant": lambda plane: plane.tenants.UpdateTenant(
        tenants.UpdateTenantRequest(name="team", quota_bytes=5)
    ),
    "RotateKey": _rotate,
    "Revoke": lambda plane: plane.tenants.Revoke(
        tenants.RevokeRequest(tenant="team", token_ids=[b"t" * 16])
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_cannot_be_written_is_refused_and_can_be_sent_again(
    tmp_path: Path, name: str
) -> None:
    async def story(plane: Plane) -> None:
        await furnish(plane)
        before = await plane.epoch()
        blocked = [tmp_path / "state" / f"control-{copy}.new" for copy in "ab"]
        for path in blocked:
            path.mkdir()
        assert await refused(CHANGES[name](plane)) == ("UNAVAILABLE", "STATE_UNWRITABLE")
        assert await plane.epoch() == before
        for path in blocked:
            path.rmdir()
        await CHANGES[name](plane)
        assert await plane.epoch() == before + 1

    tell(tmp_path, story)


# A token is signed, not kept.
SIGNERS: dict[str, Callable[[Plane], Awaitable[Any]]] = {
    "IssueToken": lambda plane: plane.tenants.IssueToken(
        tenants.IssueTokenRequest(
            tenant="team", holder_key=b"h" * 32, rights=[tenants.RIGHT_READ], lifetime_s=60
        )
    ),
}
ANSWERED = {name: call for name, call in (CHANGES | SIGNERS).items() if name != "RegisterNode"}


@pytest.mark.parametrize("name", ANSWERED)
def test_a_change_for_which_there_is_no_time_is_refused_and_can_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def story(plane: Plane) -> None:
        await furnish(plane)
        before = await plane.epoch()
        with monkeypatch.context() as patched:
            patched.setattr(_calls, "CALL_DEADLINE_S", 0)
            answer = await refused(ANSWERED[name](plane))
        assert answer == ("DEADLINE_EXCEEDED", "TOO_SLOW")
        assert await plane.epoch() == before
        await ANSWERED[name](plane)
        assert await plane.epoch() == before + (name in CHANGES)

    tell(tmp_path, story)


def test_every_call_is_tried(repo: Path) -> None:
    calls = [
        method.name
        for path in (repo / "memkv_nixl/proto/memkv/v1").glob("*_pb2.py")
        for service in importlib.import_module(
            f"memkv_nixl.proto.memkv.v1.{path.stem}"
        ).DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert sorted(calls) == sorted([*CHANGES, *SIGNERS, *READERS])


# ---- every call that only reads


READERS: dict[str, Callable[[Plane], Any]] = {
    "GetMap": lambda plane: plane.placement.GetMap(nodes.GetMapRequest()),
    "WatchMap": lambda plane: plane.placement.WatchMap(nodes.WatchMapRequest()).read(),
    "Locate": lambda plane: plane.placement.Locate(
        nodes.LocateRequest(namespace_id=bytes(16), groups=[b"g"])
    ),
    "ListNodes": lambda plane: plane.placement.ListNodes(nodes.ListNodesRequest()),
    "ListNamespaces": lambda plane: plane.namespaces.ListNamespaces(spaces.ListNamespacesRequest()),
    "ListTenants": lambda plane: plane.tenants.ListTenants(tenants.ListTenantsRequest()),
    "Status": lambda plane: plane.admin.Status(admin.StatusRequest()),
    "WatchEvents": lambda plane: plane.admin.WatchEvents(admin.WatchEventsRequest()).read(),
}


@pytest.mark.parametrize("name", READERS)
def test_a_reader_is_refused_when_there_is_no_time_or_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async def story(plane: Plane) -> None:
        await READERS[name](plane)
        monkeypatch.setattr(_calls, "CALL_DEADLINE_S", 0)
        monkeypatch.setattr(_watch_limit, "WATCHES_AT_ONCE_MAX", 0)
        wanted = ("DEADLINE_EXCEEDED", "TOO_SLOW")
        if name.startswith("Watch"):
            wanted = ("RESOURCE_EXHAUSTED", "WATCHES_FULL")
        assert await refused(READERS[name](plane)) == wanted
        monkeypatch.undo()
        await READERS[name](plane)

    tell(tmp_path, story)


# ---- one by one


def test_there_is_a_last_call_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_server, "CALLS_AT_ONCE_MAX", 4)

    async def status_of_one_more(plane: Plane) -> grpc.StatusCode:
        try:
            await plane.placement.GetMap(nodes.GetMapRequest())
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def story(plane: Plane) -> None:
        watches = [plane.placement.WatchMap(nodes.WatchMapRequest()) for _ in range(3)]
        for watch in watches:
            await watch.read()
        assert await status_of_one_more(plane) is grpc.StatusCode.OK
        watches.append(plane.placement.WatchMap(nodes.WatchMapRequest()))
        # The server counts a call until a moment after its answer.
        while (first := await _first_read(watches[-1])) is None:
            watches[-1] = plane.placement.WatchMap(nodes.WatchMapRequest())
        assert first.map.epoch
        assert await status_of_one_more(plane) is grpc.StatusCode.RESOURCE_EXHAUSTED
        watches.pop().cancel()
        while await status_of_one_more(plane) is not grpc.StatusCode.OK:
            pass  # until it is heard there; the story has a deadline

    tell(tmp_path, story)


async def _first_read(watch: Any) -> Any:
    """None when there is no room for it."""
    try:
        return await watch.read()
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise
        return None


@pytest.mark.parametrize(
    "said",
    [{"weight": 0}, {"weight": 1_000_001}, {"agent": b"a"}, {"failure_domain": "a\n"}],
)
def test_a_hello_that_says_nonsense(tmp_path: Path, said: dict[str, Any]) -> None:
    async def story(plane: Plane) -> None:
        assert await refused(plane.join(A, **said)) == ("INVALID_ARGUMENT", "INVALID")
        assert not (await plane.placement.ListNodes(nodes.ListNodesRequest())).nodes

    tell(tmp_path, story)


def test_there_is_a_last_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "NODES_MAX", 1)

    async def story(plane: Plane) -> None:
        await plane.join(A)
        assert await refused(plane.join(B)) == ("RESOURCE_EXHAUSTED", "NODES_FULL")
        await plane.placement.RemoveNode(nodes.RemoveNodeRequest(address=A, force=True))
        await plane.join(B)

    tell(tmp_path, story)


@pytest.mark.parametrize("call", ["Update", "Drop"])
def test_a_namespace_of_nobody(tmp_path: Path, call: str) -> None:
    async def story(plane: Plane) -> None:
        message = getattr(spaces, f"{call}NamespaceRequest")(tenant="x", name="there")
        answer = await refused(getattr(plane.namespaces, f"{call}Namespace")(message))
        assert answer == ("NOT_FOUND", "TENANT_UNKNOWN")

    tell(tmp_path, story)


def test_a_request_over_the_limit_is_refused_and_the_next_one_served(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        epoch = await plane.epoch()
        large = tenants.RevokeRequest(
            tenant="team", token_ids=[bytes(16)] * (_limits.MESSAGE_BYTES_MAX // 16)
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await plane.tenants.Revoke(large)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await plane.epoch() == epoch

    tell(tmp_path, story)
