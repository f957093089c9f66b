"""The tier's metrics in vLLM's /metrics, beside those that vLLM keeps of every secondary tier."""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_offload.base import OffloadingCounterMetadata, OffloadingGaugeMetadata

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
    return {**counters, **gauges}


class Reporter:
    """Turns a tier's numbers into what vLLM adds up."""

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self._told = tier.numbers

    def report(self, stats: Any) -> Any:
        """Adds what happened since the last call to `stats`; None where nothing did."""
        numbers = self._tier.numbers
        if numbers == self._told:
            return None
        for name in _COUNTERS:
            grown = getattr(numbers, name) - getattr(self._told, name)
            if grown:
                stats.increase_counter(_PREFIX + name, grown)
        self._told = numbers
        stats.set_gauge(_PREFIX + "pool_open", float(self._tier.open))
        stats.set_gauge(_PREFIX + "pool_gone", float(self._tier.times_gone))
        stats.set_gauge(_PREFIX + "load_bytes_per_second", self._tier.pace.bytes_per_s)
        stats.set_gauge(_PREFIX + "compute_tokens_per_second", self._tier.pace.tokens_per_s)
        return stats
