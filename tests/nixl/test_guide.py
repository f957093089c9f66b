"""docs/guides/nixl.md: its programs print what it says they print."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.integration.nodes import Node
from tests.nixl import venvs

pytestmark = pytest.mark.timeout(900)


def test_the_programs_of_the_guide(repo: Path, pool: list[Node], tmp_path: Path) -> None:
    text = (repo / "docs/guides/nixl.md").read_text(encoding="utf-8")
    writing, reading = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shared = writing[: writing.index("agent = made()\n")]
    nodes = ",".join(node.address for node in pool)
    environment = {**os.environ, "MEMKV_NODES": nodes, "MEMKV_NAMESPACE": tmp_path.name}

    def printed(program: str) -> list[str]:
        path = tmp_path / "program.py"
        path.write_text(program, encoding="utf-8")
        python = venvs.ensure(venvs.NEWEST)
        ran = subprocess.run(
            [str(python), str(path)], env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return [line for line in ran.stdout.splitlines() if "NIXL INFO" not in line]

    assert printed(writing) == ["('DONE', [0, 0, 0, 0])", "('DONE', [1, 1, 1, 1])"]
    sizes, moved, equal, missed = printed(shared + reading)
    assert sizes == str([1 << 20] * 4 + [None])
    assert (moved, equal) == ("('DONE', [0, 0, 0, 0])", "True")
    assert missed == "('nixlNotFoundError', [0, 2])"
    for line in ("('DONE', [0, 0, 0, 0])", "('DONE', [1, 1, 1, 1])", missed):
        assert f"`{line}`" in text  # as the guide says
