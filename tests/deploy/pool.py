"""A pool as its containers run it: the images' own scripts, confined, on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.deploy import confined
from tests.deploy.chart import DEPLOY

SCRIPTS = DEPLOY / "docker"
DEADLINE_S = 60


def under(profile: Path | None) -> list[str]:
    """What stands before a command to confine it."""
    if profile is None:
        return []
    try:
        confined.library()
    except OSError as error:
        pytest.skip(f"there is no {confined.LIBRARY} here: {error}")
    return [sys.executable, confined.__file__, str(profile)]


def environment(**more: str) -> dict[str, str]:
    """Of a container: `memkv` is on the path, and no setting comes from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEMKV_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": str(DEPLOY.parent)} | more


def ran(
    *command: str, profile: Path | None = None, **more: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*under(profile), *command],
        env=environment(**more),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


@dataclass
class Served:
    """Something that serves; `said` is its first line."""

    process: subprocess.Popen[str]
    said: dict[str, Any]

    @property
    def address(self) -> str:
        return str(self.said["address"])

    def end(self) -> str:
        """SIGTERM, upon which it ends cleanly; gives its log."""
        self.process.send_signal(signal.SIGTERM)
        errors = self.process.communicate(timeout=DEADLINE_S)[1]
        assert self.process.returncode == 0, errors
        return errors


@contextmanager
def served(*command: str, profile: Path | None = None, **more: str) -> Iterator[Served]:
    """`command --json` until it serves; it has ended, cleanly, afterwards."""
    with subprocess.Popen(
        [*under(profile), *command, "--json"],
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if '"address"' not in line:
            raise AssertionError(line + process.communicate(timeout=DEADLINE_S)[1])
        running = Served(process, json.loads(line))
        try:
            yield running
        except BaseException:
            process.terminate()  # an agent that is killed would leave its memkvd behind
            try:
                process.communicate(timeout=DEADLINE_S / 2)
            except subprocess.TimeoutExpired:
                process.kill()
            raise
        if process.poll() is None:
            running.end()


@contextmanager
def pool(
    folder: Path, *, control_under: Path | None = None, node_under: Path | None = None
) -> Iterator[tuple[Served, Served]]:
    """A control plane, and a node that is registered with it."""
    plane = ["memkv", "control", "serve", "--listen=127.0.0.1:0", f"--state={folder / 'control'}"]
    flags = ["--listen=127.0.0.1:0", f"--device={folder / 'blocks'}"]
    sizes = ["--capacity=1GiB", "--dram=256MiB"]
    with (
        served(*plane, profile=control_under) as control,
        served(
            str(SCRIPTS / "memkv-node"),
            *flags,
            *sizes,
            f"--control={control.address}",
            profile=node_under,
            MEMKV_NODE_AGENT_DIR=str(folder / "agent"),
        ) as node,
    ):
        yield control, node
