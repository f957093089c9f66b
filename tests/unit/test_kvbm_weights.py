"""Digests of weights: every byte counts, and is read once."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm import _weights
from memkv_nixl.kvbm._weights import weights_digest


@pytest.fixture(autouse=True)
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "memory/weights.json"
    monkeypatch.setenv("MEMKV_WEIGHTS_CACHE", str(path))
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "a.safetensors").write_bytes(b"a" * 100_000)
    (folder / "b.safetensors").write_bytes(b"b" * 1000)
    return folder


def test_one_bit_is_another_digest(model: Path) -> None:
    before = weights_digest(model)
    assert weights_digest(model) == before
    data = bytearray((model / "b.safetensors").read_bytes())
    data[500] ^= 1
    (model / "b.safetensors").write_bytes(data)
    assert weights_digest(model) != before


def test_a_change_that_keeps_size_and_mtime_is_seen(model: Path) -> None:
    before = weights_digest(model)
    file = model / "b.safetensors"
    stat = file.stat()
    file.write_bytes(b"c" * 1000)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert weights_digest(model) != before


def test_the_place_does_not_count(model: Path, tmp_path: Path) -> None:
    before = weights_digest(model)
    moved = tmp_path / "elsewhere"
    model.rename(moved)
    (moved / "config.json").write_text('{"other": 1}')
    assert weights_digest(moved) == before


def test_swapped_files_are_other_weights(model: Path) -> None:
    before = weights_digest(model)
    a, b = model / "a.safetensors", model / "b.safetensors"
    a.rename(model / "c")
    b.rename(a)
    (model / "c").rename(b)
    assert weights_digest(model) != before


def test_a_file_is_read_once(model: Path, monkeypatch: pytest.MonkeyPatch, memory: Path) -> None:
    before = weights_digest(model)
    assert len(json.loads(memory.read_text())) == 2

    def nobody(file: Path) -> tuple[list[int], str]:
        raise AssertionError(f"{file} is read again")

    monkeypatch.setattr(_weights, "_read", nobody)
    assert weights_digest(model) == before


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 1}', "\x00"])
def test_a_memory_that_is_broken_is_no_memory(model: Path, memory: Path, text: str) -> None:
    before = weights_digest(model)
    memory.write_text(text)
    assert weights_digest(model) == before


def test_a_hugging_face_cache_names_its_files_by_digest(tmp_path: Path, model: Path) -> None:
    """As its snapshots are: links to blobs named by their SHA-256. None of them is read."""
    blobs, snapshot = tmp_path / "hub/blobs", tmp_path / "hub/snapshots/1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for file in model.glob("*.safetensors"):
        blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    before = weights_digest(snapshot)
    for link in snapshot.iterdir():
        plain = link.read_bytes()
        link.unlink()
        link.write_bytes(plain)
    assert weights_digest(snapshot) == before


def test_code_counts_where_it_is_run(model: Path) -> None:
    (model / "sub").mkdir()
    code = model / "sub/modeling.py"
    code.write_text("scale = 1")
    before, plain = weights_digest(model, with_code=True), weights_digest(model)
    code.write_text("scale = 2")
    assert weights_digest(model, with_code=True) != before
    assert weights_digest(model) == plain


def test_a_single_file_is_a_checkpoint(model: Path) -> None:
    assert weights_digest(model / "a.safetensors") != weights_digest(model / "b.safetensors")


def test_no_weights_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no \.safetensors"):
        weights_digest(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        weights_digest(tmp_path / "nothing")
