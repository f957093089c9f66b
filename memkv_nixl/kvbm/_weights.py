"""Weights: which weights an engine loaded, as a digest of their files.

A path or a name says nothing: another checkpoint may lie there tomorrow, and blocks computed with
the one must never be read with the other. So every byte counts. It is read once: digests are
remembered in ~/.cache/memkv/weights.json (XDG_CACHE_HOME, or MEMKV_WEIGHTS_CACHE names the file) by
path, size, inode, mtime and ctime; and a file of a Hugging Face cache, where large files are named
by their SHA-256, is not read at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# Of a model's folder, what says how tokens are spelled and not how they are computed.
_SPELLING = (
    "tokenizer",
    "vocab",
    "special_tokens",
    "added_tokens",
    "chat_template",
    "preprocessor",
)
_READ_BYTES = 8 << 20
_THREADS = 8
_SHA256 = re.compile(r"[0-9a-f]{64}")
_log = logging.getLogger(__name__)


def weights_digest(model: str | Path, *, with_code: bool = False) -> str:
    """The digest of a checkpoint: a folder, or the one file of it.

    With the code that the folder brings (every .py in it), where the engine runs that.

    Raises ConfigError where there are no weights to be read.
    """
    place = Path(model)
    files = [place] if place.is_file() else _files_in(place)
    if not files:
        raise ConfigError(
            f"weights: {place} holds no {', '.join(SUFFIXES)}, so nobody can tell which weights "
            'these are. Name them yourself: "weights": "<a word that changes when they do>"'
        )
    named = {file.name: file for file in files}
    if with_code and place.is_dir():
        named |= {str(file.relative_to(place)): file for file in place.rglob("*.py")}
    digests = _digests_of(named.values())
    whole = hashlib.sha256()
    for name in sorted(named):
        whole.update(f"{name}\0{digests[named[name]]}\n".encode())
    return whole.hexdigest()


def configuration_digest(model: Path) -> str:
    """A digest of what a model's folder says about it beside its weights; empty for no folder."""
    if not model.is_dir():
        return ""
    whole = hashlib.sha256()
    for file in sorted(model.glob("*.json")):
        if not file.name.startswith(_SPELLING):
            whole.update(f"{file.name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


def configuration_of(model: Path) -> dict[str, Any]:
    """A model's config.json; empty where there is none that can be read."""
    try:
        value = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def layers_of(model: Path) -> int | None:
    """How many layers a model says it has, if it does."""
    said = configuration_of(model)
    for part in (said, said.get("text_config")):
        layers = part.get("num_hidden_layers") if isinstance(part, dict) else None
        if isinstance(layers, int):
            return layers
    return None


def _files_in(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    except OSError as error:
        raise ConfigError(f"weights: {folder} cannot be read: {error.strerror}") from error


def _digests_of(files: Iterable[Path]) -> dict[Path, str]:
    """The SHA-256 of each file's bytes."""
    remembered = _Memory(_memory_path())
    digests: dict[Path, str] = {}
    unread: list[Path] = []
    for file in files:
        known = _named_by_digest(file) or remembered.get(file)
        if known is None:
            unread.append(file)
        else:
            digests[file] = known
    if unread:
        began = time.monotonic()
        size = sum(file.stat().st_size for file in unread)
        _log.info("MemKV: reading %d weight files, %.1f GB", len(unread), size / 1e9)
        with ThreadPoolExecutor(min(_THREADS, len(unread))) as pool:
            for file, (stamp, digest) in zip(unread, pool.map(_read, unread), strict=True):
                digests[file] = digest
                remembered.put(file, stamp, digest)
        remembered.save()
        _log.info("MemKV: read in %.1f s; the digests are remembered", time.monotonic() - began)
    return digests


def _named_by_digest(file: Path) -> str | None:
    """The digest in the name that a Hugging Face cache gives to large files."""
    target = file.resolve()
    if file.is_symlink() and target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    return None


def _read(file: Path) -> tuple[list[int], str]:
    digest = hashlib.sha256()
    try:
        with file.open("rb", buffering=0) as opened:
            before = _stamp(os.fstat(opened.fileno()))
            while piece := opened.read(_READ_BYTES):
                digest.update(piece)
            after = _stamp(os.fstat(opened.fileno()))
    except OSError as error:
        raise ConfigError(f"weights: {file} cannot be read: {error.strerror}") from error
    if before != after:
        raise ConfigError(f"weights: {file} changes while it is read; start again when it is whole")
    return before, digest.hexdigest()


def _stamp(stat: os.stat_result) -> list[int]:
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _memory_path() -> Path:
    if said := os.environ.get("MEMKV_WEIGHTS_CACHE"):
        return Path(said)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "memkv/weights.json"


class _Memory:
    """Digests by path; a file that cannot be read or written is no digest remembered."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, list[object]] = {}
        with contextlib.suppress(OSError, ValueError):
            loaded = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(loaded, dict):
                self._entries = loaded

    def get(self, file: Path) -> str | None:
        entry = self._entries.get(str(file.resolve()))
        match entry:
            case [list(stamp), str(digest)] if stamp == _stamp(file.stat()):
                return digest
        return None

    def put(self, file: Path, stamp: list[int], digest: str) -> None:
        self._entries[str(file.resolve())] = [stamp, digest]

    def save(self) -> None:
        fresh = self._path.with_suffix(f".{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh.write_text(json.dumps(self._entries), encoding="utf-8")
            fresh.replace(self._path)
        except OSError as error:
            _log.warning("MemKV: %s cannot be written: %s", self._path, error.strerror)
