"""`memkv namespaces drop` under a running plugin, in unmodified NIXL: a real control plane, an
agent and its memkvd."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.control.processes import Machine, control
from tests.integration.nodes import memkv
from tests.nixl.conftest import Run

pytestmark = pytest.mark.timeout(900)
FAST = ("--heartbeat-ms", "50", "--deadline-ms", "500", "--lost-after-ms", "60000")


def test_what_runs_on_after_a_drop_finds_and_puts_nothing(run: Run, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    machine.folder.mkdir()
    try:
        with control(tmp_path / "state", *FAST) as plane:
            at = ("--control", plane.address)
            created = memkv("namespaces", "create", "dropped", *at)
            assert created.returncode == 0, created.stderr
            with machine.agent(plane.address):
                drop = [sys.executable, "-m", "memkv_nixl.cli", "namespaces", "drop", "dropped"]
                run(
                    "dropped_and_begun_anew",
                    parameters={"nodes": machine.address, "namespace": "dropped"},
                    drop=[*drop, *at, "--json"],
                )
    finally:
        machine.kill_memkvd()
