"""The meaning of the blocks that LMCache's connector makes of a vLLM: one fingerprint for a name.

LMCache's keys have the model's name and which of how many ranks. With these alone, blocks of other
weights under the same path are read as one's own, and so are those of another division among the
ranks (two by tensor, two by pipeline), type of the cache, or context length of a model whose
rotation depends on it. The fingerprint holds all of that; LMCache carries it as a part of the name,
in its own memory, too.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._namespace import Namespace
from memkv_nixl.kvbm._lmcache_keys import marked
from memkv_nixl.kvbm._vllm_meaning import how_computed, refuse_what_cannot_be_told, weights_of

WEIGHTS = "memkv.weights"  # of kv_connector_extra_config
# What decides how LMCache arranges the bytes of a chunk, beside vLLM's configuration.
_ARRANGES = ("lmcache.mp.mp_transfer_mode", "lmcache.mp.lazy_offload")
_ARRANGES_HERE = ("LMCACHE_MP_TRANSFER_MODE", "VLLM_KV_CACHE_LAYOUT")


def marked_config(vllm_config: Any, engine: str) -> Any:
    """The VllmConfig with a model's name that says what its blocks mean.

    Raises ConfigError for what cannot be told apart.
    """
    meaning = meaning_in(vllm_config, engine)
    changed = copy.copy(vllm_config)
    changed.model_config = copy.copy(vllm_config.model_config)
    changed.model_config.model = marked(str(vllm_config.model_config.model), meaning.fingerprint)
    return changed


def meaning_in(vllm_config: Any, engine: str) -> Namespace:
    """All that decides what bytes an engine makes of the same tokens."""
    _refuse_what_lmcache_forgets(vllm_config)
    refuse_what_cannot_be_told(vllm_config, "refuse")
    extra = vllm_config.kv_transfer_config.kv_connector_extra_config
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    cp = getattr(parallel, "prefill_context_parallel_size", 1) * getattr(
        parallel, "decode_context_parallel_size", 1
    )
    arranged = {
        **how_computed(vllm_config),
        **{name: str(extra.get(name)) for name in _ARRANGES},
        **{name: os.environ.get(name) for name in _ARRANGES_HERE},
        "world": parallel.world_size,
    }
    return Namespace(
        model="+".join(model.hf_config.architectures or [type(model.hf_config).__name__]),
        revision=str(extra.get(WEIGHTS) or weights_of(vllm_config)),
        dtype=str(vllm_config.cache_config.cache_dtype),
        quantization=str(model.quantization or ""),
        layout=json.dumps(arranged, sort_keys=True, separators=(",", ":")),
        tp=parallel.tensor_parallel_size,
        pp=parallel.pipeline_parallel_size,
        cp=cp,
        engine=engine,
    )


def _refuse_what_lmcache_forgets(vllm_config: Any) -> None:
    """LMCache's hashes are made of tokens alone."""
    if vllm_config.lora_config is not None:
        raise ConfigError(
            "vLLM serves LoRA adapters, and LMCache's keys do not say which of them computed a "
            "chunk. Run it without LMCache, or with MemKVTier (docs/guides/vllm.md)"
        )
    if getattr(vllm_config.model_config, "enable_prompt_embeds", False):
        raise ConfigError(
            "vLLM takes prompts as embeddings (--enable-prompt-embeds), and LMCache's keys are "
            "made of tokens, which those have not. Run it without LMCache"
        )
