"""The record that names a block in NIXL's metaInfo under key_dialect `full`.

`docs/formats/object-key.md` is the page; the plugin reads what is written here.
"""

from __future__ import annotations

import struct

from memkv_nixl._namespace import Namespace

_MAGIC = b"MKVK"
_VERSION = 1
_HEAD = struct.Struct("<4sBBHHHII")


def record_of(key: bytes, group: bytes, depth: int = 0, recompute_cost_us: int = 0) -> bytes:
    """The record of one block; an empty group means that the key is its own."""
    head = _HEAD.pack(_MAGIC, _VERSION, 0, len(key), len(group), 0, depth, recompute_cost_us)
    return head + key + group


def parameter_of(namespace: Namespace | str) -> str:
    """A namespace as the plugin's parameter `namespace` takes it."""
    return namespace if isinstance(namespace, str) else f"hex:{namespace.fingerprint.hex()}"
