"""The tokens that a node's agent moves tenants' blocks with, from a real control plane."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl import _token
from memkv_nixl.proto.memkv.v1 import map_pb2, placement_pb2, tenants_pb2
from memkv_nixl.store import _mover_tokens
from memkv_nixl.store._mover_tokens import MoverTokens
from tests.control.plane import DEADLINE_S, Plane, run, serving

Story = Callable[[Plane, MoverTokens], Awaitable[None]]


def tell(folder: Path, story: Story) -> None:
    """Runs a story with a control plane that has two tenants, and an agent's folder."""

    async def with_plane() -> None:
        async with serving(folder) as plane:
            for name in ("acme", "umbrella"):
                await plane.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name=name))
            agent = folder / "agent"
            agent.mkdir()
            await story(plane, MoverTokens(agent))

    run(with_plane)


async def map_of(plane: Plane) -> map_pb2.ClusterMap:
    answer = await plane.placement.GetMap(placement_pb2.GetMapRequest(), timeout=DEADLINE_S)
    found: map_pb2.ClusterMap = answer.map
    return found


def token_of(file: str, map_: map_pb2.ClusterMap) -> Any:
    """What the file's token says, by whichever key signed it."""
    text, _ = _token.read_token_file(Path(file))
    signed = [key for rule in map_.tenants for key in rule.keys if key.id in text]
    (key,) = signed
    return _token.read(text, key.public_key)


def test_each_tenant_has_one_to_read_and_write_with(tmp_path: Path) -> None:
    async def story(plane: Plane, tokens: MoverTokens) -> None:
        map_ = await map_of(plane)
        missing = tokens.missing(map_)
        assert (len(missing), tokens.files(map_)) == (2, [])
        await tokens.fetch(plane.tenants, [*missing, 12345])  # that one was just removed, say
        assert tokens.missing(map_) == []
        files = tokens.files(map_)
        assert sorted(token_of(file, map_).tenant for file in files) == sorted(missing)
        for file in files:
            assert token_of(file, map_).rights == _token.Right.READ | _token.Right.WRITE
            assert os.stat(file).st_mode & 0o777 == 0o600  # noqa: PTH116 - a moment

    tell(tmp_path, story)


def test_one_is_renewed_at_half_of_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(plane: Plane, tokens: MoverTokens) -> None:
        map_ = await map_of(plane)
        await tokens.fetch(plane.tenants, tokens.missing(map_))
        now = time.time()
        for ahead, missing in ((11 * 3600, 0), (13 * 3600, 2)):
            monkeypatch.setattr(_mover_tokens.time, "time", lambda at=now + ahead: at)
            assert len(tokens.missing(map_)) == missing
        monkeypatch.undo()

    tell(tmp_path, story)


def test_a_revoked_one_and_one_of_a_former_key_are_replaced(tmp_path: Path) -> None:
    async def story(plane: Plane, tokens: MoverTokens) -> None:
        map_ = await map_of(plane)
        await tokens.fetch(plane.tenants, tokens.missing(map_))
        listed = await plane.tenants.ListTenants(tenants_pb2.ListTenantsRequest())
        acme, umbrella = (
            next(tenant for tenant in listed.tenants if tenant.name == name)
            for name in ("acme", "umbrella")
        )
        tokens_by_tenant = {token_of(file, map_).tenant: file for file in tokens.files(map_)}
        revoked = token_of(tokens_by_tenant[acme.tenant], map_).id
        await plane.tenants.Revoke(tenants_pb2.RevokeRequest(tenant="acme", token_ids=[revoked]))
        map_ = await map_of(plane)
        assert tokens.missing(map_) == [acme.tenant]
        await tokens.fetch(plane.tenants, [acme.tenant])
        assert tokens.missing(map_) == []
        assert token_of(tokens_by_tenant[acme.tenant], map_).id != revoked

        rotate = tenants_pb2.RotateKeyRequest(
            tenant="umbrella", from_key=umbrella.keys[-1], overlap_s=60
        )
        await plane.tenants.RotateKey(rotate)
        map_ = await map_of(plane)
        assert tokens.missing(map_) == [umbrella.tenant], "its key is believed for a minute only"
        await tokens.fetch(plane.tenants, [umbrella.tenant])
        assert tokens.missing(map_) == []

    tell(tmp_path, story)
