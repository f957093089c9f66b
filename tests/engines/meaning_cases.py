"""What the namespace of a vLLM is made of, with vLLM's own configuration; no engine is started.

`python -m tests.engines.meaning_cases MODEL` runs every `case_` here with an engine's Python and
prints a line of JSON: case → "ok" or what went wrong. test_vllm_parts.py asks for each.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from vllm.config import CacheConfig, ModelConfig
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import build_offloading_config
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
)
from vllm.v1.kv_offload.base import make_offload_key

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm import _vllm_fields as fields
from memkv_nixl.kvbm import _vllm_meaning as meaning
from memkv_nixl.kvbm._settings import TierSettings
from memkv_nixl.kvbm._vllm_requests import group_of
from memkv_nixl.kvbm._vllm_version import engine_name, refuse_unknown_vllm
from tests.engines.cpu_copy import CpuCopySpec

MODEL = Path(sys.argv[1] if len(sys.argv) > 1 else "")
SETTINGS = TierSettings(nodes=("n:1",))


def vllm_config(
    model: Path | None = None, extra: dict[str, Any] | None = None, **given: Any
) -> Any:
    """vLLM's configuration of the tiny model."""
    transfer = {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"cpu_bytes_to_use": 1 << 26, **(extra or {})},
    }
    arguments = {
        "model": str(model or MODEL),
        "skip_tokenizer_init": True,
        "dtype": "float32",
        "block_size": 128,
        "kv_transfer_config": transfer,
        **given,
    }
    return EngineArgs(**arguments).create_engine_config()


def spec_of(config: Any, heads: int = 4, dtype: torch.dtype = torch.float32) -> Any:
    """An offloading spec as OffloadingConnector makes it."""
    layers = [f"model.layers.{i}.self_attn.attn" for i in range(4)]
    attention = FullAttentionSpec(block_size=128, num_kv_heads=heads, head_size=64, dtype=dtype)
    cache = KVCacheConfig(
        num_blocks=8,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(layers, attention)],
    )
    return CpuCopySpec(build_offloading_config(config, cache))


def fingerprint(
    config: Any, settings: TierSettings = SETTINGS, engine: str = "vllm/0", **given: Any
) -> bytes:
    spec = spec_of(config, **given)
    space = meaning.namespace_of(spec, config, settings, spec.kv_bytes_per_chunk, engine)
    return space.fingerprint


@contextmanager
def refused(sentence: str) -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        assert sentence in str(error), error  # noqa: PT017 - there is no pytest here
    else:
        raise AssertionError(f"not refused: {sentence}")


@contextmanager
def copy_of_the_model() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(shutil.copytree(MODEL, Path(folder) / "copy"))


def case_the_same_is_the_same() -> None:
    assert fingerprint(vllm_config()) == fingerprint(vllm_config())


def case_the_same_weights_elsewhere_are_the_same() -> None:
    with copy_of_the_model() as copy:
        assert fingerprint(vllm_config(copy)) == fingerprint(vllm_config())


