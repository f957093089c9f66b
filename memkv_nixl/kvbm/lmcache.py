"""MemKVAdapter: the pool as an L2 of the LMCache server (its multi-process mode).

    lmcache server … --l2-adapter '{"type": "plugin", "module_path": "memkv_nixl.kvbm.lmcache",
      "class_name": "MemKVAdapter", "adapter_params": {"nodes": "10.0.0.7:9900,10.0.0.8:9900"}}'

LMCache keeps chunks of the KV cache in its own host memory (L1); this adapter moves them between
there and the pool. LMCache's threads order and never wait: an order is numbered, the tier
(`_tier.py`) carries it out, and one of three events says that there are outcomes. The engine's side
is MemKVLMCacheConnector (`lmcache_connector.py`). docs/guides/lmcache.md is the guide.

A lock promises this much: a block that was found was in use just now, so the pool lets go of others
first. A load of a locked block may still miss, and LMCache computes what is missing.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict
from functools import partial
from typing import Any

import lmcache
from lmcache.lmcache_native import Bitmap
from lmcache.logging import init_logger
from lmcache.v1.distributed.internal_api import L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface
from lmcache.v1.platform import create_event_notifier

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import ConfigError, MemKVError
from memkv_nixl._namespace import Namespace
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Numbers
from memkv_nixl.kvbm._lmcache_drops import Drops
from memkv_nixl.kvbm._lmcache_keys import (
    HASH_BYTES,
    Layout,
    block_of,
    is_serialized,
    layout_of,
    meaning_of,
)
from memkv_nixl.kvbm._lmcache_settings import adapter_settings
from memkv_nixl.kvbm._lmcache_tasks import Locks, Outcomes
from memkv_nixl.kvbm._lmcache_version import engine_name, refuse_unknown_lmcache
from memkv_nixl.kvbm._orders import Found, Moved, nothing_moved, settled
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._tier import BLOCK_BYTES_MAX, Tier

_log = logging.getLogger(__name__)
_LET_GO_S = 5.0  # beyond its deadline, for a load that is being taken back


class MemKVAdapter(L2AdapterInterface):  # type: ignore[misc]  # LMCache is not there when checked
    """See the module. `adapter_params` are the settings of `_lmcache_settings.py`."""

    def __init__(self, adapter_params: Mapping[str, Any], l1_memory_desc: Any = None) -> None:
        """Raises ConfigError with the sentence that helps; the server then does not start."""
        super().__init__()
        _log_with_lmcache()
        refuse_unknown_lmcache(lmcache.__version__)
        self._settings = adapter_settings(adapter_params)
        namespace = namespace_of(self._settings)
        self._tier = Tier(self._settings, namespace, _region(l1_memory_desc))
        self._drops = Drops(self._settings, namespace)
        self._tasks = itertools.count()
        self._stores: Outcomes[tuple[Moved, list[Any], list[int]]] = _outcomes()
        self._lookups: Outcomes[tuple[Any, list[Any]]] = _outcomes()
        self._loads: Outcomes[Any] = _outcomes()
        self._locks = Locks()
        self._loading: dict[Any, list[Future[Moved]]] = {}
        self._loading_lock = threading.Lock()
        self._looks: dict[tuple[str, int, int], tuple[Layout, int]] = {}  # of objects: and bytes
        self._refused: set[str] = set()

    @property
    def numbers(self) -> Numbers:
        """What was done since it was made."""
        return self._tier.numbers

    # ---- the events that LMCache polls

    def get_store_event_fd(self) -> int:
        """Set when stores are over."""
        return self._stores.fileno()

    def get_lookup_and_lock_event_fd(self) -> int:
        """Set when look-ups are over."""
        return self._lookups.fileno()

    def get_load_event_fd(self) -> int:
        """Set when loads are over."""
        return self._loads.fileno()

    # ---- stores

    def submit_store_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Puts objects; what the pool has already is not sent again."""
        task = next(self._tasks)
        blocks = [self._block_in(key, item) for key, item in zip(keys, objects, strict=True)]
        future = self._move(self._tier.store, blocks, objects)
        sizes = [item.get_size() for item in objects]
        future.add_done_callback(lambda over: self._stores.put(task, (over.result(), keys, sizes)))
        return task

    def pop_completed_store_tasks(self) -> dict[int, Any]:
        """The stores that are over. LMCache knows one outcome per store: all of it, or none."""
        results = {}
        for task, (moved, keys, sizes) in self._stores.take_all().items():
            good = [i for i, done in enumerate(moved.done) if done]
            if good:
                self._notify_keys_stored([keys[i] for i in good], [sizes[i] for i in good])
            results[task] = L2StoreResult(all(moved.done), moved.moved_bytes)
        return results

    # ---- look-ups

    def submit_lookup_and_lock_task(
        self, keys: list[Any], group_layout_descs: Mapping[int, Any]
    ) -> int:
        """Asks which objects the pool has, all in one question."""
        task = next(self._tasks)
        layouts = {
            group: layout_of(said.shapes, said.dtypes) for group, said in group_layout_descs.items()
        }
        blocks = [self._block(key, layouts.get(key.object_group_id)) for key in keys]
        asked = [i for i, block in enumerate(blocks) if block is not None]
        future = self._tier.look_up([block for block in blocks if block is not None])
        future.add_done_callback(partial(self._looked_up, task, keys, asked))
        return task

    def query_lookup_and_lock_result(self, task_id: int) -> Any:
        """The answer, once; what was found is locked from now on."""
        answer = self._lookups.take(task_id)
        if answer is None:
            return None
        bitmap, found = answer
        self._locks.lock(found)
        if found:
            self._notify_keys_accessed(found)
        return bitmap

    def submit_unlock(self, keys: list[Any]) -> None:
        """Unlocks objects.

        When LMCache gives up on a request it unlocks what it still loads, and uses the memory for
        something else right after. Which of several requests for one object that is, an unlock does
        not say, so it waits for all loads of its objects; they end at their deadline.
        """
        self._locks.unlock(keys)
        with self._loading_lock:
            loads = {load for key in keys for load in self._loading.get(key, ())}
        if not loads:
            return
        left = wait(loads, self._settings.fetch_deadline_ms / 1000 + _LET_GO_S).not_done
        if left:
            _log.error(
                "MemKV: %d loads are not over past their deadline; LMCache may use their memory "
                "for something else now. Restart this server",
                len(left),
            )

    # ---- loads

    def submit_load_task(self, keys: list[Any], objects: list[Any]) -> int:
        """Fills objects."""
        task = next(self._tasks)
        blocks = [self._block_in(key, item) for key, item in zip(keys, objects, strict=True)]
        future = self._move(self._tier.load, blocks, objects)
        with self._loading_lock:
            for key in keys:
                self._loading.setdefault(key, []).append(future)
        future.add_done_callback(partial(self._loaded, task, keys))
        return task

    def query_load_result(self, task_id: int) -> Any:
        """Which objects came, whole and verified; once."""
        return self._loads.take(task_id)

    # ---- the rest

    def delete(self, keys: list[Any]) -> None:
        """Takes objects out of the pool, for everybody; those that are locked here stay.

        Whatever is not surely gone is not said to be. It never raises: that would end the thread of
        LMCache's that looks after quotas.
        """
        free = [key for key in keys if _series_of(key) in self._looks and key not in self._locks]
        named = [(key, *self._looks[_series_of(key)]) for key in free]
        blocks = [(key, size, self._block(key, layout)) for key, layout, size in named]
        there = [(key, size, block) for key, size, block in blocks if block is not None]
        gone = [False] * len(there)
        try:
            gone = self._drops.drop([block for _, _, block in there])
        except (MemKVError, OSError) as error:
            _log.warning("MemKV: nothing was deleted: %s", error)
        dropped = [(key, size) for (key, size, _), done in zip(there, gone, strict=True) if done]
        if dropped:
            self._notify_keys_deleted([key for key, _ in dropped], [size for _, size in dropped])
        if len(dropped) < len(keys):
            _log.warning(
                "MemKV: %d of %d objects were not deleted: they are in use, of a model that this "
                "server has not stored since it was started, or their nodes do not answer",
                len(keys) - len(dropped),
                len(keys),
            )

    def close(self) -> None:
        """Lets stores end for a while, then lets go of LMCache's memory."""
        self._tier.close()
        self._drops.close()
        for outcomes in (self._stores, self._lookups, self._loads):
            outcomes.close()

    def report_status(self) -> dict[str, Any]:
        """For LMCache's /status. A pool that is gone does not make the server unhealthy."""
        return {
            "is_healthy": not self._tier.closed,
            "type": type(self).__name__,
            "pool_open": self._tier.open,
            "pool_times_gone": self._tier.times_gone,
            "nodes": list(self._settings.nodes),
            "locked_keys": len(self._locks),
            **asdict(self._tier.numbers),
        }

    # ---- inside

    def _block_in(self, key: Any, item: Any) -> Block | None:
        """The block for what lies in one of LMCache's objects."""
        size = item.get_size()
        if size > BLOCK_BYTES_MAX:
            self._refuse(
                f"a chunk of {size} bytes is not kept: a block has at most {BLOCK_BYTES_MAX}. "
                "Give the LMCache server a smaller --chunk-size"
            )
            return None
        layout = layout_of(item.get_shapes(), item.get_dtypes())
        if is_serialized(layout):
            self._refuse(
                "LMCache serialises what it stores, and nobody can tell with what; nothing is "
                'kept. Leave "serde" out of --l2-adapter'
            )
            return None
        block = self._block(key, layout)
        if block is not None:
            self._looks[_series_of(key)] = (layout, size)
        return block

    def _block(self, key: Any, layout: Layout | None) -> Block | None:
        """The block for a key, None where nobody can tell what lies in it."""
        if layout is None:
            return None
        if len(key.chunk_hash) != HASH_BYTES:
            self._refuse(
                f"LMCache's hashes have {len(key.chunk_hash)} bytes and may collide; nothing is "
                "kept. Start the LMCache server with --hash-algorithm blake3"
            )
            return None
        meaning = meaning_of(key.model_name)
        if meaning is None and self._settings.weights:
            meaning = key.model_name
        if meaning is None:
            self._refuse(
                f"nobody can tell which weights are behind the name {key.model_name!r}; nothing is "
                'kept. Give vLLM "kv_connector": "MemKVLMCacheConnector", "kv_connector_module_'
                'path": "memkv_nixl.kvbm.lmcache_connector" (memkv config lmcache prints it)'
            )
            return None
        return block_of(key, meaning, layout)

    def _move(self, move: Any, blocks: Sequence[Block | None], objects: list[Any]) -> Future[Moved]:
        """Orders a load or store; what has no block is not done."""
        known = [(block, item) for block, item in zip(blocks, objects, strict=True) if block]
        if not known:
            return settled(nothing_moved(len(blocks)))
        ordered: Future[Moved] = move(
            [block for block, _ in known],
            [Extent(item.data_ptr, item.get_size(), item) for _, item in known],
        )
        if len(known) == len(blocks):
            return ordered
        whole: Future[Moved] = Future()
        whole.set_running_or_notify_cancel()
        ordered.add_done_callback(lambda over: whole.set_result(_widened(over.result(), blocks)))
        return whole

    def _looked_up(self, task: int, keys: list[Any], asked: list[int], over: Future[Found]) -> None:
        found = [i for i, there in zip(asked, over.result().there, strict=True) if there]
        self._lookups.put(task, (_bitmap(len(keys), found), [keys[i] for i in found]))

    def _loaded(self, task: int, keys: list[Any], over: Future[Moved]) -> None:
        with self._loading_lock:
            for key in keys:
                loads = self._loading[key]
                loads.remove(over)
                if not loads:
                    del self._loading[key]
        good = [i for i, done in enumerate(over.result().done) if done]
        self._loads.put(task, _bitmap(len(keys), good))

    def _refuse(self, sentence: str) -> None:
        """Says once why something is not kept."""
        if sentence not in self._refused:
            self._refused.add(sentence)
            _log.error("MemKV: %s", sentence)


