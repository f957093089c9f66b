"""The tier's metrics in vLLM's /metrics, beside those that vLLM keeps of every secondary tier."""

from __future__ import annotations

from collections import deque
from typing import Any

from vllm.v1.kv_offload.base import (
    OffloadingCounterMetadata,
    OffloadingGaugeMetadata,
    OffloadingHistogramMetadata,
)

from memkv_nixl.kvbm._tier import Tier

_PREFIX = "vllm:kv_offload_memkv_"
_COUNTERS = {
    "asked": "Blocks that the pool was asked for.",
    "found": "Blocks that the pool had.",
    "lookup_seconds": "Time until look-ups were answered, in seconds.",
    "declined": "Blocks that the pool had and that were computed because that is faster.",
    "loaded": "Blocks that were loaded from the pool and verified.",
    "loads_failed": "Blocks that were to be loaded and did not come in time, whole and right.",
    "loaded_bytes": "Bytes that were loaded.",
    "stored": "Blocks that the pool has after a store.",
    "stores_failed": "Blocks that could not be stored.",
    "stored_bytes": "Bytes that were sent; blocks that the pool had already send none.",
    "stores_dropped": "Blocks that were not stored: too many waited, or the pool was gone.",
    "refused_calls": "Calls that NIXL refused.",
}
_GAUGES = {
    "pool_open": "1 while the pool is used, 0 while it is taken for gone.",
    "pool_gone": "How often the pool was found to be gone.",
    "load_bytes_per_second": "Measured bandwidth of loads; 0 while unknown.",
    "compute_tokens_per_second": "Measured speed of prompt computation; 0 while unknown.",
}
_HISTOGRAMS = {
    "load_seconds": "Time of a load, from its order until its blocks came or were given up.",
    "store_seconds": "Time of a store, from its order until its blocks went or were given up.",
}
_TOOK_MAX = 4096  # between two reports
_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def definitions() -> dict[str, Any]:
    """Name → vLLM's description of the metric."""
    counters = {
        _PREFIX + name: OffloadingCounterMetadata(documentation=text)
        for name, text in _COUNTERS.items()
    }
    gauges = {
        _PREFIX + name: OffloadingGaugeMetadata(documentation=text)
        for name, text in _GAUGES.items()
    }
    histograms = {
        _PREFIX + name: OffloadingHistogramMetadata(documentation=text, buckets=_BOUNDS_S)
        for name, text in _HISTOGRAMS.items()
    }
    return {**counters, **gauges, **histograms}


class Reporter:
    """Turns a tier's numbers into what vLLM adds up. Thread: the engine's."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._told = tier.numbers
        self._took: deque[tuple[str, float]] = deque(maxlen=_TOOK_MAX)

    def took(self, seconds: float, *, load: bool) -> None:
        """A load or store is over, so long after it was ordered."""
        self._took.append((_PREFIX + ("load_seconds" if load else "store_seconds"), seconds))

    def report(self, stats: Any) -> Any:
        """Adds what happened since the last call to `stats`; None where nothing did."""
        numbers = self._tier.numbers
        if numbers == self._told and not self._took:
            return None
        for name in _COUNTERS:
            grown = getattr(numbers, name) - getattr(self._told, name)
            if grown:
                stats.increase_counter(_PREFIX + name, grown)
        self._told = numbers
        for name, seconds in self._took:
            stats.observe_histogram(name, seconds)
        self._took.clear()
        stats.set_gauge(_PREFIX + "pool_open", float(self._tier.open))
        stats.set_gauge(_PREFIX + "pool_gone", float(self._tier.times_gone))
        stats.set_gauge(_PREFIX + "load_bytes_per_second", self._tier.pace.bytes_per_s)
        stats.set_gauge(_PREFIX + "compute_tokens_per_second", self._tier.pace.tokens_per_s)
        return stats
