"""STAT: what a node says about itself (docs/reference/stat.md)."""

from __future__ import annotations

import re


def parse_stats(text: str) -> dict[str, int | float | str]:
    """Lines of `name value` as a mapping; numbers become numbers."""
    stats: dict[str, int | float | str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        stats[name] = _number(value)
    return stats


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text
