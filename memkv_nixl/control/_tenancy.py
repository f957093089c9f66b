"""Namespaces and tenants: what operators settle, as changes of a `Cluster`. No I/O.

Each function gives the next cluster, or the one it was handed when nothing is to be changed: a call
that is sent twice has one effect. Each may raise RefusalError.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import dialect_id, namespace_id
from memkv_nixl.control._cluster import (
    ADMISSIONS,
    BUILT_IN,
    DIALECTS,
    Cluster,
    Key,
    Rules,
    Space,
    Tenant,
    next_cluster,
)
from memkv_nixl.control._limits import (
    COPIES_MAX,
    KEYS_PER_TENANT_MAX,
    LIFETIME_S_MAX,
    NAME_BYTES_MAX,
    NAMESPACES_MAX,
    QUOTA_BYTES_MAX,
    REVOKED_MAX,
    TENANT_NAME_BYTES_MAX,
    TENANTS_MAX,
    TTL_S_MAX,
)
from memkv_nixl.control._refused import Reason, RefusalError

ID_BYTES = 16
_TENANT_NAME = re.compile(rf"[a-z0-9._-]{{1,{TENANT_NAME_BYTES_MAX}}}")


# ---- namespaces


def create_space(
    cluster: Cluster, tenant: str, name: str, dialect: str, rules: Mapping[str, Any]
) -> tuple[Cluster, Space]:
    """Makes a namespace known."""
    owner = find_tenant(cluster, tenant or BUILT_IN)
    settled = _with_rules(Rules(), rules)
    fresh = Space(owner.name, name, _dialect(dialect), _wire_id(name, dialect), settled)
    known = cluster.spaces.get((fresh.tenant, fresh.name, fresh.dialect))
    if known is not None and known.rules == settled:
        return cluster, known
    if known is not None:
        raise RefusalError(
            Reason.NAMESPACE_EXISTS,
            f"namespace {known.label} is there with other rules; UpdateNamespace changes them",
        )
    twin = _same_bytes(cluster, fresh)
    if twin is not None:
        raise RefusalError(
            Reason.NAMESPACE_EXISTS,
            f"namespace {fresh.label} has the same 16 bytes on the wire as {twin.label}",
        )
    if len(cluster.spaces) >= NAMESPACES_MAX:
        raise RefusalError(
            Reason.NAMESPACES_FULL, f"there are {NAMESPACES_MAX} namespaces, the most"
        )
    return _put_space(cluster, fresh), fresh


def update_space(
    cluster: Cluster, tenant: str, name: str, dialect: str, rules: Mapping[str, Any]
) -> tuple[Cluster, Space]:
    """Sets the rules that are named."""
    known = find_space(cluster, tenant, name, dialect)
    fresh = dataclasses.replace(known, rules=_with_rules(known.rules, rules))
    return (cluster, known) if fresh == known else (_put_space(cluster, fresh), fresh)


def drop_space(
    cluster: Cluster, tenant: str, name: str, dialect: str, generation: int
) -> tuple[Cluster, Space]:
    """Ends a generation; one that is over was ended before."""
    known = find_space(cluster, tenant, name, dialect)
    if generation > known.generation:
        raise RefusalError(
            Reason.GENERATION_UNKNOWN,
            f"namespace {known.label} is at drop generation {known.generation}, not yet at "
            f"{generation}; name the one that ListNamespaces gives",
        )
    if generation < known.generation:
        return cluster, known
    fresh = dataclasses.replace(known, generation=known.generation + 1)
    return _put_space(cluster, fresh), fresh


def find_space(cluster: Cluster, tenant: str, name: str, dialect: str) -> Space:
    """The namespace of this name."""
    owner = find_tenant(cluster, tenant or BUILT_IN)
    known = cluster.spaces.get((owner.name, name, _dialect(dialect)))
    if known is None:
        raise RefusalError(
            Reason.NAMESPACE_UNKNOWN,
            f"tenant {owner.name!r} has no namespace {name!r:.200} with dialect "
            f"{_dialect(dialect)}; CreateNamespace makes it known",
        )
    return known


# ---- tenants


def create_tenant(
    cluster: Cluster, name: str, quota_bytes: int, key: Key
) -> tuple[Cluster, Tenant]:
    """Makes a tenant known; `key` is what it will sign with when it is new."""
    if not _TENANT_NAME.fullmatch(name):
        raise RefusalError(
            Reason.INVALID,
            f"name: {name!r:.80} is no tenant's name; write 1 to {TENANT_NAME_BYTES_MAX} of "
            "a-z, 0-9, '-', '_' and '.'",
        )
    _in_range("quota_bytes", quota_bytes, 0, QUOTA_BYTES_MAX)
    known = cluster.tenants.get(name)
    if known is not None and known.quota_bytes == quota_bytes:
        return cluster, known
    if known is not None:
        raise RefusalError(
            Reason.TENANT_EXISTS,
            f"tenant {name!r} is there with a quota of {known.quota_bytes} bytes; UpdateTenant "
            "changes it",
        )
    if len(cluster.tenants) >= TENANTS_MAX:
        raise RefusalError(Reason.TENANTS_FULL, f"there are {TENANTS_MAX} tenants, the most")
    number = cluster.last_number + 1
    fresh = Tenant(name, number, quota_bytes, (key,))
    tenants = {**cluster.tenants, name: fresh}
    return next_cluster(cluster, tenants=tenants, last_number=number), fresh


def update_tenant(cluster: Cluster, name: str, quota_bytes: int | None) -> tuple[Cluster, Tenant]:
    """Sets its quota."""
    known = find_tenant(cluster, name)
    if quota_bytes is None or quota_bytes == known.quota_bytes:
        return cluster, known
    _in_range("quota_bytes", quota_bytes, 0, QUOTA_BYTES_MAX)
    fresh = dataclasses.replace(known, quota_bytes=quota_bytes)
    return _put_tenant(cluster, fresh), fresh


def rotate_key(
    cluster: Cluster, name: str, from_key: bytes, overlap_s: int, key: Key, now_s: int
) -> tuple[Cluster, Tenant]:
    """`key` signs from now on; tokens of the former one are believed for `overlap_s` still."""
    known = find_signing_tenant(cluster, name)
    _in_range("overlap_s", overlap_s, 0, LIFETIME_S_MAX)
    if all(other.id != from_key for other in known.keys):
        raise RefusalError(
            Reason.KEY_UNKNOWN,
            f"tenant {name!r} has no key {from_key.hex() or '(none)'}; ListTenants names its keys",
        )
    if known.keys[-1].id != from_key:
        return cluster, known
    alive = [other for other in known.keys[:-1] if other.until_s > now_s]
    if len(alive) + 2 > KEYS_PER_TENANT_MAX:
        raise RefusalError(
            Reason.KEYS_FULL,
            f"tenant {name!r} has {len(known.keys)} keys that are believed still; revoke some, or "
            "wait until their overlap is over",
        )
    former = dataclasses.replace(known.keys[-1], private=b"", until_s=now_s + overlap_s)
    fresh = dataclasses.replace(known, keys=(*alive, former, key))
    return _put_tenant(cluster, fresh), fresh


def revoke(
    cluster: Cluster, name: str, tokens: Iterable[bytes], keys: Iterable[bytes], now_s: int
) -> tuple[Cluster, Tenant]:
    """Takes trust in tokens and keys back."""
    known = find_signing_tenant(cluster, name)
    gone = set(keys)
    if known.keys[-1].id in gone:
        raise RefusalError(
            Reason.KEY_SIGNS,
            f"key {known.keys[-1].id.hex()} signs for tenant {name!r}; RotateKey first",
        )
    wanted = list(tokens)
    for id_ in (*wanted, *gone):
        check_id("token_ids, key_ids", id_)
    forgotten = {token: until for token, until in known.revoked.items() if until > now_s}
    fresh_ones = {token: now_s + LIFETIME_S_MAX for token in wanted if token not in forgotten}
    others = sum(len(tenant.revoked) for tenant in cluster.tenants.values()) - len(known.revoked)
    if fresh_ones and others + len(forgotten) + len(fresh_ones) > REVOKED_MAX:
        raise RefusalError(
            Reason.REVOKED_FULL,
            f"{REVOKED_MAX} tokens are revoked, the most that the map carries; rotate the key "
            "without overlap, which ends all of the tenant's tokens",
        )
    kept = tuple(key for key in known.keys if key.id not in gone)
    if not fresh_ones and kept == known.keys:
        return cluster, known
    fresh = dataclasses.replace(known, keys=kept, revoked={**forgotten, **fresh_ones})
    return _put_tenant(cluster, fresh), fresh


def find_tenant(cluster: Cluster, name: str) -> Tenant:
    """The tenant of this name."""
    known = cluster.tenants.get(name)
    if known is None:
        raise RefusalError(
            Reason.TENANT_UNKNOWN,
            f"there is no tenant {name!r:.80}; CreateTenant makes one, ListTenants names them",
        )
    return known


def find_signing_tenant(cluster: Cluster, name: str) -> Tenant:
    """The tenant of this name, which has keys."""
    known = find_tenant(cluster, name)
    if not known.keys:
        raise RefusalError(
            Reason.TENANT_BUILT_IN,
            f"tenant {name!r} is the one of those who have no token, and has no keys; create one",
        )
    return known


def check_id(name: str, value: bytes) -> None:
    """Ids of tokens, keys and namespaces have 16 bytes."""
    if len(value) != ID_BYTES:
        raise RefusalError(Reason.INVALID, f"{name}: an id has {ID_BYTES} bytes, not {len(value)}")


# ---- inside


def _put_space(cluster: Cluster, space: Space) -> Cluster:
    spaces = {**cluster.spaces, (space.tenant, space.name, space.dialect): space}
    return next_cluster(cluster, spaces=spaces)


def _put_tenant(cluster: Cluster, tenant: Tenant) -> Cluster:
    return next_cluster(cluster, tenants={**cluster.tenants, tenant.name: tenant})


def _same_bytes(cluster: Cluster, fresh: Space) -> Space | None:
    return next(
        (
            space
            for space in cluster.spaces.values()
            if space.tenant == fresh.tenant and space.id == fresh.id
        ),
        None,
    )


def _dialect(word: str) -> str:
    dialect = word or "raw"
    if dialect == "full":
        return "raw"
    if dialect not in DIALECTS:
        raise RefusalError(
            Reason.INVALID,
            f"key_dialect: {word!r:.40} is not known; write one of {', '.join(DIALECTS)}, full",
        )
    return dialect


def _wire_id(name: str, dialect: str) -> bytes:
    if len(name.encode()) > NAME_BYTES_MAX:
        raise RefusalError(
            Reason.INVALID, f"name: a namespace's has at most {NAME_BYTES_MAX} bytes"
        )
    try:
        return dialect_id(namespace_id(name), _dialect(dialect))
    except ConfigError as error:
        raise RefusalError(Reason.INVALID, str(error)) from error


def _with_rules(rules: Rules, changes: Mapping[str, Any]) -> Rules:
    fresh = dataclasses.replace(rules, **changes)
    _in_range("quota_bytes", fresh.quota_bytes, 0, QUOTA_BYTES_MAX)
    _in_range("ttl_s", fresh.ttl_s, 0, TTL_S_MAX)
    if not 1 <= fresh.copies <= COPIES_MAX:
        raise RefusalError(
            Reason.INVALID,
            f"copies: {fresh.copies} is neither 1 nor 2; with 2 every block of the namespace gets "
            "a second copy, with 1 only what many read does",
        )
    if fresh.admission not in ADMISSIONS:
        raise RefusalError(
            Reason.INVALID,
            f"admission: {fresh.admission!r} is not known; there are {', '.join(ADMISSIONS)}",
        )
    return fresh


def _in_range(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise RefusalError(Reason.INVALID, f"{name}: {value} is not between {least} and {most}")
