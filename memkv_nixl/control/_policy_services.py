"""The services Namespaces and Tenants: operators' calls, each one change of the state."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from memkv_nixl._copies import one_failure
from memkv_nixl.control import _tenancy, _tokens
from memkv_nixl.control._because import because
from memkv_nixl.control._calls import call
from memkv_nixl.control._cluster import Cluster, Space, Tenant
from memkv_nixl.control._keeper import Keeper
from memkv_nixl.control._publish import ADMISSION_WORDS, rules_message
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._state import Happened, Membership
from memkv_nixl.proto.memkv.v1 import map_pb2, namespaces_pb2_grpc, tenants_pb2_grpc
from memkv_nixl.proto.memkv.v1 import namespaces_pb2 as spaces_pb
from memkv_nixl.proto.memkv.v1 import tenants_pb2 as tenants_pb

_RIGHTS = {
    tenants_pb.RIGHT_READ: _tokens.Right.READ,
    tenants_pb.RIGHT_WRITE: _tokens.Right.WRITE,
    tenants_pb.RIGHT_DROP: _tokens.Right.DROP,
}
_T = TypeVar("_T")


async def _settle(
    keeper: Keeper,
    step: Callable[[Cluster], tuple[Cluster, _T]],
    happened: Callable[[_T], Happened],
    reason: str,
) -> _T:
    """One change of namespaces or tenants; it is told, with the operator's reason, when it changed
    something."""
    why = because(reason)

    def act(state: Membership, _: float) -> _T:
        cluster, result = step(state.cluster)
        if cluster is not state.cluster:
            told = happened(result)
            state.change(cluster, dataclasses.replace(told, text=told.text + why))
        return result

    return await keeper.change(act)


class NamespacesService(namespaces_pb2_grpc.NamespacesServicer):
    """docs/formats/control.md says what each call refuses."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    @call
    async def CreateNamespace(
        self, request: spaces_pb.CreateNamespaceRequest
    ) -> spaces_pb.CreateNamespaceResponse:
        rules = _rules(request.rules)
        space = await _settle(
            self._keeper,
            lambda cluster: _tenancy.create_space(
                cluster, request.tenant, request.name, request.key_dialect, rules
            ),
            lambda made: Happened("namespace_created", made.label, self._said(made)),
            request.reason,
        )
        return spaces_pb.CreateNamespaceResponse(
            namespace=_space_info(space), epoch=self._keeper.published.epoch
        )

    @call
    async def ListNamespaces(
        self, request: spaces_pb.ListNamespacesRequest
    ) -> spaces_pb.ListNamespacesResponse:
        cluster = self._keeper.published.cluster
        if request.tenant:
            _tenancy.find_tenant(cluster, request.tenant)
        return spaces_pb.ListNamespacesResponse(
            namespaces=[
                _space_info(space)
                for _, space in sorted(cluster.spaces.items())
                if request.tenant in ("", space.tenant)
            ]
        )

    @call
    async def UpdateNamespace(
        self, request: spaces_pb.UpdateNamespaceRequest
    ) -> spaces_pb.UpdateNamespaceResponse:
        rules = _rules(request.rules)
        space = await _settle(
            self._keeper,
            lambda cluster: _tenancy.update_space(
                cluster, request.tenant, request.name, request.key_dialect, rules
            ),
            lambda made: Happened("namespace_changed", made.label, self._said(made)),
            request.reason,
        )
        return spaces_pb.UpdateNamespaceResponse(
            namespace=_space_info(space), epoch=self._keeper.published.epoch
        )

    @call
    async def DropNamespace(
        self, request: spaces_pb.DropNamespaceRequest
    ) -> spaces_pb.DropNamespaceResponse:
        space = await _settle(
            self._keeper,
            lambda cluster: _tenancy.drop_space(
                cluster,
                request.tenant,
                request.name,
                request.key_dialect,
                request.drop_generation,
            ),
            lambda made: Happened(
                "namespace_dropped", made.label, f"drop generation {made.generation} begins"
            ),
            request.reason,
        )
        return spaces_pb.DropNamespaceResponse(
            namespace=_space_info(space), epoch=self._keeper.published.epoch
        )

    def _said(self, space: Space) -> str:
        members = self._keeper.state.cluster.members.values()
        taking = [(member.address, member.failure_domain) for member in members if member.share]
        warning = one_failure(taking) if space.rules.copies > 1 else ""
        return f"{space.rules}; {warning}" if warning else f"{space.rules}"


