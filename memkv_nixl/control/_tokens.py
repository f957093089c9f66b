"""Tokens: what a tenant's key signs, and what names their holder. docs/formats/token.md tells all.

The control plane makes them; nodes check them offline with the keys in the map.
"""

from __future__ import annotations

import enum
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from memkv_nixl.control._cluster import Key
from memkv_nixl.control._limits import LIFETIME_S_MAX, TOKEN_NAMESPACES_MAX
from memkv_nixl.control._refused import Reason, RefusalError
from memkv_nixl.control._tenancy import ID_BYTES, check_id

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
_MAGIC = b"MKT1"
_SIGNED_AS = b"memkv.token/1"
_FIXED = struct.Struct("<4sQ16s16sQQI32sH")  # magic … holder's key, count of namespaces


class Right(enum.IntFlag):
    """What the holder may do; the bits are those of the token."""

    READ = 1
    WRITE = 2
    DROP = 4


@dataclass(frozen=True)
class Token:
    """A token's content."""

    tenant: int
    key_id: bytes
    id: bytes
    issued_s: int
    expires_s: int
    rights: Right
    holder: bytes
    namespaces: tuple[bytes, ...] = ()


def new_key() -> Key:
    """A signing key."""
    private = Ed25519PrivateKey.generate()
    return Key(
        secrets.token_bytes(ID_BYTES),
        private.public_key().public_bytes_raw(),
        private.private_bytes_raw(),
    )


def new_id() -> bytes:
    """An id of its own."""
    return secrets.token_bytes(ID_BYTES)


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
    body = _body(token)
    private = Ed25519PrivateKey.from_private_bytes(key.private)
    return body + private.sign(_SIGNED_AS + body)


def read(text: bytes, public: bytes) -> Token:
    """The content of a token that this key signed. Raises ValueError for everything else."""
    body, signature = text[:-SIGNATURE_BYTES], text[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _SIGNED_AS + body)
    except InvalidSignature:
        raise ValueError("this key did not sign the token") from None
    if len(body) < _FIXED.size:
        raise ValueError("the token is too short")
    fields = _FIXED.unpack_from(body)
    magic, tenant, key_id, id_, issued, expires, rights, holder, count = fields
    if magic != _MAGIC or len(body) != _FIXED.size + count * ID_BYTES:
        raise ValueError("this is no token of version 1")
    spaces = tuple(body[at : at + ID_BYTES] for at in range(_FIXED.size, len(body), ID_BYTES))
    return Token(tenant, key_id, id_, issued, expires, Right(rights), holder, spaces)


def _body(token: Token) -> bytes:
    fixed = _FIXED.pack(
        _MAGIC,
        token.tenant,
        token.key_id,
        token.id,
        token.issued_s,
        token.expires_s,
        token.rights,
        token.holder,
        len(token.namespaces),
    )
    return fixed + b"".join(token.namespaces)
