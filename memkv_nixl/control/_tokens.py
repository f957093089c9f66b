"""The control plane's side of tokens: the keys that sign them, and what it refuses to sign.

The bytes are those of `memkv_nixl._token`, docs/formats/token.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from memkv_nixl import _token
from memkv_nixl._token import Right, Token, new_id, read
from memkv_nixl.control._cluster import Key
from memkv_nixl.control._limits import LIFETIME_S_MAX, TOKEN_NAMESPACES_MAX
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._tenancy import check_id

__all__ = ["Right", "Token", "check_wishes", "new_id", "new_key", "read", "sign"]

PUBLIC_KEY_BYTES = 32


def new_key() -> Key:
    """A signing key."""
    private = _token.new_private()
    return Key(new_id(), _token.public_half(private), private)


def check_wishes(holder: bytes, namespaces: Sequence[bytes], lifetime_s: int) -> None:
    """Refuses what no token can say."""
    if len(holder) != PUBLIC_KEY_BYTES:
        raise RefusalError(
            Reason.INVALID,
            f"holder_key: a public key of Ed25519 has {PUBLIC_KEY_BYTES} bytes, not {len(holder)}",
        )
    if len(namespaces) > TOKEN_NAMESPACES_MAX:
        raise RefusalError(
            Reason.INVALID,
            f"namespace_ids: a token is for at most {TOKEN_NAMESPACES_MAX} namespaces, or for all",
        )
    for space in namespaces:
        check_id("namespace_ids", space)
    if not 1 <= lifetime_s <= LIFETIME_S_MAX:
        raise RefusalError(
            Reason.INVALID, f"lifetime_s: {lifetime_s} is not between 1 and {LIFETIME_S_MAX}"
        )


def sign(token: Token, key: Key) -> bytes:
    """The token's bytes."""
    return _token.sign(token, key.private)
