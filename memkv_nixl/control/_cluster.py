"""What the control plane remembers: nodes, namespaces, tenants. It survives a restart.

A `Cluster` never changes; whoever changes something makes the next one with `next_cluster`, which
advances the epoch. So one epoch of one history is one content, and what is not written yet can be
taken back by taking the former one. `to_document` and `from_document` are the snapshot's content,
docs/formats/control-state.md.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from memkv_nixl.control._limits import EPOCH_FIRST, EPOCH_MAX

BUILT_IN = "default"  # the tenant of those who have no token
BUILT_IN_NUMBER = 1  # kDefaultTenant
ADMISSIONS = ("all", "second_touch", "budget")
DIALECTS = ("raw", "obj", "cmx")


@dataclass(frozen=True)
class Member:
    """A node, as the map has it."""

    address: str
    weight: int
    failure_domain: str
    membership: int
    draining: bool = False
    lost: bool = False

    @property
    def share(self) -> int:
        """Its weight in placement."""
        return 0 if self.draining or self.lost else self.weight


@dataclass(frozen=True)
class Rules:
    """What is settled about a namespace."""

    quota_bytes: int = 0
    ttl_s: int = 0
    copies: int = 1
    admission: str = "all"


@dataclass(frozen=True)
class Space:
    """A namespace that was created."""

    tenant: str
    name: str
    dialect: str
    id: bytes
    rules: Rules = Rules()
    generation: int = 0

    @property
    def label(self) -> str:
        """For events and messages."""
        return f"{self.tenant}/{self.name}" + (
            f" ({self.dialect})" if self.dialect != "raw" else ""
        )


@dataclass(frozen=True)
class Key:
    """A signing key of a tenant; `until_s` is when it stops being believed, 0: never."""

    id: bytes
    public: bytes
    private: bytes = field(repr=False)  # empty once it signs no more
    until_s: int = 0


@dataclass(frozen=True)
class Tenant:
    """Somebody who shares the pool. The last key signs."""

    name: str
    number: int
    quota_bytes: int = 0
    keys: tuple[Key, ...] = ()
    revoked: Mapping[bytes, int] = field(default_factory=dict)  # token → when it may be forgotten


SpaceKey = tuple[str, str, str]  # tenant, name, dialect


@dataclass(frozen=True)
class Former:
    """The shares of a map before, and the epoch of the one that took its place."""

    shares: Mapping[str, int]
    until: int


@dataclass(frozen=True)
class Cluster:
    """All of it."""

    history: int
    epoch: int = EPOCH_FIRST
    members: Mapping[str, Member] = field(default_factory=dict)
    formers: tuple[Former, ...] = ()  # where blocks may still lie, the latest first
    removed: tuple[tuple[str, int], ...] = ()  # (address, membership), the latest last
    spaces: Mapping[SpaceKey, Space] = field(default_factory=dict)
    tenants: Mapping[str, Tenant] = field(
        default_factory=lambda: {BUILT_IN: Tenant(BUILT_IN, BUILT_IN_NUMBER)}
    )
    last_number: int = BUILT_IN_NUMBER  # of tenants and memberships


def next_cluster(cluster: Cluster, *, epoch: int = 0, **changes: Any) -> Cluster:
    """The cluster after a change; its epoch is the next one, or `epoch` where that is later."""
    following = max(cluster.epoch + 1, epoch)
    if following > EPOCH_MAX:
        raise OverflowError(f"the map's epoch cannot go beyond {EPOCH_MAX}")
    return dataclasses.replace(cluster, epoch=following, **changes)


def shares(members: Mapping[str, Member]) -> dict[str, int]:
    """Who takes blocks, and how many beside the others."""
    return {address: member.share for address, member in members.items() if member.share}


# ---- the snapshot's content


def to_document(cluster: Cluster) -> dict[str, Any]:
    """As JSON can hold it: bytes as hexadecimal digits."""
    return {
        "history": cluster.history,
        "epoch": cluster.epoch,
        "last_number": cluster.last_number,
        "nodes": [dataclasses.asdict(cluster.members[name]) for name in sorted(cluster.members)],
        "formers": [dataclasses.asdict(former) for former in cluster.formers],
        "removed": [list(entry) for entry in cluster.removed],
        "namespaces": [_space_document(cluster.spaces[key]) for key in sorted(cluster.spaces)],
        "tenants": [_tenant_document(cluster.tenants[name]) for name in sorted(cluster.tenants)],
    }


def from_document(document: Mapping[str, Any]) -> Cluster:
    """What to_document made. Raises KeyError, TypeError or ValueError for anything else."""
    members = [Member(**entry) for entry in document["nodes"]]
    spaces = [_space(entry) for entry in document["namespaces"]]
    tenants = [_tenant(entry) for entry in document["tenants"]]
    return Cluster(
        history=int(document["history"]),
        epoch=int(document["epoch"]),
        members={member.address: member for member in members},
        formers=tuple(Former(**entry) for entry in document.get("formers", ())),
        removed=tuple((str(address), int(number)) for address, number in document["removed"]),
        spaces={(space.tenant, space.name, space.dialect): space for space in spaces},
        tenants={tenant.name: tenant for tenant in tenants},
        last_number=int(document["last_number"]),
    )


def _space_document(space: Space) -> dict[str, Any]:
    return {**dataclasses.asdict(space), "id": space.id.hex()}


def _space(entry: Mapping[str, Any]) -> Space:
    return Space(**{**entry, "id": bytes.fromhex(entry["id"]), "rules": Rules(**entry["rules"])})


def _tenant_document(tenant: Tenant) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "number": tenant.number,
        "quota_bytes": tenant.quota_bytes,
        "keys": [
            {
                "id": key.id.hex(),
                "public": key.public.hex(),
                "private": key.private.hex(),
                "until_s": key.until_s,
            }
            for key in tenant.keys
        ],
        "revoked": {token.hex(): until for token, until in sorted(tenant.revoked.items())},
    }


def _tenant(entry: Mapping[str, Any]) -> Tenant:
    keys = tuple(
        Key(
            bytes.fromhex(key["id"]),
            bytes.fromhex(key["public"]),
            bytes.fromhex(key["private"]),
            int(key["until_s"]),
        )
        for key in entry["keys"]
    )
    revoked = {bytes.fromhex(token): int(until) for token, until in entry["revoked"].items()}
    return Tenant(
        str(entry["name"]), int(entry["number"]), int(entry["quota_bytes"]), keys, revoked
    )
