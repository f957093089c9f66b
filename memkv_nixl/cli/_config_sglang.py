"""`memkv config sglang`: SGLang's hierarchical cache with MemKVHiCache, alone or under Dynamo."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import shlex
from collections.abc import Iterator
from typing import Any

from memkv_nixl._config import credentials_of, load_settings, require_nodes
from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import Setup, region, tier_of
from memkv_nixl.cli._output import Output
from memkv_nixl.cli._pool import add_credential_flags, given_credentials
from memkv_nixl.kvbm._mooncake_events import check_endpoint
from memkv_nixl.kvbm._settings import tier_settings
from memkv_nixl.kvbm._sglang_plugin import VARIABLE
from memkv_nixl.kvbm._sglang_version import TESTED, UNTESTED

__all__ = ["CHECKED_FLAG", "add_engine", "checks", "extra_config"]

CHECKED_FLAG = "--hicache-storage-backend-extra-config"
_HOST_MEMORY = "64GiB"
_PAGE = 64
_POOL_CREDIT = 0.8
_OWN_TRANSFERS = "SGLANG_HICACHE_MOONCAKE_REUSE_TE"  # of Mooncake's, which is not installed
_RELAY = "python3 -m memkv_nixl.kvbm.mooncake_relay"
_SGLANGS = ("backend_name", "module_path", "class_name", "interface_v1", "extra_backend_tag")
_LOADING = (
    *("prefetch_threshold", "prefetch_timeout_base", "prefetch_timeout_per_ki_token"),
    *("hicache_storage_pass_prefix_keys", "tp_lcm_size"),
)


def add_engine(engines: Any, common: argparse.ArgumentParser) -> None:
    """Adds sglang."""
    sglang = engines.add_parser(
        "sglang", parents=[common], help="SGLang's hierarchical cache with MemKVHiCache"
    )
    sglang.add_argument("--nodes", metavar="HOST:PORT,…", help="store nodes")
    sglang.add_argument("--model", default="MODEL", help="what SGLang serves; only printed")
    sglang.add_argument(
        "--host-memory",
        default=_HOST_MEMORY,
        metavar="SIZE",
        help=f"SGLang's host pool, of each rank (default {_HOST_MEMORY})",
    )
    sglang.add_argument(
        "--page-size", type=int, default=_PAGE, help=f"tokens of a page (default {_PAGE})"
    )
    add_credential_flags(sglang)
    sglang.add_argument("--salt", help="keeps this use apart from every other")
    sglang.add_argument("--weights", help="names the weights; otherwise their files are read once")
    sglang.add_argument(
        "--dynamo",
        metavar="HOST",
        help="under Dynamo, whose router credits the pool; HOST is where the relay of events runs",
    )
    sglang.set_defaults(run=_sglang)


def _sglang(args: argparse.Namespace, output: Output) -> int:
    shared = load_settings({"nodes": args.nodes, **given_credentials(args)}, config=args.config)
    given = {
        "nodes": ",".join(require_nodes(shared)),
        **credentials_of(shared),
        "salt": args.salt,
        "weights": args.weights,
    }
    tier = {name: value for name, value in given.items() if value is not None}
    tier_settings(tier)
    if args.page_size < 1:
        raise ConfigError(f"page-size: {args.page_size} is less than 1")
    host = parse_size(args.host_memory, "host-memory")
    relay = None if args.dynamo is None else f"tcp://{args.dynamo}:5556"
    if relay is not None:
        check_endpoint(relay)
    extra = extra_config(tier, relay)
    flags = _flags(extra, host, args.page_size, "dynamic" if relay is None else "mooncake")
    document: dict[str, Any] = {"environment": {}, "flags": flags, "extra_config": extra}
    if relay is not None:
        document["environment"] = {VARIABLE: "1", _OWN_TRANSFERS: "false"}
        document["relay"] = f"{_RELAY} --listen tcp://*:5556 --publish tcp://*:5557"
        document["frontend"] = _frontend(args.dynamo)
    output.answer(document, _human(args.model, document))
    return 0


def extra_config(tier: dict[str, Any], relay: str | None = None) -> dict[str, Any]:
    """SGLang's extra configuration of its storage, for a tier with these settings."""
    if relay is not None:
        return {"hicache_storage_pass_prefix_keys": True, **tier, "events_endpoint": relay}
    return {
        "backend_name": "memkv",
        "module_path": "memkv_nixl.kvbm.sglang",
        "class_name": "MemKVHiCache",
        "interface_v1": 1,
        "hicache_storage_pass_prefix_keys": True,
        **tier,
    }


