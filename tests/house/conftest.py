"""The two trees a house rule is tried on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.house.tree import Tree

Plant = Callable[[dict[str, str]], Tree]


@pytest.fixture(scope="session")
def house(repo: Path) -> Tree:
    """The project itself."""
    return Tree(repo)


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Makes a small tree out of {path: text}."""

    def make(files: dict[str, str]) -> Tree:
        for path, text in files.items():
            target = tmp_path / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        return Tree(tmp_path)

    return make
