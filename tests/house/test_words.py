"""Words and calls that have no place here, and the ones each file must have."""

from __future__ import annotations

import ast
import re

from tests.house.conftest import Plant
from tests.house.tree import CODE, CPP, Tree, lines_with, report

TEXT = (
    *CODE,
    ".md",
    ".txt",
    ".toml",
    ".cmake",
    ".json",
    ".yaml",
    ".yml",
    ".proto",
    ".sh",
    "dev",
    "run",
)

# Spelled in two halves, so that this file itself has none of them.
LATER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
MACHINE = re.compile(r"(?<![\w.])/(home/(?!nonroot)|Users/|ro" + r"ot/|wo" + r"rk/)\w[\w.-]*")

CPP_SLEEP = re.compile(r"\b(sleep_for|sleep_until|usleep|nanosleep|sleep)\s*\(")
THREAD_LOCAL = re.compile(r"\bthread_local\b|\b__thread\b")
POINTER_KEY = re.compile(
    r"\b(?:unordered_)?(?:multi)?(?:map|set)\s*<\s*"
    r"(?:[\w:\s]+(?:<[^<>]*>)?\s*\*|(?:std::)?(?:unique|shared|weak)_ptr\b)"
)
# What a file must be called to touch the real world: everyone else is handed it.
HIDDEN_WORLD = {
    "clock": (
        re.compile(
            r"\b\w*_clock::now\s*\(|\b(clock_gettime|gettimeofday|timespec_get)\s*\(|\bstd::time\s*\("
        ),
        "take a base/clock.h Clock",
    ),
    "random": (
        re.compile(r"\brandom_device\b|\b(getrandom|getentropy|srand|rand)\s*\("),
        "take a base/random.h Random",
    ),
    "config": (
        re.compile(r"\b(secure_)?getenv\s*\("),
        "read the environment where the configuration is made and hand the value in",
    ),
}
# A limit counts something: kPeersMax, kKeyBytesMax, kMaxRetries. kVersionMax or kTypeMax is no such
# thing.
LIMIT = re.compile(
    r"\bconstexpr\s+[\w:\s]*\b(k\w*s(?:Max|Limit)|kMax\w*s)\s*(?:=|\{)\s*[\d(][^;]*;"
)
CONTRACT_WORDS_MIN = 5


def words_for_later(tree: Tree) -> list[str]:
    return [
        f"{path}:{line}: {word}; do it now, or open an issue and leave no mark in the code"
        for path in tree.files(*TEXT)
        for line, word in lines_with(tree.text(path), LATER)
    ]


def machine_paths(tree: Tree) -> list[str]:
    return [
        f"{path}:{line}: {place} is a place on somebody's machine; "
        "write a path of the project or a variable"
        for path in tree.files(*TEXT)
        for line, place in lines_with(tree.text(path), MACHINE)
    ]


def sleeps_in_tests(tree: Tree) -> list[str]:
    what_to_do = "wait for the event itself: a sequence point, a readiness, a deadline"
    found = [
        f"{path}:{line}: {call}...); {what_to_do}"
        for path in tree.files(*CPP, under=("tests",))
        for line, call in lines_with(tree.cpp(path), CPP_SLEEP)
    ]
    for path in tree.files(".py", under=("tests",)):
        for node in ast.walk(ast.parse(tree.text(path), path)):
            if isinstance(node, ast.Call) and is_python_sleep(node):
                found.append(f"{path}:{node.lineno}: {ast.unparse(node)}; {what_to_do}")
            if isinstance(node, ast.ImportFrom) and node.module in ("time", "asyncio"):
                found += [
                    f"{path}:{node.lineno}: imports {node.module}.sleep; {what_to_do}"
                    for alias in node.names
                    if alias.name == "sleep"
                ]
    return found


def is_python_sleep(call: ast.Call) -> bool:
    """Whether this is time.sleep(...) or asyncio.sleep(...); asyncio.sleep(0) only yields."""
    name = ast.unparse(call.func)
    yields = name == "asyncio.sleep" and [ast.unparse(arg) for arg in call.args] == ["0"]
    return name in ("time.sleep", "asyncio.sleep") and not yields


def headers_without_contract(tree: Tree) -> list[str]:
    found = []
    for path in tree.files(".h"):
        lines = [line for line in tree.text(path).splitlines() if line.strip()]
        if lines and lines[0].strip() == "#pragma once":
            lines = lines[1:]
        words = 0
        for line in lines:
            if not line.startswith("//"):
                break
            words += len(line.strip("/ ").split())
        if words < CONTRACT_WORDS_MIN:
            found.append(
                f"{path}:1: begins without its contract; say in a comment what it is, which "
                "statuses it answers, who owns what, which thread, which limit"
            )
    return found


