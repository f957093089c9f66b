"""Tokens by which a node's agent moves every tenant's blocks: to read here, and to put there.

The control plane makes them, as for anybody; each lies in a file of the agent's folder, and is
renewed at half of its time, or when its key is not believed any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from memkv_nixl import _token
from memkv_nixl.proto.memkv.v1 import tenants_pb2
from memkv_nixl.proto.memkv.v1.map_pb2 import ClusterMap, TenantRule

_LIFETIME_S = 24 * 3600
_CALL_S = 10.0


class MoverTokens:
    """The files, by the tenant's number."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def missing(self, map_: ClusterMap) -> list[int]:
        """The tenants for which there is no good token."""
        return [rule.tenant for rule in _with_keys(map_) if not self._good(rule)]

    async def fetch(self, stub: Any, tenants: Iterable[int]) -> None:
        """Asks the control plane for them."""
        listed = await stub.ListTenants(tenants_pb2.ListTenantsRequest(), timeout=_CALL_S)
        names = {tenant.tenant: tenant.name for tenant in listed.tenants}
        for tenant in tenants:
            if tenant not in names:
                continue
            private = _token.new_private()
            request = tenants_pb2.IssueTokenRequest(
                tenant=names[tenant],
                holder_key=_token.public_half(private),
                rights=[tenants_pb2.RIGHT_READ, tenants_pb2.RIGHT_WRITE],
                lifetime_s=_LIFETIME_S,
            )
            done = await stub.IssueToken(request, timeout=_CALL_S)
            note = f"of this node's agent, to move blocks of {names[tenant]}"
            _token.write_token_file(self._file(tenant), done.token, private, note)

    def files(self, map_: ClusterMap) -> list[str]:
        """Those that are good."""
        return [str(self._file(rule.tenant)) for rule in _with_keys(map_) if self._good(rule)]

    def _file(self, tenant: int) -> Path:
        return self._folder / f"mover-{tenant}.token"

    def _good(self, rule: TenantRule) -> bool:
        try:
            text, _ = _token.read_token_file(self._file(rule.tenant))
        except (OSError, ValueError):
            return False
        for key in rule.keys:
            try:
                token = _token.read(text, key.public_key)
            except ValueError:
                continue
            fresh = token.expires_s > time.time() + _LIFETIME_S / 2
            believed = not key.until_s or key.until_s > time.time() + _LIFETIME_S / 2
            return fresh and believed and token.id not in rule.revoked
        return False


def _with_keys(map_: ClusterMap) -> list[TenantRule]:
    return [rule for rule in map_.tenants if rule.keys]
