"""NIXL agents for the tests: real wheels, real nodes, the plugin of the release build."""

from __future__ import annotations

import json
import os
import select
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.integration.nodes import Node
from tests.nixl import venvs

CASE_SECONDS = 60
PLUGIN = "libplugin_MEMKV.so"
# All versions where MEMKV_TEST_NIXL says "all", or those it names; else the oldest and the newest.
VERSIONS = venvs.chosen()


class Worker:
    """A process with NIXL imported that runs cases, each in a process of its own."""

    def __init__(self, python: Path, plugins: Path, repo: Path) -> None:
        self.python = python
        self._plugins = plugins
        self._process = subprocess.Popen(
            [str(python), "-m", "tests.nixl.worker"],
            cwd=repo,
            env={**os.environ, "PYTHONPATH": str(repo)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._answer() == "ready", "the worker did not start"

    def run(
        self, case: str, output: Path, environment: Mapping[str, str], arguments: Mapping[str, Any]
    ) -> int:
        """Runs a case to its end; its exit status."""
        order = {
            "case": case,
            "arguments": arguments,
            "environment": {"NIXL_PLUGIN_DIR": str(self._plugins), **environment},
            "output": str(output),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        return int(self._answer())

    def stop(self) -> None:
        self._process.communicate(timeout=CASE_SECONDS)

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], CASE_SECONDS)[0]:
                self._process.kill()
                raise AssertionError(f"nothing for {CASE_SECONDS} seconds: the case hangs")
            byte = self._process.stdout.read(1)
            assert byte, "the worker ended"
            line += byte
        return line.decode().strip()


@pytest.fixture(scope="session")
def plugin(repo: Path) -> Path:
    path = Path(os.environ.get("MEMKV_TEST_PLUGIN", repo / "build/release" / PLUGIN))
    assert path.exists(), f"{path} is missing; run ./dev build release"
    return path


@pytest.fixture(scope="session", params=VERSIONS)
def worker(
    request: pytest.FixtureRequest,
    plugin: Path,
    repo: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Worker]:
    plugins = tmp_path_factory.mktemp("plugins")
    (plugins / PLUGIN).symlink_to(plugin)
    worker = Worker(venvs.ensure(request.param), plugins, repo)
    yield worker
    worker.stop()


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Two nodes for all who do not hurt them; each test has a namespace of its own."""
    folder = tmp_path_factory.mktemp("nodes")
    nodes = [Node(folder / f"{i}.dat").start() for i in range(2)]
    yield nodes
    for node in nodes:
        node.stop()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of the test's own."""
    node = Node(tmp_path / "own.dat").start()
    yield node
    node.kill()


Run = Callable[..., str]


@pytest.fixture
def run(worker: Worker, tmp_path: Path) -> Run:
    """Runs a case, which must end well; gives what it wrote."""
    count = 0

    def run_case(
        case: str,
        *,
        environment: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> str:
        nonlocal count
        count += 1
        output = tmp_path / f"output-{count}"
        status = worker.run(case, output, environment or {}, arguments)
        text = output.read_text(errors="replace")
        assert status == 0, f"{case} ended with {status}:\n{text}"
        return text

    return run_case


@pytest.fixture
def parameters(pool: list[Node], request: pytest.FixtureRequest) -> dict[str, str]:
    """Parameters of a backend over the pool, in a namespace of the test's own."""
    nodes = ",".join(node.address for node in pool)
    return {"nodes": nodes, "namespace": request.node.name}
