"""memkv_bench and memkvd as a benchmark drives them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHUNK = 1 << 22


class BenchError(Exception):
    """A measure or a daemon failed; the numbers so far mean nothing."""


def binary(name: str) -> Path:
    """A program of the release build."""
    folders = [Path(folder) for folder in os.environ.get("PATH", "").split(os.pathsep)]
    for folder in folders:
        if os.access(folder / name, os.X_OK):
            return folder / name
    raise BenchError(f"{name} is not on PATH: start this with ./dev bench")


class Meter:
    """memkv_bench, asked one measure after another."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(binary("memkv_bench"))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def measure(self, *words: object) -> float:
        """One line in, one number out."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = " ".join(str(word) for word in words)
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        if not answer or answer.startswith("error"):
            raise BenchError(f"{line}: {answer or 'memkv_bench died'}")
        return float(answer)

    def close(self) -> None:
        """Ends the program."""
        self._process.communicate(timeout=60)


def write_file(path: Path, size: int) -> None:
    """A file that was really written once: no measure pays for the first write."""
    zeros = bytes(CHUNK)
    with path.open("wb") as file:
        for _ in range(size // CHUNK):
            file.write(zeros)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def node(device: Path, dram: str, *flags: str) -> Iterator[str]:
    """A memkvd on a pre-written file; gives its address."""
    reading, writing = os.pipe()
    command = [str(binary("memkvd")), "--device", str(device), "--dram", dram]
    command += ["--listen", "127.0.0.1:0", "--ready-fd", str(writing), *flags]
    process = subprocess.Popen(command, pass_fds=[writing], stderr=subprocess.PIPE, text=True)
    os.close(writing)
    with os.fdopen(reading) as ready:
        line = ready.readline()
    if not line:
        raise BenchError(f"memkvd did not start: {process.communicate()[1]}")
    try:
        yield str(json.loads(line)["address"])
    finally:
        process.send_signal(signal.SIGTERM)
        errors = process.communicate(timeout=60)[1]
        if process.returncode != 0:
            raise BenchError(f"memkvd ended with {process.returncode}: {errors}")
