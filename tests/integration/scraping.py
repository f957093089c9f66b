"""What a Prometheus server does: GET a page, parse it, and read samples by name and labels."""

from __future__ import annotations

import math
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.nodes import DEADLINE_S

ROW = re.compile(r"\| `(memkv_\w+)` \| (\w+) \| (.+?) \| (.+?) \|")
Row = tuple[str, str, str]  # kind, labels, meaning


def documented(repo: Path) -> dict[str, Row]:
    """docs/reference/metrics.md: what each metric is."""
    page = (repo / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = [ROW.fullmatch(line) for line in page.splitlines() if line.startswith("| `memkv_")]
    assert all(rows), "a row of the table is not `| name | kind | labels | meaning |`"
    return {row[1]: (row[2], row[3], row[4]) for row in rows if row is not None}


@dataclass
class Scraped:
    """A page: samples by name and labels, and what it says of each metric."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    metrics: dict[str, Row]

    def value(self, name: str, **labels: str) -> float:
        return self.samples[name, frozenset(labels.items())]

    def sum(self, name: str) -> float:
        return sum(value for (other, _), value in self.samples.items() if other == name)


def parsed(text: str) -> Scraped:
    """A page that Prometheus understands; its histograms are such."""
    samples, metrics = {}, {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels: dict[str, None] = {}
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples, f"{key} is there twice"
            samples[key] = sample.value
            labels |= dict.fromkeys(label for label in sample.labels if label != "le")
        listed = ", ".join(f"`{label}`" for label in labels) or "-"
        metrics[name] = (family.type, listed, family.documentation)
        if family.type == "histogram":
            check_histogram(family)
    return Scraped(samples, metrics)


def check_histogram(family: object) -> None:
    """Buckets rise, the last is +Inf and is the count."""
    series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    counts = {}
    for sample in family.samples:  # type: ignore[attr-defined]
        labels = frozenset(pair for pair in sample.labels.items() if pair[0] != "le")
        if sample.name.endswith("_bucket"):
            series.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name.endswith("_count"):
            counts[labels] = sample.value
    for labels, buckets in series.items():
        assert buckets == sorted(buckets)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets)
        assert buckets[-1] == (math.inf, counts[labels])


def get(address: str, path: str = "/metrics") -> tuple[int, str]:
    """Status and body."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=DEADLINE_S) as answer:
            kind = "text/plain; version=0.0.4; charset=utf-8"
            assert path != "/metrics" or answer.headers["Content-Type"] == kind
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(address: str) -> Scraped:
    status, body = get(address)
    assert status == 200, body
    return parsed(body)


def scrape_until(address: str, condition: Callable[[Scraped], bool]) -> Scraped:
    """Scrapes until it is so; a scrape is a round trip to a process that works meanwhile."""
    for _ in range(3000):
        page = scrape(address)
        if condition(page):
            return page
    raise AssertionError("it never was so")
