"""What the engine tests share: a pool behind gates, tiny models, engines that are started once."""

from __future__ import annotations

import contextlib
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from memkv_nixl.store import Cluster
from tests.engines import venvs
from tests.engines.engine import ROOT, Engine
from tests.engines.gate import Gate

ENGINE_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """An engine takes its time to start."""
    for item in items:
        if Path(item.path).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.timeout(ENGINE_S))


class Pool:
    """Three nodes, each behind a gate."""

    def __init__(self, cluster: Cluster, gates: list[Gate]) -> None:
        self.cluster = cluster
        self.gates = gates

    @property
    def nodes(self) -> list[str]:
        """What engines name as `nodes`."""
        return [gate.address for gate in self.gates]


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(Cluster(3, capacity="2GiB", die_with_parent=True))
        gates = [stack.enter_context(Gate(address)) for address in cluster.addresses]
        yield Pool(cluster, gates)


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    return venvs.ensure(venvs.NEWEST)


@pytest.fixture(scope="session")
def make_model(vllm_python: Path) -> Callable[[Path, int], Path]:
    """Writes a tiny model with random weights of a seed into a folder."""

    def make(folder: Path, seed: int) -> Path:
        command = [str(vllm_python), "-m", "tests.engines.tiny_model", str(folder), str(seed)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        return folder

    return make


@pytest.fixture(scope="session")
def model(
    make_model: Callable[[Path, int], Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return make_model(tmp_path_factory.mktemp("model") / "tiny", 0)


@pytest.fixture(scope="session")
def first(pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with Engine(model, pool.nodes, tmp_path_factory.mktemp("first")) as engine:
        yield engine


@pytest.fixture(scope="session")
def second(pool: Pool, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Another process, started when it is first asked for."""
    with Engine(model, pool.nodes, tmp_path_factory.mktemp("second")) as engine:
        yield engine


def prompt(seed: int, tokens: int) -> list[int]:
    """A prompt of random token ids."""
    draw = random.Random(seed)
    return [draw.randrange(3, 2048) for _ in range(tokens)]
