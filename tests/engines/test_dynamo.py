"""Dynamo 1.6.1 with vLLM 0.31 and MemKVTier: frontend, KV router, workers, store nodes, for real.

They run in a network namespace of their own, because Dynamo listens on every interface; the cases
stand in dynamo_cases.py. Stand-ins: tests/engines/cpu_copy.py and dynamo_stand_ins/torchvision.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines import venvs
from tests.engines.engine import ROOT

HERE = Path(__file__).parent
NAME = "dynamo-1.6.1"
# Its own loopback and its own /dev/shm, which must be empty in the end.
APART = ("--net", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/shm && exec "$@"', "sh")
WAYS = (("unshare", *APART), ("unshare", "--map-root-user", *APART))


@pytest.fixture(scope="module")
def apart() -> tuple[str, ...]:
    """The beginning of a command that runs in namespaces of its own."""
    for way in WAYS:
        if subprocess.run([*way, "true"], check=False, capture_output=True).returncode == 0:
            return way
    pytest.skip("this system lets nobody make a network namespace (unshare --net)")


@pytest.fixture(scope="module")
def outcomes(apart: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    python = venvs.ensure(NAME)
    folder = tmp_path_factory.mktemp("dynamo")
    model = folder / "model"
    subprocess.run(
        [str(python), "-m", "tests.engines.dynamo_model", str(model)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    ours = sys.executable
    with (folder / "log").open("w") as log:
        ran = subprocess.run(
            [*apart, ours, "-m", "tests.engines.dynamo_cases", *map(str, (python, model, folder))],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    assert ran.returncode == 0, (folder / "log").read_text()[-6000:]
    said: dict[str, str] = json.loads(ran.stdout)
    return said


@pytest.mark.parametrize(
    "case",
    re.findall(r"^def case_(\w+)\(", (HERE / "dynamo_cases.py").read_text("utf-8"), re.MULTILINE),
)
def test_dynamo(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "ok", outcomes[case]


def test_kubernetes_itself_reads_the_manifests() -> None:
    files = sorted(str(path) for path in (ROOT / "deploy/dynamo").glob("*.yaml"))
    command = [str(venvs.ensure(NAME)), "-m", "tests.engines.dynamo_manifests", *files]
    ran = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert files
    assert json.loads(ran.stdout) == []
