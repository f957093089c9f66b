"""The map file: how an agent hands memkvd the map, and whom to believe. docs/formats/map-file.md
is the page."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from memkv_nixl._native import crc32c, node_id_of
from memkv_nixl.proto.memkv.v1.map_pb2 import ADMISSION_ALL, NODE_STATE_DRAINING

if TYPE_CHECKING:
    from memkv_nixl.proto.memkv.v1.map_pb2 import ClusterMap, TenantRule

FORMERS_MAX = 3  # kFormersMax of the wire's map
_MAGIC, _REQUEST = b"MKV1", 1
_MAP_REPLY, _RULES, _TRUST = 21, 40, 41


def write_map_file(path: Path, map_: ClusterMap, own: TenantRule | None = None) -> None:
    """Puts the map in place, whole; `own` is trusted beside the map's tenants."""
    put_in_place(path, map_frame(map_) + rules_frame(map_) + trust_frame(map_, own))


def put_in_place(path: Path, content: bytes) -> None:
    """Replaces the file; after a power loss it is the former or this one, whole."""
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def map_frame(map_: ClusterMap) -> bytes:
    """The map as one frame of the wire, MAP_REPLY."""
    body = struct.pack("<II", map_.epoch, len(map_.nodes))
    for node in map_.nodes:
        address = node.address.encode()
        domain = node_id_of(node.failure_domain) if node.failure_domain else 0
        draining = node.state == NODE_STATE_DRAINING
        former = (*node.former_weights, *[0] * FORMERS_MAX)[:FORMERS_MAX]
        body += struct.pack("<QI3I", node.node_id, node.weight, *former)
        body += struct.pack("<QBH", domain, draining, len(address)) + address
    return _frame(_MAP_REPLY, body)


def rules_frame(map_: ClusterMap) -> bytes:
    """What is settled about namespaces and tenants as one frame of the file, RULES."""
    spaces = sorted(map_.namespaces, key=lambda space: (space.tenant, space.id))
    tenants = sorted(map_.tenants, key=lambda tenant: tenant.tenant)
    records = [struct.pack("<III", map_.epoch, len(spaces), len(tenants))]
    records += [
        struct.pack(
            "<Q16sIIQBB2x",
            space.tenant,
            space.id,
            space.drop_generation,
            space.rules.ttl_s,
            space.rules.quota_bytes,
            space.rules.admission or ADMISSION_ALL,
            space.rules.copies or 1,
        )
        for space in spaces
    ]
    records += [struct.pack("<QQ", tenant.tenant, tenant.quota_bytes) for tenant in tenants]
    return _frame(_RULES, b"".join(records))


def trust_frame(map_: ClusterMap, own: TenantRule | None = None) -> bytes:
    """The tenants that have keys, and `own`, as the frame TRUST."""
    rules = [*(rule for rule in map_.tenants if rule.keys), *([] if own is None else [own])]
    body = struct.pack("<I4x", len(rules))
    for rule in rules:
        body += struct.pack("<QII", rule.tenant, len(rule.keys), len(rule.revoked))
        for key in rule.keys:
            body += struct.pack("<16s32sQ", key.id, key.public_key, key.until_s)
        body += b"".join(rule.revoked)
    return _frame(_TRUST, body)


def _frame(kind: int, body: bytes) -> bytes:
    head = struct.pack("<4sB3xQIII", _MAGIC, kind, _REQUEST, len(body), 0, crc32c(body))
    return head + struct.pack("<I", crc32c(head)) + body
