"""Prometheus' text format 0.0.4: metrics with their meaning, and a page of their samples.

A process declares its metrics once, as `Metric`; for every scrape it fills a `Page` and hands out
`text()`. docs/reference/metrics.md has a row for each metric, and a test holds it to what real
processes say. Nothing here keeps a number, but `Durations`.
"""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Metric:
    """A metric: its name with its unit, its kind, what it means, the names of its labels."""

    name: str
    kind: str  # counter, gauge or histogram
    help: str
    labels: tuple[str, ...] = ()


@dataclass
class Durations:
    """How long things took, in buckets. `bounds` are seconds, in rising order."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)  # one for each bound, and one for the rest
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def count(self, seconds: float) -> None:
        """One more took so long."""
        self.counts[bisect.bisect_left(self.bounds, seconds)] += 1
        self.seconds += seconds


class Page:
    """The samples of one scrape. A metric's samples stay together, in the order they came."""

    def __init__(self) -> None:
        self._lines: dict[Metric, list[str]] = {}

    def add(self, metric: Metric, value: float, *labels: str) -> None:
        """A sample of a counter or gauge, with a value for each label."""
        self._lines_of(metric).append(_line(metric.name, metric.labels, labels, value))

    def add_durations(self, metric: Metric, durations: Durations, *labels: str) -> None:
        """The samples of a histogram: cumulative buckets, the sum in seconds, the count."""
        lines = self._lines_of(metric)
        names = (*metric.labels, "le")
        below = 0
        bounds = [*(_number(bound) for bound in durations.bounds), "+Inf"]
        for bound, count in zip(bounds, durations.counts, strict=True):
            below += count
            lines.append(_line(f"{metric.name}_bucket", names, (*labels, bound), below))
        lines.append(_line(f"{metric.name}_sum", metric.labels, labels, durations.seconds))
        lines.append(_line(f"{metric.name}_count", metric.labels, labels, below))

    def text(self) -> str:
        """The page."""
        parts = []
        for metric, lines in self._lines.items():
            parts.append(f"# HELP {metric.name} {_escaped(metric.help)}")
            parts.append(f"# TYPE {metric.name} {metric.kind}")
            parts += lines
        return "".join(f"{part}\n" for part in parts)

    def _lines_of(self, metric: Metric) -> list[str]:
        return self._lines.setdefault(metric, [])


def _line(name: str, names: Sequence[str], values: Sequence[str], number: float) -> str:
    pairs = (
        f'{label}="{_escaped(value, quote=True)}"'
        for label, value in zip(names, values, strict=True)
    )
    labels = ",".join(pairs)
    return f"{name}{{{labels}}} {_number(number)}" if labels else f"{name} {_number(number)}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text
