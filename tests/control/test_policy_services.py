"""The services Namespaces and Tenants over real gRPC: what they answer, and what they refuse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from memkv_nixl._namespace import dialect_id, namespace_id
from memkv_nixl.control import _tenancy
from memkv_nixl.control._tokens import Right, read
from memkv_nixl.proto.memkv.v1 import admin_pb2, map_pb2, placement_pb2
from memkv_nixl.proto.memkv.v1 import namespaces_pb2 as spaces
from memkv_nixl.proto.memkv.v1 import tenants_pb2 as tenants
from tests.control.plane import Plane, refused, run, serving

SPACE = bytes(16)
HOLDER = b"h" * 32
INVALID = ("INVALID_ARGUMENT", "INVALID")
NO_TENANT = ("NOT_FOUND", "TENANT_UNKNOWN")
NO_GENERATION = ("FAILED_PRECONDITION", "GENERATION_UNKNOWN")
BUILT_IN = ("FAILED_PRECONDITION", "TENANT_BUILT_IN")
SPACE_EXISTS = ("ALREADY_EXISTS", "NAMESPACE_EXISTS")
NO_SPACE = ("NOT_FOUND", "NAMESPACE_UNKNOWN")
Story = Callable[[Plane], Awaitable[None]]


def tell(folder: Path, story: Story) -> None:
    """Runs a story with a control plane of its own."""

    async def with_plane() -> None:
        async with serving(folder) as plane:
            await story(plane)

    run(with_plane)


async def published(plane: Plane) -> Any:
    return (await plane.placement.GetMap(placement_pb2.GetMapRequest())).map


# ---- namespaces


def test_a_namespace_is_created_ruled_and_dropped(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        api = plane.namespaces
        rules = map_pb2.NamespaceRules(quota_bytes=10, admission=map_pb2.ADMISSION_SECOND_TOUCH)
        create = spaces.CreateNamespaceRequest(name="llama", key_dialect="obj", rules=rules)
        made = await api.CreateNamespace(create)
        info = made.namespace
        assert (info.tenant, info.name, info.key_dialect) == ("default", "llama", "obj")
        assert info.id == dialect_id(namespace_id("llama"), "obj")
        assert info.rules == map_pb2.NamespaceRules(
            quota_bytes=10, ttl_s=0, copies=1, admission=map_pb2.ADMISSION_SECOND_TOUCH
        )
        assert await api.CreateNamespace(create) == made, "twice is once"

        update = spaces.UpdateNamespaceRequest(
            name="llama",
            key_dialect="obj",
            rules=map_pb2.NamespaceRules(ttl_s=60, copies=2),
        )
        changed = await api.UpdateNamespace(update)
        assert changed.epoch == made.epoch + 1
        assert (changed.namespace.rules.quota_bytes, changed.namespace.rules.ttl_s) == (10, 60)
        assert await api.UpdateNamespace(update) == changed

        drop = spaces.DropNamespaceRequest(name="llama", key_dialect="obj", drop_generation=0)
        dropped = await api.DropNamespace(drop)
        assert (dropped.namespace.drop_generation, dropped.epoch) == (1, made.epoch + 2)
        assert await api.DropNamespace(drop) == dropped, "it names the generation it ends"

        (listed,) = (await api.ListNamespaces(spaces.ListNamespacesRequest())).namespaces
        assert listed == dropped.namespace
        (rule,) = (await published(plane)).namespaces
        assert (rule.tenant, rule.id, rule.drop_generation) == (1, info.id, 1)
        assert rule.rules == listed.rules

    tell(tmp_path, story)


def test_copies_that_one_failure_would_take_are_allowed_and_said(tmp_path: Path) -> None:
    async def settle(plane: Plane, copies: int) -> Any:
        request = spaces.UpdateNamespaceRequest(
            name="llama", rules=map_pb2.NamespaceRules(copies=copies)
        )
        return await plane.namespaces.UpdateNamespace(request)

    async def story(plane: Plane) -> None:
        await plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="llama"))
        first = await plane.join("10.0.0.1:1", failure_domain="rack-1")
        second = await plane.join("10.0.0.2:1", failure_domain="rack-1")
        assert (await settle(plane, 2)).namespace.rules.copies == 2
        said = await plane.next_event("namespace_changed")
        assert "all nodes that take blocks are in the failure domain 'rack-1'" in said.text
        await settle(plane, 1)
        third = await plane.join("10.0.0.3:1", failure_domain="rack-2")
        await settle(plane, 2)
        texts = [event.text async for event in plane.admin.WatchEvents(
            admin_pb2.WatchEventsRequest(), timeout=30
        ) if event.kind == "namespace_changed"]  # fmt: skip
        assert ["failure domain" in text for text in texts] == [True, False, False]
        for agent in (first, second, third):
            agent.hang_up()

    tell(tmp_path, story)


def test_a_wrong_number_of_copies_is_refused_with_what_there_is(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        for copies in (0, 3):
            rules = map_pb2.NamespaceRules(copies=copies)
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await plane.namespaces.CreateNamespace(
                    spaces.CreateNamespaceRequest(name="n", rules=rules)
                )
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert f"copies: {copies} is neither 1 nor 2" in str(refusal.value.details())

    tell(tmp_path, story)


def test_tenants_have_namespaces_of_their_own(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))
        for tenant in ("", "team"):
            request = spaces.CreateNamespaceRequest(tenant=tenant, name="llama")
            await plane.namespaces.CreateNamespace(request)
        everybody = spaces.ListNamespacesRequest()
        assert len((await plane.namespaces.ListNamespaces(everybody)).namespaces) == 2
        (one,) = (
            await plane.namespaces.ListNamespaces(spaces.ListNamespacesRequest(tenant="team"))
        ).namespaces
        assert one.tenant == "team"

    tell(tmp_path, story)


@pytest.mark.parametrize(
    ("call", "request_", "answer"),
    [
        ("Create", {"name": ""}, INVALID),
        ("Create", {"name": "n" * 1025}, INVALID),
        ("Create", {"name": "n", "key_dialect": "x"}, INVALID),
        ("Create", {"name": "n", "tenant": "x"}, NO_TENANT),
        ("Create", {"name": "n", "rules": {"copies": 3}}, INVALID),
        ("Create", {"name": "n", "rules": {"copies": 0}}, INVALID),
        ("Create", {"name": "n", "rules": {"quota_bytes": 2**63}}, INVALID),
        ("Create", {"name": "n", "rules": {"admission": 9}}, INVALID),
        ("Create", {"name": "there", "rules": {"copies": 2}}, SPACE_EXISTS),
        ("Create", {"name": "hex:" + namespace_id("there").hex()}, SPACE_EXISTS),
        ("List", {"tenant": "x"}, NO_TENANT),
        ("Update", {"name": "x"}, NO_SPACE),
        ("Update", {"name": "there", "key_dialect": "cmx"}, NO_SPACE),
        ("Update", {"name": "there", "key_dialect": "x"}, INVALID),
        ("Update", {"name": "there", "rules": {"copies": 7}}, INVALID),
        ("Drop", {"name": "x"}, NO_SPACE),
        ("Drop", {"name": "there", "key_dialect": "x"}, INVALID),
        ("Drop", {"name": "there", "drop_generation": 1}, NO_GENERATION),
    ],
)
def test_what_calls_about_namespaces_refuse(
    tmp_path: Path, call: str, request_: dict[str, Any], answer: tuple[str, str]
) -> None:
    async def story(plane: Plane) -> None:
        await plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="there"))
        epoch = await plane.epoch()
        name = f"{call}Namespace" + ("s" if call == "List" else "")
        message = getattr(spaces, f"{name}Request")(**request_)
        assert await refused(getattr(plane.namespaces, name)(message)) == answer
        assert await plane.epoch() == epoch

    tell(tmp_path, story)


def test_there_is_a_last_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tenancy, "NAMESPACES_MAX", 1)

    async def story(plane: Plane) -> None:
        await plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="a"))
        call = plane.namespaces.CreateNamespace(spaces.CreateNamespaceRequest(name="b"))
        assert await refused(call) == ("RESOURCE_EXHAUSTED", "NAMESPACES_FULL")

    tell(tmp_path, story)


# ---- tenants


def test_a_tenant_is_created_and_changed(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        api = plane.tenants
        create = tenants.CreateTenantRequest(name="team", quota_bytes=5)
        made = await api.CreateTenant(create)
        assert made.tenant.tenant > 1
        assert len(made.tenant.keys) == 1
        assert await api.CreateTenant(create) == made
        update = tenants.UpdateTenantRequest(name="team", quota_bytes=6)
        changed = await api.UpdateTenant(update)
        assert (changed.tenant.quota_bytes, changed.epoch) == (6, made.epoch + 1)
        assert await api.UpdateTenant(update) == changed
        nothing = await api.UpdateTenant(tenants.UpdateTenantRequest(name="team"))
        assert nothing == changed
        listed = (await api.ListTenants(tenants.ListTenantsRequest())).tenants
        assert [tenant.name for tenant in listed] == ["default", "team"]
        rules = {rule.tenant: rule for rule in (await published(plane)).tenants}
        rule = rules[made.tenant.tenant]
        assert (rule.quota_bytes, rule.keys[0].id) == (6, made.tenant.keys[0])

    tell(tmp_path, story)


def test_a_token_says_who_may_do_what(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        made = (await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))).tenant
        request = tenants.IssueTokenRequest(
            tenant="team",
            holder_key=HOLDER,
            rights=[tenants.RIGHT_READ, tenants.RIGHT_WRITE],
            namespace_ids=[b"n" * 16],
            lifetime_s=60,
        )
        answer = await plane.tenants.IssueToken(request)
        (rule,) = [r for r in (await published(plane)).tenants if r.tenant == made.tenant]
        token = read(answer.token, rule.keys[0].public_key)
        assert (token.tenant, token.key_id, token.id) == (
            made.tenant,
            made.keys[0],
            answer.token_id,
        )
        assert (token.holder, token.namespaces) == (HOLDER, (b"n" * 16,))
        assert token.rights == Right.READ | Right.WRITE
        assert (token.expires_s, token.expires_s - token.issued_s) == (answer.expires_s, 60)
        named = tenants.IssueTokenRequest()
        named.CopyFrom(request)
        named.token_id = b"i" * 16
        assert (await plane.tenants.IssueToken(named)).token_id == b"i" * 16

    tell(tmp_path, story)


def test_keys_are_rotated_and_trust_is_taken_back(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        api = plane.tenants
        first = (await api.CreateTenant(tenants.CreateTenantRequest(name="team"))).tenant
        rotate = tenants.RotateKeyRequest(tenant="team", from_key=first.keys[0], overlap_s=100)
        rotated = await api.RotateKey(rotate)
        assert rotated.tenant.keys[0] == first.keys[0]
        assert len(rotated.tenant.keys) == 2
        assert await api.RotateKey(rotate) == rotated, "it names the key it takes the place of"
        (rule,) = [r for r in (await published(plane)).tenants if r.tenant == first.tenant]
        assert [key.until_s > 0 for key in rule.keys] == [True, False]
        issue = tenants.IssueTokenRequest(
            tenant="team", holder_key=HOLDER, rights=[tenants.RIGHT_DROP], lifetime_s=1
        )
        token = await api.IssueToken(issue)
        assert read(token.token, rule.keys[1].public_key).key_id == rotated.tenant.keys[1]

        revoke = tenants.RevokeRequest(
            tenant="team", token_ids=[token.token_id], key_ids=[first.keys[0]]
        )
        gone = await api.Revoke(revoke)
        assert (gone.tenant.revoked, gone.epoch) == (1, rotated.epoch + 1)
        assert list(gone.tenant.keys) == [rotated.tenant.keys[1]]
        assert await api.Revoke(revoke) == gone
        (rule,) = [r for r in (await published(plane)).tenants if r.tenant == first.tenant]
        assert list(rule.revoked) == [token.token_id]

    tell(tmp_path, story)


TOKEN = {"tenant": "team", "holder_key": HOLDER, "rights": [1], "lifetime_s": 60}


@pytest.mark.parametrize(
    ("call", "request_", "answer"),
    [
        ("CreateTenant", {"name": "Team!"}, INVALID),
        ("CreateTenant", {"name": "t" * 65}, INVALID),
        ("CreateTenant", {"name": "t", "quota_bytes": 2**63}, INVALID),
        ("CreateTenant", {"name": "team", "quota_bytes": 1}, ("ALREADY_EXISTS", "TENANT_EXISTS")),
        ("UpdateTenant", {"name": "x", "quota_bytes": 1}, NO_TENANT),
        ("UpdateTenant", {"name": "team", "quota_bytes": 2**63}, INVALID),
        ("IssueToken", {**TOKEN, "tenant": "x"}, NO_TENANT),
        ("IssueToken", {**TOKEN, "tenant": "default"}, BUILT_IN),
        ("IssueToken", {**TOKEN, "holder_key": b"h"}, INVALID),
        ("IssueToken", {**TOKEN, "rights": []}, INVALID),
        ("IssueToken", {**TOKEN, "rights": [9]}, INVALID),
        ("IssueToken", {**TOKEN, "lifetime_s": 0}, INVALID),
        ("IssueToken", {**TOKEN, "lifetime_s": 366 * 86400}, INVALID),
        ("IssueToken", {**TOKEN, "namespace_ids": [b"n"]}, INVALID),
        ("IssueToken", {**TOKEN, "namespace_ids": [SPACE] * 65}, INVALID),
        ("IssueToken", {**TOKEN, "token_id": b"t"}, INVALID),
        ("RotateKey", {"tenant": "x"}, NO_TENANT),
        ("RotateKey", {"tenant": "default"}, BUILT_IN),
        ("RotateKey", {"tenant": "team", "from_key": bytes(16)}, ("NOT_FOUND", "KEY_UNKNOWN")),
        ("RotateKey", {"tenant": "team", "overlap_s": 2**32 - 1}, INVALID),
        ("Revoke", {"tenant": "team"}, INVALID),
        ("Revoke", {"tenant": "team", "token_ids": [b"t"]}, INVALID),
        ("Revoke", {"tenant": "team", "key_ids": [b"k"]}, INVALID),
        ("Revoke", {"tenant": "x", "token_ids": [bytes(16)]}, NO_TENANT),
        ("Revoke", {"tenant": "default", "token_ids": [bytes(16)]}, BUILT_IN),
    ],
)
def test_what_calls_about_tenants_refuse(
    tmp_path: Path, call: str, request_: dict[str, Any], answer: tuple[str, str]
) -> None:
    async def story(plane: Plane) -> None:
        await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))
        epoch = await plane.epoch()
        message = getattr(tenants, f"{call}Request")(**request_)
        assert await refused(getattr(plane.tenants, call)(message)) == answer
        assert await plane.epoch() == epoch

    tell(tmp_path, story)


def test_the_key_that_signs_cannot_be_revoked(tmp_path: Path) -> None:
    async def story(plane: Plane) -> None:
        made = await plane.tenants.CreateTenant(tenants.CreateTenantRequest(name="team"))
        call = plane.tenants.Revoke(
            tenants.RevokeRequest(tenant="team", key_ids=[made.tenant.keys[0]])
        )
        assert await refused(call) == ("FAILED_PRECONDITION", "KEY_SIGNS")

    tell(tmp_path, story)


@pytest.mark.parametrize("limit", ["TENANTS_MAX", "KEYS_PER_TENANT_MAX", "REVOKED_MAX"])
def test_there_is_a_last_tenant_key_and_revocation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(_tenancy, limit, 2)

    async def story(plane: Plane) -> None:
        api = plane.tenants
        key = (await api.CreateTenant(tenants.CreateTenantRequest(name="team"))).tenant.keys[0]
        if limit == "TENANTS_MAX":  # the built-in one counts
            last = api.CreateTenant(tenants.CreateTenantRequest(name="other"))
            reason = "TENANTS_FULL"
        elif limit == "KEYS_PER_TENANT_MAX":
            request = tenants.RotateKeyRequest(tenant="team", from_key=key, overlap_s=100)
            key = (await api.RotateKey(request)).tenant.keys[1]
            request = tenants.RotateKeyRequest(tenant="team", from_key=key, overlap_s=100)
            last, reason = api.RotateKey(request), "KEYS_FULL"
        else:
            two = [b"1" * 16, b"2" * 16]
            await api.Revoke(tenants.RevokeRequest(tenant="team", token_ids=two))
            await api.Revoke(tenants.RevokeRequest(tenant="team", token_ids=two))
            third = tenants.RevokeRequest(tenant="team", token_ids=[b"3" * 16])
            last, reason = api.Revoke(third), "REVOKED_FULL"
        assert await refused(last) == ("RESOURCE_EXHAUSTED", reason)

    tell(tmp_path, story)
