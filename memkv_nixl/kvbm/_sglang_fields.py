"""Which settings of SGLang leave the bytes of a page alone.

Everything else counts, also what a later SGLang adds: one setting too many in a namespace costs
hits, one too few costs wrong answers. Settings that only say which weights are loaded stand here,
too: their bytes are in the digest.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Set
from typing import Any

# Whole groups of SGLang's settings, by the path of their group.
HARMLESS_GROUPS = {
    "device": "the device itself is named apart",
    "disagg": "who prefills and who decodes",
    "observability": "what is told to whom",
    "serving": "requests and answers; `weight_version` is watched",
    "exec.graph": "how kernels are started",
    "exec.overlap": "when they are",
    "exec.offload": "where weights wait",
}
_SCHEDULING = (
    *("mem_fraction_static", "max_running_requests", "max_queued_requests", "max_total_tokens"),
    *("chunked_prefill_size", "prefill_decode_interval", "prefill_decode_interval_min_bs"),
    *("enable_dynamic_chunking", "max_prefill_tokens", "prefill_max_requests", "schedule_policy"),
    *("enable_priority_scheduling", "disable_priority_preemption", "default_priority_value"),
    *("abort_on_priority_when_disabled", "schedule_low_priority_values_first"),
    *("priority_scheduling_preemption_threshold", "retraction_policy", "schedule_conservativeness"),
    *("swa_full_tokens_ratio", "_swa_full_tokens_ratio_explicitly_set", "disable_overlap_schedule"),
    *("num_continuous_decode_steps", "scheduler_recv_interval", "enable_mixed_chunk"),
    *("max_mamba_cache_size", "mamba_full_memory_ratio", "enable_prefill_delayer"),
    *("prefill_delayer_max_delay_passes", "prefill_delayer_token_usage_low_watermark"),
    *("prefill_delayer_forward_passes_buckets", "prefill_delayer_wait_seconds_buckets"),
    *("prefill_delayer_queue_min_ratio", "prefill_delayer_max_delay_ms", "min_free_slots_delay"),
)
_CACHING = (
    *("radix_eviction_policy", "_radix_eviction_policy_explicitly_set", "disable_radix_cache"),
    *("radix_eviction_policy_config", "enable_session_radix_cache", "radix_cache_backend"),
    *("enable_hierarchical_cache", "hicache_host_memory_mode", "hicache_ratio", "hicache_size"),
    *("hicache_host_memory_fraction", "hicache_write_policy", "hicache_io_backend"),
    *("hicache_mem_layout", "hicache_storage_backend", "hicache_storage_prefetch_policy"),
    *("hicache_storage_backend_extra_config", "hicache_storage_prefetch_retry_poll_interval"),
    *("hicache_storage_prefetch_retry_max_attempts", "enable_lmcache", "lmcache_config_file"),
    *("enable_flexkv", "flexkv_config_file"),
)
_PLACING = (
    *("nccl_port", "dist_timeout", "dist_init_addr", "gated_launch_port", "nnodes", "node_rank"),
    *("pp_max_micro_batch_size", "pp_async_batch_depth", "dp_size", "attn_dp_size"),
    *("load_balance_method", "enable_dp_attention_local_control_broadcast", "enable_p2p_check"),
    *("expert_distribution_recorder_mode", "expert_distribution_recorder_buffer_size"),
    *("expert_balancedness_report_mode", "mooncake_ib_device", "pre_warm_nccl"),
    *("enable_layerwise_nvtx_marker", "spec_trace_dir"),
)
_LOADING = (
    *("model_path", "revision", "download_dir", "speculative_draft_model_path"),
    *("speculative_draft_model_revision", "weight_loader_disable_mmap"),
    *("weight_loader_prefetch_checkpoints", "weight_loader_prefetch_num_threads"),
    *("weight_loader_drop_cache_after_load", "delete_ckpt_after_loading", "model_checksum"),
    *("modelopt_checkpoint_save_path", "modelopt_export_path", "engine_info_bootstrap_port"),
    *("weight_cache_timeout", "quantization_param_path"),
)
_ASKING = (
    *("sampling_backend", "grammar_backend", "disable_outlines_disk_cache"),
    *("enable_memory_saver", "enable_weights_cpu_backup", "enable_draft_weights_cpu_backup"),
    *("enable_custom_logit_processor", "enable_watermark", "watermark_config", "watermark_key"),
    *("watermark_key_b", "watermark_context_window", "watermark_mixing_probability"),
    *("watermark_max_probability", "watermark_default_enabled", "watermark_enforce_all"),
    *("mm_processor_worker_num", "mm_io_worker_num", "allowed_media_domains"),
    *("media_url_max_file_size_mb", "mm_preprocess_cache_size_mb", "limit_mm_data_per_request"),
    *("enable_mm_global_cache", "mm_global_cache_backend", "mm_feature_transport"),
    *("enable_prefix_mm_cache", "enable_broadcast_mm_inputs_process"),
)
HARMLESS = frozenset((*_SCHEDULING, *_CACHING, *_PLACING, *_LOADING, *_ASKING))


def meaning_of(values: Mapping[str, Any], groups: Mapping[str, str]) -> dict[str, Any]:
    """What counts of SGLang's settings, by name; `groups` has the path of each one's group."""
    return {
        name: plain(value)
        for name, value in sorted(values.items())
        if name not in HARMLESS and not _harmless_group(groups.get(name, ""))
    }


def _harmless_group(path: str) -> bool:
    return any(path == group or path.startswith(f"{group}.") for group in HARMLESS_GROUPS)


def plain(value: Any) -> Any:
    """A value of a setting as JSON has it; whatever is not known is told by its text."""
    match value:
        case enum.Enum():
            return value.name
        case None | bool() | int() | float() | str():
            return value
        case Mapping():
            return {str(name): plain(item) for name, item in value.items()}
        case list() | tuple():
            return [plain(item) for item in value]
        case Set():
            return sorted(map(str, value))
    return str(value)
