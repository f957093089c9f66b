"""What `memkv config lmcache --check` looks at: LMCache, its adapter, its server's memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from memkv_nixl._config import credentials_of
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import Setup, hash_seed, installed, nodes_of, region, tier_of
from memkv_nixl.kvbm._lmcache_settings import adapter_settings
from memkv_nixl.kvbm._lmcache_version import TESTED

CHECKED_FLAG = "--l2-adapter"
_ADAPTER = {
    "type": "plugin",
    "module_path": "memkv_nixl.kvbm.lmcache",
    "class_name": "MemKVAdapter",
}
_CONNECTOR = {
    "kv_connector": "MemKVLMCacheConnector",
    "kv_connector_module_path": "memkv_nixl.kvbm.lmcache_connector",
    "kv_load_failure_policy": "recompute",
}
_GIB = 1 << 30


def checks(setup: Setup) -> Iterator[Check]:
    """All that is LMCache's own, of the command line of its server, or of that of vLLM."""
    yield installed("LMCache", ("lmcache",), TESTED)
    yield hash_seed(setup.environment)
    if (transfer := setup.flag("--kv-transfer-config")) is not None:
        yield from _connector(transfer)
    elif setup.document is None:
        text = f"no {CHECKED_FLAG} was given, so it was not checked"
        yield Check(
            "JSON", "warning", text, "--transfer-config FILE, or --command 'lmcache server …'"
        )
    else:
        yield from _adapter(setup.document, setup)
    if (said := setup.flag("--hash-algorithm")) is not None:
        yield _hashes(said)
    if (size := setup.flag("--l1-size-gb")) is not None:
        yield _host_memory(size)


def _adapter(document: Any, setup: Setup) -> Iterator[Check]:
    said = document if isinstance(document, dict) else {}
    for name, word in _ADAPTER.items():
        if said.get(name) == word:
            yield Check(name, "ok", word)
        else:
            yield Check(name, "error", f"{name} is {said.get(name)!r}", f'write "{name}": "{word}"')
    if said.get("serde") is not None:
        text = "with a serde nothing is kept: nobody tells the adapter which it is"
        yield Check("serde", "error", text, 'leave "serde" out')
    given = said.get("adapter_params")
    settings, lines = tier_of(
        given if isinstance(given, dict) else {}, setup.environment, adapter_settings
    )
    yield from lines
    if settings is not None:
        yield from nodes_of(settings.nodes, setup.settings.timeout_ms, credentials_of(settings))


def _connector(text: str) -> Iterator[Check]:
    """vLLM's side: by any other connector nobody can tell which weights it computes with."""
    try:
        document = json.loads(text)
    except ValueError as error:
        mend = "memkv config prints it whole; in a shell it stands between single quotes"
        yield Check("JSON", "error", f"--kv-transfer-config is no JSON: {error}", mend)
        return
    said = document if isinstance(document, dict) else {}
    for name, word in _CONNECTOR.items():
        if said.get(name) == word:
            yield Check(name, "ok", word)
        else:
            yield Check(name, "error", f"{name} is {said.get(name)!r}", f'write "{name}": "{word}"')


def _hashes(said: str) -> Check:
    if said == "builtin":
        text = "builtin hashes may collide, so nothing is kept"
        return Check("hashes", "error", text, "--hash-algorithm blake3")
    return Check("hashes", "ok", said)


def _host_memory(said: str) -> Check:
    try:
        return region("host memory", int(float(said) * _GIB), "--l1-size-gb")
    except ValueError:
        return Check("host memory", "error", f"--l1-size-gb {said} is no number", "--l1-size-gb 64")
