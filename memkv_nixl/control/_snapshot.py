"""The snapshot: what the control plane remembers, twice on disk.

`docs/formats/control-state.md` is the page. A change is answered and published when both copies
hold it, so one damaged copy loses nothing that anybody was told; only when both are damaged the
start is refused. What is not a coroutine blocks.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import IO

from memkv_nixl._errors import ConfigError, RefusedError
from memkv_nixl.control._cluster import Cluster, from_document, to_document
from memkv_nixl.control._memory import Loaded, UnwrittenError

COPIES = ("control-a.state", "control-b.state")
_LOCK = "control.lock"
_MAGIC = b"memkv.control/"
_VERSION = b"1"


class DamagedError(ValueError):
    """A copy that does not hold what was once written; the text says why."""


class Snapshot:
    """The folder of one control plane; it is locked against a second one until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _locked(folder / _LOCK)
        except OSError as error:
            raise ConfigError(
                f"{folder}: the control plane's state cannot be kept there: {error.strerror}"
            ) from error

    def close(self) -> None:
        """Lets another control plane have the folder."""
        self._lock.close()

    async def release(self) -> None:
        """The same, for a keeper."""
        self.close()

    def leads(self) -> bool:
        """Who has the folder is the only one."""
        return True

    def leader(self) -> str:
        """There is no other."""
        return ""

    def check_leads(self) -> None:
        """Nobody is refused."""

    def load(self) -> Loaded:
        """The latest state. Refuses to begin anew where there was one."""
        found: list[Cluster] = []
        damage: list[str] = []
        paths = [self.folder / name for name in COPIES]
        present = [path for path in paths if path.exists()]
        if not present:
            return Loaded(None)
        for path in paths:
            copy = _copy(path)
            if isinstance(copy, Cluster):
                found.append(copy)
            else:
                damage.append(f"{path}: {copy}")
        if not found:
            raise ConfigError(
                f"no copy of the control plane's state can be used: {'; '.join(damage)}. Put a "
                f"backup of one of them there. To begin anew instead, move both out of "
                f"{self.folder}: nodes come back by themselves, but tenants, namespaces and "
                "their drops are forgotten, so format the nodes' devices first"
            )
        return Loaded(max(found, key=lambda cluster: cluster.epoch), tuple(damage))

    async def put(self, cluster: Cluster) -> None:
        """Writes it in a thread. Raises UnwrittenError."""
        try:
            await asyncio.to_thread(self.write, cluster)
        except OSError as error:
            raise UnwrittenError(
                f"{self.folder}: the state cannot be written: {error.strerror}; nothing was changed"
            ) from error

    def write(self, cluster: Cluster) -> None:
        """Puts both copies in place, one after the other. Raises OSError."""
        content = encode(cluster)
        for name in COPIES:
            self._put(self.folder / name, content)

    def _put(self, path: Path, content: bytes) -> None:
        fresh = path.with_suffix(".new")
        # It holds signing keys: nobody else reads it.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def encode(cluster: Cluster) -> bytes:
    """A copy's bytes: a line with the body's length and SHA-256, and the body."""
    body = json.dumps(to_document(cluster), separators=(",", ":"), sort_keys=True).encode()
    digest = hashlib.sha256(body).hexdigest().encode()
    return b"%b%b %d %b\n%b" % (_MAGIC, _VERSION, len(body), digest, body)


def decode(content: bytes, name: str) -> Cluster:
    """What `encode` made. Raises DamagedError; ConfigError for a format of a later release."""
    head, newline, body = content.partition(b"\n")
    words = head.split(b" ")
    if not newline or len(words) != 3 or not words[0].startswith(_MAGIC):
        raise DamagedError("it does not begin as a snapshot does")
    if words[0] != _MAGIC + _VERSION:
        raise ConfigError(
            f"{name}: format {words[0].decode(errors='replace')!r} is not the one this release "
            f"reads ({(_MAGIC + _VERSION).decode()}); use the release that wrote it, or a later one"
        )
    if words[1] != b"%d" % len(body):
        raise DamagedError(
            f"it has {len(body)} bytes behind its first line, which names another number"
        )
    if words[2] != hashlib.sha256(body).hexdigest().encode():
        raise DamagedError("its SHA-256 is not the one that its first line names")
    try:
        return from_document(json.loads(body))
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedError(f"its checksum is right and its content is not: {error!r}") from error


def _copy(path: Path) -> Cluster | DamagedError:
    try:
        return decode(_read(path), str(path))
    except DamagedError as error:
        return error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DamagedError("it is missing") from None
    except OSError as error:
        raise DamagedError(f"it cannot be read: {error.strerror}") from error


def _locked(path: Path) -> IO[str]:
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(path.open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"{path.parent}: another control plane keeps its state there; stop it, or name "
                "another folder with --state"
            ) from None
        stack.pop_all()
        return lock
