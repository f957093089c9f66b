"""`memkv config dynamo`: Dynamo's frontend with its KV router, and vLLM workers with MemKVTier.

What the workers are started with stands in a ConfigMap, whose two files their command reads.
deploy/dynamo has whole deployments that are made of what is printed here.
"""

from __future__ import annotations

import argparse
import json
import shlex
from typing import Any

from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli._check_dynamo import CHECKED_FLAG, checks
from memkv_nixl.cli._config_vllm import (
    SHUTDOWN_S,
    add_tier_arguments,
    tier_of,
    vllm_transfer_config,
)
from memkv_nixl.cli._output import Output

__all__ = ["CHECKED_FLAG", "add_engine", "checks"]

EVENTS_PORT = 20080
HOST_CREDIT = 0.75  # Dynamo's own
POOL_CREDIT = 0.25  # Dynamo's own for everything below host memory
_NAME = "memkv-connection"
_FOLDER = "/etc/memkv"
_CREDENTIAL_FOLDER = "/etc/memkv-token"
_CREDENTIAL_KEY = "token"
_TRANSFER_FILE = "kv-transfer-config.json"
_EVENTS_FILE = "kv-events-config.json"
_GRACE_S = 90  # Dynamo's own 35 seconds for requests under way, then vLLM's for the tier
_SHM_SPARE = 8 << 30  # of /dev/shm, for what vLLM's own processes share


def add_engine(engines: Any, common: argparse.ArgumentParser) -> None:
    """Adds dynamo."""
    dynamo = engines.add_parser(
        "dynamo", parents=[common], help="Dynamo's router and dynamo.vllm with MemKVTier"
    )
    add_tier_arguments(dynamo)
    dynamo.add_argument(
        "--disaggregated",
        action="store_true",
        help="prefill and decode workers: NixlConnector between them, the tier beside it",
    )
    dynamo.add_argument(
        "--router-mode", choices=("kv", "round-robin"), default="kv", help="default kv"
    )
    dynamo.add_argument(
        "--pool-credit",
        type=float,
        default=POOL_CREDIT,
        metavar="0…1",
        help=f"what the KV router counts a block in the pool for, beside 1 for one on the GPU and "
        f"{HOST_CREDIT} for one in host memory (default {POOL_CREDIT})",
    )
    dynamo.add_argument(
        "--events-port",
        type=int,
        default=EVENTS_PORT,
        metavar="PORT",
        help=f"where a worker publishes its events, inside its own pod (default {EVENTS_PORT})",
    )
    dynamo.add_argument(
        "--name", default=_NAME, help=f"of the Kubernetes ConfigMap (default {_NAME})"
    )
    dynamo.add_argument(
        "--token-secret",
        metavar="NAME",
        help="of the Kubernetes Secret whose key `token` is what `memkv token issue` wrote; the "
        "workers' pods mount it",
    )
    dynamo.set_defaults(run=_dynamo)


def _dynamo(args: argparse.Namespace, output: Output) -> int:
    _check(args)
    if args.token_secret is not None:
        args.token_file = f"{_CREDENTIAL_FOLDER}/{_CREDENTIAL_KEY}"
    region = parse_size(args.host_memory, "host-memory")
    routed = args.router_mode == "kv"
    tier = vllm_transfer_config(tier_of(args), region, events=routed)
    transfer = disaggregated(tier) if args.disaggregated else tier
    events = events_config(args.events_port) if routed else None
    document = {
        "environment": {"PYTHONHASHSEED": "0"},
        "frontend": _frontend(args),
        "workers": {
            role: {"flags": _worker_flags(role, transfer, events)}
            for role in (("prefill", "decode") if args.disaggregated else ("agg",))
        },
        "kv_transfer_config": transfer,
        "kv_events_config": events,
        "config_map": _config_map(args.name, transfer, events),
        "pod": _pod(args.name, region, args.disaggregated, args.token_secret),
    }
    output.answer(document, _human(args.model, document))
    return 0


def _check(args: argparse.Namespace) -> None:
    if not 0 <= args.pool_credit <= 1:
        raise ConfigError(f"pool-credit: {args.pool_credit} is not between 0 and 1")
    if not 1 <= args.events_port <= 65535:
        raise ConfigError(f"events-port: {args.events_port} is not between 1 and 65535")
    if args.token_secret is not None and args.token_file is not None:
        raise ConfigError(
            f"token-secret: the pods find the token at {_CREDENTIAL_FOLDER}/{_CREDENTIAL_KEY}; "
            "leave token-file out"
        )


