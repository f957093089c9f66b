"""Environments with unmodified NIXL wheels from PyPI, one per version, in build/nixl-venvs/.

`python -m tests.nixl.venvs [VERSION...]` makes those that are missing and prints their Pythons. A
wheel is installed without what it names as its dependencies: that is PyTorch with all of CUDA,
which NIXL needs only for those who use it; NIXL before 1.4 imports it, so that there its CPU build
is installed. The project itself is in reach (a .pth file), with what its Python needs.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build/nixl-venvs"
OLDEST, MIDDLE, NEWEST = "1.3.2", "1.4.1", "1.5.1"
FIRST = "1.0.1"  # of the binary interface; where somebody asks for all
BESIDE = ("numpy", "PyYAML")
TORCH = "torch==2.13.0+cpu"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def chosen() -> list[str]:
    """The versions to test with: MEMKV_TEST_NIXL (`all`, or some with commas), else the oldest and
    the newest."""
    choice = os.environ.get("MEMKV_TEST_NIXL", f"{OLDEST},{NEWEST}")
    return [FIRST, OLDEST, MIDDLE, NEWEST] if choice == "all" else choice.split(",")


def needs_torch(version: str) -> bool:
    """Whether this NIXL's Python module imports torch."""
    return tuple(int(part) for part in version.split(".")[:2]) < (1, 4)


def python_of(version: str) -> Path:
    return FOLDER / version / "bin/python"


def ensure(version: str) -> Path:
    """The Python of an environment with this NIXL, made now if it is not there."""
    venv = FOLDER / version
    stamp = venv / ".stamp"
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f".lock-{version}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Another Python than this one cannot load what was built for this one.
        if not stamp.exists() or stamp.read_text(encoding="utf-8") != sys.version:
            stamp.unlink(missing_ok=True)
            make(version, venv)
            stamp.write_text(sys.version, encoding="utf-8")
    return python_of(version)


def make(version: str, venv: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    install(venv, *BESIDE)
    install(venv, "--no-deps", f"nixl-cu12=={version}")
    if needs_torch(version):
        install_torch(venv)
    site = next((venv / "lib").glob("python*/site-packages"))
    (site / "memkv_nixl_dev.pth").write_text(f"{ROOT}\n", encoding="utf-8")


def install_torch(venv: Path) -> None:
    """The CPU build: from where this machine's pip looks, else from PyTorch's own index."""
    try:
        install(venv, TORCH)
    except subprocess.CalledProcessError:
        install(venv, "--extra-index-url", TORCH_INDEX, TORCH)


def install(venv: Path, *what: str) -> None:
    python = str(venv / "bin/python")
    options = ["--disable-pip-version-check", "--no-input", "-q"]
    subprocess.run([python, "-m", "pip", "install", *options, *what], check=True)


if __name__ == "__main__":
    for wanted in sys.argv[1:] or chosen():
        print(ensure(wanted))
