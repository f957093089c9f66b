"""`memkv config ENGINE`: the exact flags, JSON and environment that put an engine on a pool; with
--check whether what is there is right (`_config_check.py`)."""

from __future__ import annotations

import argparse
from typing import Any

from memkv_nixl.cli import (
    _config_dynamo,
    _config_lmcache,
    _config_sglang,
    _config_trtllm,
    _config_vllm,
)
from memkv_nixl.cli._config_check import add_check

# Each adds one engine, and may say what its --check looks at.
_ENGINES = (_config_vllm, _config_dynamo, _config_lmcache, _config_sglang, _config_trtllm)


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds config."""
    config = commands.add_parser("config", help="how to put an inference engine on the pool")
    engines = config.add_subparsers(dest="engine", required=True, metavar="ENGINE")
    for engine in _ENGINES:
        known = set(engines.choices)
        engine.add_engine(engines, common)
        for name in set(engines.choices) - known:
            add_check(engines.choices[name], engine)