def disaggregated(tier: dict[str, Any]) -> dict[str, Any]:
    """The --kv-transfer-config of prefill and decode workers.

    vLLM loads from the first connector that has something: a decode worker from its prefill
    worker, a prefill worker from the tier. Both put what they computed into the pool.
    """
    tier = dict(tier)
    policy = tier.pop("kv_load_failure_policy")
    nixl = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
    return {
        "kv_connector": "MultiConnector",
        "kv_role": "kv_both",
        "kv_load_failure_policy": policy,
        "kv_connector_extra_config": {"connectors": [nixl, tier]},
    }


def events_config(port: int = EVENTS_PORT) -> dict[str, Any]:
    """vLLM's --kv-events-config; Dynamo's own process in the worker listens, and nobody else."""
    return {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{port}",
        "topic": "",
    }


def _frontend(args: argparse.Namespace) -> dict[str, Any]:
    """Its flags, and the same as variables, which Dynamo's operator leaves room for."""
    said = {"--router-mode": args.router_mode}
    if args.router_mode == "kv":
        said["--router-host-cache-hit-weight"] = str(HOST_CREDIT)
        said["--router-disk-cache-hit-weight"] = str(args.pool_credit)
    variables = {f"DYN_{name[2:].replace('-', '_').upper()}": said[name] for name in said}
    return {"flags": [word for pair in said.items() for word in pair], "environment": variables}


def _worker_flags(role: str, transfer: dict[str, Any], events: dict[str, Any] | None) -> list[str]:
    """Of `python3 -m dynamo.vllm`. The router asks prefill workers only where there are some."""
    flags = [] if role == "agg" else ["--disaggregation-mode", role]
    flags += ["--prefix-caching-hash-algo", "sha256", "--shutdown-timeout", str(SHUTDOWN_S)]
    flags += [CHECKED_FLAG, json.dumps(transfer)]
    if events is not None and role != "decode":
        flags += ["--kv-events-config", json.dumps(events)]
    return flags


def _config_map(
    name: str, transfer: dict[str, Any], events: dict[str, Any] | None
) -> dict[str, Any]:
    files = {_TRANSFER_FILE: transfer} | ({_EVENTS_FILE: events} if events else {})
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name},
        "data": {file: json.dumps(content, indent=2) + "\n" for file, content in files.items()},
    }


def _pod(name: str, region_bytes: int, nixl: bool, token_secret: str | None) -> dict[str, Any]:
    """What the pod of a worker needs for this beyond what it has anyway."""
    host: dict[str, Any] = {
        "name": "VLLM_NIXL_SIDE_CHANNEL_HOST",  # Dynamo does not find it inside a MultiConnector
        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    volumes: list[dict[str, Any]] = [{"name": "memkv-connection", "configMap": {"name": name}}]
    mounts = [{"name": "memkv-connection", "mountPath": _FOLDER, "readOnly": True}]
    if token_secret is not None:
        # As a folder, not by subPath, or a renewed Secret would never come in.
        volumes.append({"name": "memkv-token", "secret": {"secretName": token_secret}})
        mounts.append({"name": "memkv-token", "mountPath": _CREDENTIAL_FOLDER, "readOnly": True})
    return {
        "sharedMemorySize": f"{-(-(region_bytes + _SHM_SPARE) // (1 << 30))}Gi",
        "terminationGracePeriodSeconds": _GRACE_S,
        "env": [{"name": "PYTHONHASHSEED", "value": "0"}, *([host] if nixl else [])],
        "volumes": volumes,
        "volumeMounts": mounts,
    }


def _human(model: str, document: dict[str, Any]) -> list[str]:
    """Commands for a shell, then what Kubernetes takes."""
    lines = [f"export {name}={value}" for name, value in document["environment"].items()]
    lines.append(_command(["python3", "-m", "dynamo.frontend"], document["frontend"]["flags"]))
    for worker in document["workers"].values():
        start = ["python3", "-m", "dynamo.vllm", "--model", model]
        lines.append(_command(start, worker["flags"]))
    return [
        *lines,
        "",
        "# In Kubernetes: this ConfigMap,",
        *_yaml(document["config_map"]),
        "",
        "# and these fields in each worker (sharedMemorySize beside podTemplate, the others in it)",
        *(f"# {line}" for line in _yaml(document["pod"])),
    ]


def _command(start: list[str], flags: list[str]) -> str:
    pairs = [f"    {flags[i]} {shlex.quote(flags[i + 1])}" for i in range(0, len(flags), 2)]
    return " \\\n".join([shlex.join(start), *pairs])


def _yaml(document: dict[str, Any]) -> list[str]:
    """Lines of YAML, texts of several lines as they are."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False).splitlines()
