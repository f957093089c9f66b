"""What the house rules look at: the project's files, C++ without comments and strings, findings.

A rule is a function from a `Tree` to a list of findings, each one line: where, what, and what to
do. Every rule is tested twice: on the project itself, where it must find nothing, and on a small
wrong tree, where it must find something; so no rule can rot into one that always passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import pytest

GENERATED = re.compile(r"_pb2|_native\.pyi$|(^|/)golden/")
# Folders the tools make; everything else in the project is held to the rules.
NOT_OURS = {".git", ".venv", "build", "dist", "__pycache__", "_bin", "node_modules"}
CACHES = re.compile(r"^\.(hypothesis|.*_cache)$|\.egg-info$")

CODE = (".cpp", ".h", ".py")
CPP = (".cpp", ".h")

# A comment, a raw string, a string or a character; digit separators (1'000) are no characters.
_CPP_TOKEN = re.compile(
    r"""//(?:\\\n|[^\n])*|/\*.*?\*/|R"([^(\s]*)\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+'""",
    re.DOTALL,
)


class Tree:
    """The project under `root`, read once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @cached_property
    def paths(self) -> list[str]:
        """Every file that is ours, relative to the root, sorted."""
        return sorted(self._walk(self.root))

    def _walk(self, folder: Path) -> Iterator[str]:
        for path in folder.iterdir():
            if path.name in NOT_OURS or CACHES.search(path.name) or path.is_symlink():
                continue
            if path.is_dir():
                yield from self._walk(path)
            elif path.suffix != ".so":
                yield path.relative_to(self.root).as_posix()

    def files(self, *suffixes: str, under: tuple[str, ...] = ()) -> list[str]:
        """Our own files with one of these endings, generated ones left out."""
        return [
            path
            for path in self.paths
            if path.endswith(suffixes)
            and (not under or path.startswith(tuple(f"{top}/" for top in under)))
            and not GENERATED.search(path)
        ]

    def text(self, path: str) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def cpp(self, path: str) -> str:
        """C++ with comments and the insides of strings gone; lines stay where they were."""
        return strip_cpp(self.text(path))


def strip_cpp(text: str) -> str:
    def blank(match: re.Match[str]) -> str:
        token = match.group()
        inside = "\n" * token.count("\n")
        return inside or " " if token.startswith("/") else f'"{inside}"'

    return _CPP_TOKEN.sub(blank, text)


def lines_with(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    """(line number, what matched) for every match."""
    for match in pattern.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match.group()


def report(findings: list[str]) -> None:
    """Fails the test with every finding on a line of its own."""
    if findings:
        pytest.fail("\n".join(findings), pytrace=False)
