"""The map file that an agent writes is the frame that the wire's page describes."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from memkv_nixl.proto.memkv.v1 import map_pb2
from memkv_nixl.store._map_file import map_frame, rules_frame, trust_frame, write_map_file

NODES = [
    map_pb2.MapNode(
        address="10.0.0.7:7440",
        node_id=0x0123456789ABCDEF,
        weight=100,
        former_weights=[100, 70],
        failure_domain="rack-7",
    ),
    map_pb2.MapNode(
        address="[fd00::1]:7440",
        node_id=2,
        weight=0,
        former_weights=[50, 50],
        state=map_pb2.NODE_STATE_DRAINING,
    ),
]


def golden(repo: Path, name: str) -> bytes:
    """The bytes of a frame that tests/golden/make_wire.py made."""
    text = (repo / f"tests/golden/wire/{name}.hex").read_text("utf-8")
    return bytes.fromhex(" ".join(re.sub("#.*", "", line) for line in text.splitlines()))


def test_the_body_is_the_golden_one(repo: Path) -> None:
    """The golden frame has request 7, ours has 1: all else is alike."""
    expected = golden(repo, "map_reply")
    frame = map_frame(map_pb2.ClusterMap(epoch=5, nodes=NODES))
    assert frame[:8] + frame[16:28] + frame[32:] == expected[:8] + expected[16:28] + expected[32:]
    assert frame[8:16] == (1).to_bytes(8, "little")


def test_rules_are_as_the_page_says() -> None:
    rules = map_pb2.NamespaceRules(quota_bytes=1 << 40, ttl_s=60, copies=2)
    map_ = map_pb2.ClusterMap(
        epoch=5,
        namespaces=[
            map_pb2.NamespaceRule(tenant=2, id=b"a" * 16, drop_generation=3, rules=rules),
            map_pb2.NamespaceRule(
                tenant=1,
                id=b"z" * 16,
                rules=map_pb2.NamespaceRules(admission=map_pb2.ADMISSION_BUDGET),
            ),
        ],
        tenants=[map_pb2.TenantRule(tenant=1, quota_bytes=7)],
    )
    frame = rules_frame(map_)
    assert frame[4] == 40
    expected = (
        "05000000 02000000 01000000"
        "0100000000000000 7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a 00000000 00000000"
        "0000000000000000 03 01 0000"
        "0200000000000000 61616161616161616161616161616161 03000000 3c000000"
        "0000000000010000 01 02 0000"
        "0100000000000000 0700000000000000"
    )
    assert frame[32:] == bytes.fromhex(expected)


def test_trust_is_as_the_page_says() -> None:
    """Tenants without keys are left out, and the agent's own stands behind the others."""
    key = map_pb2.TrustedKey(id=b"\x33" * 16, public_key=b"\x22" * 32, until_s=9)
    map_ = map_pb2.ClusterMap(
        epoch=5,
        tenants=[
            map_pb2.TenantRule(tenant=1),
            map_pb2.TenantRule(tenant=5, keys=[key], revoked=[b"\x44" * 16]),
        ],
    )
    own = map_pb2.TenantRule(tenant=0, keys=[key])
    frame = trust_frame(map_, own)
    one_key = "33" * 16 + "22" * 32 + "0900000000000000"
    body = bytes.fromhex(
        "0200000000000000"
        + ("0500000000000000 01000000 01000000" + one_key + "44" * 16)
        + ("0000000000000000 01000000 00000000" + one_key)
    )
    assert frame[4] == 41
    assert frame[16:20] == len(body).to_bytes(4, "little")
    assert frame[32:] == body


def test_it_is_put_in_place_whole(tmp_path: Path) -> None:
    path = tmp_path / "map.frame"
    for epoch in (1, 2):
        map_ = map_pb2.ClusterMap(epoch=epoch, nodes=NODES)
        write_map_file(path, map_)
        assert path.read_bytes() == map_frame(map_) + rules_frame(map_) + trust_frame(map_)
    assert [entry.name for entry in tmp_path.iterdir()] == ["map.frame"]


def test_it_survives_a_power_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file's bytes are on the disk before its name is, and the name is before we go on."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def seen_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"fsync {path.name} of {path.stat().st_size if path.is_file() else 0}")

    def seen_replace(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name} {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(Path, "replace", seen_replace)
    path = tmp_path / "map.frame"
    write_map_file(path, map_pb2.ClusterMap(epoch=3, nodes=NODES))
    assert done == [
        f"fsync map.new of {path.stat().st_size}",
        "rename map.new map.frame",
        f"fsync {tmp_path.name} of 0",
    ]