def case_a_bit_of_the_weights_counts() -> None:
    before = fingerprint(vllm_config())
    with copy_of_the_model() as copy:
        with (copy / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        assert fingerprint(vllm_config(copy)) != before


def case_said_weights_stand_for_the_files() -> None:
    said = TierSettings(nodes=("n:1",), weights="v7")
    with copy_of_the_model() as copy:
        (copy / "model.safetensors").unlink()
        assert fingerprint(vllm_config(copy), said) == fingerprint(vllm_config(), said)
        with refused("holds no .safetensors"):
            fingerprint(vllm_config(copy))
    assert fingerprint(vllm_config(), said) != fingerprint(vllm_config())


def case_the_parallel_degree_counts() -> None:
    one = fingerprint(vllm_config())
    two = fingerprint(vllm_config(tensor_parallel_size=2), heads=2)
    stages = fingerprint(vllm_config(pipeline_parallel_size=2))
    assert len({one, two, stages}) == 3


def case_overrides_of_the_model_count() -> None:
    rope = {"rope_theta": 50000.0, "rope_type": "default"}
    overridden = vllm_config(hf_overrides={"rope_parameters": rope})
    assert fingerprint(overridden) != fingerprint(vllm_config())


def case_the_longest_prompt_and_the_generation_count() -> None:
    """Of some models they decide the rotation and the scale of the attention."""
    short = vllm_config(max_model_len=256)
    overridden = vllm_config(override_generation_config={"attn_temperature_tuning": False})
    with copy_of_the_model() as copy:
        (copy / "generation_config.json").write_text('{"temperature": 0.25}')
        told = fingerprint(vllm_config(copy))
    found = {fingerprint(vllm_config()), fingerprint(short), fingerprint(overridden), told}
    assert len(found) == 4


def case_what_quantises_the_weights_and_the_cache_counts() -> None:
    changes: list[tuple[str, str, Any]] = [
        ("model_config", "quantization_config", {"ignore": ["lm_head"]}),
        ("cache_config", "mamba_cache_dtype", "float16"),
        ("cache_config", "mamba_ssm_cache_dtype", "float16"),
        ("cache_config", "kv_cache_dtype_skip_layers", ["0"]),
    ]
    found = {fingerprint(vllm_config())}
    for part, name, value in changes:
        config = vllm_config()
        assert getattr(getattr(config, part), name) != value
        object.__setattr__(getattr(config, part), name, value)
        found.add(fingerprint(config))
    assert len(found) == 1 + len(changes)


def case_memory_and_names_do_not_count() -> None:
    other = vllm_config(gpu_memory_utilization=0.5, served_model_name="other", seed=7)
    other.cache_config.num_gpu_blocks = 12345
    assert fingerprint(other) == fingerprint(vllm_config())


def case_every_field_of_vllm_was_thought_about() -> None:
    """A field that is new counts, so that nothing wrong is read; but somebody shall look at it."""
    for kind, counted, ignored in (
        (ModelConfig, fields.MODEL_COUNTED, fields.MODEL_IGNORED),
        (CacheConfig, fields.CACHE_COUNTED, fields.CACHE_IGNORED),
    ):
        there = {field.name for field in dataclasses.fields(kind)}
        assert there - counted - set(ignored) == set(), kind
        assert counted.isdisjoint(ignored)
        assert all(ignored.values())


def case_block_size_and_chunks_count() -> None:
    one = fingerprint(vllm_config())
    chunks = fingerprint(vllm_config(extra={"blocks_per_chunk": 2}))
    assert one != chunks


def case_types_count() -> None:
    one = fingerprint(vllm_config())
    half = fingerprint(vllm_config(dtype="bfloat16"), dtype=torch.bfloat16)
    assert one != half


def case_hash_salt_generation_and_engine_count() -> None:
    config = vllm_config()
    cbor = vllm_config(prefix_caching_hash_algo="sha256_cbor")
    found = [
        fingerprint(config),
        fingerprint(cbor),
        fingerprint(config, TierSettings(nodes=("n:1",), salt="s")),
        fingerprint(config, TierSettings(nodes=("n:1",), generation=1)),
        fingerprint(config, engine="vllm/1"),
    ]
    assert len(set(found)) == 5


def case_nodes_and_deadlines_do_not_count() -> None:
    other = TierSettings(nodes=("m:2",), fetch_deadline_ms=1, group_blocks=16)
    assert fingerprint(vllm_config(), other) == fingerprint(vllm_config())


def case_random_seeded_hashes_are_refused() -> None:
    for name in ("xxhash", "xxhash_cbor"):
        config = vllm_config()
        config.cache_config.prefix_caching_hash_algo = name
        with refused("--prefix-caching-hash-algo sha256"):
            fingerprint(config)


def case_adapters_are_refused_unless_fixed() -> None:
    config = vllm_config(enable_lora=True)
    with refused('"lora": "fixed"'):
        fingerprint(config)
    fixed = TierSettings(nodes=("n:1",), lora="fixed")
    assert fingerprint(config, fixed) == fingerprint(vllm_config(), fixed)


def case_made_up_weights_are_refused() -> None:
    config = vllm_config(load_format="dummy")
    with refused("--load-format dummy"):
        fingerprint(config)
    fingerprint(config, TierSettings(nodes=("n:1",), weights="made up"))


def case_other_loaders_are_refused() -> None:
    named = TierSettings(nodes=("n:1",), weights="named")
    for name in ("sharded_state", "runai_streamer", "tensorizer", "ipc_cache", "a_plugins"):
        config = vllm_config()
        object.__setattr__(config.load_config, "load_format", name)
        with refused(f"which files --load-format {name} loads"):
            fingerprint(config)
        fingerprint(config, named)
    config = vllm_config(model_loader_extra_config={"pattern": "other-*.safetensors"})
    with refused("says pattern, which may name other weights"):
        fingerprint(config)
    fingerprint(config, named)
    threads = vllm_config(model_loader_extra_config={"enable_multithread_load": True})
    assert fingerprint(threads) == fingerprint(vllm_config())


def case_code_of_the_model_counts_where_it_is_run() -> None:
    found = set()
    with copy_of_the_model() as copy:
        for text in ("scale = 1", "scale = 2"):
            (copy / "modeling.py").write_text(text)
            found.add(fingerprint(vllm_config(copy, trust_remote_code=True)))
        config = vllm_config(copy, trust_remote_code=True)
        config.model_config.hf_config.auto_map = {"AutoModel": "somebody/code--modeling.Model"}
        with refused("code comes from somebody/code"):
            fingerprint(config)
    assert len(found) == 2


def case_scales_of_run_time_and_new_weights_are_refused() -> None:
    config = vllm_config()
    config.cache_config.calculate_kv_scales = True
    with refused("--calculate-kv-scales"):
        fingerprint(config)
    config = vllm_config()
    config.weight_transfer_config = object()
    with refused("--weight-transfer-config"):
        fingerprint(config)


def case_the_configuration_is_found_where_its_caller_holds_it() -> None:
    def maker(vllm_config: Any) -> Any:
        return meaning.vllm_config_of(spec)

    config = vllm_config()
    spec = spec_of(config)
    assert maker(config) is config
    with refused("cannot see vLLM's configuration"):
        meaning.vllm_config_of(spec_of(vllm_config()))


def case_a_model_that_is_nowhere_is_said() -> None:
    config = vllm_config()
    config.model_config.model = config.model_config.model_weights = "nobody/nothing"
    with refused("neither a folder nor in the Hugging Face cache"):
        fingerprint(config)


def case_only_known_versions() -> None:
    import vllm

    refuse_unknown_vllm(vllm.__version__)
    refuse_unknown_vllm("0.31.0")
    refuse_unknown_vllm("0.32.5+cu130")
    for version in ("0.30.2", "0.34.0", "1.0.0", "0.3", "dev"):
        with refused("knows 0.31, 0.32"):
            refuse_unknown_vllm(version)
    assert engine_name("0.32.0+cpu") == "vllm/0.32.0"


def case_a_key_says_its_group() -> None:
    assert group_of(make_offload_key(b"x" * 32, 3)) == 3


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}


def outcome_of(case: Any) -> str:
    try:
        case()
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        return traceback.format_exc()
    return "ok"


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(case) for name, case in CASES.items()}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
