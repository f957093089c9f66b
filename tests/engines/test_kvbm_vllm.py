"""KVBM, the stock wheel, and MemKVTier side by side in vLLM on the CPU, the longest hit loaded.

KVBM's connector runs as kvbm_on_cpu.py lets it; scheduler, tiers, look-ups and the connector that
chooses are what a user gets. Hits are vLLM's own count.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import kvbm, venvs
from tests.engines.conftest import Pool, prompt
from tests.engines.engine import BLOCK, Answer, Engine, engine_arguments

TOKENS = 1500
WHOLE = TOKENS // BLOCK * BLOCK
SHORT = 2 * BLOCK  # what KVBM alone has, where it has less
LOADED = "vllm:kv_offload_memkv_loaded"
# A cache in which the longest prompt here has room, and little else.
SMALL = {"num_gpu_blocks_override": 24, "max_model_len": 22 * BLOCK}
Start = Callable[..., Engine]
_others = itertools.count(8000)


def transfer_config(model: Path, nodes: list[str], **wrapper: str) -> dict[str, Any]:
    """The JSON of docs/guides/kvbm.md, with the parts that run on a CPU."""
    tier = engine_arguments(model, nodes, {}, "")["kv_transfer_config"]
    policy = tier.pop("kv_load_failure_policy")
    block_manager = {
        "kv_connector": "DynamoConnector",
        "kv_connector_module_path": "tests.engines.kvbm_on_cpu",
        "kv_role": "kv_both",
    }
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": {"connectors": [block_manager, tier]},
        **wrapper,
    }


@pytest.fixture(scope="module")
def start(pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts an engine with both."""
    if not venvs.is_there(kvbm.VENV):
        pytest.skip(f"{kvbm.VENV} is not installed: ./dev engines {kvbm.VENV}")
    stand_ins = kvbm.build(tmp_path_factory.mktemp("stand-ins"))

    def make(name: str, longest: bool = True) -> Engine:
        folder = tmp_path_factory.mktemp(name)
        path = {"kv_connector_module_path": "memkv_nixl.kvbm.longest_hit"} if longest else {}
        return Engine(
            model,
            pool.nodes,
            folder,
            venv=kvbm.VENV,
            environment={
                **kvbm.environment(stand_ins, folder, host_blocks=128, disk_blocks=64),
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            },
            kv_transfer_config=transfer_config(model, pool.nodes, **path),
            **SMALL,
        )

    return make


@pytest.fixture(scope="module")
def elsewhere(
    start: Start, pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Engine]:
    """A vLLM with the tier alone, on the same pool."""
    with Engine(model, pool.nodes, tmp_path_factory.mktemp("elsewhere"), **SMALL) as engine:
        yield engine


def same(one: Answer, other: Answer) -> bool:
    return one.tokens == other.tokens and all(
        math.isclose(a, b, abs_tol=1e-4) for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


def push_out(engine: Engine) -> None:
    """Fills the engine's own cache with other prompts. It cannot be emptied: until its next step
    KVBM holds a block of the last request. What was being saved before, is by then."""
    for _ in range(3):
        engine.generate(prompt(next(_others), TOKENS), max_tokens=1)


def beginning_here_all_elsewhere(engine: Engine, elsewhere: Engine, seed: int) -> Answer:
    """KVBM has the first blocks of a prompt, the pool all of them."""
    question = prompt(seed, TOKENS)
    assert engine.generate(question[: SHORT + 5]).cached == 0
    whole = elsewhere.generate(question)
    elsewhere.generate(prompt(next(_others), 300))  # a prompt's last blocks go with the next step
    push_out(engine)
    warm = engine.generate(question)
    assert same(warm, whole)
    return warm


def behind_a_load(engine: Engine, seed: int) -> tuple[Answer, Answer]:
    """A prompt that goes on where KVBM's hit ends, twice: computed behind it, then out of KVBM."""
    longer = prompt(seed, TOKENS)[:WHOLE] + prompt(seed + 100, 1000)
    computed = engine.generate(longer)
    assert computed.from_pool == WHOLE
    push_out(engine)
    loaded = engine.generate(longer)
    assert loaded.from_pool == len(longer) // BLOCK * BLOCK
    return computed, loaded


def test_the_first_hit_hides_the_longer_one(start: Start, elsewhere: Engine) -> None:
    """vLLM's own MultiConnector; what the connector of ours is for."""
    with start("stock", longest=False) as engine:
        assert beginning_here_all_elsewhere(engine, elsewhere, 81).from_pool == SHORT


def test_under_stock_vllm_kvbm_hands_out_wrong_bytes(start: Start) -> None:
    """Not ours to mend, but the reason for `KvbmManners`: should this fail, look whether it is."""
    with start("wrong", longest=False) as engine:
        engine.generate(prompt(85, TOKENS))
        push_out(engine)
        computed, loaded = behind_a_load(engine, 85)
    assert not same(loaded, computed)


def test_the_longest_hit_is_loaded_and_kvbm_stays_right(start: Start, elsewhere: Engine) -> None:
    with start("longest") as engine:
        cold = engine.generate(prompt(82, TOKENS))
        assert (cold.cached, cold.from_pool) == (0, 0)
        push_out(engine)
        local = engine.generate(prompt(82, TOKENS))  # of equals the first: KVBM
        assert local.from_pool == WHOLE
        assert same(local, cold)
        push_out(engine)
        computed, loaded = behind_a_load(engine, 82)
        assert same(loaded, computed)

        before = engine.metrics()
        warm = beginning_here_all_elsewhere(engine, elsewhere, 83)
        assert warm.from_pool == WHOLE
        assert engine.grown(before, LOADED) >= (WHOLE - SHORT) // BLOCK

    with start("fresh") as engine:  # a new process, which has nothing of its own
        again = engine.generate(prompt(82, TOKENS))
        assert (again.cached, again.from_pool) == (WHOLE, WHOLE)
        assert same(again, cold)
