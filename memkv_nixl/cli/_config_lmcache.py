"""`memkv config lmcache`: the LMCache server with MemKVAdapter, and vLLM on that server."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from memkv_nixl._sizes import parse_size
from memkv_nixl.cli._check_lmcache import CHECKED_FLAG, checks
from memkv_nixl.cli._config_vllm import SHUTDOWN_S, add_tier_arguments, tier_of
from memkv_nixl.cli._output import Output
from memkv_nixl.kvbm._lmcache_settings import adapter_settings

__all__ = ["CHECKED_FLAG", "add_engine", "checks"]

_PORT = 5555
_CHUNK = 256
_TIMEOUT_S = 30
_GIB = 1 << 30


def add_engine(engines: Any, common: argparse.ArgumentParser) -> None:
    """Adds lmcache."""
    lmcache = engines.add_parser(
        "lmcache", parents=[common], help="the LMCache server with MemKVAdapter, and vLLM on it"
    )
    add_tier_arguments(lmcache)
    lmcache.add_argument(
        "--port", type=int, default=_PORT, help=f"of the LMCache server (default {_PORT})"
    )
    lmcache.add_argument(
        "--chunk-size",
        type=int,
        default=_CHUNK,
        help=f"tokens that LMCache keeps together (default {_CHUNK})",
    )
    lmcache.set_defaults(run=_lmcache)


def _lmcache(args: argparse.Namespace, output: Output) -> int:
    adapter = tier_of(args)
    weights = adapter.pop("weights", None)  # vLLM's side says them, per model
    adapter_settings(adapter)
    l1_bytes = parse_size(args.host_memory, "host-memory")
    server = server_flags(adapter, l1_bytes, args.port, args.chunk_size)
    transfer = connector_config(args.port, weights)
    serve = ["--shutdown-timeout", str(SHUTDOWN_S), "--kv-transfer-config", json.dumps(transfer)]
    environment = {"PYTHONHASHSEED": "0"}
    document = {
        "environment": environment,
        "server_flags": server,
        "flags": serve,
        "l2_adapter": json.loads(server[-1]),
        "kv_transfer_config": transfer,
    }
    commands = [("lmcache server", server), (f"vllm serve {shlex.quote(args.model)}", serve)]
    lines = [f"export {name}={value}" for name, value in environment.items()]
    output.answer(document, [*lines, *(_shell(*command) for command in commands)])
    return 0


def server_flags(adapter: dict[str, Any], l1_bytes: int, port: int, chunk: int) -> list[str]:
    """The LMCache server's flags for an adapter with these settings."""
    plugin = {
        "type": "plugin",
        "module_path": "memkv_nixl.kvbm.lmcache",
        "class_name": "MemKVAdapter",
        "shared": True,  # by all servers that name these nodes
        "adapter_params": adapter,
    }
    flags = {
        "--port": str(port),
        "--chunk-size": str(chunk),
        "--hash-algorithm": "blake3",
        "--supported-transfer-mode": "auto",
        "--l1-size-gb": f"{l1_bytes / _GIB:g}",
        "--eviction-policy": "LRU",
        "--l2-adapter": json.dumps(plugin),
    }
    return [word for flag in flags.items() for word in flag]


def connector_config(port: int, weights: str | None = None) -> dict[str, Any]:
    """vLLM's --kv-transfer-config for an LMCache server on this machine."""
    extra: dict[str, Any] = {
        "lmcache.mp.host": "tcp://localhost",
        "lmcache.mp.port": port,
        "lmcache.mp.mq_timeout": _TIMEOUT_S,
    }
    if weights:
        extra["memkv.weights"] = weights
    return {
        "kv_connector": "MemKVLMCacheConnector",
        "kv_connector_module_path": "memkv_nixl.kvbm.lmcache_connector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }


def _shell(command: str, flags: list[str]) -> str:
    """A command for a shell, a flag a line."""
    pairs = [f"    {flags[i]} {shlex.quote(flags[i + 1])}" for i in range(0, len(flags), 2)]
    return " \\\n".join([command, *pairs])
