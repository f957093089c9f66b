"""TEST ONLY: KVBM's connector for vLLM, with what it asks of torch.cuda left out.

Its Rust core, its leader and all that runs in the scheduler are the stock wheel's. Replaced are two
functions of the worker: it registers the caches as if they were a GPU's (kvbm_libcuda.c takes host
memory for device memory), and needs no CUDA event to know that a layer is computed.
Named in a connector's settings as
`"kv_connector": "DynamoConnector", "kv_connector_module_path": "tests.engines.kvbm_on_cpu"`.
"""

from __future__ import annotations

from typing import Any

import torch
from kvbm.vllm_integration import connector_worker
from kvbm.vllm_integration.connector import DynamoConnector

from tests.engines.kvbm_tensor import DeviceTensor

__all__ = ["DynamoConnector"]


def register_kv_caches(worker: Any, kv_caches: dict[str, torch.Tensor]) -> None:
    config = worker.vllm_config
    layers = sorted(
        kv_caches.items(), key=lambda layer: connector_worker.extract_layer_index(layer[0])
    )
    shape = layers[0][1].shape
    worker._connector.register_kv_caches(
        max(shape[0], shape[1]),
        config.cache_config.block_size,
        0,
        config.model_config.dtype.itemsize,
        [(name, DeviceTensor(tensor)) for name, tensor in layers],
        [1] * len(layers),  # an event's handle, which must not be null
        outer_dim=None,
        inner_dim=None,
    )


def save_kv_layer(worker: Any, name: str, layer: Any, metadata: Any, **more: Any) -> None:
    worker._connector.save_kv_layer(name, layer)


connector_worker.KvConnectorWorker.register_kv_caches = register_kv_caches
connector_worker.KvConnectorWorker.save_kv_layer = save_kv_layer
