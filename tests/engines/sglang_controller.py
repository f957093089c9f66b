"""SGLang's own cache controller on MemKVHiCache, with its threads and its hashes; the scheduler
that calls it is played here, and nothing is copied to a GPU."""

from __future__ import annotations

import hashlib
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sglang.srt.managers.cache_controller import HiCacheController
from sglang.srt.runtime_context import get_parallel

from tests.engines import sglang_pools
from tests.engines.sglang_pools import PAGE
from tests.engines.sglang_side import storage_config

BOUND_S = 60.0


class _Allocator:
    """What the controller wants of a scheduler's allocator: the pool on the device."""

    def __init__(self) -> None:
        self._pool = sglang_pools.device_mha()

    def get_kvcache(self) -> Any:
        return self._pool


class Controller:
    """SGLang's controller over a host pool of its own."""

    def __init__(self, **tier: Any) -> None:
        self.pool = sglang_pools.mha(64)
        self.inner = HiCacheController(
            _Allocator(),
            self.pool,
            PAGE,
            None,
            threading.Event(),
            storage_backend="dynamic",
            model_name="org/tiny",
            storage_backend_extra_config=storage_config(tier).extra_config,
            prefetch_threshold=PAGE,
        )

    def back_up(self, tokens: list[int], hashes: list[str], before: list[str]) -> tuple[Any, int]:
        """Puts pages into the pool, as the scheduler does; their slots, and how many tokens."""
        indices = self.pool.alloc(len(tokens))
        self.inner.write_storage(indices, tokens, hashes, before)
        return indices, self.inner.ack_backup_queue.get(timeout=BOUND_S).completed_tokens

    def prefetch(self, tokens: list[int], last: str | None, before: list[str]) -> tuple[Any, int]:
        """Gets what the pool has of a prompt, as the scheduler does; slots, and how many tokens."""
        self.inner.prefetch("request", tokens, last, before)
        operation = self.inner.prefetch_hit_queue.get(timeout=BOUND_S)
        operation.host_indices = self.pool.alloc(operation.storage_hit_count)
        self.inner.prefetch_buffer.put(operation)
        completed = 0
        while True:
            ack = self.inner.ack_prefetch_queue.get(timeout=BOUND_S)
            if ack.completed_req:
                return operation.host_indices, completed
            completed = ack.completed_tokens


@contextmanager
def one_rank() -> Iterator[None]:
    """The place of a process in an engine of one rank."""
    said = {"tp_rank": 0, "tp_size": 1, "pp_rank": 0, "pp_size": 1}
    with get_parallel().override(**said, attn_dcp_rank=0, attn_dcp_size=1):
        yield


def hashes_as_the_router_makes_them(tokens: list[int]) -> list[str]:
    """SGLang's keys of a prompt's pages, by the formula that Dynamo's router has of them."""
    digest, hashes = b"", []
    for first in range(0, len(tokens) // PAGE * PAGE, PAGE):
        page = struct.pack(f"<{PAGE}I", *tokens[first : first + PAGE])
        digest = hashlib.sha256(digest + page).digest()
        hashes.append(digest.hex())
    return hashes


def page_slots(indices: Any, page: int) -> Any:
    """The slots of one page of those that were allocated."""
    return indices[page * PAGE : (page + 1) * PAGE]
