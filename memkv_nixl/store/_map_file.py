"""The map file: how an agent hands memkvd the map. docs/formats/map-file.md is the page."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING

from memkv_nixl._native import crc32c, node_id_of
from memkv_nixl.proto.memkv.v1.map_pb2 import NODE_STATE_DRAINING

if TYPE_CHECKING:
    from memkv_nixl.proto.memkv.v1.map_pb2 import ClusterMap

_MAGIC, _MAP_REPLY, _REQUEST = b"MKV1", 21, 1


def write_map_file(path: Path, map_: ClusterMap) -> None:
    """Puts the map in place, whole."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(map_frame(map_))
    fresh.replace(path)


def map_frame(map_: ClusterMap) -> bytes:
    """The map as one frame of the wire, MAP_REPLY."""
    body = struct.pack("<II", map_.epoch, len(map_.nodes))
    for node in map_.nodes:
        address = node.address.encode()
        domain = node_id_of(node.failure_domain) if node.failure_domain else 0
        draining = node.state == NODE_STATE_DRAINING
        body += struct.pack("<QIQBH", node.node_id, node.weight, domain, draining, len(address))
        body += address
    head = struct.pack("<4sB3xQIII", _MAGIC, _MAP_REPLY, _REQUEST, len(body), 0, crc32c(body))
    return head + struct.pack("<I", crc32c(head)) + body
