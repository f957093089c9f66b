"""Tokens: their bytes, and the files that clients keep them in. docs/formats/token.md tells all.

Whoever has a tenant's key makes them; nodes check them offline with the keys in the map.
"""

from __future__ import annotations

import enum
import os
import secrets
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ID_BYTES = 16
SIGNATURE_BYTES = 64
_MAGIC = b"MKT1"
_SIGNED_AS = b"memkv.token/1"
_FIXED = struct.Struct("<4sQ16s16sQQI32sH")  # magic … holder's key, count of namespaces
_FIRST_LINE = "memkv-token 1"


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


def new_private() -> bytes:
    """The private half of a fresh key."""
    return Ed25519PrivateKey.generate().private_bytes_raw()


def public_half(private: bytes) -> bytes:
    """What everybody may know of a key."""
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def new_id() -> bytes:
    """An id of its own."""
    return secrets.token_bytes(ID_BYTES)


def sign(token: Token, private: bytes) -> bytes:
    """The token's bytes."""
    body = _body(token)
    return body + Ed25519PrivateKey.from_private_bytes(private).sign(_SIGNED_AS + body)


def read(text: bytes, public: bytes) -> Token:
    """The content of a token that this key signed. Raises ValueError for everything else."""
    body, signature = text[:-SIGNATURE_BYTES], text[-SIGNATURE_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _SIGNED_AS + body)
    except InvalidSignature:
        raise ValueError("this key did not sign the token") from None
    return _content(body)


def proof(private: bytes, nonce: bytes, session: int, address: str) -> bytes:
    """What a holder answers to the challenge of the node that it calls `address`."""
    name = address.encode()
    message = b"memkv.hello/1" + nonce + struct.pack("<QH", session, len(name)) + name
    return Ed25519PrivateKey.from_private_bytes(private).sign(message)


def token_text(token: bytes, private: bytes, *notes: str) -> str:
    """What stands in the file that clients read; a secret."""
    lines = [
        _FIRST_LINE,
        *(f"# {note}" for note in notes),
        f"token {token.hex()}",
        f"key {private.hex()}",
    ]
    return "\n".join(lines) + "\n"


def write_token_file(path: Path, token: bytes, private: bytes, *notes: str) -> None:
    """The file that clients read, for its owner alone; put in place whole."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(token_text(token, private, *notes))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def read_token_file(path: Path) -> tuple[bytes, bytes]:
    """Its token and private key. Raises OSError, or ValueError for what is none."""
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    found = {}
    for line in lines:
        name, _, digits = line.partition(" ")
        if line and not line.startswith("#"):
            found[name] = bytes.fromhex(digits)
    if first != _FIRST_LINE or found.keys() != {"token", "key"}:
        raise ValueError(f"{path} is no token file")
    return found["token"], found["key"]


def utc(seconds: int) -> str:
    """A time for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _content(body: bytes) -> Token:
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
