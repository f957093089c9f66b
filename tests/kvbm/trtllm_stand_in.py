"""TEST ONLY: a stand-in for the part of TensorRT-LLM that a connector is built on, which needs a
GPU even to be imported. Its classes are made of the recorded shape (tests/golden/
trtllm_connector.json); `install` puts it where the connector looks for the real one.
"""

from __future__ import annotations

import abc
import importlib.machinery
import importlib.metadata
import json
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = json.loads(
    (Path(__file__).parent.parent / "golden/trtllm_connector.json").read_text(encoding="utf-8")
)
CLASSES = ("KvCacheConnectorScheduler", "KvCacheConnectorWorker")
VERSION = "1.2.1"


def install(which: str = "released") -> None:
    """Makes tensorrt_llm importable, with the interface at the recorded place."""
    path = RECORD[which]["module"]
    parts = path.split(".")
    for i in range(1, len(parts) + 1):
        _module(".".join(parts[:i]))
    for name in CLASSES:
        setattr(sys.modules[path], name, _class(name))
    real = importlib.metadata.version
    importlib.metadata.version = lambda name: (  # type: ignore[assignment]
        VERSION if name == "tensorrt_llm" else real(name)
    )


def _module(name: str) -> None:
    module = types.ModuleType(name)
    module.__path__ = []
    module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module


def _class(name: str) -> type:
    def made(self: Any, llm_args: Any) -> None:
        self._llm_args = llm_args
        self._metadata = None

    def bind(self: Any, metadata: object) -> None:
        self._metadata = metadata

    def bound(self: Any) -> object:
        return self._metadata

    body: dict[str, Any] = {"__init__": made}
    for method, said in RECORD["released"][name].items():
        if said.get("needed"):
            body[method] = abc.abstractmethod(lambda *_: None)
    if name == "KvCacheConnectorWorker":
        body.update(bind_connector_meta=bind, get_connector_meta=bound)
    return abc.ABCMeta(name, (), body)


@dataclass
class CacheSettings:
    """What kv_cache_config holds, as far as it matters here."""

    tokens_per_block: int = 32
    dtype: str = "auto"
    free_gpu_memory_fraction: float = 0.9
    host_cache_size: int | None = None
    max_attention_window: list[int] | None = None


@dataclass
class Settings:
    """What a connector is made with."""

    model: str
    kv_cache_config: CacheSettings = field(default_factory=CacheSettings)
    tensor_parallel_size: int = 1
    max_beam_width: int = 1
    max_batch_size: int = 8
    dtype: str = "bfloat16"
    speculative_config: Any = None
    enable_attention_dp: bool = False
    model_kwargs: dict[str, Any] | None = None
    odd: Any = None


@dataclass
class Request:
    """What a connector reads of a request."""

    request_id: int
    tokens: list[int]
    cache_salt_id: int | None = None
    lora_task_id: int | None = None
    multimodal_hashes: list[list[int]] | None = None

    def get_tokens(self, beam: int) -> list[int]:
        assert beam == 0
        return list(self.tokens)


@dataclass
class RequestData:
    """What a step tells of a request."""

    request_id: int
    new_tokens: list[int]
    new_block_ids: list[int]
    computed_position: int
    num_scheduled_tokens: int


@dataclass
class SchedulerOutput:
    """What a step tells."""

    new_requests: list[RequestData] = field(default_factory=list)
    cached_requests: list[RequestData] = field(default_factory=list)
