"""What the tests of pools share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.control.processes import Machine


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[list[Machine]]:
    """Three machines with folders of their own; no memkvd of theirs outlives the test."""
    made = [Machine(tmp_path / f"machine{i}") for i in range(3)]
    for machine in made:
        machine.folder.mkdir()
    yield made
    for machine in made:
        machine.kill_memkvd()
