"""`memkv config ENGINE`: the exact flags, JSON and environment that put an engine on a pool."""

from __future__ import annotations

import argparse
from typing import Any

from memkv_nixl.cli import _config_dynamo, _config_vllm

_ENGINES = (_config_vllm, _config_dynamo)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds config."""
    config = commands.add_parser("config", help="how to put an inference engine on the pool")
    engines = config.add_subparsers(dest="engine", required=True, metavar="ENGINE")
    for engine in _ENGINES:
        engine.add_engine(engines, common)
