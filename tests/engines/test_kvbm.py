"""Dynamo's KV block manager, the stock wheel, on the CPU.

First what KVBM does at its edges, so that the ADR's claims are held and a changed KVBM is noticed;
then KVBM and MemKVTier side by side in vLLM. Stand-ins, by name: kvbm_libcuda.c, kvbm_gds_mt.cpp.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines import kvbm, venvs

Case = Callable[[str], dict[str, Any]]
ALL = 8  # blocks of a prompt


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> kvbm.StandIns:
    if not venvs.is_there(kvbm.VENV):
        pytest.skip(f"{kvbm.VENV} is not installed: ./dev engines {kvbm.VENV}")
    return kvbm.build(tmp_path_factory.mktemp("stand-ins"))


@pytest.fixture
def outcome(stand_ins: kvbm.StandIns, tmp_path: Path) -> Case:
    """Runs one of kvbm_cases.py; what it prints."""

    def run(case: str) -> dict[str, Any]:
        added = kvbm.environment(stand_ins, tmp_path, host_blocks=16, disk_blocks=128)
        with (tmp_path / "log").open("w") as log:
            ran = subprocess.run(
                [str(venvs.python_of(kvbm.VENV)), "-m", "tests.engines.kvbm_cases", case],
                cwd=venvs.ROOT,
                env=kvbm.inherited(added),
                stdout=subprocess.PIPE,
                stderr=log,
                check=False,
                timeout=90,
            )
        assert ran.returncode == 0, (tmp_path / "log").read_text()[-4000:]
        said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
        return said

    return run


@pytest.mark.parametrize("way", ["through_host_memory", "through_the_disk"])
def test_blocks_come_back_right(outcome: Case, way: str) -> None:
    """The control: what is wrong below is not the stand-ins' doing."""
    assert outcome(way) == {"found": ALL, "over": True, "right": ALL}


def test_a_failed_read_becomes_wrong_bytes_or_never_ends(outcome: Case) -> None:
    said = outcome("reads_fail")
    assert said["found"] == ALL
    if said["over"]:  # the engine goes on with what lies there
        assert said["right"] < ALL


def test_a_failed_write_is_a_hit_later(outcome: Case) -> None:
    said = outcome("writes_fail")
    assert said["found"] == ALL
    assert said["right"] < ALL


def test_told_of_its_blocks_again_it_serves_others_bytes(outcome: Case) -> None:
    """Which is what vLLM does after every load; `KvbmManners` says each block once."""
    said = outcome("every_block_told_twice")
    assert (said["found"], said["over"]) == (ALL, True)
    assert said["right"] < ALL


@pytest.mark.parametrize(
    "case",
    [
        "every_block_told_once",
        "begun_anew_after_a_failed_load",
        "preempted_without_a_word",
    ],
)
def test_spoken_to_as_it_can_stand_it_keeps_bytes_right(outcome: Case, case: str) -> None:
    assert outcome(case) == {"found": ALL, "over": True, "right": ALL}


def test_asked_again_it_repeats_itself(outcome: Case) -> None:
    """With two blocks computed meanwhile, 2 + 8 of a prompt of 8; vLLM asserts, and ends."""
    assert outcome("asked_again_with_more_computed") == {"at": [ALL, ALL]}


def test_asked_after_a_preemption_it_raises(outcome: Case) -> None:
    assert "slot must be in" in outcome("asked_after_a_preemption")["raised"]