def namespace_of(settings: TierSettings) -> Namespace:
    """The namespace of all that this server keeps; what a model means stands in its keys."""
    return Namespace(
        model="lmcache",
        revision=settings.weights,
        engine=engine_name(lmcache.__version__),
        salt=settings.salt,
        generation=settings.generation,
    )


def _series_of(key: Any) -> tuple[str, int, int]:
    """The objects that look like this one."""
    return key.model_name, key.kv_rank, key.object_group_id


def _outcomes() -> Any:
    return Outcomes(create_event_notifier())


def _region(described: Any) -> Any:
    """LMCache's L1 as a buffer."""
    if described is None:
        raise ConfigError(
            "LMCache does not say where its L1 lies, and MemKV moves blocks from and to host "
            "memory. Start the LMCache server with an L1 in DRAM (without --gds-l1-path)"
        )
    return (ctypes.c_uint8 * described.size).from_address(described.ptr)


def _bitmap(size: int, indices: list[int]) -> Any:
    bitmap = Bitmap(size)
    bitmap.batched_set(indices)
    return bitmap


def _widened(moved: Moved, blocks: Sequence[Block | None]) -> Moved:
    """The outcome of an order over all that was asked for."""
    done = iter(moved.done)
    return moved._replace(done=tuple(block is not None and next(done) for block in blocks))


def _log_with_lmcache() -> None:
    """What is said goes where LMCache's own log goes, unless somebody said otherwise."""
    if not logging.getLogger("memkv_nixl").handlers:
        init_logger("memkv_nixl")
