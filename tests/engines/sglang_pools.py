"""SGLang's own host pools on the CPU, small, for each version of it that is known."""

from __future__ import annotations

import importlib
import inspect
from types import SimpleNamespace
from typing import Any

import torch

PAGE = 16
LAYERS = 4
DTYPE = torch.bfloat16

# SGLang leaves 10 GiB of the machine to others, which these few pages do not need.
importlib.import_module("sglang.srt.mem_cache.pool_host.base").HICACHE_HOST_MEMORY_RESERVE_BYTES = 0  # type: ignore[attr-defined]


def mha(pages: int, layout: str = "page_first", heads: int = 4) -> Any:
    """A host pool of keys and values."""
    module = importlib.import_module("sglang.srt.mem_cache.pool_host.mha")
    device = device_mha(heads)
    return _host(module.MHATokenToKVPoolHost, device, "_mha_buffer_info", pages, layout)


def device_mha(heads: int = 4) -> Any:
    """The pool that stands for the GPU's."""
    return importlib.import_module("sglang.srt.mem_cache.memory_pool").MHATokenToKVPool(
        size=4 * PAGE,
        page_size=PAGE,
        dtype=DTYPE,
        head_num=heads,
        head_dim=64,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )


def mla(pages: int, layout: str = "page_first") -> Any:
    """A host pool of MLA's compressed keys."""
    module = importlib.import_module("sglang.srt.mem_cache.pool_host.mla")
    device = importlib.import_module("sglang.srt.mem_cache.memory_pool").MLATokenToKVPool(
        size=4 * PAGE,
        page_size=PAGE,
        dtype=DTYPE,
        kv_lora_rank=128,
        qk_rope_head_dim=64,
        layer_num=LAYERS,
        device="cpu",
        enable_memory_saver=False,
    )
    return _host(module.MLATokenToKVPoolHost, device, "_mla_buffer_info", pages, layout)


def mamba(states: int) -> Any:
    """A host pool of Mamba's states, one a page."""
    module = importlib.import_module("sglang.srt.mem_cache.pool_host.mamba")
    temporal = torch.zeros(LAYERS, 4, 8, 32, dtype=torch.float32)
    conv = (torch.zeros(LAYERS, 4, 96, 3, dtype=DTYPE),)
    if "buffer_info" in inspect.signature(module.MambaPoolHost).parameters:
        info = importlib.import_module("sglang.srt.mem_cache.device_pool_info")
        return module.MambaPoolHost(
            info.MambaStateBufferInfo(temporal=temporal, conv=conv),
            1.0,
            0,
            device_capacity=states,
            pin_memory=False,
            layout="page_first",
        )
    device = SimpleNamespace(  # of 0.5.21's device pool, what its host pool looks at
        num_mamba_layers=LAYERS,
        mamba_cache=SimpleNamespace(temporal=temporal, conv=conv),
        size=states,
        device="cpu",
    )
    return module.MambaPoolHost(device, 1.0, 0, pin_memory=False, layout="page_first")


def _host(kind: Any, device: Any, info: str, pages: int, layout: str) -> Any:
    said: dict[str, Any] = {"pin_memory": False, "device": "cpu"}
    parameters = inspect.signature(kind).parameters
    if "buffer_info" in parameters:
        said["buffer_info"] = getattr(device, info)()
        said |= {"start_layer": 0, "end_layer": LAYERS, "host_token_capacity": pages * PAGE}
        said["device_capacity_tokens"] = 4 * PAGE
        if "target_layer_num" in parameters:
            said["target_layer_num"] = LAYERS
        return kind(host_to_device_ratio=1.0, host_size=0, page_size=PAGE, layout=layout, **said)
    return kind(device, pages / 4, 0, PAGE, layout, **said)
