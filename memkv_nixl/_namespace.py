"""Namespaces: one meaning of bytes, as the 16 bytes that go into every block's identity."""

from __future__ import annotations

import hashlib

from memkv_nixl._errors import ConfigError


def namespace_id(name: str) -> bytes:
    """The 16 bytes of a namespace that is given by a name alone."""
    if not name:
        raise ConfigError("namespace: the name is empty; write one, say llama-70b")
    return hashlib.blake2b(name.encode(), digest_size=16, person=b"memkv.namespace").digest()
