"""vLLM with MemKVTier, for real: scheduler, tiers and look-ups are vLLM's own, on the CPU.

The tests share two engines and a pool of three nodes and run in the order they stand here.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines import venvs
from tests.engines.conftest import Pool, prompt
from tests.engines.engine import BLOCK, Answer, Engine

LONG = 4700
WHOLE = LONG // BLOCK * BLOCK  # tokens of whole blocks
CLOSE = 1e-4  # of logprobs whose prompts were computed in other pieces
WARM_MOST = 0.30


def same(one: Answer, other: Answer) -> bool:
    """Whether two engines say the same of a prompt, however much of it each had to compute."""
    return one.tokens == other.tokens and all(
        math.isclose(a, b, abs_tol=CLOSE) for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


@pytest.fixture(autouse=True)
def pool_is_whole(pool: Pool) -> None:
    """Whatever a test did to the nodes, the next one finds all of them."""
    for node in pool.cluster.nodes:
        if not node.running:
            pool.cluster.restart_node(node.index)


def test_cold_then_a_new_process_then_warm(
    request: pytest.FixtureRequest, first: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    question = prompt(1, LONG)
    cold = first.generate(question)
    assert (cold.cached, cold.from_pool) == (0, 0)
    local = first.generate(question)  # out of the engine's own cache
    assert (local.cached, local.from_pool) == (WHOLE, 0)
    timed = prompt(2, LONG)
    cold_s = first.generate(timed, max_tokens=1).seconds
    first.generate(prompt(3, 300))  # vLLM copies a prompt's last blocks in its next step

    second: Engine = request.getfixturevalue("second")
    second.generate(prompt(3, 600), max_tokens=1)  # its first request warms up the engine itself
    warm = second.generate(question)
    assert (warm.cached, warm.from_pool) == (WHOLE, WHOLE)
    assert same(warm, cold)
    # The same pieces were computed, over the same bytes: equal to the last digit.
    assert (warm.tokens, warm.logprobs) == (local.tokens, local.logprobs)
    timed_warm = second.generate(timed, max_tokens=1)
    assert timed_warm.from_pool == WHOLE
    warm_s = timed_warm.seconds
    with capsys.disabled():
        print(
            f"\ntime to the first token of {LONG} tokens, {WHOLE} of them from the pool: "
            f"cold {cold_s:.3f} s, warm {warm_s:.3f} s, warm/cold {warm_s / cold_s:.3f}"
        )
    assert warm_s <= WARM_MOST * cold_s


def test_what_nobody_computed_is_not_found(second: Engine) -> None:
    """The negative control: hits are no artefact of the counting."""
    before = second.metrics()
    answer = second.generate(prompt(4, 1000))
    assert (answer.cached, answer.from_pool) == (0, 0)
    assert second.grown(before, "vllm:kv_offload_memkv_asked") == 1000 // BLOCK
    assert second.grown(before, "vllm:kv_offload_memkv_found") == 0


def test_engines_share_in_both_directions(first: Engine, second: Engine) -> None:
    question = prompt(5, 1500)
    assert second.generate(question).from_pool == 0
    assert first.generate(question).from_pool == 1500 // BLOCK * BLOCK


def test_a_salt_is_a_wall(first: Engine, second: Engine) -> None:
    question = prompt(6, 1500)
    cold = first.generate(question, salt="alice")
    assert second.generate(question, salt="bob").from_pool == 0
    assert second.generate(question).from_pool == 0
    warm = second.generate(question, salt="alice")
    assert warm.from_pool == 1500 // BLOCK * BLOCK
    assert same(warm, cold)


def test_a_router_hears_what_lies_in_the_pool(first: Engine, second: Engine) -> None:
    question, blocks = prompt(50, 1500), 1500 // BLOCK
    first.events()
    first.generate(question)
    stored = in_the_pool(first)
    assert sum(event["blocks"] for event in stored) == blocks
    assert sum(event["tokens"] for event in stored) == blocks * BLOCK
    second.events()
    assert second.generate(question).from_pool == blocks * BLOCK
    # Found and loaded: from now on this engine is credited for them, too.
    assert sum(event["tokens"] for event in in_the_pool(second)) == blocks * BLOCK


def in_the_pool(engine: Engine) -> list[dict[str, Any]]:
    """What an engine said is stored in a medium that is neither GPU nor host memory."""
    engine.generate(prompt(51, 20), max_tokens=2)  # events are published with a step
    events = [event for event in engine.events() if event["medium"] not in ("GPU", "CPU")]
    seen = {(e["kind"], e["medium"], e["locality"], e["ownership"]) for e in events}
    assert seen == {("BlockStored", "STORAGE", None, None)}
    return events


def test_what_is_there_is_not_sent_again(first: Engine, second: Engine) -> None:
    question = prompt(7, 1500)
    first.generate(question)
    second.generate(question)
    before = second.metrics()
    second.forget()
    second.generate(question)
    assert second.grown(before, "vllm:kv_offload_memkv_stored_bytes") == 0


def test_a_rotten_block_is_computed_and_the_rest_is_used(
    pool: Pool, first: Engine, second: Engine
) -> None:
    question = prompt(8, LONG)
    cold = first.generate(question)
    rot(pool)
    meet_again(first, second)
    before = second.metrics()
    warm = second.generate(question)
    assert same(warm, cold)
    assert second.grown(before, "vllm:kv_offload_memkv_loads_failed") > 0
    assert second.grown(before, "vllm:kv_offload_memkv_loaded") > 0  # and these were kept


def meet_again(first: Engine, second: Engine) -> None:
    """Until both engines have found the restarted nodes: one reads what the other put."""
    for seed in range(900, 940):
        fresh = prompt(seed, 6 * BLOCK + 50)
        first.generate(fresh)
        if second.generate(fresh).from_pool == 6 * BLOCK:
            return
    raise AssertionError("the engines do not find the nodes again")


def rot(pool: Pool) -> None:
    """Flips bits in every few blocks of all nodes, which still say that they have them."""
    for node in pool.cluster.nodes:
        pool.cluster.stop_node(node.index)
        with node.device.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            for place in range(0, size, 6 << 20):
                for unit in range(place + 40_000, place + (1 << 20), 64 << 10):
                    file.seek(unit)
                    byte = file.read(1)
                    if byte not in (b"", b"\0"):
                        file.seek(unit)
                        file.write(bytes([byte[0] ^ 1]))
        pool.cluster.restart_node(node.index)


def test_the_store_dies_in_the_middle_of_a_load(pool: Pool, first: Engine, second: Engine) -> None:
    question = prompt(9, 8000)
    cold = first.generate(question)
    killed: list[int] = []
    for index, gate in enumerate(pool.gates):

        def kill(index: int = index) -> None:
            pool.cluster.kill_node(index)
            killed.append(index)

        gate.after(3 << 20, kill)
    warm = second.generate(question)
    assert killed
    assert same(warm, cold)
    assert warm.from_pool < 8000 // BLOCK * BLOCK


def test_one_node_of_three_is_gone(pool: Pool, first: Engine, second: Engine) -> None:
    questions = [prompt(seed, 3 * BLOCK + 50) for seed in range(200, 216)]
    cold = [first.generate(question) for question in questions]
    pool.cluster.kill_node(1)
    warm = [second.generate(question) for question in questions]
    assert all(same(a, b) for a, b in zip(warm, cold, strict=True))
    # Two of three prompts begin on a node that lives: fewer than 3 of 16 are one chance in 80,000.
    assert sum(answer.from_pool > 0 for answer in warm) >= 3


def test_without_a_pool_it_goes_on_and_finds_it_again(
    pool: Pool, first: Engine, second: Engine
) -> None:
    question = prompt(30, 1500)
    cold = first.generate(question)
    for index in range(3):
        pool.cluster.kill_node(index)
    alone = second.generate(question)
    assert alone.from_pool == 0
    assert same(alone, cold)
    for index in range(3):
        pool.cluster.restart_node(index)
    # The breaker asks seldom, and a killed node may have lost the last blocks: these come again.
    for _ in range(40):
        second.forget()
        found = second.generate(question).from_pool
        if found == 1500 // BLOCK * BLOCK:
            break
    assert found == 1500 // BLOCK * BLOCK


def test_other_weights_under_the_same_path_miss(
    pool: Pool,
    model: Path,
    make_model: Callable[[Path, int], Path],
    first: Engine,
    tmp_path: Path,
) -> None:
    question = prompt(40, 1500)
    before = first.generate(question)
    for made in make_model(tmp_path / "other", 1).iterdir():
        made.replace(model / made.name)
    with Engine(model, pool.nodes, tmp_path / "engine") as engine:
        after = engine.generate(question)
    make_model(tmp_path / "back", 0)
    for made in (tmp_path / "back").iterdir():
        made.replace(model / made.name)
    assert after.from_pool == 0
    assert after.tokens != before.tokens  # other weights, indeed


def test_another_tensor_parallel_degree_misses(
    pool: Pool, model: Path, first: Engine, tmp_path: Path
) -> None:
    question = prompt(41, 1500)
    one = first.generate(question)
    with Engine(
        model,
        pool.nodes,
        tmp_path / "engine",
        tensor_parallel_size=2,
        environment={"VLLM_CPU_OMP_THREADS_BIND": "0|1"},
    ) as engine:
        two = engine.generate(question)
        engine.forget()
        again = engine.generate(question)
    assert two.from_pool == 0
    assert same(two, one)
    assert again.from_pool == 1500 // BLOCK * BLOCK  # its own
    assert same(again, one)


@pytest.mark.parametrize("name", sorted(set(venvs.ENGINES) - {venvs.NEWEST}))
def test_the_other_known_vllms(pool: Pool, model: Path, tmp_path: Path, name: str) -> None:
    """Cold, then with its own caches emptied: what comes back comes from the pool."""
    if not venvs.is_there(name):
        pytest.skip(f"{name} is not installed: ./dev engines {name}")
    question = prompt(60, 1500)
    with Engine(model, pool.nodes, tmp_path, venv=name) as engine:
        cold = engine.generate(question)
        engine.forget()
        warm = engine.generate(question)
    assert cold.from_pool == 0
    assert warm.from_pool == 1500 // BLOCK * BLOCK
    assert same(warm, cold)
