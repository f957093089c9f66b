"""`memkv`: one command for nodes, blocks and looking after them.

Exit codes: 0 done, 1 an error, 2 wrong usage or configuration, 3 a miss (the block is not there),
5 an agent that must not come back by itself. `memkv status` has 4, too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Sequence

from memkv_nixl import __version__
from memkv_nixl._errors import ConfigError, DismissedError, MemKVError, MissError, UsageError
from memkv_nixl.cli._output import Output

# Which module has which commands, in the order of `memkv --help`.
MODULES = {
    "_up": ("up",),
    "_demo": ("demo",),
    "_doctor": ("doctor",),
    "_engine_config": ("config",),
    "_plugins": ("plugins",),
    "_node": ("node",),
    "_control": ("control",),
    "_cluster": ("nodes", "namespaces"),
    "_tenants": ("tenants", "token"),
    "_blocks": ("put", "get", "match", "drop"),
    "_status": ("status",),
    "_replay": ("replay",),
    "_pool_status": ("events",),
}

EXIT_OK = 0
EXIT_ERROR = 1
EXIT_USAGE = 2
EXIT_MISS = 3
EXIT_DISMISSED = 5  # deploy/systemd/memkv-node@.service knows it


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    words = sys.argv[1:] if argv is None else argv
    args = _parser(words).parse_args(words)
    output = Output(as_json=args.json)
    try:
        return int(args.run(args, output) or EXIT_OK)
    except MissError as error:
        output.error(error)
        return EXIT_MISS
    except (ConfigError, UsageError) as error:
        output.error(error)
        return EXIT_USAGE
    except DismissedError as error:
        output.error(error)
        return EXIT_DISMISSED
    except MemKVError as error:
        output.error(error)
        return EXIT_ERROR
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output is gone; let the interpreter close quietly.
        with contextlib.suppress(OSError):
            sys.stderr.close()
        return EXIT_ERROR


def _parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Of the command that these words begin with, whose module alone is loaded; else of all."""
    parser = argparse.ArgumentParser(
        prog="memkv",
        description="MemKV-NIXL: a shared, flash-backed tier for the KV cache of LLM inference.",
        epilog="Settings come from --config (or MEMKV_CONFIG), MEMKV_… variables and flags, "
        "the later wins.",
    )
    parser.add_argument("--version", action="version", version=f"memkv {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON document on standard output")
    common.add_argument("--config", metavar="FILE", help="a YAML file of settings")
    wanted = [name for name, has in MODULES.items() if words and words[0] in has]
    for name in wanted or MODULES:
        importlib.import_module(f"{__name__}.{name}").add_commands(commands, common)
    return parser
