"""`memkv config trtllm`: TensorRT-LLM's KV cache connector with MemKVScheduler and MemKVWorker."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from memkv_nixl._config import credentials_of
from memkv_nixl._errors import ConfigError
from memkv_nixl._sizes import parse_size
from memkv_nixl.cli._checks import Check, locked_memory
from memkv_nixl.cli._config_check import Setup, installed, nodes_of, region
from memkv_nixl.cli._config_check import tier_of as checked_tier
from memkv_nixl.cli._config_vllm import tier_of
from memkv_nixl.cli._output import Output
from memkv_nixl.cli._pool import add_credential_flags
from memkv_nixl.kvbm._trtllm_meaning import STAGING_DEFAULT, VARIABLE, settings_of

CHECKED_FLAG = "--extra_llm_api_options"
CHECKED_IS_FILE = True
KNOWN = ("1.2",)
_CONNECTOR = {
    "connector_module": "memkv_nixl.kvbm.trtllm",
    "connector_scheduler_class": "MemKVScheduler",
    "connector_worker_class": "MemKVWorker",
}
_FILE = "memkv.yaml"


def add_engine(engines: Any, common: argparse.ArgumentParser) -> None:
    """Adds trtllm."""
    trtllm = engines.add_parser(
        "trtllm", parents=[common], help="TensorRT-LLM's KV cache connector (not run by us: guide)"
    )
    trtllm.add_argument("--nodes", metavar="HOST:PORT,…", help="store nodes")
    trtllm.add_argument("--model", default="MODEL", help="what is served; only printed")
    add_credential_flags(trtllm)
    trtllm.add_argument("--salt", help="keeps this use apart from every other")
    trtllm.add_argument("--weights", help="names the weights; needed where MODEL is no folder")
    trtllm.add_argument(
        "--host-memory",
        default=STAGING_DEFAULT,
        metavar="SIZE",
        help=f"pinned host memory between the GPU and the pool (default {STAGING_DEFAULT})",
    )
    trtllm.set_defaults(run=_trtllm)


def _trtllm(args: argparse.Namespace, output: Output) -> int:
    parse_size(args.host_memory, "host-memory")
    environment = {VARIABLE: json.dumps({**tier_of(args), "staging": args.host_memory})}
    settings_of(environment)
    options = {"kv_connector_config": _CONNECTOR}
    output.answer(
        {"environment": environment, "options": options, "file": _yaml()},
        _human(args.model, environment),
    )
    return 0


def _yaml() -> str:
    """The file that CHECKED_FLAG names."""
    lines = ["kv_connector_config:", *(f"  {name}: {word}" for name, word in _CONNECTOR.items())]
    return "\n".join(lines)


def _human(model: str, environment: Mapping[str, str]) -> list[str]:
    """Lines for a shell."""
    return [
        *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
        f"cat >{_FILE} <<END",
        _yaml(),
        "END",
        f"trtllm-serve {shlex.quote(model)} {CHECKED_FLAG} {_FILE}",
    ]


# ---- --check


def checks(setup: Setup) -> Iterator[Check]:
    """TensorRT-LLM's version, its options where they are given, and MEMKV_TRTLLM."""
    yield installed("TensorRT-LLM", ("tensorrt_llm", "tensorrt-llm"), (), KNOWN)
    if setup.document is None:
        yield Check(
            "JSON",
            "warning",
            "TensorRT-LLM's options were not given, so they were not checked",
            "--transfer-config FILE, or --command 'trtllm-serve …'",
        )
    else:
        yield from _options(setup.document)
    yield from _tier(setup)


def _options(document: Any) -> Iterator[Check]:
    options = document if isinstance(document, dict) else {}
    connector = options.get("kv_connector_config")
    said = connector if isinstance(connector, dict) else {}
    for name, word in _CONNECTOR.items():
        if said.get(name) == word:
            yield Check(name, "ok", word)
        else:
            text = f"kv_connector_config has {name} {said.get(name)!r}"
            yield Check(name, "error", text, f'write "{name}": "{word}"')
    cache = options.get("kv_cache_config")
    for name in ("host_cache_size", "max_attention_window"):
        if isinstance(cache, dict) and cache.get(name):
            text = f"kv_cache_config sets {name}, and MemKV works without it only"
            yield Check(name, "error", text, f"leave {name} out")
    for name in ("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"):
        if options.get(name, 1) != 1:
            text = f"{name} is {options[name]}, and MemKV takes one rank only"
            yield Check(name, "error", text, f"leave {name} out, or TensorRT-LLM without MemKV")
    for name in ("speculative_config", "sparse_attention_config", "enable_attention_dp"):
        if options.get(name):
            text = f"{name} is set, and MemKV works without it only"
            yield Check(name, "error", text, f"leave {name} out")


def _tier(setup: Setup) -> Iterator[Check]:
    text = setup.environment.get(VARIABLE)
    try:
        said = json.loads(text or "{}")
        if not isinstance(said, dict):
            raise ConfigError("that is no JSON object")
        staging = parse_size(said.pop("staging", STAGING_DEFAULT), "staging")
    except (ValueError, ConfigError) as error:
        mend = f'{VARIABLE}=\'{{"weights": "<a word>", "staging": "{STAGING_DEFAULT}"}}\''
        yield Check(VARIABLE, "error", f"{VARIABLE}: {error}", mend)
        return
    settings, lines = checked_tier(said, setup.environment)
    yield from lines
    yield region("staging", staging, "staging")
    yield locked_memory()
    if settings is not None:
        yield from nodes_of(settings.nodes, setup.settings.timeout_ms, credentials_of(settings))
