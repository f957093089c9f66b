"""SGLang's own factory and host pools on MemKVHiCache: the cases of sglang_cases.py, with each
SGLang that is installed. Its server does not run without a GPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.engines import venvs
from tests.engines.conftest import Pool
from tests.engines.engine import ROOT

CASES = [
    case
    for file in ("sglang_cases.py", "sglang_hybrid_cases.py")
    for case in re.findall(
        r"^def case_(\w+)\(", Path(__file__).with_name(file).read_text("utf-8"), re.MULTILINE
    )
]


@pytest.fixture(scope="module", params=sorted(n for n in venvs.INSIDE if n.startswith("sglang-")))
def python(request: pytest.FixtureRequest) -> Path:
    if not venvs.is_there(request.param):
        pytest.skip(f"{request.param} is not installed: ./dev engines {request.param}")
    return venvs.python_of(request.param)


@pytest.fixture(scope="module")
def outcomes(python: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What became of each case."""
    folder = tmp_path_factory.mktemp("sglang")
    environment = {
        **os.environ,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "MEMKV_WEIGHTS_CACHE": str(folder / "weights.json"),
        "TORCH_EXTENSIONS_DIR": str(venvs.FOLDER / "torch-extensions"),  # SGLang's hashes
    }
    made = [str(python), "-m", "tests.engines.tiny_model", str(folder / "model"), "0"]
    subprocess.run(made, cwd=ROOT, env=environment, check=True, capture_output=True)
    nodes = ",".join(pool.cluster.addresses)
    with (folder / "log").open("w") as log:
        ran = subprocess.run(
            [str(python), "-m", "tests.engines.sglang_stand_in", str(folder / "model"), nodes],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    assert ran.returncode == 0, (folder / "log").read_text()[-4000:]
    said: dict[str, str] = json.loads(ran.stdout)
    return said


@pytest.mark.parametrize("case", CASES)
def test_case(outcomes: dict[str, str], case: str) -> None:
    if outcomes[case].startswith("skipped: "):
        pytest.skip(outcomes[case].partition(": ")[2])
    assert outcomes[case] == "ok"
