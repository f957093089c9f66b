"""What callers write for many blocks: one value for all of them, or one for each."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

from memkv_nixl._errors import UsageError

Key = str | bytes
KEY_BYTES_MAX = 512


def key_bytes(key: object, what: str) -> bytes:
    """A key's bytes; text is taken as UTF-8."""
    if not isinstance(key, (str, bytes, bytearray, memoryview)):
        raise UsageError(f"{what}: {key!r} is neither text nor bytes")
    try:
        data = key.encode() if isinstance(key, str) else bytes(key)
    except UnicodeEncodeError:
        raise UsageError(f"{what}: {key!r} has a lone surrogate, which UTF-8 has not") from None
    if not 1 <= len(data) <= KEY_BYTES_MAX:
        raise UsageError(f"{what}: {len(data)} bytes; it must have 1 to {KEY_BYTES_MAX}")
    return data


def keys_of(keys: Sequence[Key]) -> list[bytes]:
    """The bytes of every key."""
    if isinstance(keys, (str, bytes, bytearray)):
        raise UsageError(f"keys: {keys!r} is one key; give a list of keys")
    return [key_bytes(key, f"keys[{i}]") for i, key in enumerate(keys)]


def groups_of(group: Key | Sequence[Key] | None, count: int) -> list[bytes]:
    """The group of each block; empty where the key is its own."""
    if group is None:
        return [b""] * count
    if isinstance(group, (str, bytes, bytearray, memoryview)):
        return [key_bytes(group, "group")] * count
    if len(group) != count:
        raise UsageError(f"group: {len(group)} given for {count} keys; give one, or one per key")
    return [key_bytes(one, f"group[{i}]") for i, one in enumerate(group)]


def numbers_of(value: int | Sequence[int], count: int, what: str) -> list[int]:
    """One number for each block, 0 to 2^32 - 1."""
    # Numbers of numpy have __index__, too; so have its arrays, which are many.
    many = hasattr(value, "__len__")
    given: list[object] = list(value) if many else [value] * count  # type: ignore[arg-type]
    if len(given) != count:
        raise UsageError(f"{what}: {len(given)} given for {count} keys; give one, or one per key")
    return [_number_of(one, what) for one in given]


def _number_of(value: object, what: str) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if not 0 <= number < 2**32:
        raise UsageError(f"{what}: {value!r} is not a whole number from 0 to 2^32 - 1")
    return number


def need_as_many(buffers: Sequence[Any], count: int) -> None:
    """Refuses another number of buffers than of keys."""
    if len(buffers) != count:
        raise UsageError(f"{len(buffers)} buffers given for {count} keys")
