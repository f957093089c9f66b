"""The meaning of vLLM's blocks: the namespace that its configuration amounts to.

vLLM's own keys are hashes of tokens. They do not say which weights computed a block, nor how many
GPUs share it: with the keys alone, blocks of other weights under the same path and blocks of
another tensor-parallel degree are read as if they were one's own, without a word. Everything that
changes a block's bytes is therefore part of the namespace here, and what cannot be known is
refused.

vLLM hands a tier less than that: neither the revision nor the quantisation, LoRA or overrides of
the model's configuration. They stand in its VllmConfig, which the functions that make the tier
hold; `vllm_config_of` finds it there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import Namespace
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._vllm_fields import cache_meaning, model_meaning, plain
from memkv_nixl.kvbm._weights import weights_digest

HASHES = ("sha256", "sha256_cbor")
# Formats whose loaders read the weights at the top of the model's folder, and nothing else.
READ_THE_FOLDER = (
    *("auto", "hf", "safetensors", "pt", "mistral", "npcache"),
    *("fastsafetensors", "instanttensor", "gguf"),
)
# What may be said to these loaders that does not change which weights they load.
_HOW_NOT_WHAT = {"enable_multithread_load", "num_threads", "enable_weights_track"}
_NAME_THEM = 'Name them: "weights": "<a word that changes when they do>"'


def vllm_config_of(spec: Any) -> Any:
    """The VllmConfig that an offloading spec was made from: its callers hold it."""
    frame = inspect.currentframe()
    try:
        while frame is not None:
            for name in ("vllm_config", "config"):
                config = frame.f_locals.get(name)
                transfer = getattr(config, "kv_transfer_config", None)
                extra = getattr(transfer, "kv_connector_extra_config", None)
                if extra is not None and extra is spec.extra_config:
                    return config
            frame = frame.f_back
    finally:
        del frame
    raise ConfigError(
        "MemKV cannot see vLLM's configuration, and without it cannot tell which weights computed "
        "a block. This happens when the tier is made by something other than OffloadingConnector"
    )


def namespace_of(
    spec: Any, vllm_config: Any, settings: TierSettings, block_bytes: int, engine: str
) -> Namespace:
    """The namespace of an engine's blocks. Raises ConfigError for what cannot be told apart."""
    _refuse_other_hashes(vllm_config)
    refuse_what_cannot_be_told(vllm_config, settings.lora)
    config, model = spec.config, vllm_config.model_config
    parallel = config.parallel
    groups = config.groups
    return Namespace(
        model="+".join(model.hf_config.architectures or [type(model.hf_config).__name__]),
        revision=settings.weights or weights_of(vllm_config),
        dtype=config.model.dtype,
        quantization=str(model.quantization or ""),
        layout=_layout(spec, vllm_config, block_bytes),
        tokens_per_block=groups[0].tokens_per_block * config.cache.blocks_per_chunk,
        tp=parallel.tp_size,
        pp=parallel.pp_size,
        cp=parallel.pcp_size * parallel.dcp_size,
        engine=engine,
        salt=settings.salt,
        generation=settings.generation,
    )


def _refuse_other_hashes(vllm_config: Any) -> None:
    hash_name = vllm_config.cache_config.prefix_caching_hash_algo
    if hash_name not in HASHES:
        raise ConfigError(
            f"vLLM hashes its blocks with {hash_name!r}, whose keys differ in every process or can "
            "be forged, so nobody may share them. Start vLLM with --prefix-caching-hash-algo "
            "sha256 (or sha256_cbor)"
        )


def refuse_what_cannot_be_told(vllm_config: Any, lora: str) -> None:
    """Raises ConfigError for an engine whose blocks change without a trace in its configuration."""
    if vllm_config.lora_config is not None and lora != "fixed":
        raise ConfigError(
            "vLLM serves LoRA adapters, and its keys say their names and paths only. If what lies "
            'under a path never changes, say so with "lora": "fixed"; else run without MemKV'
        )
    if getattr(vllm_config.cache_config, "calculate_kv_scales", False):
        raise ConfigError(
            "vLLM computes the scales of its cache at run time (--calculate-kv-scales), so that "
            "every process has others. Use a checkpoint that brings its scales, or another "
            "--kv-cache-dtype"
        )
    if getattr(vllm_config, "weight_transfer_config", None) is not None:
        raise ConfigError(
            "vLLM is set up to receive new weights while it runs (--weight-transfer-config); "
            "blocks of the old ones would be read with the new. Run it without MemKV"
        )


def weights_of(vllm_config: Any) -> str:
    """A digest of the weights of the model, and of its draft model where it has one."""
    load = vllm_config.load_config
    _refuse_other_loaders(load)
    models = [vllm_config.model_config]
    draft = draft_of(vllm_config)
    if draft is not None and draft.model != models[0].model:
        models.append(draft)
    return "+".join(_digest_of(model, load.download_dir) for model in models)


