"""The folder of an embedded cluster: claimed by one at a time, and what it remembers.

Per node i it holds `node<i>.dat` (its blocks), and `cluster.json`, which remembers addresses: a
cluster that is started again in the same folder has them again where they are free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import socket
import tempfile
from pathlib import Path
from typing import IO, Any

from memkv_nixl._errors import ConfigError, RefusedError, UsageError

LOOPBACK = "127.0.0.1"
_STATE = "cluster.json"
_LOCK = "cluster.lock"


class ClusterFolder:
    """The folder that was given, or a temporary one that goes when it is released."""

    def __init__(self, given: str | Path | None) -> None:
        self._given = Path(given).absolute() if given is not None else None
        self._path: Path | None = None
        self._lock: IO[str] | None = None

    @property
    def claimed(self) -> bool:
        """Whether it is ours."""
        return self._path is not None

    @property
    def path(self) -> Path:
        """Where it is."""
        if self._path is None:
            raise UsageError("the cluster is not started")
        return self._path

    def device(self, index: int) -> Path:
        """A node's file."""
        return self.path / f"node{index}.dat"

    def claim(self) -> None:
        """Makes the folder, and refuses one that another cluster works in."""
        if self._given is None:
            try:
                self._path = Path(tempfile.mkdtemp(prefix="memkv-"))
            except OSError as error:
                raise ConfigError(
                    f"no temporary folder can be made: {error}; set TMPDIR"
                ) from error
            return
        try:
            self._given.mkdir(parents=True, exist_ok=True)
            lock = (self._given / _LOCK).open("a")
        except OSError as error:
            raise ConfigError(f"{self._given}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise RefusedError(
                f"{self._given}: another cluster is running in this folder; stop it, or name "
                "another folder"
            ) from None
        self._lock = lock
        self._path = self._given

    def release(self) -> None:
        """Lets another cluster have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._path is not None and self._given is None:
            shutil.rmtree(self._path, ignore_errors=True)
        self._path = None

    def remembered(self, kind: str) -> list[str]:
        """The addresses that this kind of process had."""
        addresses = self._state().get(kind, [])
        if not isinstance(addresses, list) or not all(isinstance(one, str) for one in addresses):
            return []
        return addresses

    def remember(self, kind: str, addresses: list[str]) -> None:
        """Those beyond these keep their places for when the cluster is larger again."""
        kept = self.remembered(kind)[len(addresses) :]
        fresh = self.path / f"{_STATE}.new"
        state = {**self._state(), kind: [*addresses, *kept]}
        fresh.write_text(json.dumps(state) + "\n", encoding="utf-8")
        fresh.replace(self.path / _STATE)

    def _state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            state = json.loads((self.path / _STATE).read_text(encoding="utf-8"))
            if isinstance(state, dict):
                return state
        return {}


def is_free(address: str) -> bool:
    """Whether it can be listened on."""
    host, _, port = address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As memkvd does: connections of the former run in TIME_WAIT are no obstacle.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, int(port)))
        except (OSError, ValueError, OverflowError):
            return False
    return True