def hidden_worlds(tree: Tree) -> list[str]:
    found = []
    for path in tree.files(*CPP, under=("plugin_src",)):
        text = tree.cpp(path)
        stem = path.rsplit("/", 1)[1]
        for kind, (pattern, what_to_do) in HIDDEN_WORLD.items():
            if kind not in stem:
                found += [
                    f"{path}:{line}: {call.strip()}; {what_to_do}"
                    f" (only a file with '{kind}' in its name may do this)"
                    for line, call in lines_with(text, pattern)
                ]
        found += [
            f"{path}:{line}: {word}; the simulation runs many nodes on one thread, make it a member"
            for line, word in lines_with(text, THREAD_LOCAL)
        ]
        found += [
            f"{path}:{line}: {word}...; ordered by address, no run can be repeated. Key it by an id"
            for line, word in lines_with(text, POINTER_KEY)
        ]
    return found


def limits_elsewhere(tree: Tree) -> list[str]:
    return [
        f"{path}:{line}: {' '.join(text.split())} is a limit; move it to plugin_src/base/limits.h"
        for path in tree.files(*CPP, under=("plugin_src",))
        if not path.endswith("/limits.h")
        for line, text in lines_with(tree.cpp(path), LIMIT)
    ]


def test_nothing_is_left_for_later(house: Tree) -> None:
    report(words_for_later(house))


def test_no_paths_of_a_machine(house: Tree) -> None:
    report(machine_paths(house))


def test_tests_do_not_sleep(house: Tree) -> None:
    report(sleeps_in_tests(house))


def test_headers_begin_with_their_contract(house: Tree) -> None:
    report(headers_without_contract(house))


def test_no_hidden_world(house: Tree) -> None:
    report(hidden_worlds(house))


def test_limits_stand_in_limits_h(house: Tree) -> None:
    report(limits_elsewhere(house))


def test_wrong_words_are_found(plant: Plant) -> None:
    tree = plant(
        {
            "plugin_src/base/a.h": "#pragma once\n#include <x>\n// " + "TO" + "DO: later\n",
            "docs/b.md": "run it in /ho" + "me/someone/memkv, X" + "XX\n",
            "docs/fine.md": "mktemp X" + "XXXXX; https://example.org/home/page\n",
        }
    )
    assert len(words_for_later(tree)) == 2
    assert len(machine_paths(tree)) == 1
    assert len(headers_without_contract(tree)) == 1


def test_sleeps_are_found(plant: Plant) -> None:
    tree = plant(
        {
            "tests/unit/a_test.cpp": "void f() { this_thread::sleep_for(1ms); }  // usleep(1)\n",
            "tests/integration/test_b.py": "import time\ntime.sleep(1)\nfrom time import sleep\n",
            "tests/integration/test_c.py": "async def f():\n"
            "    await asyncio.sleep(0)\n    await asyncio.sleep(0.1)\n",
        }
    )
    assert len(sleeps_in_tests(tree)) == 4


def test_hidden_worlds_are_found(plant: Plant) -> None:
    bad = {
        "time": "auto t = std::chrono::steady_clock::now();\n",
        "entropy": "std::random_device r;\n",
        "env": 'auto v = std::getenv("X");\n',
        "local": "thread_local int x;\n",
        "key": "std::unordered_map<const Peer*, int> m;\n",
        "key2": "std::set<std::shared_ptr<Peer>> m;\n",
    }
    fine = {
        "base/clock.cpp": bad["time"],
        "base/random.cpp": bad["entropy"],
        "server/config.cpp": bad["env"],
        "engine/fine.cpp": "std::map<int, Peer*> m;  // getenv(), thread_local\nstd::set<Key> s;\n",
    }
    tree = plant(
        {f"plugin_src/engine/{name}.cpp": text for name, text in bad.items()}
        | {f"plugin_src/{path}": text for path, text in fine.items()}
    )
    assert sorted(finding.split(":")[0] for finding in hidden_worlds(tree)) == sorted(
        f"plugin_src/engine/{name}.cpp" for name in bad
    )


def test_limits_elsewhere_are_found(plant: Plant) -> None:
    tree = plant(
        {
            "plugin_src/wire/a.h": "constexpr size_t kKeyBytesMax = 512;\n"
            "inline constexpr std::uint32_t kMaxPeers{64};\n"
            "constexpr auto kAliasesMax = limits::kKeyBytesMax;\nconstexpr int kVersionMax = 1;\n",
            "plugin_src/base/limits.h": "constexpr size_t kKeyBytesMax = 512;\n",
        }
    )
    assert len(limits_elsewhere(tree)) == 2
