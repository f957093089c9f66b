"""Who may include and import whom (docs/architecture.md)."""

from __future__ import annotations

import ast
import re

from tests.house.conftest import Plant
from tests.house.tree import CPP, Tree, report

# A folder may include itself and what stands here.
MAY_INCLUDE = {
    "base": set(),
    "wire": {"base"},
    "transport": {"wire", "base"},
    "client": {"transport", "wire", "base"},
    "nixl": {"client", "transport", "wire", "base"},
    "device": {"base"},
    "engine": {"device", "base"},
    "server": {"engine", "transport", "wire", "base"},
    "bindings": {"client", "wire", "base"},
}
# Where the parts are put together: it also names the device that the engine is handed.
MAY_ALSO_INCLUDE = {"plugin_src/server/main.cpp": {"device"}}

# These do not know of one another; what they share stands in memkv_nixl/_*.py, which knows none of
# them.
SEPARATE = {"agent", "control", "kvbm", "plan", "store"}

INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def includes(tree: Tree, path: str) -> list[tuple[int, str]]:
    text = tree.text(path)
    return [(text.count("\n", 0, m.start(1)) + 1, m.group(1)) for m in INCLUDE.finditer(text)]


def wrong_includes(tree: Tree) -> list[str]:
    found = []
    for path in tree.files(*CPP, under=("plugin_src",)):
        folder = path.split("/")[1]
        if folder not in MAY_INCLUDE:
            found.append(
                f"{path}: plugin_src/{folder} is no room of the house; put it into one of "
                f"{', '.join(MAY_INCLUDE)}, or give it a place here and in docs/architecture.md"
            )
            continue
        allowed = MAY_INCLUDE[folder] | {folder} | MAY_ALSO_INCLUDE.get(path, set())
        for line, name in includes(tree, path):
            target = name.split("/")[0]
            if target not in allowed:
                found.append(
                    f'{path}:{line}: includes "{name}", but {folder}/ may only include '
                    f"{', '.join(sorted(allowed))} (as folder/file.h). Move what both need further "
                    "down, or hand it in through a seam of base/"
                )
    return found


def climbing_includes(tree: Tree) -> list[str]:
    return [
        f'{path}:{line}: includes "{name}"; write the path from plugin_src/ (or tests/) on instead'
        for path in tree.files(*CPP)
        for line, name in includes(tree, path)
        if ".." in name.split("/")
    ]


def imported_modules(tree: Tree, path: str) -> list[tuple[int, str]]:
    """(line, absolute module) of every import of a Python file, also those inside functions."""
    package = path.split("/")[:-1]
    found = []
    for node in ast.walk(ast.parse(tree.text(path), path)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{stem}.{alias.name}") for alias in node.names]
    return found


def wrong_imports(tree: Tree) -> list[str]:
    found = []
    for path in tree.files(".py", under=("memkv_nixl",)):
        room = path.split("/")[1]
        if room in SEPARATE:
            forbidden = SEPARATE - {room}
        elif re.fullmatch(r"_\w+\.py", room) and room != "__init__.py":
            forbidden = SEPARATE | {"cli"}
        else:
            continue
        for line, module in imported_modules(tree, path):
            parts = module.split(".")
            if parts[0] == "memkv_nixl" and len(parts) > 1 and parts[1] in forbidden:
                found.append(
                    f"{path}:{line}: imports {module}, but {room} knows nothing of {parts[1]}. "
                    "Put what both need into a memkv_nixl/_*.py"
                )
    return found


def test_folders_include_only_what_is_below_them(house: Tree) -> None:
    report(wrong_includes(house))


def test_no_include_climbs_out_of_its_folder(house: Tree) -> None:
    report(climbing_includes(house))


def test_python_rooms_do_not_know_one_another(house: Tree) -> None:
    report(wrong_imports(house))


def test_wrong_directions_are_found(plant: Plant) -> None:
    tree = plant(
        {
            "plugin_src/wire/a.h": '#include "base/result.h"\n#include "wire/b.h"\n',
            "plugin_src/wire/b.h": '#include "engine/store.h"\n#include "a.h"\n',
            "plugin_src/attic/c.h": "",
            "tests/unit/d_test.cpp": '#include "../support/e.h"\n#include "engine/store.h"\n',
            "memkv_nixl/agent/a.py": "from memkv_nixl import store\nfrom .. import _errors\n",
            "memkv_nixl/kvbm/b.py": "def f():\n    from ..agent.x import y\n",
            "memkv_nixl/_errors.py": "import memkv_nixl.kvbm\n",
            "memkv_nixl/__init__.py": "from memkv_nixl.agent import register\n",
        }
    )
    assert len(wrong_includes(tree)) == 3
    assert len(climbing_includes(tree)) == 1
    assert len(wrong_imports(tree)) == 3
