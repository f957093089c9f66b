"""Staging: rows of pinned host memory between TensorRT-LLM's cache on the GPU and the pool.

A row holds one block. Who takes a row frees it; rows of an order that is under way are freed when
it is over, however long that takes. The scheduler's side and the worker's of one engine find each
other by their settings object (`link_of`): they live in one process, and neither is handed the
other.
"""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import Namespace
from memkv_nixl._sizes import format_size
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._orders import Moved
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._tier import BLOCK_BYTES_MAX, Tier
from memkv_nixl.kvbm._trtllm_requests import Load, Save

_GRACE_S = 1.0  # past a deadline of the tier's, for its answer to arrive
_KEPT = 4  # one row of so many is kept for loads
_log = logging.getLogger(__name__)


class Rows:
    """Which rows are free. Thread: any."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = list(range(count))
        self.count = count

    def take(self, wanted: int, keep: int = 0) -> list[int]:
        """At most so many rows, and none of the last `keep` free ones."""
        with self._lock:
            count = max(0, min(wanted, len(self._free) - keep))
            taken = self._free[len(self._free) - count :]
            del self._free[len(self._free) - count :]
            return taken

    def free(self, rows: Sequence[int]) -> None:
        """They may be taken again."""
        with self._lock:
            self._free += rows

    @property
    def free_count(self) -> int:
        """Rows that nobody has."""
        with self._lock:
            return len(self._free)


class Staging:
    """The rows, the engine's cache they are copied from and to, and the tier behind them."""

    def __init__(
        self, settings: TierSettings, namespace: Namespace, cache: Any, staging_bytes: int
    ) -> None:
        """`cache` is the engine's: a tensor whose first dimension counts blocks.

        Raises ConfigError for a cache whose blocks do not fit.
        """
        import torch

        if not cache.is_contiguous():
            raise ConfigError("TensorRT-LLM's cache is no contiguous tensor; nothing fits to that")
        self._settings = settings
        self._blocks = cache.view(cache.shape[0], -1).view(torch.uint8)
        self._on_gpu = cache.is_cuda
        self.block_bytes = int(self._blocks.shape[1])
        count = staging_bytes // self.block_bytes
        if self.block_bytes > BLOCK_BYTES_MAX or count < 2:
            raise ConfigError(
                f"a block of TensorRT-LLM's cache has {format_size(self.block_bytes)}; it may have "
                f"at most {format_size(BLOCK_BYTES_MAX)}, and the staging ("
                f"{format_size(staging_bytes)}) must hold some. Set a smaller tokens_per_block in "
                'kv_cache_config, or a larger "staging" in MEMKV_TRTLLM'
            )
        shape = (count, self.block_bytes)
        self._host = torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_gpu)
        self.rows = Rows(count)
        self.tier = Tier(settings, namespace, self._host.view(-1))
        atexit.register(self.close)

    def fetch(self, blocks: Sequence[Block], tokens_per_block: int) -> list[int]:
        """Waits for the longest run of these blocks that the pool gives; their rows.

        It takes no longer than a look-up's time-out and then a load's deadline, and no time at all
        while the pool is gone.
        """
        blocks = blocks[: self._found(blocks)]
        size = len(blocks) * self.block_bytes
        if not blocks or not self.tier.worth_loading(size, len(blocks) * tokens_per_block):
            self.tier.decline(len(blocks))
            return []
        rows = self.rows.take(len(blocks))
        blocks = blocks[: len(rows)]
        if not blocks:
            return []
        tokens = len(blocks) * tokens_per_block
        future = self.tier.load(blocks, [self._extent(row) for row in rows], tokens)
        moved = self._await(future, self._settings.fetch_deadline_ms)
        if moved is None:
            future.add_done_callback(lambda _: self.rows.free(rows))
            return []
        done = _leading(moved.done)
        self.rows.free(rows[done:])
        return rows[:done]

    def place(self, loads: Sequence[Load]) -> None:
        """Rows into the cache, at once: nothing of the engine runs meanwhile."""
        if not loads:
            return
        self._settle()
        for row, block_id in loads:
            self._blocks[block_id].copy_(self._host[row], non_blocking=True)
        self._settle()
        self.rows.free([load.row for load in loads])

    def save(self, saves: Sequence[Save], tokens_per_block: int) -> None:
        """Blocks of the cache into rows, at once, and out of them into the pool, later.

        What finds no row is not saved.
        """
        if not saves or not self.tier.open:
            return
        rows = self.rows.take(len(saves), self.rows.count // _KEPT)
        saves = saves[: len(rows)]
        if not saves:
            return
        self._settle()
        for row, save in zip(rows, saves, strict=True):
            self._host[row].copy_(self._blocks[save.block_id], non_blocking=True)
        self._settle()
        extents = [self._extent(row) for row in rows]
        future = self.tier.store([save.block for save in saves], extents, tokens_per_block)
        future.add_done_callback(lambda _: self.rows.free(rows))

    def close(self) -> None:
        """Lets stores end for a while; a second call does nothing."""
        atexit.unregister(self.close)
        self.tier.close()

    def _found(self, blocks: Sequence[Block]) -> int:
        """How many of the first blocks the pool has."""
        if not blocks or not self.tier.open:
            return 0
        future = self.tier.look_up(blocks)
        try:
            there = future.result(self._settings.lookup_timeout_ms / 1000 + _GRACE_S).there
        except FutureTimeoutError:
            _log.warning("MemKV: a look-up does not end; its request is computed")
            return 0
        return _leading(there)

    def _await(self, future: Future[Moved], deadline_ms: int) -> Moved | None:
        try:
            return future.result(deadline_ms / 1000 + _GRACE_S)
        except FutureTimeoutError:
            _log.warning("MemKV: a load does not end; its request is computed")
            return None

    def _extent(self, row: int) -> Any:
        return self.tier.part(row * self.block_bytes, self.block_bytes)

    def _settle(self) -> None:
        """Waits until nothing on the GPU reads or writes the cache, whichever stream it is on."""
        if self._on_gpu:
            import torch

            torch.cuda.synchronize(self._blocks.device)


def _leading(said: Sequence[bool]) -> int:
    """How many are true before the first that is not."""
    return next((i for i, one in enumerate(said) if not one), len(said))


class Link:
    """Where the two sides of one connector meet."""

    def __init__(self, owner: object) -> None:
        self.owner = owner  # kept, so that its identity is nobody else's
        self.staging: Staging | None = None


_links: dict[int, Link] = {}
_links_lock = threading.Lock()


def link_of(llm_args: object) -> Link:
    """The link of an engine, by the settings object that both sides are made with."""
    with _links_lock:
        return _links.setdefault(id(llm_args), Link(llm_args))