def _flags(extra: dict[str, Any], host: int, page: int, backend: str) -> list[str]:
    said = {
        "--page-size": str(page),
        "--hicache-size": str(max(host // 10**9, 1)),  # SGLang counts by the thousand
        "--hicache-mem-layout": "page_first",
        "--hicache-write-policy": "write_through",
        "--hicache-storage-backend": backend,
        CHECKED_FLAG: json.dumps(extra),
    }
    return ["--enable-hierarchical-cache", *(word for pair in said.items() for word in pair)]


def _frontend(host: str) -> dict[str, Any]:
    return {
        "environment": {"DYN_MOONCAKE_KV_EVENTS_ENDPOINT": f"tcp://{host}:5557"},
        "flags": [
            *("--router-mode", "kv", "--shared-cache-type", "hicache"),
            *("--shared-cache-multiplier", str(_POOL_CREDIT)),
        ],
    }


def _human(model: str, document: dict[str, Any]) -> list[str]:
    """Lines for a shell."""
    switch, *flags = document["flags"]
    pairs = [f"    {flags[i]} {shlex.quote(flags[i + 1])}" for i in range(0, len(flags), 2)]
    start = "python3 -m sglang.launch_server"
    lines = []
    if "relay" in document:
        frontend = document["frontend"]
        variables = [f"{name}={value}" for name, value in frontend["environment"].items()]
        start = "python3 -m dynamo.sglang"
        lines = [
            "# once for the pool",
            document["relay"].replace("*", "'*'"),
            "# the frontend",
            " ".join([*variables, "python3 -m dynamo.frontend", *frontend["flags"]]),
            "# each worker",
            *(f"export {name}={value}" for name, value in document["environment"].items()),
        ]
    command = [f"{start} --model-path {shlex.quote(model)}", f"    {switch}", *pairs]
    return [*lines, " \\\n".join(command)]


def checks(setup: Setup) -> Iterator[Check]:
    """What can be seen of an SGLang on this machine, and of its command line."""
    yield _installed()
    document = setup.document
    if not isinstance(document, dict):
        yield Check("extra config", "warning", f"no {CHECKED_FLAG} was given", "name it")
        return
    given = {k: v for k, v in document.items() if k not in (*_SGLANGS, *_LOADING)}
    endpoint = given.pop("events_endpoint", "")
    yield from tier_of({"nodes": ",".join(setup.settings.nodes), **given}, setup.environment)[1]
    yield from _needed(document, setup)
    if endpoint:
        yield _endpoint(str(endpoint))
    if setup.command:
        yield from _layout(setup)


def _installed() -> Check:
    try:
        version = importlib.metadata.version("sglang").split("+", 1)[0]
    except importlib.metadata.PackageNotFoundError:
        mend = "run this with the Python of SGLang: python -m memkv_nixl.cli config sglang …"
        return Check("SGLang", "warning", "SGLang is not installed here", mend)
    if version in TESTED:
        return Check("SGLang", "ok", f"sglang {version}, which is tested")
    if version in UNTESTED:
        mend = f"tested are {', '.join(TESTED)}"
        return Check("SGLang", "warning", f"sglang {version}: not tested with memkv-nixl", mend)
    mend = f"install {' or '.join(TESTED)}, or a memkv-nixl that knows {version}"
    return Check("SGLang", "error", f"sglang {version}: memkv-nixl does not know it", mend)


def _needed(document: dict[str, Any], setup: Setup) -> Iterator[Check]:
    wanted = extra_config({})
    if setup.flag("--hicache-storage-backend") == "mooncake":
        wanted = extra_config({}, "tcp://relay:5556")
        del wanted["events_endpoint"]
        if setup.environment.get(VARIABLE) != "1":
            text = f"{VARIABLE} is not set, so that SGLang looks for Mooncake itself"
            yield Check("mooncake", "error", text, f"export {VARIABLE}=1")
    for name, value in wanted.items():
        if name != "backend_name" and document.get(name) != value:
            text = f"{name} is {json.dumps(document.get(name))}"
            yield Check(f"extra config {name}", "error", text, f'"{name}": {json.dumps(value)}')


def _endpoint(endpoint: str) -> Check:
    try:
        check_endpoint(endpoint)
    except ConfigError as error:
        return Check("events", "error", str(error), "mend events_endpoint, or leave it out")
    return Check("events", "ok", f"events go to {endpoint}")


def _layout(setup: Setup) -> Iterator[Check]:
    layout = setup.flag("--hicache-mem-layout")
    if layout in (None, "layer_first") and setup.flag("--hicache-storage-backend") != "mooncake":
        text = f"--hicache-mem-layout is {layout or 'not said'}"
        yield Check("layout", "error", text, "--hicache-mem-layout page_first")
    if size := setup.flag("--hicache-size"):
        if size.isdigit():
            yield region("host pool", int(size) * 10**9, "--hicache-size")
        else:
            yield Check("host pool", "error", f"--hicache-size {size}", "a whole number of GB")
