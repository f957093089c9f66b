"""Namespaces: one meaning of bytes, as the 16 bytes that go into every block's identity."""

from __future__ import annotations

import hashlib
import re

from memkv_nixl._errors import ConfigError

_SPELLED = re.compile(r"hex:([0-9a-fA-F]{32})")


def namespace_id(name: str) -> bytes:
    """The 16 bytes of a namespace: `hex:` and 32 digits spell them, any other text is a name."""
    if not name:
        raise ConfigError("namespace: the name is empty; write one, say llama-70b")
    if spelled := _SPELLED.fullmatch(name):
        return bytes.fromhex(spelled[1])
    try:
        text = name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"namespace: {name!r} is no Unicode text: {error.reason}") from error
    return hashlib.blake2b(text, digest_size=16, person=b"memkv.namespace").digest()
