"""`memkv demo` as a user sees it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memkv_nixl._errors import InternalError
from memkv_nixl.cli import _demo
from memkv_nixl.cli._demo_plan import Plan


def demo(python: str | Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-m", "memkv_nixl.cli", "demo", *args],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )


def test_the_demo_tells_its_story_in_json(newest_nixl: Path) -> None:
    ran = demo(newest_nixl, "--json")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert said["seconds"] < 60
    spill, fetch, killed, back = said["steps"]
    assert [step["step"] for step in said["steps"]] == [
        "spill",
        "fetch",
        "node 1 killed",
        "node 1 is back",
    ]
    for step in (spill, fetch, back):
        assert (step["hits"], step["misses"]) == (step["blocks"], 0), step
    assert killed["hits"] + killed["misses"] == killed["blocks"]
    assert killed["hits"] > 0
    assert killed["misses"] > 0
    assert all(
        step["gb_per_s"] > 0 and step["p99_ms"] >= step["p50_ms"] > 0 for step in (fetch, back)
    )
    assert said["bytes_checked"] == said["block_bytes"] * sum(
        step["hits"] for step in (fetch, killed, back)
    )
    assert "[6/6]" in ran.stderr


def test_the_demo_for_a_person(newest_nixl: Path) -> None:
    ran = demo(newest_nixl, "--blocks", "32", "--block-size", "64KiB")
    assert ran.returncode == 0, ran.stderr
    assert "GB/s" in ran.stdout
    assert "every byte was right" in ran.stdout
    assert "Traceback" not in ran.stderr
    assert "NIXL INFO" not in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(newest_nixl: Path, tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        [str(newest_nixl), "-m", "memkv_nixl.cli", "demo"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any("[2/6]" in line for line in process.stderr)  # the nodes serve
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        assert process.wait(60) == 130
    assert not list(tmp_path.iterdir())


def test_another_number_of_hits_fails_the_demo() -> None:
    answer = {"hits": 15, "blocks": 16, "statuses": {"ok": 15, "not_found": 1}}
    with pytest.raises(InternalError, match="16 of 16 blocks had to come, and 15 did"):
        _demo._step("fetch", answer, 16)


def test_every_plan_gives_both_nodes_blocks() -> None:
    for blocks in (16, 31, 192):
        plan = _demo._make_plan(("127.0.0.1:1", "127.0.0.1:2"), blocks, 1)
        held = [plan.held_by(0), plan.held_by(1)]
        assert sum(held) == blocks
        assert min(held) >= blocks // 4
        assert Plan.from_json(plan.to_json()) == plan


def test_without_nixl_the_demo_says_how_to_get_it() -> None:
    ran = demo(sys.executable)
    assert ran.returncode == 1
    assert "pip install nixl-cu12" in ran.stderr


@pytest.mark.parametrize("wrong", [["--blocks", "1"], ["--block-size", "1GiB"]])
def test_wrong_flags_are_refused(wrong: list[str]) -> None:
    assert demo(sys.executable, *wrong).returncode == 2
