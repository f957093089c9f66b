"""Store nodes as a user starts them: real processes, ports the system picks, files of a test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

DEADLINE_S = 60
# One thread for all, and threads that move bytes: where there are few cores memkvd chooses none.
HANDS = ("0", "3")


@dataclass
class Node:
    """`memkv node serve` in a process of its own."""

    device: Path
    capacity: str = "1GiB"
    dram: str = "256MiB"
    flags: tuple[str, ...] = ()
    address: str = "127.0.0.1:0"
    metrics: str = ""  # where its /metrics is, with the flag --metrics
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    def start(self) -> Node:
        """Starts it, waits until it serves; a restart gets the same address."""
        command = [sys.executable, "-m", "memkv_nixl.cli", "node", "serve", "--json"]
        command += ["--device", str(self.device), "--capacity", self.capacity, "--dram", self.dram]
        command += ["--listen", self.address, *self.flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            errors = self.process.communicate()[1]
            raise AssertionError(f"the node did not start ({self.process.returncode}): {errors}")
        said = json.loads(line)
        self.address, self.metrics = said["address"], said.get("metrics", "")
        return self

    def stop(self) -> None:
        """Asks it to stop, and expects that it does so cleanly."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        errors = self.process.communicate(timeout=DEADLINE_S)[1]
        status, self.process = self.process.returncode, None
        assert status == 0, f"the node ended with {status}: {errors}"

    def kill(self) -> None:
        """kill -9."""
        if self.process is None:
            return
        self.process.kill()
        self.process.communicate(timeout=DEADLINE_S)
        self.process = None


def memkv(*args: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `memkv ARGS`."""
    return subprocess.run(
        [sys.executable, "-m", "memkv_nixl.cli", *args],
        input=stdin,
        capture_output=True,
        timeout=DEADLINE_S,
        check=False,
        env={**os.environ, **environment},
    )
