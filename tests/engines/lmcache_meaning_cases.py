"""What MemKVLMCacheConnector makes of a vLLM's configuration; no engine is started.

`python -m tests.engines.lmcache_meaning_cases MODEL` runs every `case_` here with LMCache's Python
and prints a line of JSON, as meaning_cases.py does.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from lmcache.integration.vllm.lmcache_mp_connector import (
    LMCacheMPConnector,
    get_dcp_decorated_model_name,
)
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

from memkv_nixl.cli._config_lmcache import connector_config
from memkv_nixl.kvbm._lmcache_keys import meaning_of
from memkv_nixl.kvbm._lmcache_meaning import marked_config
from tests.engines.meaning_cases import copy_of_the_model, outcome_of, refused, vllm_config

ENGINE = "lmcache/0 vllm/0"


def config_of(*given: Any, weights: str | None = None, **more: Any) -> Any:
    """vLLM's configuration with the connector that `memkv config lmcache` prints."""
    return vllm_config(*given, kv_transfer_config=connector_config(5555, weights), **more)


def name_of(config: Any, engine: str = ENGINE) -> str:
    """The name that LMCache's keys bear."""
    name: str = get_dcp_decorated_model_name(marked_config(config, engine))
    return name


def meaning(config: Any, engine: str = ENGINE) -> str:
    said = meaning_of(name_of(config, engine))
    assert said is not None
    return said


def case_the_name_is_the_model_and_its_meaning() -> None:
    config = config_of()
    before = config.model_config.model
    name = name_of(config)
    assert name.startswith(f"{before}##memkv-")
    assert config.model_config.model == before  # vLLM's own is left alone
    assert meaning(config_of()) == meaning(config)


def case_the_same_weights_elsewhere_are_the_same() -> None:
    with copy_of_the_model() as copy:
        assert meaning(config_of(copy)) == meaning(config_of())


def case_a_bit_of_the_weights_counts() -> None:
    with copy_of_the_model() as copy:
        with (copy / "model.safetensors").open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        assert meaning(config_of(copy)) != meaning(config_of())


def case_said_weights_stand_for_the_files() -> None:
    with copy_of_the_model() as copy:
        (copy / "model.safetensors").unlink()
        said = meaning(config_of(copy, weights="v7"))
        with refused("holds no .safetensors"):
            meaning(config_of(copy))
    assert said == meaning(config_of(weights="v7"))
    assert said != meaning(config_of(weights="v8"))


def case_whatever_may_change_a_block_counts() -> None:
    configs = [
        config_of(),
        config_of(tensor_parallel_size=2),
        config_of(pipeline_parallel_size=2),  # as many ranks, divided in another way
        config_of(dtype="bfloat16"),
        config_of(max_model_len=256),
        config_of(override_generation_config={"attn_temperature_tuning": False}),
        config_of(hf_overrides={"rope_parameters": {"rope_theta": 5e4, "rope_type": "default"}}),
    ]
    half = config_of()
    half.cache_config.cache_dtype = "fp8_e4m3"
    assert len({meaning(config) for config in [*configs, half]}) == len(configs) + 1
    assert meaning(config_of(), "lmcache/1 vllm/0") != meaning(config_of())


def case_how_lmcache_moves_bytes_counts() -> None:
    config = config_of()
    extra = config.kv_transfer_config.kv_connector_extra_config
    extra["lmcache.mp.mp_transfer_mode"] = "engine_driven"
    assert meaning(config) != meaning(config_of())
    with environment("LMCACHE_MP_TRANSFER_MODE", "engine_driven"):
        assert meaning(config_of()) not in (meaning(config), None)


def case_a_worker_says_what_the_scheduler_says() -> None:
    """Of what differs between the processes of an engine nothing counts."""
    worker = config_of(tensor_parallel_size=2)
    worker.parallel_config.rank = 1
    worker.cache_config.num_gpu_blocks = 12345
    assert meaning(worker) == meaning(config_of(tensor_parallel_size=2))


def case_what_lmcache_forgets_is_refused() -> None:
    config = config_of()
    config.lora_config = SimpleNamespace(max_loras=1)
    with refused("LoRA"):
        meaning(config)
    config = config_of()
    config.model_config.enable_prompt_embeds = True
    with refused("--enable-prompt-embeds"):
        meaning(config)
    with refused("--load-format dummy"):
        meaning(config_of(load_format="dummy"))


def case_vllm_finds_the_connector() -> None:
    config = config_of()
    found = KVConnectorFactory.get_connector_class(config.kv_transfer_config)
    assert found.__name__ == "MemKVLMCacheConnector"
    assert issubclass(found, LMCacheMPConnector)


@contextmanager
def environment(name: str, value: str) -> Any:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    wanted = sys.argv[2:] or list(CASES)
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(CASES[name]) for name in wanted}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
