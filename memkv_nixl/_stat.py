"""STAT: what a node says about itself (docs/reference/stat.md)."""

from __future__ import annotations

import re
from collections.abc import Mapping

from memkv_nixl._metrics import Durations


def parse_stats(text: str) -> dict[str, int | float | str]:
    """Lines of `name value` as a mapping; numbers become numbers."""
    stats: dict[str, int | float | str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        stats[name] = _number(value)
    return stats


def parse_pairs(line: str) -> dict[str, int]:
    """A value of STAT that is several: `name=number name=number …`."""
    pairs = (word.partition("=") for word in line.split())
    return {name: int(number) for name, _, number in pairs}


def used_bytes(stats: Mapping[str, int | float | str]) -> dict[str, int]:
    """Bytes of each namespace and tenant whose usage STAT says, by the name of its line:
    `usage_TENANT_ID`, `usage_TENANT`."""
    lines = {name: line for name, line in stats.items() if re.fullmatch(r"usage_\d+(_\w+)?", name)}
    return {name: parse_pairs(str(line)).get("bytes", 0) for name, line in lines.items()}


def parse_durations(line: str) -> Durations:
    """A latency: `sum=MICROSECONDS`, BOUND=COUNT for each bucket, `more=COUNT`."""
    pairs = parse_pairs(line)
    bounds = [name for name in pairs if name.isdigit()]
    counts = [pairs[bound] for bound in bounds] + [pairs.get("more", 0)]
    return Durations(tuple(int(bound) / 1e6 for bound in bounds), counts, pairs.get("sum", 0) / 1e6)


def _number(text: str) -> int | float | str:
    if re.fullmatch(r"\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"\d+\.\d+", text) else text
