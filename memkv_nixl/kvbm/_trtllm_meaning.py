"""What TensorRT-LLM's blocks mean: which settings fit at all, and the namespace of those that do.

Fields of TensorRT-LLM's settings count unless a list here says why one does not: what a later
version adds costs hits, and never a wrong answer.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import Namespace
from memkv_nixl._sizes import parse_size
from memkv_nixl.kvbm._settings import TierSettings, tier_settings
from memkv_nixl.kvbm._weights import configuration_digest, layers_of, weights_digest

VARIABLE = "MEMKV_TRTLLM"
STAGING_DEFAULT = "4GiB"
_DEPTH = 8

# The bytes of a block do not depend on these: where things are, how much of them there is, and
# what happens to tokens before and after the model.
_HARMLESS_SETTINGS = (
    "model",
    "tokenizer",
    "tokenizer_mode",
    "skip_tokenizer_init",
    "tokenizer_revision",
    "custom_tokenizer",
    "trust_remote_code",
    "postprocess_tokenizer_dir",
    "reasoning_parser",
    "tool_parser",
    "num_postprocess_workers",
    "guided_decoding_backend",
    "sampler_type",
    "enable_trtllm_sampler",
    "kv_connector_config",
    "scheduler_config",
    "cache_transceiver_config",
    "batching_type",
    "max_batch_size",
    "max_num_tokens",
    "max_input_len",
    "max_seq_len",
    "batch_wait_timeout_ms",
    "batch_wait_timeout_iters",
    "batch_wait_max_tokens_ratio",
    "stream_interval",
    "iter_stats_max_iterations",
    "request_stats_max_iterations",
    "enable_iter_perf_stats",
    "enable_iter_req_stats",
    "print_iter_log",
    "return_perf_metrics",
    "perf_metrics_max_requests",
    "otlp_traces_endpoint",
    "garbage_collection_gen0_threshold",
    "gpus_per_node",
    "cuda_graph_config",
    "disable_overlap_scheduler",
    "orchestrator_type",
    "ray_worker_extension_cls",
    "ray_placement_config",
    "fail_fast_on_attention_window_too_large",
    "mpi_session",
    "telemetry_config",
    "hang_detection_timeout",
    "enable_sleep",
    "enable_autotuner",
    "enable_chunked_prefill",
)
_HARMLESS_OF_CACHE = (
    "free_gpu_memory_fraction",
    "max_tokens",
    "max_gpu_total_bytes",
    "event_buffer_max_size",
    "attention_dp_events_gather_period_ms",
    "enable_block_reuse",
    "enable_partial_reuse",
    "copy_on_partial_reuse",
)
_HARMLESS = frozenset(
    [*_HARMLESS_SETTINGS, *(f"kv_cache_config.{name}" for name in _HARMLESS_OF_CACHE)]
)
# Setting: what it may be, and why no more.
_ONE = {
    "tensor_parallel_size": "a rank cannot tell the others that a block did not come",
    "pipeline_parallel_size": "a rank cannot tell the others that a block did not come",
    "context_parallel_size": "a rank cannot tell the others that a block did not come",
    "max_beam_width": "beams share blocks that are not of one sequence",
}
_OFF = {
    "enable_attention_dp": "each rank would need a scheduler of its own",
    "speculative_config": "blocks also hold what was only guessed",
    "sparse_attention_config": "its index lies outside the blocks",
    "kv_cache_config.host_cache_size": "its blocks move behind the connector's back",
    "kv_cache_config.max_attention_window": "a window gives blocks away that are still needed",
}


def settings_of(environment: Mapping[str, str]) -> tuple[TierSettings, int]:
    """The tier's settings and the bytes of staging, out of the JSON in MEMKV_TRTLLM.

    TensorRT-LLM's own settings have no room for a connector's.
    """
    text = environment.get(VARIABLE) or "{}"
    try:
        said = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{VARIABLE} is no JSON: {error}") from error
    if not isinstance(said, dict):
        raise ConfigError(f'{VARIABLE}: write an object, say {{"weights": "llama-rev2"}}')
    try:
        staging = parse_size(said.pop("staging", STAGING_DEFAULT), "staging")
        return tier_settings(said, environment=environment), staging
    except ConfigError as error:
        raise ConfigError(f"{VARIABLE}: {error}") from error


def refuse_scattered(llm_args: Any, cache: Any) -> None:
    """Raises ConfigError where a block is more than its row of the primary pool, which is moved."""
    dtype = _at(llm_args, "kv_cache_config.dtype")
    if str(dtype).lower() == "nvfp4":
        raise ConfigError(
            "TensorRT-LLM's kv_cache_config.dtype is nvfp4, whose scales lie in a pool of their "
            "own, and MemKV moves one pool only. Set another dtype"
        )
    layers = layers_of(Path(str(_at(llm_args, "model"))))
    if layers is not None and layers != cache.shape[1]:
        raise ConfigError(
            f"the model has {layers} layers and TensorRT-LLM's primary pool holds "
            f"{cache.shape[1]}: the others lie elsewhere, and MemKV moves one pool only"
        )


def refuse_unfit(llm_args: Any) -> None:
    """Raises ConfigError for settings with which a block might be wrong, or come to nothing."""
    for name, why in _ONE.items():
        said = _at(llm_args, name)
        if said not in (None, 1):
            raise ConfigError(f"TensorRT-LLM's {name} is {said}, and MemKV takes 1 only: {why}")
    for name, why in _OFF.items():
        said = _at(llm_args, name)
        if said:
            raise ConfigError(
                f"TensorRT-LLM's {name} is set ({said!r:.60}), and MemKV works without it only: "
                f"{why}. Leave it out"
            )


def tokens_per_block_of(llm_args: Any) -> int:
    """Tokens of one block."""
    said = _at(llm_args, "kv_cache_config.tokens_per_block")
    if not isinstance(said, int) or said < 1:
        raise ConfigError(
            "TensorRT-LLM does not say how many tokens a block has: set tokens_per_block in "
            "kv_cache_config"
        )
    return said


def namespace_of(
    llm_args: Any, settings: TierSettings, cache: Any, version: str, device: str
) -> Namespace:
    """One meaning of bytes: the engine and what it runs on, its settings, its weights, and the
    shape of its cache."""
    described = {
        name: value
        for name, value in _described(llm_args, "", _DEPTH).items()
        if name not in _HARMLESS
    }
    model = configuration_digest(Path(str(_at(llm_args, "model"))))  # say, how it scales positions
    text = json.dumps([described, model, device], sort_keys=True)
    return Namespace(
        model=str(_at(llm_args, "model")),
        revision=settings.weights or _digest_of(_at(llm_args, "model")),
        dtype=str(cache.dtype),
        layout="x".join(str(size) for size in cache.shape[1:]),
        quantization=hashlib.sha256(text.encode()).hexdigest(),
        tokens_per_block=tokens_per_block_of(llm_args),
        engine=f"trtllm/{version}",
        salt=settings.salt,
        generation=settings.generation,
    )


def _digest_of(model: Any) -> str:
    path = Path(str(model))
    if path.exists():
        return weights_digest(path, with_code=True)
    raise ConfigError(
        f"weights: {model!r} is no folder, so nobody can tell which weights TensorRT-LLM loads. "
        f'Name them yourself: {VARIABLE}=\'{{"weights": "<a word that changes when they do>"}}\''
    )


def _at(value: Any, path: str) -> Any:
    for name in path.split("."):
        value = getattr(value, name, None)
    return value


def _described(value: Any, path: str, depth: int) -> Any:
    """A value in words that are equal exactly when it is; harmless parts are left out."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value.value if isinstance(value, enum.Enum) else value
    if isinstance(value, enum.Enum):
        return str(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_described(one, path, depth - 1) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(_described(one, path, depth - 1)) for one in value)
    fields = _fields_of(value)
    if fields is None or depth == 0:
        kind = type(value)
        raise ConfigError(
            f"TensorRT-LLM's {path or 'settings'} is a {kind.__module__}.{kind.__qualname__}, and "
            "MemKV cannot tell whether two of these are equal. Leave it out, or report it"
        )
    return {
        str(name): _described(one, _below(path, name), depth - 1)
        for name, one in fields.items()
        if _below(path, name) not in _HARMLESS
    }


def _below(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _fields_of(value: Any) -> Mapping[Any, Any] | None:
    """The parts of a value that has such; None where nobody can tell."""
    if isinstance(value, Mapping):
        return value
    model_fields = getattr(type(value), "model_fields", None)  # pydantic's
    if isinstance(model_fields, Mapping):
        return {name: getattr(value, name) for name in model_fields}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None
