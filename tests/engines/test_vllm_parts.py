"""vLLM's own configuration and tier manager, without an engine: the cases of meaning_cases.py,
manager_cases.py and longest_cases.py, with each vLLM that is installed."""

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

HERE = Path(__file__).parent


def cases_in(name: str) -> list[str]:
    return re.findall(r"^def case_(\w+)\(", (HERE / f"{name}.py").read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module", params=sorted(venvs.ENGINES))
def python(request: pytest.FixtureRequest) -> Path:
    if not venvs.is_there(request.param):
        pytest.skip(f"{request.param} is not installed: ./dev engines {request.param}")
    return venvs.python_of(request.param)


def run(python: Path, folder: Path, *arguments: str) -> dict[str, str]:
    """What became of each case."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "MEMKV_WEIGHTS_CACHE": str(folder / "weights.json"),
    }
    with (folder / "log").open("w") as log:
        ran = subprocess.run(
            [str(python), "-m", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    assert ran.returncode == 0, (folder / "log").read_text()[-4000:]
    said: dict[str, str] = json.loads(ran.stdout)
    return said


@pytest.fixture(scope="module")
def meaning(python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("meaning")
    return run(python, folder, "tests.engines.meaning_cases", str(model))


@pytest.fixture(scope="module")
def manager(
    python: Path, model: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("manager")
    nodes = ",".join(pool.cluster.addresses)
    return run(python, folder, "tests.engines.manager_cases", str(model), nodes)


@pytest.mark.parametrize("case", cases_in("meaning_cases"))
def test_meaning(meaning: dict[str, str], case: str) -> None:
    assert meaning[case] == "ok"


@pytest.mark.parametrize("case", cases_in("manager_cases"))
def test_manager(manager: dict[str, str], case: str) -> None:
    assert manager[case] == "ok"


@pytest.fixture(scope="module")
def longest(python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("longest")
    return run(python, folder, "tests.engines.longest_cases", str(model))


@pytest.mark.parametrize("case", cases_in("longest_cases"))
def test_longest_hit(longest: dict[str, str], case: str) -> None:
    assert longest[case] == "ok"
