"""The agent's own token: by it memkvd answers its agent's STAT where nobody comes in without one.

The agent makes a key, writes it beside the tenants' into the map file that it hands to memkvd, and
signs itself a token with it, for a tenant that has no blocks. Neither leaves the machine.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from memkv_nixl import _token
from memkv_nixl.proto.memkv.v1.map_pb2 import TenantRule, TrustedKey

_NOBODY = 0  # the control plane gives no tenant this number, so no block is its
_LIFETIME_S = 10 * 365 * 24 * 3600


class OwnToken:
    """Kept in the agent's folder, so that a memkvd that it adopts knows it still."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "agent.token"
        self.rule = self._kept() or self._made()

    def _kept(self) -> TenantRule | None:
        with contextlib.suppress(OSError, ValueError):
            text, private = _token.read_token_file(self.file)
            token = _token.read(text, _token.public_half(private))
            if token.expires_s > time.time() + _LIFETIME_S / 2:
                return _rule(token.key_id, private)
        return None

    def _made(self) -> TenantRule:
        private, key_id = _token.new_private(), _token.new_id()
        now_s = int(time.time())
        token = _token.Token(
            tenant=_NOBODY,
            key_id=key_id,
            id=_token.new_id(),
            issued_s=now_s,
            expires_s=now_s + _LIFETIME_S,
            rights=_token.Right.READ,
            holder=_token.public_half(private),
        )
        note = "of this node's agent, for memkvd's STAT"
        _token.write_token_file(self.file, _token.sign(token, private), private, note)
        return _rule(key_id, private)


def _rule(key_id: bytes, private: bytes) -> TenantRule:
    key = TrustedKey(id=key_id, public_key=_token.public_half(private))
    return TenantRule(tenant=_NOBODY, keys=[key])
