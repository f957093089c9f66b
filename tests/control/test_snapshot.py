"""The snapshot: written twice, whole or not at all, and never believed when it is damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkv_nixl._errors import ConfigError, RefusedError
from memkv_nixl.control import _tenancy
from memkv_nixl.control._cluster import Cluster, Key, Member, next_cluster
from memkv_nixl.control._snapshot import COPIES, DamagedError, Snapshot, decode, encode

KEY = Key(b"k" * 16, b"p" * 32, b"secret, secret, secret, secret, ", 0)


def cluster() -> Cluster:
    """One with something of everything."""
    made = next_cluster(
        Cluster(history=2**63),
        members={"a:1": Member("a:1", 100, "rack 1", 2, draining=True)},
        removed=(("b:1", 1),),
    )
    made, _ = _tenancy.create_tenant(made, "team", 5, KEY)
    made, _ = _tenancy.create_space(made, "team", "ärger", "obj", {"copies": 2})
    made, _ = _tenancy.drop_space(made, "team", "ärger", "obj", 0)
    made, _ = _tenancy.revoke(made, "team", [b"t" * 16], [], 1000)
    return made


@pytest.fixture
def snapshot(tmp_path: Path) -> Iterator[Snapshot]:
    with closing(Snapshot(tmp_path)) as made:
        yield made


def test_what_was_written_is_loaded(tmp_path: Path) -> None:
    with closing(Snapshot(tmp_path / "new" / "folder")) as first:
        assert first.load().cluster is None
        first.write(cluster())
    with closing(Snapshot(tmp_path / "new" / "folder")) as second:
        loaded = second.load()
    assert loaded.cluster == cluster()
    assert loaded.damage == ()


def test_nobody_else_may_read_it(tmp_path: Path, snapshot: Snapshot) -> None:
    snapshot.write(cluster())
    for name in COPIES:
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert "secret" not in repr(cluster())


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("harm", ["torn", "empty", "missing", "flipped", "longer"])
def test_one_damaged_copy_loses_nothing(
    tmp_path: Path, snapshot: Snapshot, name: str, harm: str
) -> None:
    snapshot.write(cluster())
    damage(tmp_path / name, harm)
    loaded = snapshot.load()
    assert loaded.cluster == cluster()
    assert len(loaded.damage) == 1
    assert name in loaded.damage[0]


def test_two_damaged_copies_are_refused_and_say_what_to_do(
    tmp_path: Path, snapshot: Snapshot
) -> None:
    snapshot.write(cluster())
    for name in COPIES:
        damage(tmp_path / name, "torn")
    with pytest.raises(ConfigError, match="move both out of"):
        snapshot.load()


def test_of_two_copies_the_later_counts(tmp_path: Path, snapshot: Snapshot) -> None:
    """As a crash between the two writes leaves them."""
    snapshot.write(cluster())
    later = next_cluster(cluster(), members={})
    (tmp_path / COPIES[0]).write_bytes(encode(later))
    assert snapshot.load().cluster == later


def test_a_disk_that_takes_nothing_leaves_what_was_there(
    tmp_path: Path, snapshot: Snapshot
) -> None:
    snapshot.write(cluster())
    blocked = tmp_path / "control-a.new"
    blocked.mkdir()
    with pytest.raises(OSError, match=r"control-a\.new"):
        snapshot.write(next_cluster(cluster(), members={}))
    assert snapshot.load().cluster == cluster()


def test_two_control_planes_never_share_a_folder(tmp_path: Path) -> None:
    with closing(Snapshot(tmp_path)), pytest.raises(RefusedError, match="another control plane"):
        Snapshot(tmp_path)
    Snapshot(tmp_path).close()


def test_a_folder_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept there"):
        Snapshot(tmp_path / "file" / "state")


def test_a_later_format_is_no_damage() -> None:
    text = encode(cluster()).replace(b"memkv.control/1", b"memkv.control/2", 1)
    with pytest.raises(ConfigError, match="use the release that wrote it"):
        decode(text, "x")


@given(st.data())
def test_no_changed_byte_is_believed(data: st.DataObject) -> None:
    text = bytearray(encode(cluster()))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((DamagedError, ConfigError)):
        decode(bytes(text), "x")


@given(st.integers(0, 2**64 - 1), st.integers(2, 2**32 - 1))
def test_every_history_and_epoch_survive(history: int, epoch: int) -> None:
    made = dataclasses.replace(cluster(), history=history, epoch=epoch)
    assert decode(encode(made), "x") == made


def damage(path: Path, harm: str) -> None:
    content = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "longer":
        path.write_bytes(content + b"\0")
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
