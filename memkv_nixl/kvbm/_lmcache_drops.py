"""Drops: takes blocks out of the pool, for LMCache's own deletions and quotas.

NIXL has no such call, so this goes through a client of its own, made when it is first needed.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from memkv_nixl._config import credentials_of
from memkv_nixl._errors import UsageError, code_name
from memkv_nixl._namespace import Namespace
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._settings import TierSettings

if TYPE_CHECKING:
    from memkv_nixl._native import Client

_GONE = {"ok", "not_found"}
_GRACE_MS = 1000


class Drops:
    """Thread: any; it waits, at most `store_deadline_ms`."""

    def __init__(self, settings: TierSettings, namespace: Namespace) -> None:
        self._settings = settings
        self._space = namespace.fingerprint
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._closed = False

    def drop(self, blocks: Sequence[Block]) -> list[bool]:
        """Which of the blocks are gone for good. Raises UsageError once it is closed."""
        if not blocks:
            return []
        deadline_ms = self._settings.store_deadline_ms
        keys, groups = [block.key for block in blocks], [block.group for block in blocks]
        request = self._connected().drop(self._space, keys, groups=groups, timeout_ms=deadline_ms)
        request.wait(deadline_ms + _GRACE_MS)
        return [code_name(code) in _GONE for code in request.codes()]

    def close(self) -> None:
        """Lets go of the client."""
        with self._lock:
            self._closed = True
            if self._client is not None:
                self._client.close()
                self._client = None

    def _connected(self) -> Client:
        from memkv_nixl._native import Client

        with self._lock:
            if self._closed:
                raise UsageError("the tier is closed")
            if self._client is None:
                self._client = Client(
                    list(self._settings.nodes),
                    name="memkv-lmcache-drops",
                    **credentials_of(self._settings),
                )
            return self._client
