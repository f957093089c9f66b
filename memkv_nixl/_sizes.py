"""Sizes as people write them: 4096, 64MiB, 10GiB, 1.5TB."""

from __future__ import annotations

import re

from memkv_nixl._errors import ConfigError

_UNITS = {
    "": 1,
    "b": 1,
    "kib": 1 << 10,
    "mib": 1 << 20,
    "gib": 1 << 30,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(text: str | int, name: str) -> int:
    """Bytes of a size; `name` is the setting it stands in, for the message."""
    if isinstance(text, int):
        if text < 0:
            raise ConfigError(f"{name}: {text} is negative; write a size such as 10GiB")
        return text
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise ConfigError(f"{name}: {text!r} is not a size; write one such as 64MiB, 10GiB or 1TB")
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def format_size(count: float) -> str:
    """A size for a person: 1.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError
