"""`memkv COMMAND` loads the command's own module and no other one's."""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys

import pytest

from memkv_nixl.cli import MODULES, _parser


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_the_commands_that_it_is_loaded_for(name: str) -> None:
    commands = argparse.ArgumentParser().add_subparsers()
    module = importlib.import_module(f"memkv_nixl.cli.{name}")
    module.add_commands(commands, argparse.ArgumentParser(add_help=False))
    assert tuple(commands.choices) == MODULES[name]


def test_a_command_does_not_wait_for_the_modules_of_others() -> None:
    code = (
        "import sys; from memkv_nixl.cli import main\n"
        "try: main(['nodes', 'list', '--help'])\n"
        "except SystemExit: print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "list" in done.stdout.splitlines()[0]
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "memkv_nixl.cli._cluster" in loaded
    assert not {f"memkv_nixl.cli.{name}" for name in set(MODULES) - {"_cluster"}} & loaded


def test_a_command_that_does_not_exist_is_refused_with_those_that_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        _parser(["nods"]).parse_args(["nods"])
    assert ended.value.code == 2
    assert "namespaces" in capsys.readouterr().err
