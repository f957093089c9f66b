"""The adapter and the connector of LMCache, and its NIXL backends, without a server and an engine.

These are the cases of lmcache_cases.py, lmcache_manager_cases.py, lmcache_meaning_cases.py and
lmcache_nixl_cases.py, with LMCache's own package.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from memkv_nixl._nixl import plugin_path
from memkv_nixl._plugin_folder import make_plugin_folder
from tests.engines import venvs
from tests.engines.conftest import Pool
from tests.engines.lmcache_server import NAME

HERE = Path(__file__).parent


def cases_in(name: str) -> list[str]:
    return re.findall(r"^def case_(\w+)\(", (HERE / f"{name}.py").read_text("utf-8"), re.MULTILINE)


@pytest.fixture(scope="module")
def python() -> Path:
    if not venvs.is_there(NAME):
        pytest.skip(f"{NAME} is not installed: ./dev engines {NAME}")
    return venvs.python_of(NAME)


def run(python: Path, folder: Path, *arguments: str, **more: str) -> dict[str, str]:
    """What became of each case."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "MEMKV_WEIGHTS_CACHE": str(folder / "weights.json"),
        **more,
    }
    with (folder / "log").open("w") as log:
        ran = subprocess.run(
            [str(python), "-m", *arguments],
            cwd=venvs.ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            check=False,
        )
    assert ran.returncode == 0, (folder / "log").read_text()[-4000:]
    said: dict[str, str] = json.loads(ran.stdout)
    return said


@pytest.fixture(scope="module")
def adapter(python: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    nodes = ",".join(pool.cluster.addresses)
    return run(python, tmp_path_factory.mktemp("adapter"), "tests.engines.lmcache_cases", nodes)


@pytest.fixture(scope="module")
def manager(python: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    nodes = ",".join(pool.cluster.addresses)
    folder = tmp_path_factory.mktemp("manager")
    return run(python, folder, "tests.engines.lmcache_manager_cases", nodes)


@pytest.fixture(scope="module")
def meaning(python: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("meaning")
    return run(python, folder, "tests.engines.lmcache_meaning_cases", str(model))


@pytest.fixture(scope="module")
def nixl(python: Path, pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("nixl")
    own = own_plugins(python)
    plugins = make_plugin_folder(own, plugin_path(), folder / "plugins", "OBJ")
    (plugins / "libplugin_DOCA_MEMOS.so").symlink_to(plugin_path())
    nodes = ",".join(pool.cluster.addresses)
    cases = "tests.engines.lmcache_nixl_cases"
    return run(python, folder, cases, nodes, NIXL_PLUGIN_DIR=str(plugins))


def own_plugins(python: Path) -> Path:
    """Where the plugins of NIXL's wheel lie."""
    find = "import nixl_cu12; print(nixl_cu12.__file__)"
    ran = subprocess.run(
        [str(python), "-c", find], cwd=venvs.ROOT, check=True, capture_output=True, text=True
    )
    return Path(ran.stdout.strip()).parent.parent / ".nixl_cu12.mesonpy.libs/plugins"


@pytest.mark.parametrize("case", cases_in("lmcache_nixl_cases"))
def test_nixl(nixl: dict[str, str], case: str) -> None:
    assert nixl[case] == "ok"


@pytest.mark.parametrize("case", cases_in("lmcache_cases"))
def test_adapter(adapter: dict[str, str], case: str) -> None:
    assert adapter[case] == "ok"


@pytest.mark.parametrize("case", cases_in("lmcache_manager_cases"))
def test_manager(manager: dict[str, str], case: str) -> None:
    assert manager[case] == "ok"


@pytest.mark.parametrize("case", cases_in("lmcache_meaning_cases"))
def test_meaning(meaning: dict[str, str], case: str) -> None:
    assert meaning[case] == "ok"
