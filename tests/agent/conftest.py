"""The NIXLs that the agent is tried with, and processes that run cases in them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_nixl.store import Cluster
from tests.nixl import venvs
from tests.nixl.conftest import VERSIONS


class CaseRunner:
    """A process with NIXL imported, which forks off another one for each case (cases.py)."""

    def __init__(self, python: Path, repo: Path, nodes: tuple[str, ...]) -> None:
        self._nodes = ",".join(nodes)
        self._process = subprocess.Popen(
            [str(python), "-m", "tests.agent.cases"],
            cwd=repo,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def run(self, case: str, folder: Path) -> None:
        """Runs a case in a folder of its own, and fails with what it wrote."""
        output = folder.with_name(f"{folder.name}.output")
        order = {
            "case": case,
            "folder": str(folder),
            "output": str(output),
            "nodes": self._nodes,
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        status = self._process.stdout.readline()
        text = output.read_text(errors="replace") if output.exists() else ""
        if "No module named 'torch'" in text:
            pytest.skip("torch is not installed beside this NIXL")
        assert status == b"0\n", f"{case} ended with {status!r}:\n{text}"

    def stop(self) -> None:
        """Ends it; a case that hangs goes with it."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def shared_nodes() -> Iterator[tuple[str, ...]]:
    """Two nodes for all cases that do not hurt them."""
    with Cluster(2, capacity="4GiB", die_with_parent=True) as cluster:
        yield cluster.addresses


@pytest.fixture(scope="module", params=VERSIONS)
def cases(
    request: pytest.FixtureRequest, repo: Path, shared_nodes: tuple[str, ...]
) -> Iterator[CaseRunner]:
    """Cases with each NIXL that is tried: the oldest and the newest."""
    runner = CaseRunner(venvs.ensure(request.param), repo, shared_nodes)
    yield runner
    runner.stop()


@pytest.fixture(scope="session")
def newest_nixl() -> Path:
    """The Python of an environment with the newest NIXL."""
    return venvs.ensure(venvs.NEWEST)
