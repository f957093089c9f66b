"""A memkvd that believes whom a test says, by the control plane's own rules and map file."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memkv_nixl import _token
from memkv_nixl._config import NodeSettings
from memkv_nixl._daemon import MemkvdProcess
from memkv_nixl._token import Right, Token
from memkv_nixl.control import _tenancy
from memkv_nixl.control._cluster import Cluster, Tenant
from memkv_nixl.control._publish import publish
from memkv_nixl.control._tokens import new_key
from memkv_nixl.store._map_file import write_map_file
from memkv_nixl.store._own_token import OwnToken
from tests.control.peer import DEADLINE_S, SESSION, Peer

ALL = Right.READ | Right.WRITE | Right.DROP


class TrustingNode:
    """memkvd without an agent; the test publishes."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(history=7)
        self._map = folder / "map.frame"
        self._own = OwnToken(folder)
        self._process = MemkvdProcess(
            NodeSettings(
                device=str(folder / "blocks"),
                capacity=1 << 30,
                dram=256 << 20,
                listen="127.0.0.1:0",
                map_file=str(self._map),
                anonymous="no",
            ),
            folder / "memkvd.log",
        )
        self._put_in_place()
        self.address = self._process.start()
        text, private = _token.read_token_file(self._own.file)
        self.operator = self.come(text, private)

    def close(self) -> None:
        self.operator.close()
        self._process.stop()

    def come(self, token: bytes, private: bytes) -> Peer:
        """A peer that is welcome with this token."""
        peer = Peer(self.address)
        peer.auth(token, _token.proof(private, peer.nonce, SESSION, self.address))
        return peer

    def create(self, name: str, quota_bytes: int = 0) -> Tenant:
        """A tenant; `publish` makes it known to memkvd."""
        self.cluster, tenant = _tenancy.create_tenant(self.cluster, name, quota_bytes, new_key())
        return tenant

    def change(self, step: Callable[..., tuple[Cluster, Tenant]], *args: Any) -> None:
        """A change of tenants, published."""
        self.cluster, _ = step(self.cluster, *args)
        self.publish()

    def publish(self) -> None:
        """Hands memkvd the map, and waits until it holds it."""
        self._put_in_place()
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGHUP)
        end = time.monotonic() + DEADLINE_S
        while int(self.operator.stat()["epoch"]) < self.cluster.epoch:
            assert time.monotonic() < end, "memkvd does not take the map"

    def token(self, name: str, holder: bytes, **changes: Any) -> bytes:
        """A good token of the tenant for this private key's holder, unless the changes say so."""
        tenant = self.cluster.tenants[name]
        now_s = int(time.time())
        said: dict[str, Any] = {
            "tenant": tenant.number,
            "key_id": tenant.keys[-1].id,
            "id": _token.new_id(),
            "issued_s": now_s,
            "expires_s": now_s + 3600,
            "rights": ALL,
            "holder": _token.public_half(holder),
        }
        return _token.sign(Token(**{**said, **changes}), tenant.keys[-1].private)

    def _put_in_place(self) -> None:
        write_map_file(self._map, publish(self.cluster).message, self._own.rule)


@contextmanager
def trusting(folder: Path) -> Iterator[TrustingNode]:
    node = TrustingNode(folder)
    try:
        yield node
    finally:
        node.close()
