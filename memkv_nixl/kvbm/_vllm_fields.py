"""Which fields of vLLM's configuration change a block's bytes.

Every field counts that is not named here as one that does not, so that a field which a later vLLM
adds costs hits, never a wrong block. The fields that count are named too, for the test that asks of
each vLLM whether somebody has thought about all of its fields.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Set
from typing import Any

_PLACE = "a name or place; the bytes that lie there count"
_TOKENS = "decides which tokens there are, and vLLM's keys are made of these"
_OUTPUT = "works on what the last layer gives, after every block"
_MEMORY = "how much memory there is, and what becomes of it"
_ROUNDING = "the same computation in other kernels"
_MODEL = "what comes of it stands in hf_config"
_DERIVED = "follows from fields that count"


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


MODEL_COUNTED = _names(
    """runner convert trust_remote_code dtype hf_config hf_text_config is_submodel_config
    code_revision max_model_len spec_target_max_model_len quantization quantization_config
    disable_sliding_window enable_prompt_embeds model_class_overrides override_generation_config
    model_impl pooler_config multimodal_config"""
)
MODEL_IGNORED = {
    **dict.fromkeys(("model", "model_weights", "revision", "served_model_name"), _PLACE),
    "generation_config": "a place; what it says counts, see generation_of",
    **dict.fromkeys(("hf_config_path", "hf_overrides", "config_format", "hf_token"), _MODEL),
    **dict.fromkeys(
        ("tokenizer", "tokenizer_mode", "tokenizer_revision", "skip_tokenizer_init"), _TOKENS
    ),
    **dict.fromkeys(("io_processor_plugin", "renderer_num_workers"), _TOKENS),
    **dict.fromkeys(("allowed_local_media_path", "allowed_media_domains"), "a permission"),
    "allow_deprecated_quantization": "a permission",
    "seed": "of samples, and of made-up weights, which have to be named",
    **dict.fromkeys(("enforce_eager", "disable_cascade_attn"), _ROUNDING),
    **dict.fromkeys(
        ("return_sampling_mask", "max_logprobs", "logprobs_mode", "use_fp64_gumbel"), _OUTPUT
    ),
    **dict.fromkeys(("logits_processors", "word_embeddings_untied_by_checkpoint"), _OUTPUT),
    "enable_trace_replay": "notes what was done",
    **dict.fromkeys(
        _names(
            """enable_sleep_mode sleep_preserve_parameter_names sleep_mode_backend
        sleep_mode_offload_cudagraph enable_nccl_comm_suspend enable_cumem_allocator"""
        ),
        _MEMORY,
    ),
}
CACHE_COUNTED = _names(
    """block_size prefix_match_unit cache_dtype is_attention_free sliding_window
    prefix_caching_hash_algo kv_cache_dtype_skip_layers mamba_page_size_padded
    skip_page_size_padded mamba_block_size mamba_cache_dtype mamba_ssm_cache_dtype mamba_cache_mode
    enable_mamba_shared_prefix_checkpoint replayssm_buffer_len use_replayssm use_kda_recoverssm
    kv_sharing_fast_prefill swa_bounded_replay"""
)
CACHE_IGNORED = {
    **dict.fromkeys(
        _names(
            """gpu_memory_utilization num_gpu_blocks_override num_gpu_blocks num_cpu_blocks
        kv_cache_size_tokens kv_cache_max_concurrency kv_cache_memory_bytes kv_offloading_size
        kv_offloading_backend"""
        ),
        _MEMORY,
    ),
    **dict.fromkeys(
        _names(
            """user_specified_block_size user_specified_mamba_block_size _block_size_resolved
        effective_attention_block_size cache_hit_alignment_tokens"""
        ),
        _DERIVED,
    ),
    **dict.fromkeys(
        ("kv_cache_layout", "hash_block_size"), "counts as the offloading configuration says it"
    ),
    "enable_prefix_caching": "whether blocks are looked for, not what is in them",
    "prefix_cache_retention_interval": "which blocks are kept, not what is in them",
}
# Of what a model's configuration says: where it was found, and by whose version.
_SAYS_WHERE = ("_name_or_path", "name_or_path", "transformers_version")


def model_meaning(model: Any) -> dict[str, Any]:
    """What of a ModelConfig counts."""
    said = _fields(model, MODEL_IGNORED)
    # vLLM may shorten max_model_len to fit its memory, after the model was made with this one.
    said["original_max_model_len"] = getattr(model, "original_max_model_len", None)
    said["generation"] = generation_of(model)
    return said


def cache_meaning(cache: Any) -> dict[str, Any]:
    """What of a CacheConfig counts."""
    return _fields(cache, CACHE_IGNORED)


def generation_of(model: Any) -> Any:
    """The generation configuration, which some models (Llama 4) take their attention's scale from.

    The model's own stands for `vllm`, too, as it does where the models ask for it.
    """
    said = model.try_get_generation_config()
    return {name: plain(value) for name, value in said.items() if name not in _SAYS_WHERE}


def _fields(config: Any, ignored: Mapping[str, str]) -> dict[str, Any]:
    names = (field.name for field in dataclasses.fields(config))
    return {name: plain(getattr(config, name, None)) for name in names if name not in ignored}


def plain(value: Any) -> Any:
    """A value of a configuration as JSON has it; whatever is not known is told by its text."""
    match value:
        case None | bool() | int() | float() | str():
            return value.name if isinstance(value, enum.Enum) else value
        case enum.Enum():
            return value.name
        case type():
            return f"{value.__module__}.{value.__qualname__}"
        case Mapping():
            return {str(k): plain(v) for k, v in value.items() if k not in _SAYS_WHERE}
        case list() | tuple():
            return [plain(item) for item in value]
        case Set():
            return sorted(map(str, value))
    for method in ("to_dict", "model_dump"):  # of transformers, of pydantic
        if hasattr(value, method):
            return plain(getattr(value, method)())
    if dataclasses.is_dataclass(value):
        return _fields(value, {})
    return str(value)
