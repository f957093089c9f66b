"""One SGLang process's side of the storage: its settings, its host pools, its factory's backend."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from sglang.srt.mem_cache.hicache_storage import (
    HiCacheStorage,
    HiCacheStorageConfig,
    HiCacheStorageExtraInfo,
    PoolHitPolicy,
    PoolName,
    PoolTransfer,
)
from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory
from sglang.srt.runtime_context import get_context

from memkv_nixl.cli._config_sglang import extra_config
from tests.engines import sglang_pools
from tests.engines.sglang_pools import PAGE

NODES = ""
MODEL = Path()
PATIENT = {"lookup_timeout_ms": 5000, "fetch_deadline_ms": 60_000, "store_deadline_ms": 60_000}


def keys_of(pages: int, seed: int = 0, before: str = "") -> list[str]:
    """The keys of a prompt, each a hash over the one before it, as SGLang's are."""
    keys: list[str] = []
    for i in range(pages):
        text = f"{keys[-1] if keys else before} {seed} {i}"
        keys.append(hashlib.sha256(text.encode()).hexdigest())
    return keys


def after(prefix: Sequence[str]) -> HiCacheStorageExtraInfo:
    """What SGLang says stands before the pages of a call."""
    return HiCacheStorageExtraInfo(prefix_keys=list(prefix))


@contextmanager
def settings_of(model: Path | None = None, **said: Any) -> Iterator[None]:
    """SGLang's settings, as its scheduler has them."""
    with get_context().override_server_args(
        model_path=str(model or MODEL), page_size=PAGE, kv_cache_dtype="bfloat16", **said
    ):
        yield


def storage_config(tier: dict[str, Any], **said: Any) -> HiCacheStorageConfig:
    """What SGLang tells a backend of its process."""
    given = {
        "tp_rank": 0,
        "tp_size": 1,
        "pp_rank": 0,
        "pp_size": 1,
        "attn_cp_rank": 0,
        "attn_cp_size": 1,
        "is_mla_model": False,
        "enable_storage_metrics": True,
        "is_page_first_layout": True,
        "model_name": "org/tiny",
        "extra_config": {**extra_config({"nodes": NODES, **PATIENT, **tier})},
    }
    del given["extra_config"]["hicache_storage_pass_prefix_keys"]  # SGLang takes it out
    return HiCacheStorageConfig(**{**given, **said})


class Side:
    """A host pool and the backend that SGLang's own factory makes for it."""

    def __init__(
        self,
        pool: Any = None,
        mamba: Any = None,
        tier: dict[str, Any] | None = None,
        name: str = "dynamic",
        **said: Any,
    ) -> None:
        self.pool = sglang_pools.mha(128) if pool is None else pool
        self.mamba = mamba
        config = storage_config(tier or {}, **said)
        self.backend: Any = StorageBackendFactory.create_backend(name, config, self.pool)
        self.backend.register_mem_pool_host(self.pool)
        if mamba is not None:
            self.backend.register_mem_host_pool_v2(self.pool, PoolName.KV)
            self.backend.register_mem_host_pool_v2(mamba, PoolName.MAMBA)
        if hasattr(HiCacheStorage, "on_host_pools_registered"):  # not in 0.5.21
            self.backend.on_host_pools_registered()

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self.inner.close()

    @property
    def inner(self) -> Any:
        """The backend inside SGLang's failure injector."""
        return getattr(self.backend, "_backend", self.backend)

    def fill(self, seed: int) -> None:
        """Random bytes everywhere."""
        generator = torch.Generator().manual_seed(seed)
        for buffer in self.buffers():
            raw = buffer.view(torch.uint8)
            raw.copy_(torch.randint(0, 256, raw.shape, dtype=torch.uint8, generator=generator))

    def buffers(self) -> list[torch.Tensor]:
        pools = [self.pool] if self.mamba is None else [self.pool, self.mamba]
        return [one for pool in pools for one in _tensors(pool)]

    def put(self, keys: list[str], first: int = 0, prefix: Sequence[str] = ()) -> list[bool]:
        """Stores pages out of the slots from page `first` on."""
        done: list[bool] = self.backend.batch_set_v1(keys, slots(first, len(keys)), after(prefix))
        return done

    def get(self, keys: list[str], first: int = 0, prefix: Sequence[str] = ()) -> list[bool]:
        """Loads pages into the slots from page `first` on."""
        done: list[bool] = self.backend.batch_get_v1(keys, slots(first, len(keys)), after(prefix))
        return done

    def page(self, index: int) -> bytes:
        """The bytes of a page of the host pool, wherever SGLang says they lie."""
        return content_of(self.pool, slots(index, 1))


def slots(first: int, pages: int) -> torch.Tensor:
    """The slots of consecutive pages."""
    return torch.arange(first * PAGE, (first + pages) * PAGE)


def content_of(pool: Any, indices: torch.Tensor) -> bytes:
    """What lies in slots, by SGLang's own way to copy a page."""
    page: torch.Tensor = pool.get_data_page(int(indices[0]), flat=True)
    return page.contiguous().view(torch.uint8).numpy().tobytes()


def state(keys: list[str], indices: Sequence[int], policy: str = "trailing_pages") -> PoolTransfer:
    """Mamba's states that go with pages."""
    return PoolTransfer(
        name=PoolName.MAMBA,
        host_indices=torch.tensor(list(indices)),
        keys=keys,
        hit_policy=PoolHitPolicy(policy),
    )


def _tensors(pool: Any) -> list[torch.Tensor]:
    if hasattr(pool, "get_hybrid_pool_buffer"):
        return list(pool.get_hybrid_pool_buffer())
    return [pool.kv_buffer]