def _refuse_other_loaders(load: Any) -> None:
    """Raises ConfigError where other files than those of the model's folder may be loaded."""
    name = str(getattr(load.load_format, "value", load.load_format))
    if name == "dummy":
        raise ConfigError(f"vLLM makes up its weights (--load-format dummy). {_NAME_THEM}")
    if name not in READ_THE_FOLDER:
        raise ConfigError(
            f"nobody can tell which files --load-format {name} loads; MemKV knows it of "
            f"{', '.join(READ_THE_FOLDER)}. {_NAME_THEM}"
        )
    extra = load.model_loader_extra_config
    unknown = set(extra) - _HOW_NOT_WHAT if isinstance(extra, Mapping) else {type(extra).__name__}
    if unknown:
        raise ConfigError(
            f"--model-loader-extra-config says {', '.join(sorted(map(str, unknown)))}, which may "
            f"name other weights than the model's folder holds. {_NAME_THEM}"
        )


def _digest_of(model: Any, download_dir: str | None) -> str:
    if not model.trust_remote_code:
        return weights_digest(_place_of(model, download_dir))
    code = getattr(model.hf_config, "auto_map", None) or {}
    homes = {str(home).partition("--")[0] for home in _leaves(code) if "--" in str(home)}
    if homes - {str(model.model)}:
        raise ConfigError(
            f"the model's code comes from {', '.join(sorted(homes))} (--trust-remote-code), where "
            f"nobody looks whether it changed. {_NAME_THEM}"
        )
    return weights_digest(_place_of(model, download_dir), with_code=True)


def _leaves(value: Any) -> list[Any]:
    """What an auto_map names: a text, or a list of texts, for each class."""
    if isinstance(value, Mapping):
        return [leaf for item in value.values() for leaf in _leaves(item)]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _leaves(item)]
    return [] if value is None else [value]


def draft_of(vllm_config: Any) -> Any:
    """The configuration of the draft model, None where there is none."""
    return getattr(vllm_config.speculative_config, "draft_model_config", None)


def _place_of(model: Any, download_dir: str | None) -> Path:
    """Where a model's weights lie on this machine."""
    named = str(getattr(model, "model_weights", "") or model.model)
    if Path(named).exists():
        return Path(named)
    from huggingface_hub import try_to_load_from_cache

    held = try_to_load_from_cache(
        named, "config.json", cache_dir=download_dir, revision=model.revision
    )
    if isinstance(held, str):
        return Path(held).parent
    raise ConfigError(
        f"weights: {named} is neither a folder nor in the Hugging Face cache here, so nobody can "
        'tell which weights these are. Name them: "weights": "<a word that changes when they do>"'
    )


def _layout(spec: Any, vllm_config: Any, block_bytes: int) -> str:
    """Everything that decides how a block's bytes are arranged and computed, in one line."""
    config = spec.config
    said = {
        "block_bytes": block_bytes,
        "canonical": config.canonical_layout,
        "replicated": config.replicated_layout,
        "kv_cache_layout": str(config.kv_cache_layout),
        "groups": [
            [group.group_id, group.tokens_per_block, _digest(list(group.layer_names))]
            for group in config.groups
        ],
        "tokens_per_hash": config.cache.tokens_per_hash,
        "blocks_per_chunk": config.cache.blocks_per_chunk,
        "world": config.parallel.world_size,
        "pcp": config.parallel.pcp_size,
        "dcp": config.parallel.dcp_size,
        "interleave": _interleave(vllm_config.parallel_config),
        "worker_bytes": config.worker_kv_bytes_per_block,
        **how_computed(vllm_config),
    }
    return json.dumps(said, sort_keys=True, separators=(",", ":"))


def _interleave(parallel: Any) -> list[Any]:
    """How tokens are dealt out to the ranks of a context, by either of vLLM's names for it."""
    names = ("cp_kv_cache_interleave_size", "dcp_kv_cache_interleave_size")
    return [getattr(parallel, name, None) for name in names]


def how_computed(vllm_config: Any) -> dict[str, Any]:
    """What an engine computes its blocks with, beside the weights and the parallel degrees."""
    model = vllm_config.model_config
    attention = getattr(vllm_config, "attention_config", None)
    draft = draft_of(vllm_config)
    return {
        "compute": str(model.dtype),
        "max_model_len": model.max_model_len,
        "model": _digest(model_meaning(model)),
        "draft": None if draft is None else _digest(model_meaning(draft)),
        "cache": _digest(cache_meaning(vllm_config.cache_config)),
        "attention": str(getattr(attention, "backend", None)),
        "attention_config": _digest(plain(attention)),
        "runner": bool(getattr(vllm_config, "use_v2_model_runner", False)),
        "device": _device(),
    }


def _device() -> str:
    """What the engine runs on, as far as it decides which kernels arrange a block."""
    import torch
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return f"cpu {torch.backends.cpu.get_cpu_capability()}"
    return f"{current_platform.device_type} {current_platform.get_device_capability()}"


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
