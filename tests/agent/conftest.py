"""The NIXLs that the agent is tried with, and processes that run cases in them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkv_nixl.store import Cluster
from tests.nixl import venvs
from tests.nixl.conftest import CASE_SECONDS, VERSIONS


class CaseRunner:
    """A process with NIXL imported, which forks off another one for each case (cases.py)."""

    def __init__(
        self, python: Path, repo: Path, nodes: tuple[str, ...], module: str = "tests.agent.cases"
    ) -> None:
        self._nodes = ",".join(nodes)
        self._process = subprocess.Popen(
            [str(python), "-m", module],
            cwd=repo,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # so that a case that hangs ends with it
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
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        status = self._answer()
        text = output.read_text(errors="replace") if output.exists() else ""
        if "No module named 'torch'" in text:
            pytest.skip("torch is not installed beside this NIXL")
        assert status == b"0\n", f"{case} ended with {status!r}:\n{text}"

    def stop(self) -> None:
        """Ends it; a case that hangs goes with it."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def _answer(self) -> bytes:
        """A line, or as much of it as there was before the deadline or the runner's end."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], CASE_SECONDS)[0]:
                os.killpg(self._process.pid, signal.SIGKILL)
                return b"nothing for %d seconds: it hangs" % CASE_SECONDS
            byte = self._process.stdout.read(1)
            if not byte:
                return line
            line += byte
        return line


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
