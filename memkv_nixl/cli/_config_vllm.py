"""`memkv config vllm`: vLLM's OffloadingConnector with MemKVTier."""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from memkv_nixl._config import credentials_of, load_settings, require_nodes
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli._check_vllm import CHECKED_FLAG, checks
from memkv_nixl.cli._output import Output
from memkv_nixl.cli._pool import add_credential_flags, given_credentials
from memkv_nixl.kvbm._settings import tier_settings

__all__ = ["CHECKED_FLAG", "add_engine", "checks", "vllm_transfer_config"]

_HOST_MEMORY = "64GiB"
SHUTDOWN_S = 20


def add_engine(engines: Any, common: argparse.ArgumentParser) -> None:
    """Adds vllm."""
    vllm = engines.add_parser(
        "vllm", parents=[common], help="vLLM's OffloadingConnector with MemKVTier"
    )
    add_tier_arguments(vllm)
    vllm.add_argument(
        "--events", action="store_true", help="announce blocks, for a router such as Dynamo's"
    )
    vllm.set_defaults(run=_vllm)


def add_tier_arguments(engine: argparse.ArgumentParser) -> None:
    """Adds what the tier is set up with, the same for every way to start vLLM."""
    engine.add_argument("--nodes", metavar="HOST:PORT,…", help="store nodes")
    engine.add_argument("--model", default="MODEL", help="what vLLM serves; only printed")
    engine.add_argument(
        "--host-memory",
        default=_HOST_MEMORY,
        metavar="SIZE",
        help=f"vLLM's offload region in host memory (default {_HOST_MEMORY})",
    )
    add_credential_flags(engine)
    engine.add_argument("--salt", help="keeps this use apart from every other")
    engine.add_argument("--weights", help="names the weights; otherwise their files are read once")


def tier_of(args: argparse.Namespace) -> dict[str, Any]:
    """The tier's settings out of these arguments, checked."""
    shared = load_settings({"nodes": args.nodes, **given_credentials(args)}, config=args.config)
    given = {
        "nodes": ",".join(require_nodes(shared)),
        **credentials_of(shared),
        "salt": args.salt,
        "weights": args.weights,
    }
    tier = {name: value for name, value in given.items() if value is not None}
    tier_settings(tier)
    return tier


def _vllm(args: argparse.Namespace, output: Output) -> int:
    transfer = vllm_transfer_config(
        tier_of(args), parse_size(args.host_memory, "host-memory"), args.events
    )
    flags = [
        "--prefix-caching-hash-algo",
        "sha256",
        "--shutdown-timeout",
        str(SHUTDOWN_S),
        CHECKED_FLAG,
        json.dumps(transfer),
    ]
    environment = {"PYTHONHASHSEED": "0"}
    document = {"environment": environment, "flags": flags, "kv_transfer_config": transfer}
    output.answer(document, _human(args.model, environment, flags))
    return 0


def vllm_transfer_config(
    tier: dict[str, Any], region_bytes: int, events: bool = False
) -> dict[str, Any]:
    """vLLM's --kv-transfer-config for a tier with these settings."""
    extra: dict[str, Any] = {
        "spec_name": "TieringOffloadingSpec",
        "cpu_bytes_to_use": region_bytes,
        "secondary_tiers": [
            {"type": "MemKVTier", "module_path": "memkv_nixl.kvbm.vllm", **tier},
        ],
    }
    if events:
        extra["self_describing_kv_events"] = True
    return {
        "kv_connector": "OffloadingConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": extra,
    }


def _human(model: str, environment: dict[str, str], flags: list[str]) -> list[str]:
    """Lines for a shell."""
    lines = [f"export {name}={value}" for name, value in environment.items()]
    pairs = [f"    {flags[i]} {shlex.quote(flags[i + 1])}" for i in range(0, len(flags), 2)]
    return [*lines, " \\\n".join([f"vllm serve {shlex.quote(model)}", *pairs])]
