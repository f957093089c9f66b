"""docs/reference/agent.md is what the docstrings say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_reference_is_current(repo: Path) -> None:
    said = subprocess.run(
        [sys.executable, ".ci/reference.py", "--check"],
        cwd=repo,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
