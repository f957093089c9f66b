"""What `memkv config dynamo --check` looks at: Dynamo's own settings, and all of vLLM's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from memkv_nixl.cli import _check_vllm
from memkv_nixl.cli._checks import Check
from memkv_nixl.cli._config_check import Setup, installed

CHECKED_FLAG = _check_vllm.CHECKED_FLAG
TESTED = ("1.6.1",)
UNTESTED = ("1.6",)
_SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_HOST"
_ALONE = '{"kv_connector": "MultiConnector", …}: memkv config dynamo --disaggregated prints it'


def checks(setup: Setup) -> Iterator[Check]:
    """All that is Dynamo's own, and vLLM's."""
    yield installed("Dynamo", ("ai-dynamo",), TESTED, UNTESTED)
    for check in _check_vllm.checks(setup):
        if check.name == "hash seed" and "PYTHONHASHSEED" not in setup.environment:
            yield Check("hash seed", "ok", "dynamo.vllm sets PYTHONHASHSEED=0 where it is not set")
        else:
            yield check
    if setup.command:
        yield shutdown(setup)
        yield events(setup)
        yield from disaggregation(setup)


def shutdown(setup: Setup) -> Check:
    """Whether the tier has the time to put what waits."""
    said = setup.flag("--shutdown-timeout")
    if said is not None and said.isdigit() and int(said) > 0:
        return Check("shutdown", "ok", f"--shutdown-timeout {said}")
    text = "without --shutdown-timeout vLLM is killed at once: what was not put yet is lost, and "
    text += "its region stays in /dev/shm"
    return Check("shutdown", "warning", text, "--shutdown-timeout 20")


def events(setup: Setup) -> Check:
    """Whether the router is told what the pool has, in a way that it understands."""
    said = setup.flag("--kv-events-config")
    try:
        given = json.loads(said) if said is not None else {}
    except ValueError as error:
        mend = "memkv config dynamo prints it whole"
        return Check("events", "error", f"--kv-events-config is no JSON: {error}", mend)
    if not (isinstance(given, dict) and given.get("enable_kv_cache_events")):
        if _role(setup) == "decode":
            return Check("events", "ok", "none; a router asks prefill workers what they have")
        text = "none are published, so a KV router knows nothing of the pool"
        mend = "for --router-mode kv: --kv-events-config, as memkv config dynamo prints it"
        return Check("events", "warning", text, mend)
    if setup.document is not None and not _described(setup.document):
        text = "they say no tokens, so the router drops them"
        mend = 'write "self_describing_kv_events": true beside secondary_tiers'
        return Check("events", "error", text, mend)
    return Check("events", "ok", f"published at {given.get('endpoint')}")


def _described(document: Any) -> bool:
    ours = _check_vllm.connector_in(document)
    extra = ours.get("kv_connector_extra_config") if ours else None
    return isinstance(extra, dict) and extra.get("self_describing_kv_events") is True


def disaggregation(setup: Setup) -> Iterator[Check]:
    """Whether prefill and decode workers reach one another beside the tier."""
    role = _role(setup)
    if role not in ("prefill", "decode"):
        return
    names = _connectors(setup.document)
    if "NixlConnector" not in names:
        text = f"a {role} worker needs NixlConnector beside the tier"
        yield Check("connectors", "error", text, _ALONE)
    elif names[0] != "NixlConnector":
        text = f"vLLM takes what the first connector has, and that is {names[0]}"
        yield Check("connectors", "error", text, "put NixlConnector first")
    else:
        yield Check("connectors", "ok", ", ".join(names))
    if _SIDE_CHANNEL in setup.environment:
        yield Check("side channel", "ok", setup.environment[_SIDE_CHANNEL])
    else:
        text = f"{_SIDE_CHANNEL} is not set, and Dynamo does not find NixlConnector inside a "
        text += "MultiConnector: other machines do not reach this worker"
        mend = f"export {_SIDE_CHANNEL}=<this machine's address>"
        yield Check("side channel", "warning", text, mend)


def _role(setup: Setup) -> str:
    return setup.flag("--disaggregation-mode") or "agg"


def _connectors(document: Any) -> list[str]:
    """The names of a MultiConnector's connectors, in order."""
    extra = document.get("kv_connector_extra_config") if isinstance(document, dict) else None
    inside = extra.get("connectors") if isinstance(extra, dict) else None
    listed = inside if isinstance(inside, list) else [document]
    return [str(one.get("kv_connector")) for one in listed if isinstance(one, dict)]
