"""memkv_nixl.agent over a real NIXL: every case of cases.py, each in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agent.conftest import CaseRunner

CASES = re.findall(
    r"^def case_(\w+)\(", Path(__file__).with_name("cases.py").read_text("utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("case", CASES)
def test_case(cases: CaseRunner, tmp_path: Path, case: str) -> None:
    cases.run(case, tmp_path)


def register_without_nixl(path: Path) -> str:
    """What `register` says where there is no NIXL but what lies in `path`."""
    ran = subprocess.run(
        [sys.executable, "-c", "from memkv_nixl.agent import register; register()"],
        env={**os.environ, "PYTHONPATH": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 1
    return ran.stderr.splitlines()[-1]


def test_without_nixl_it_says_how_to_get_it(tmp_path: Path) -> None:
    said = register_without_nixl(tmp_path)
    assert "NIXL is not installed in" in said
    assert "pip install nixl-cu12" in said


def test_a_nixl_that_cannot_be_imported_is_said(tmp_path: Path) -> None:
    (tmp_path / "nixl_cu12").mkdir()
    (tmp_path / "nixl_cu12/__init__.py").write_text("import torch\n", encoding="utf-8")
    said = register_without_nixl(tmp_path)
    assert "nixl_cu12" in said
    assert "No module named 'torch'" in said
    assert "pip install torch" in said
