"""The TensorRT-LLM connector over real nodes, without TensorRT-LLM: the cases of trtllm_cases.py,
with the torch of vLLM's environment."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from memkv_nixl.store import Cluster
from tests.engines import venvs
from tests.engines.engine import ROOT

CASES = re.findall(
    r"^def case_(\w+)\(", Path(__file__).with_name("trtllm_cases.py").read_text("utf-8"), re.M
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case."""
    if not venvs.is_there(venvs.NEWEST):
        pytest.skip(f"{venvs.NEWEST} is not installed: ./dev engines {venvs.NEWEST}")
    log = tmp_path_factory.mktemp("trtllm") / "log"
    with Cluster(3, capacity="1GiB", die_with_parent=True) as cluster, log.open("w") as output:
        nodes = ",".join(cluster.addresses)
        pids = ",".join(str(node.pid) for node in cluster.nodes)
        ran = subprocess.run(
            [str(venvs.python_of(venvs.NEWEST)), "-m", "tests.engines.trtllm_cases", nodes, pids],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=output,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, log.read_text(errors="replace")[-4000:]
    said: dict[str, str] = json.loads(ran.stdout.splitlines()[-1])
    return said


@pytest.mark.parametrize("case", CASES)
def test_case(outcomes: dict[str, str], case: str) -> None:
    assert outcomes[case] == "ok"
