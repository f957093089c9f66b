"""The LMCache server with MemKVAdapter and vLLM with MemKVLMCacheConnector, for real, on the CPU.

The tests share a pool of three nodes, run in the order they stand here, and both the server and the
engine are started anew before anything has to come out of the pool.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.cli._config_lmcache import connector_config
from tests.engines import venvs
from tests.engines.conftest import Pool, prompt
from tests.engines.engine import Answer, Engine
from tests.engines.lmcache_server import CHUNK, NAME, Server
from tests.engines.test_vllm import same

LONG = 2400
WHOLE = LONG // CHUNK * CHUNK  # tokens of whole chunks
BOUND_S = 60.0


class Pair:
    """A server and an engine on it."""

    def __init__(self, server: Server, engine: Engine) -> None:
        self.server = server
        self.engine = engine

    def generate(self, question: list[int], salt: str | None = None) -> tuple[Answer, int, int]:
        """What the engine says, and the tokens that LMCache says came from its L1 and the pool."""
        before = self.server.metrics()
        answer = self.engine.generate(question, salt=salt)
        after = self.server.metrics()
        grown = [
            int(after.get(name, 0) - before.get(name, 0))
            for name in (
                "lmcache_mp_lookup_hit_l1_tokens_total",
                "lmcache_mp_lookup_hit_l2_tokens_total",
            )
        ]
        return answer, grown[0], grown[1]

    def stored(self, chunks: int) -> None:
        """Waits until so many chunks lie in the pool."""
        end = time.monotonic() + BOUND_S
        name = "lmcache_mp_l2_store_completed_objects_chunks_total"
        while (done := self.server.metrics().get(name, 0)) < chunks:
            assert time.monotonic() < end, f"{done:g} of {chunks} chunks are in the pool"

    def forget(self) -> None:
        """Empties the engine's caches and the server's L1; what is left is the pool."""
        self.engine.forget()
        self.server.clear_l1()


@contextlib.contextmanager
def pair(pool: Pool, model: Path, folder: Path, **settings: Any) -> Iterator[Pair]:
    with (
        Server(pool.nodes, folder / "server", **settings) as server,
        engine_on(server, pool, model, folder) as engine,
    ):
        yield Pair(server, engine)


def engine_on(server: Server, pool: Pool, model: Path, folder: Path) -> Engine:
    return Engine(
        model,
        pool.nodes,
        folder / "engine",
        venv=NAME,
        kv_transfer_config=connector_config(server.port),
    )


@pytest.fixture(scope="module", autouse=True)
def there() -> None:
    if not venvs.is_there(NAME):
        pytest.skip(f"{NAME} is not installed: ./dev engines {NAME}")


@pytest.fixture(scope="module")
def cold(pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """What a first pair computed, and put into the pool; it is gone."""
    with pair(pool, model, tmp_path_factory.mktemp("first")) as first:
        answers = {}
        for name, salt in (("plain", None), ("salted", "alice")):
            answer, from_l1, from_pool = first.generate(prompt(1, LONG), salt)
            assert (answer.from_pool, from_l1, from_pool) == (0, 0, 0)
            answers[name] = answer
        first.stored(2 * WHOLE // CHUNK)
    return answers


@pytest.fixture(scope="module")
def second(
    pool: Pool, model: Path, cold: dict[str, Answer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """A new server and a new engine."""
    with pair(pool, model, tmp_path_factory.mktemp("second")) as started:
        yield started


def test_both_are_new_and_the_pool_serves(cold: dict[str, Answer], second: Pair) -> None:
    warm, from_l1, from_pool = second.generate(prompt(1, LONG))
    assert (warm.from_pool, from_l1, from_pool) == (WHOLE, 0, WHOLE)
    assert same(warm, cold["plain"])


def test_what_nobody_computed_is_not_found(second: Pair) -> None:
    """The negative control: hits are no artefact of the counting."""
    answer, from_l1, from_pool = second.generate(prompt(2, LONG))
    assert (answer.from_pool, from_l1, from_pool) == (0, 0, 0)


def test_a_salt_is_a_wall(cold: dict[str, Answer], second: Pair) -> None:
    other, from_l1, from_pool = second.generate(prompt(1, LONG), "bob")
    assert (other.from_pool, from_l1, from_pool) == (0, 0, 0)
    warm, from_l1, from_pool = second.generate(prompt(1, LONG), "alice")
    assert (warm.from_pool, from_l1, from_pool) == (WHOLE, 0, WHOLE)
    assert same(warm, cold["salted"])


def test_without_a_pool_it_goes_on_and_finds_it_again(
    pool: Pool, cold: dict[str, Answer], second: Pair
) -> None:
    second.forget()
    for node in pool.cluster.nodes:
        pool.cluster.kill_node(node.index)
    began = time.monotonic()
    alone, from_l1, from_pool = second.generate(prompt(1, LONG))
    assert time.monotonic() - began < BOUND_S
    assert (alone.from_pool, from_l1, from_pool) == (0, 0, 0)
    assert same(alone, cold["plain"])
    for node in pool.cluster.nodes:
        pool.cluster.restart_node(node.index)
    # The breaker asks seldom, and a killed node may have lost the last chunks: these come again.
    for _ in range(40):
        second.forget()
        warm, _, from_pool = second.generate(prompt(1, LONG))
        assert same(warm, cold["plain"])
        if from_pool == WHOLE:
            break
    assert from_pool == WHOLE


def test_other_weights_under_the_same_path_miss(
    pool: Pool,
    model: Path,
    make_model: Callable[[Path, int], Path],
    cold: dict[str, Answer],
    second: Pair,
    tmp_path: Path,
) -> None:
    """In the pool, and in the server's own memory, which holds the prompt for the old ones."""
    replace(make_model(tmp_path / "other", 1), model)
    try:
        with engine_on(second.server, pool, model, tmp_path) as engine:
            other = Pair(second.server, engine)
            answer, from_l1, from_pool = other.generate(prompt(1, LONG))
    finally:
        replace(make_model(tmp_path / "back", 0), model)
    assert (answer.from_pool, from_l1, from_pool) == (0, 0, 0)
    assert answer.tokens != cold["plain"].tokens  # other weights, indeed


def replace(made: Path, model: Path) -> None:
    for file in made.iterdir():
        file.replace(model / file.name)
