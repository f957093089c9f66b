"""`memkv plugins`: a folder in which NIXL finds our plugin by another name beside its own."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import Any

from memkv_nixl._abi_guard import judge
from memkv_nixl._errors import NixlError
from memkv_nixl._nixl import load_nixl, plugin_path
from memkv_nixl._plugin_folder import NAMES, make_plugin_folder
from memkv_nixl.cli._output import Output


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds plugins."""
    plugins = commands.add_parser(
        "plugins",
        parents=[common],
        help="a folder for NIXL_PLUGIN_DIR with NIXL's own plugins and ours",
        epilog="For what knows NIXL's backend OBJ only, such as vLLM's own tier `obj`: our plugin "
        "goes by that name in this folder. NIXL's own files stay as they are.",
    )
    plugins.add_argument("--dir", metavar="FOLDER", required=True, help="made, or renewed")
    plugins.add_argument(
        "--as",
        dest="name",
        choices=NAMES,
        default="OBJ",
        help="the name that our plugin goes by (default OBJ)",
    )
    plugins.set_defaults(run=_plugins)


def _plugins(args: argparse.Namespace, output: Output) -> int:
    nixl = load_nixl()
    verdict = judge(nixl.plugin_folder)
    if not verdict.ok:
        raise NixlError(verdict.sentence)
    folder = make_plugin_folder(nixl.plugin_folder, plugin_path(), Path(args.dir), args.name)
    environment = {"NIXL_PLUGIN_DIR": str(folder)}
    document = {"environment": environment, "name": args.name, "nixl": nixl.version}
    output.answer(document, [f"export NIXL_PLUGIN_DIR={shlex.quote(str(folder))}"])
    return 0
