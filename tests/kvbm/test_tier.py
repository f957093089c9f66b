"""The tier over a real NIXL and real nodes: every case of cases.py, each in its own process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.agent.conftest import CaseRunner

CASES = re.findall(
    r"^def case_(\w+)\(", Path(__file__).with_name("cases.py").read_text("utf-8"), re.MULTILINE
)


@pytest.mark.parametrize("case", CASES)
def test_case(cases: CaseRunner, tmp_path: Path, case: str) -> None:
    cases.run(case, tmp_path)
