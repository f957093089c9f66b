"""An operator's own words on why: what the events carry, and which words are refused."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.proto.memkv.v1 import admin_pb2 as admin
from memkv_nixl.proto.memkv.v1 import namespaces_pb2 as spaces
from memkv_nixl.proto.memkv.v1 import placement_pb2 as nodes
from memkv_nixl.proto.memkv.v1 import tenants_pb2 as tenants
from tests.control.plane import DEADLINE_S, Plane, refused, run, serving
from tests.control.processes import Machine, control
from tests.control.test_refusals import CHANGES
from tests.integration.nodes import memkv

A = "10.0.0.1:9900"
WHY = "Lüfter defekt, ticket 4711"
Story = Callable[[Plane], Awaitable[None]]


async def _rotate(plane: Plane, why: str) -> Any:
    listed = (await plane.tenants.ListTenants(tenants.ListTenantsRequest())).tenants
    (key,) = (tenant.keys[0] for tenant in listed if tenant.name == "team")
    request = tenants.RotateKeyRequest(tenant="team", from_key=key, reason=why)
    return await plane.tenants.RotateKey(request)


# What operators change: the event of it, and the call with a reason.
CALLS: dict[str, tuple[str, Callable[[Plane, str], Awaitable[Any]]]] = {
    "DrainNode": (
        "node_draining",
        lambda plane, why: plane.placement.DrainNode(nodes.DrainNodeRequest(address=A, reason=why)),
    ),
    "RemoveNode": (
        "node_removed",
        lambda plane, why: plane.placement.RemoveNode(
            nodes.RemoveNodeRequest(address=A, force=True, reason=why)
        ),
    ),
    "CreateNamespace": (
        "namespace_created",
        lambda plane, why: plane.namespaces.CreateNamespace(
            spaces.CreateNamespaceRequest(name="more", reason=why)
        ),
    ),
    "UpdateNamespace": (
        "namespace_changed",
        lambda plane, why: plane.namespaces.UpdateNamespace(
            spaces.UpdateNamespaceRequest(name="there", rules={"ttl_s": 60}, reason=why)
        ),
    ),
    "DropNamespace": (
        "namespace_dropped",
        lambda plane, why: plane.namespaces.DropNamespace(
            spaces.DropNamespaceRequest(name="there", reason=why)
        ),
    ),
    "CreateTenant": (
        "tenant_created",
        lambda plane, why: plane.tenants.CreateTenant(
            tenants.CreateTenantRequest(name="more", reason=why)
        ),
    ),
    "UpdateTenant": (
        "tenant_changed",
        lambda plane, why: plane.tenants.UpdateTenant(
            tenants.UpdateTenantRequest(name="team", quota_bytes=5, reason=why)
        ),
    ),
    "RotateKey": (
        "key_rotated",
        _rotate,
    ),
    "Revoke": (
        "revoked",
        lambda plane, why: plane.tenants.Revoke(
            tenants.RevokeRequest(tenant="team", token_ids=[b"t" * 16], reason=why)
        ),
    ),
}


def tell(folder: Path, story: Story) -> None:
    """Runs a story with a pool that has one of each."""

    async def with_plane() -> None:
        async with serving(folder) as plane:
            await plane.join(A)
            await plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="there"))
            await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))
            await story(plane)

    run(with_plane)


def test_every_operators_call_that_changes_something_is_here() -> None:
    assert set(CALLS) == set(CHANGES) - {"RegisterNode"}


async def last_text(plane: Plane, kind: str) -> str:
    watch = plane.admin.WatchEvents(admin.WatchEventsRequest(), timeout=DEADLINE_S)
    return str([event.text async for event in watch if event.kind == kind][-1])


@pytest.mark.parametrize("name", CALLS)
def test_the_event_carries_the_reason(tmp_path: Path, name: str) -> None:
    kind, call = CALLS[name]

    async def story(plane: Plane) -> None:
        await call(plane, WHY)
        assert (await last_text(plane, kind)).endswith(f"; reason: {WHY}")

    tell(tmp_path, story)


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("why", ["r" * 201, "ü" * 101, "two\nlines", "\x1b[31mred", "turned\u202e"])
def test_a_reason_that_fits_no_line_is_refused(tmp_path: Path, name: str, why: str) -> None:
    kind, call = CALLS[name]

    async def story(plane: Plane) -> None:
        epoch = await plane.epoch()
        assert await refused(call(plane, why)) == ("INVALID_ARGUMENT", "INVALID")
        assert await plane.epoch() == epoch
        await call(plane, "ü" * 100)
        assert (await last_text(plane, kind)).endswith(f"; reason: {'ü' * 100}")

    tell(tmp_path, story)


def test_nobody_has_to_say_why(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        await CALLS["DrainNode"][1](plane, "")
        assert await last_text(plane, "node_draining") == "no new block is placed there"
        undo = nodes.DrainNodeRequest(address=A, undo=True, reason=WHY)
        await plane.placement.DrainNode(undo)
        assert (await last_text(plane, "node_drain_undone")).endswith(f"again; reason: {WHY}")

    tell(tmp_path, story)


def test_the_commands_take_a_reason(tmp_path: Path) -> None:
    commands = [
        ("namespace_created", "namespaces", "create", "llama"),
        ("namespace_changed", "namespaces", "update", "llama", "--ttl", "60"),
        ("namespace_dropped", "namespaces", "drop", "llama"),
        ("tenant_created", "tenants", "create", "team"),
        ("revoked", "tenants", "revoke", "team", "--token", "74" * 16),
        ("key_rotated", "tenants", "rotate", "team"),
    ]
    with control(tmp_path / "state") as plane:
        reach = ("--control", plane.address)

        def said(*args: str) -> str:
            done = memkv(*args, *reach)
            assert done.returncode == 0, done.stderr
            return done.stdout.decode()

        for number, (_, *command) in enumerate(commands):
            said(*command, "--reason", f"{WHY}, part {number}")
        events = [json.loads(line) for line in said("events", "--json").splitlines()]
        told = {event["kind"]: event["reason"] for event in events}
        for number, (kind, *_) in enumerate(commands):
            assert told[kind].endswith(f"; reason: {WHY}, part {number}")
        machine = Machine(tmp_path)
        with machine.agent(plane.address) as agent:
            said("nodes", "drain", agent.address, "--reason", WHY)
            agent.end()
        said("nodes", "remove", machine.address, "--force", "--reason", WHY)
        assert f"no new block is placed there; reason: {WHY}" in said("events")
        assert re.search(rf"it was \w+; reason: {WHY}", said("events"))
        refused = memkv("namespaces", "drop", "llama", "--reason", "a\nb", *reach)
        assert refused.returncode == 2
        assert b"reason: it goes into one line" in refused.stderr
