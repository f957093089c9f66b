"""The wheel in dist/, as a user gets it: its tag, what it needs, beside NIXL, and gone again.

`./dev wheel` builds it and runs this; it is not part of `./dev test`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.nixl import venvs

pytestmark = pytest.mark.timeout(600)  # pip fetches NIXL
PLUGIN = "libplugin_MEMKV.so"
LIST_PLUGINS = """
import json, os, sys
out = os.dup(1); os.dup2(2, 1)
import nixl_cu12
agent = nixl_cu12.nixl_agent("lists", nixl_cu12.nixl_agent_config(backends=[]))
os.write(out, json.dumps(agent.get_plugin_list()).encode())
os._exit(0)
"""


@pytest.fixture(scope="module")
def wheel(repo: Path) -> Path:
    found = sorted((repo / "dist").glob("memkv_nixl-*.whl"))
    if not found:
        pytest.skip("there is no wheel in dist/: ./dev build wheel")
    return found[-1]


def files_of(python: Path) -> set[str]:
    """Everything in the site-packages of an environment but what compiling leaves."""
    site = python.parent.parent.glob("lib/python3*/site-packages")
    return {
        path.relative_to(root).as_posix()
        for root in site
        for path in root.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    """The Python of an environment with NIXL and what memkv-nixl depends on."""
    folder = tmp_path_factory.mktemp("wheel") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin/python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # nixl-cu12 names torch, which it does without.
    subprocess.run([*pip, "--no-deps", f"nixl-cu12=={venvs.NEWEST}"], check=True)
    subprocess.run([*pip, "numpy", "PyYAML"], check=True)
    return python


def install(python: Path, wheel: Path) -> None:
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--force-reinstall", str(wheel)], check=True)


def uninstall(python: Path) -> None:
    subprocess.run([str(python), "-m", "pip", "uninstall", "-q", "-y", "memkv-nixl"], check=True)


def run(python: Path, *args: str, cwd: Path) -> str:
    ran = subprocess.run(
        [str(python), *args], capture_output=True, text=True, check=False, cwd=cwd, timeout=100
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def needed_versions(wheel: Path, tmp_path: Path) -> dict[str, tuple[int, ...]]:
    """The newest symbol version of each family that any file of the wheel needs."""
    newest: dict[str, tuple[int, ...]] = {}
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for path in tmp_path.rglob("*"):
        if not path.is_file() or path.read_bytes()[:4] != b"\x7fELF":
            continue
        said = subprocess.run(["readelf", "-VW", path], capture_output=True, text=True, check=True)
        needs = said.stdout.partition("Version needs section")[2]
        for name in re.findall(r"Name: (\S+)", needs):
            match = re.fullmatch(r"(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)", name)
            assert match, f"{path.name} needs {name}"
            version = tuple(int(part) for part in match[2].split("."))
            newest[match[1]] = max(newest.get(match[1], ()), version)
    return newest


def documented_versions(repo: Path) -> dict[str, tuple[int, ...]]:
    """The versions that the README says the wheel needs: `GLIBC_2.34` and so on."""
    text = (repo / "README.md").read_text(encoding="utf-8")
    found = re.findall(r"`(GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)`", text)
    return {family: tuple(int(part) for part in version.split(".")) for family, version in found}


def test_it_needs_no_newer_symbols_than_the_readme_says(
    repo: Path, wheel: Path, tmp_path: Path
) -> None:
    needed, documented = needed_versions(wheel, tmp_path), documented_versions(repo)
    assert set(needed) <= set(documented)
    for family, version in needed.items():
        assert version <= documented[family], f"{family}: needs {version}"


def test_its_tag_is_manylinux(wheel: Path) -> None:
    assert re.search(r"-manylinux_2_\d+_(x86_64|aarch64)\.whl$", wheel.name), wheel.name


def test_it_holds_the_plugin_where_each_nixl_looks(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        plugins = {name for name in archive.namelist() if name.endswith(PLUGIN)}
        memkvd = archive.getinfo("memkv_nixl/_bin/memkvd")
        assert not [name for name in archive.namelist() if name.endswith((".cpp", ".h"))]
    assert plugins == {
        f".nixl_cu12.mesonpy.libs/plugins/{PLUGIN}",
        f".nixl_cu13.mesonpy.libs/plugins/{PLUGIN}",
        f"memkv_nixl/_plugin/{PLUGIN}",
    }
    assert memkvd.external_attr >> 16 & 0o111, "memkvd is not executable"


def test_nixl_lists_it_and_its_own_and_uninstall_leaves_nothing(
    environment: Path, wheel: Path, tmp_path: Path
) -> None:
    before = files_of(environment)
    install(environment, wheel)
    try:
        # No environment variable, no call of ours: NIXL finds it by itself.
        names = json.loads(run(environment, "-c", LIST_PLUGINS, cwd=tmp_path))
        assert {"MEMKV", "POSIX", "UCX"} <= set(names)
        how = "import memkv_nixl.agent as a; print(a.register().how)"
        assert run(environment, "-c", how, cwd=tmp_path).splitlines()[-1] == "installed"
    finally:
        uninstall(environment)
    assert files_of(environment) == before


def test_the_demo_runs_out_of_the_wheel(environment: Path, wheel: Path, tmp_path: Path) -> None:
    install(environment, wheel)
    try:
        said = run(environment, "-m", "memkv_nixl.cli", "demo", "--json", cwd=tmp_path)
    finally:
        uninstall(environment)
    document = json.loads(said)
    assert document["seconds"] < 60
    assert [step["hits"] == step["blocks"] for step in document["steps"]] == [True] * 2 + [
        False,
        True,
    ]
