"""The documents say what is there.

Promises name their tests, rooms their story, the README its independence, and the change log
knows the version.
"""

from __future__ import annotations

import re

from tests.house.conftest import Plant
from tests.house.tree import Tree, report

ARCHITECTURE = "docs/architecture.md"
GUARANTEES = "docs/guarantees.md"
README = "README.md"

TEST_NAME = re.compile(r"(?P<path>tests/[\w./-]+\.(?:cpp|py))(?P<name>(?:::\w+)+|:\w+\.\w+|:\w+)?")
STORY = re.compile(r"\b(?P<path>[a-z]+/\w+\.h)\b")


def table_rows(text: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of every body row of every table."""
    lines = text.splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            continue
        below = lines[number] if number < len(lines) else ""
        if re.fullmatch(r"[\s|:-]+", line) or re.fullmatch(r"\s*\|[\s|:-]+", below):
            continue
        rows.append((number, [cell.strip() for cell in line.strip().strip("|").split("|")]))
    return rows


def names_a_test(tree: Tree, path: str, name: str) -> bool:
    text = tree.text(path)
    if "." in name:  # gtest: Suite.Case
        suite, case = name.lstrip(":").split(".")
        macro = rf"\b(?:TYPED_)?TEST(?:_F|_P)?\(\s*{suite}\s*,\s*{case}\s*\)"
        return re.search(macro, text) is not None
    parts = [part for part in name.split(":") if part]
    if path.endswith(".py"):
        return all(re.search(rf"\b(?:def|class)\s+{part}\b", text) for part in parts)
    return all(re.search(rf"\b{part}\b", text) for part in parts)


def promises_without_test(tree: Tree) -> list[str]:
    if not tree.exists(GUARANTEES):
        return [
            f"{GUARANTEES} is missing; write a table of promises, their tests in its last column"
        ]
    rows = table_rows(tree.text(GUARANTEES))
    if not rows:
        return [f"{GUARANTEES} has no table of promises"]
    found = []
    for line, cells in rows:
        where = f"{GUARANTEES}:{line}"
        tests = list(TEST_NAME.finditer(cells[-1]))
        if not tests:
            found.append(
                f"{where}: this promise names no test; write tests/unit/x_test.cpp:Suite.Case or "
                "tests/x/test_y.py::test_z into its last column"
            )
        for test in tests:
            path, name = test["path"], test["name"]
            if not tree.exists(path):
                found.append(
                    f"{where}: {path} does not exist; name the test that holds the promise"
                )
            elif not name:
                found.append(f"{where}: {path} alone says too little; name the test in it, too")
            elif not names_a_test(tree, path, name):
                found.append(f"{where}: {path} has no test {name.lstrip(':')}; was it renamed?")
    return found


def rooms_without_story(tree: Tree) -> list[str]:
    headers = {path.removeprefix("plugin_src/") for path in tree.files(".h", under=("plugin_src",))}
    if not tree.exists(ARCHITECTURE):
        return [f"{ARCHITECTURE} is missing; write it: the data's way and the rooms of the house"]
    named = {match["path"] for match in STORY.finditer(tree.text(ARCHITECTURE))}
    found = [
        f"{ARCHITECTURE}: names {path}, but plugin_src/{path} does not exist; was it renamed?"
        for path in sorted(named - headers)
        if (tree.root / "plugin_src" / path.split("/")[0]).is_dir()
    ]
    for folder in sorted({path.split("/")[0] for path in headers}):
        if not any(path.startswith(f"{folder}/") for path in named & headers):
            what_to_do = f"name the one header that is its story, as {folder}/….h"
            found += [f"{ARCHITECTURE}: says nothing of plugin_src/{folder}; {what_to_do}"]
    return found


def independence(tree: Tree) -> list[str]:
    if not tree.exists(README):
        return [f"{README} is missing; write it"]
    paragraphs = [
        part for part in re.split(r"\n\s*\n", tree.text(README)) if "minio" in part.lower()
    ]
    if len(paragraphs) != 1:
        what_to_do = "exactly one must, and say that this project is independent of it"
        return [f"{README}: {len(paragraphs)} paragraphs speak of MinIO; {what_to_do}"]
    if not re.search(
        r"independent|not\s+affiliated|no\s+affiliation", paragraphs[0], re.IGNORECASE
    ):
        return [f"{README}: the paragraph on MinIO must say that this project is independent of it"]
    return []


def version_in_changelog(tree: Tree) -> list[str]:
    match = re.search(
        r'^__version__ = "([^"]+)"', tree.text("memkv_nixl/__init__.py"), re.MULTILINE
    )
    if match is None:
        return ['memkv_nixl/__init__.py: must hold __version__ = "X.Y.Z" alone on a line']
    if not re.search(rf"^## .*\b{re.escape(match[1])}\b", tree.text("CHANGELOG.md"), re.MULTILINE):
        return [f"CHANGELOG.md: has no section for {match[1]}; write one headed '## {match[1]}'"]
    return []


def test_every_promise_names_a_test(house: Tree) -> None:
    report(promises_without_test(house))


def test_every_room_has_its_story(house: Tree) -> None:
    report(rooms_without_story(house))


def test_readme_states_independence_once(house: Tree) -> None:
    report(independence(house))


def test_changelog_knows_the_version(house: Tree) -> None:
    report(version_in_changelog(house))


def test_empty_promises_are_found(plant: Plant) -> None:
    rows = [
        "`tests/unit/a_test.cpp:Store.Keeps`<br>`tests/integration/test_b.py::test_x`",
        "`tests/unit/a_test.cpp:Store.Loses`",
        "`tests/unit/gone_test.cpp:Store.Keeps`, `tests/integration/test_b.py::test_gone`",
        "trust us",
        "`tests/unit/a_test.cpp`",
    ]
    table = "| promise | held by |\n|---|---|\n" + "".join(f"| p | {row} |\n" for row in rows)
    tree = plant(
        {
            GUARANTEES: table,
            "tests/unit/a_test.cpp": "TEST_F(Store, Keeps) {}\n",
            "tests/integration/test_b.py": "def test_x(): ...\n",
        }
    )
    assert [int(finding.split(":")[1]) for finding in promises_without_test(tree)] == [
        4,
        5,
        5,
        6,
        7,
    ]
    assert promises_without_test(plant({GUARANTEES: "We promise.\n"}))


def test_missing_stories_are_found(plant: Plant) -> None:
    tree = plant(
        {
            "plugin_src/wire/frames.h": "",
            "plugin_src/base/result.h": "",
            ARCHITECTURE: "`wire/old.h` and `base/result.h`\n",
        }
    )
    assert len(rooms_without_story(tree)) == 2


def test_dependence_is_found(plant: Plant) -> None:
    assert independence(plant({README: "Fast.\n"}))
    assert independence(plant({README: "Like MinIO.\n"}))
    assert independence(plant({README: "Independent of MinIO.\n\nMinIO again.\n"}))
    assert not independence(plant({README: "Independent of MinIO.\n"}))


def test_forgotten_versions_are_found(plant: Plant) -> None:
    module = '__version__ = "0.2.0"\n'
    tree = plant({"memkv_nixl/__init__.py": module, "CHANGELOG.md": "# Changes\n\n## 0.1.0\n"})
    assert version_in_changelog(tree)