class TenantsService(tenants_pb2_grpc.TenantsServicer):
    """docs/formats/control.md says what each call refuses."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    @call
    async def CreateTenant(
        self, request: tenants_pb.CreateTenantRequest
    ) -> tenants_pb.CreateTenantResponse:
        key = _tokens.new_key()
        tenant = await _settle(
            self._keeper,
            lambda cluster: _tenancy.create_tenant(cluster, request.name, request.quota_bytes, key),
            lambda made: Happened("tenant_created", made.name, f"its number is {made.number}"),
            request.reason,
        )
        return tenants_pb.CreateTenantResponse(
            tenant=_tenant_info(tenant), epoch=self._keeper.published.epoch
        )

    @call
    async def ListTenants(
        self, request: tenants_pb.ListTenantsRequest
    ) -> tenants_pb.ListTenantsResponse:
        tenants = self._keeper.published.cluster.tenants
        return tenants_pb.ListTenantsResponse(
            tenants=[_tenant_info(tenants[name]) for name in sorted(tenants)]
        )

    @call
    async def UpdateTenant(
        self, request: tenants_pb.UpdateTenantRequest
    ) -> tenants_pb.UpdateTenantResponse:
        quota = request.quota_bytes if request.HasField("quota_bytes") else None
        tenant = await _settle(
            self._keeper,
            lambda cluster: _tenancy.update_tenant(cluster, request.name, quota),
            lambda made: Happened(
                "tenant_changed", made.name, f"its quota is {made.quota_bytes} bytes"
            ),
            request.reason,
        )
        return tenants_pb.UpdateTenantResponse(
            tenant=_tenant_info(tenant), epoch=self._keeper.published.epoch
        )

    @call
    async def IssueToken(
        self, request: tenants_pb.IssueTokenRequest
    ) -> tenants_pb.IssueTokenResponse:
        _tokens.check_wishes(request.holder_key, request.namespace_ids, request.lifetime_s)
        rights = _rights(request)
        token_id = request.token_id or _tokens.new_id()
        _tenancy.check_id("token_id", token_id)
        # Of what is published: a key that is not in the map yet signs nothing.
        tenant = _tenancy.find_signing_tenant(self._keeper.published.cluster, request.tenant)
        now_s = int(self._keeper.wall())
        token = _tokens.Token(
            tenant=tenant.number,
            key_id=tenant.keys[-1].id,
            id=token_id,
            issued_s=now_s,
            expires_s=now_s + request.lifetime_s,
            rights=rights,
            holder=request.holder_key,
            namespaces=tuple(request.namespace_ids),
        )
        signed = _tokens.sign(token, tenant.keys[-1])
        self._keeper.tell(
            "token_issued", tenant.name, f"{token_id.hex()}, for {request.lifetime_s} s"
        )
        return tenants_pb.IssueTokenResponse(
            token=signed, token_id=token_id, expires_s=token.expires_s
        )

    @call
    async def RotateKey(self, request: tenants_pb.RotateKeyRequest) -> tenants_pb.RotateKeyResponse:
        key, now_s = _tokens.new_key(), int(self._keeper.wall())
        tenant = await _settle(
            self._keeper,
            lambda cluster: _tenancy.rotate_key(
                cluster, request.tenant, request.from_key, request.overlap_s, key, now_s
            ),
            lambda made: Happened(
                "key_rotated", made.name, f"{made.keys[-1].id.hex()} signs from now on"
            ),
            request.reason,
        )
        return tenants_pb.RotateKeyResponse(
            tenant=_tenant_info(tenant), epoch=self._keeper.published.epoch
        )

    @call
    async def Revoke(self, request: tenants_pb.RevokeRequest) -> tenants_pb.RevokeResponse:
        if not request.token_ids and not request.key_ids:
            raise RefusalError(
                Reason.INVALID, "token_ids, key_ids: name what is not to be believed"
            )
        now_s = int(self._keeper.wall())
        tenant = await _settle(
            self._keeper,
            lambda cluster: _tenancy.revoke(
                cluster, request.tenant, request.token_ids, request.key_ids, now_s
            ),
            lambda made: Happened(
                "revoked",
                made.name,
                f"{len(request.token_ids)} tokens, {len(request.key_ids)} keys",
            ),
            request.reason,
        )
        return tenants_pb.RevokeResponse(
            tenant=_tenant_info(tenant), epoch=self._keeper.published.epoch
        )


def _rules(message: map_pb2.NamespaceRules) -> dict[str, Any]:
    """The rules that are named."""
    rules: dict[str, Any] = {
        name: getattr(message, name)
        for name in ("quota_bytes", "ttl_s", "copies")
        if message.HasField(name)
    }
    if message.HasField("admission"):
        word = ADMISSION_WORDS.get(message.admission)
        if word is None:
            raise RefusalError(
                Reason.INVALID, f"admission: {message.admission} is not known to this release"
            )
        rules["admission"] = word
    return rules


def _rights(request: tenants_pb.IssueTokenRequest) -> _tokens.Right:
    rights = _tokens.Right(0)
    for number in request.rights:
        if number not in _RIGHTS:
            raise RefusalError(Reason.INVALID, f"rights: {number} is not known to this release")
        rights |= _RIGHTS[number]
    if not rights:
        raise RefusalError(Reason.INVALID, "rights: name at least one of READ, WRITE and DROP")
    return rights


def _space_info(space: Space) -> spaces_pb.NamespaceInfo:
    return spaces_pb.NamespaceInfo(
        tenant=space.tenant,
        name=space.name,
        key_dialect=space.dialect,
        id=space.id,
        drop_generation=space.generation,
        rules=rules_message(space.rules),
    )


def _tenant_info(tenant: Tenant) -> tenants_pb.TenantInfo:
    return tenants_pb.TenantInfo(
        name=tenant.name,
        tenant=tenant.number,
        quota_bytes=tenant.quota_bytes,
        keys=[key.id for key in tenant.keys],
        revoked=len(tenant.revoked),
    )
