"""Writes docs/reference/agent.md out of the docstrings of memkv_nixl.agent and memkv_nixl.store.

reference.py [--check]: with --check nothing is written; exits 1 where the page is not what it
would write. `./dev docs` runs it, and tests/unit/test_reference.py checks.
"""

from __future__ import annotations

import argparse
import ast
import enum
import importlib
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference/agent.md"
MODULES = ("memkv_nixl.agent", "memkv_nixl.store")
LINE = 92
MADE_FOR_YOU = {"Transfer"}  # whose constructors nobody calls
HEAD = """\
# Python: agent and store

Written by `./dev docs` from the docstrings; edit those. Errors are one tree, drawn in
`memkv_nixl/_errors.py`.
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    text = page()
    if not args.check:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.relative_to(ROOT)} is not what the docstrings say. Run ./dev docs")
        return 1
    return 0


def page() -> str:
    parts = [HEAD]
    for name in MODULES:
        module = importlib.import_module(name)
        parts.append(f"## {name}\n\n{prose(module.__doc__)}\n")
        parts += [entry(module, public) for public in module.__all__]
    return "\n".join(parts)


def entry(module: ModuleType, name: str) -> str:
    thing = getattr(module, name)
    if not inspect.isclass(thing):
        return f"### {name}\n\n    {signature(name, thing)}\n\n{prose(thing.__doc__)}\n"
    lines = [f"### {name}\n"]
    if not issubclass(thing, enum.Enum) and name not in MADE_FOR_YOU:
        lines.append(f"    {signature(name, thing)}\n")
    lines.append(f"{prose(thing.__doc__)}\n")
    if thing.__init__.__doc__ and "__init__" in vars(thing) and not is_generated(thing):
        lines.append(f"{prose(thing.__init__.__doc__)}\n")
    if issubclass(thing, enum.Enum):
        lines.append(f"Values: {', '.join(f'`{member.value}`' for member in thing)}.\n")
    lines += [f"- `{field}`: {text}" for field, text in fields(thing)]
    for member, value in vars(thing).items():
        lines += described(thing, member, value)
    return "\n".join(lines).rstrip() + "\n"


def is_generated(thing: type) -> bool:
    return hasattr(thing, "__dataclass_fields__") or hasattr(thing, "_fields")


def described(thing: type, name: str, value: Any) -> Iterator[str]:
    if name.startswith("_") or (hasattr(thing, "_fields") and name in thing._fields):
        return
    if isinstance(value, property):
        yield f"\n**{name}**\n\n{prose(value.__doc__)}"
    elif isinstance(value, (classmethod, staticmethod)):
        yield f"\n    {signature(name, getattr(thing, name))}\n\n{prose(value.__doc__)}"
    elif inspect.isfunction(value):
        word = "async " if inspect.iscoroutinefunction(value) else ""
        yield f"\n    {word}{signature(name, value)}\n\n{prose(value.__doc__)}"


def fields(thing: type) -> Iterator[tuple[str, str]]:
    """The docstrings that stand below the fields of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(body, ast.ClassDef)
    for statement, after in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            yield statement.target.id, " ".join(str(after.value.value).split())


def signature(name: str, thing: Any) -> str:
    """`name(arguments) -> result` as the source says it."""
    found = inspect.signature(thing)
    arguments: list[str] = []
    star = False
    for parameter in found.parameters.values():
        if parameter.name == "self":
            continue
        text = f"{parameter.name}: {annotation(parameter.annotation)}"
        if parameter.kind is parameter.VAR_POSITIONAL:
            text, star = f"*{text}", True
        elif parameter.kind is parameter.KEYWORD_ONLY and not star:
            text, star = f"*, {text}", True
        if parameter.default is not parameter.empty:
            text += f" = {json.dumps(parameter.default)}".replace("null", "None")
        arguments.append(text)
    result = annotation(found.return_annotation)
    tail = ")" if result in ("", "None") else f") -> {result}"
    line = f"{name}({', '.join(arguments)}{tail}"
    if len(line) <= LINE:
        return line
    return f"{name}(\n        " + ",\n        ".join(arguments) + f",\n    {tail}"


def annotation(said: Any) -> str:
    if said is inspect.Signature.empty:
        return ""
    return str(getattr(said, "__forward_arg__", said))


def prose(text: str | None) -> str:
    """A docstring; its indented parts stay code."""
    return inspect.cleandoc(text or "").strip()


if __name__ == "__main__":
    sys.exit(main())
