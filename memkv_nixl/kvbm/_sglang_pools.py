"""SGLang's host pools: which bytes a page has in each, and what these are called in the pool.

A host pool gives the places of a page's buffers: the keys and the values of an MHA cache, the one
buffer of MLA, the states of Mamba. Each is a block of its own (or several, where it is larger than
a block may be), whose key is the page's key, the buffer's name and a digest of the pool's geometry:
another layout, dtype, split of layers or heads is another block.

Names are those of Mooncake's backend, `_{tp_rank}_k` and `__k`, because Dynamo's router looks for
them. What every rank holds alike (MLA) has no rank in its name.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

from memkv_nixl._buffers import Extent
from memkv_nixl._errors import ConfigError, UsageError
from memkv_nixl.kvbm._tier import BLOCK_BYTES_MAX, Tier

KV = "kv"
# Host pools whose pages are the same on every rank of an MLA model. Of another pool nobody knows,
# so there each rank has its own.
_REPLICATED = {
    "MLATokenToKVPoolHost",
    "DSAIndexerPoolHost",
    "DeepSeekV4PagedHostPool",
    "DeepSeekV4StateHostPool",
}
_GEOMETRY = (
    *("layout", "page_size", "size_per_token", "storage_format_tag", "dcp_size"),
    *("start_layer", "end_layer", "layer_num", "target_layer_num", "head_num", "head_dim"),
    *("v_head_dim", "kv_lora_rank", "qk_rope_head_dim", "kv_cache_dim", "item_bytes"),
    *("conv_state_shapes", "temporal_state_shape", "num_mamba_layers", "state_page_bytes"),
)


@dataclass(frozen=True)
class Ranks:
    """Which share of a model a process has."""

    tp: int
    tp_size: int
    pp: int
    pp_size: int
    cp: int
    cp_size: int
    mla: bool

    @property
    def writes_shared(self) -> bool:
        """Whether this one stores what every rank holds alike."""
        return not self.mla or self.tp == 0

    def name(self, shared: bool) -> str:
        """The share, as it stands in the names of buffers."""
        said = [] if shared else [str(self.tp)]
        if self.pp_size > 1:
            said.append(str(self.pp))
        if self.cp_size > 1:
            said.append(f"cp{self.cp}")
        return "_".join(said)


class Part(NamedTuple):
    """A range of one of a page's buffers that is a block of its own."""

    name: str
    buffer: int
    offset: int
    length: int


class HostPool:
    """One of SGLang's host pools, registered with the tier."""

    def __init__(self, name: str, pool: Any, ranks: Ranks, tier: Tier) -> None:
        """Registers the pool's memory. Raises ConfigError where pages have no place in it."""
        self.name = name
        self.page_size: int = getattr(pool, "page_size", 1) or 1
        self.shared = ranks.mla and any(c.__name__ in _REPLICATED for c in type(pool).__mro__)
        self.stores = ranks.writes_shared or not self.shared
        self._pool = pool
        self._extents = [tier.keep(buffer) for buffer in _buffers_of(pool)]
        sizes = self._sizes_of_a_page()
        self.page_bytes = sum(sizes)
        self.parts = _parts_of(_names(name, ranks, self.shared, len(sizes)), sizes)
        self._geometry = _digest_of(pool, sizes)
        self.keys = [f"{part.name}/".encode() + self._geometry for part in self.parts]

    @property
    def announced(self) -> list[str]:
        """The names that a router knows a page by."""
        if self.name != KV or any("." in part.name for part in self.parts):
            return []
        return [part.name for part in self.parts]

    def pages(self, indices: Any) -> list[list[Extent]]:
        """For each page whose slots stand in `indices`, the memory of its parts.

        Raises UsageError where SGLang names something else than whole pages of this pool.
        """
        addresses, sizes = self._pool.get_page_buffer_meta(indices)
        buffers = self.parts[-1].buffer + 1
        if len(addresses) % buffers or len(addresses) != len(sizes):
            raise UsageError(f"SGLang's {self.name} pool does not say where whole pages lie")
        pages = []
        for first in range(0, len(addresses), buffers):
            page = []
            for part in self.parts:
                at = first + part.buffer
                page.append(self._extent(addresses[at] + part.offset, part.length, sizes[at]))
            pages.append(page)
        return pages

    def _extent(self, address: int, length: int, size: int) -> Extent:
        """The memory of a part; SGLang's word for it is not taken."""
        for extent in self._extents if 0 < length <= size else ():
            if extent.address <= address and address + length <= extent.end:
                return Extent(address, length, extent.keeps)
        raise UsageError(f"SGLang's {self.name} pool names a page outside its own memory")

    def _sizes_of_a_page(self) -> list[int]:
        import torch

        try:
            _, sizes = self._pool.get_page_buffer_meta(torch.arange(self.page_size))
        except (ValueError, NotImplementedError) as error:
            raise ConfigError(
                f"SGLang's {self.name} pool ({type(self._pool).__name__}) has no place where a "
                f"page lies: {error}"
            ) from error
        return [int(size) for size in sizes]


def refuse_layout(pool: Any) -> None:
    """Raises ConfigError where a page lies in pieces, a layer here and a layer there."""
    if getattr(pool, "layout", "") == "layer_first":
        raise ConfigError(
            "SGLang keeps its pages in host memory layer by layer (--hicache-mem-layout "
            "layer_first), so that each would be many small blocks. Start it with "
            "--hicache-mem-layout page_first"
        )


def _buffers_of(pool: Any) -> list[Any]:
    """The tensors that a pool's pages lie in."""
    if hasattr(pool, "get_hybrid_pool_buffer"):
        buffers = pool.get_hybrid_pool_buffer()
    elif getattr(pool, "layout", "") == "page_first_kv_split":
        named = ("k_buffer", "v_buffer", "index_k_buffer", "index_k_scale_buffer")
        buffers = [getattr(pool, name, None) for name in named]
    else:
        buffers = pool.kv_buffer if isinstance(pool.kv_buffer, list) else [pool.kv_buffer]
    return [buffer for buffer in buffers if buffer is not None and buffer.numel()]


def _names(pool: str, ranks: Ranks, shared: bool, count: int) -> list[str]:
    """The names of a page's buffers."""
    rank = ranks.name(shared)
    if pool == KV and count <= 2:
        return [f"_{rank}_{letter}" for letter in "kv"[:count]]
    return [f"_{rank}_{pool}_{i}" for i in range(count)]


def _parts_of(names: list[str], sizes: list[int]) -> list[Part]:
    parts = []
    for buffer, (name, size) in enumerate(zip(names, sizes, strict=True)):
        if size <= BLOCK_BYTES_MAX:
            parts.append(Part(name, buffer, 0, size))
            continue
        for i, offset in enumerate(range(0, size, BLOCK_BYTES_MAX)):
            length = min(BLOCK_BYTES_MAX, size - offset)
            parts.append(Part(f"{name}.{i}", buffer, offset, length))
    return parts


def _digest_of(pool: Any, sizes: list[int]) -> bytes:
    """What decides how a page's bytes are arranged."""
    said = {name: str(getattr(pool, name, None)) for name in _GEOMETRY}
    said["class"] = type(pool).__name__
    said["dtypes"] = str([str(getattr(pool, "dtype", None)), *_dtypes_of(pool)])
    said["sizes"] = str(sizes)
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).digest()[:16]


def _dtypes_of(pool: Any) -> list[str]:
    return [str(buffer.dtype) for buffer in _buffers_of(pool)]
