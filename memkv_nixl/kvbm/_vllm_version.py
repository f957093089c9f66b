"""Which vLLMs the tier knows. Its out-of-tree interface is experimental: pinned and tested by
minor version."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from memkv_nixl._errors import ConfigError

TESTED = ("0.31", "0.32")
UNTESTED = ("0.33",)  # used where the parts that the tier stands on are the same
_log = logging.getLogger(__name__)


def refuse_unknown_vllm(
    version: str, who: str = "MemKVTier", missing: Callable[[], list[str]] | None = None
) -> None:
    """Raises ConfigError where the tier, or who asks, does not know this vLLM; `missing` names the
    parts that it stands on and that this vLLM lacks."""
    minor = _minor(version)
    if minor not in TESTED + UNTESTED:
        raise ConfigError(
            f"this is vLLM {version}; {who} of this memkv-nixl knows {', '.join(TESTED)}. "
            f"Install one of these, or a memkv-nixl that knows {minor}"
        )
    if lacks := (missing or _missing_parts)():
        raise ConfigError(
            f"vLLM {version} lacks {', '.join(lacks)}, which {who} stands on. It knows vLLM "
            f"{', '.join(TESTED)}; install one of these"
        )
    if minor in UNTESTED:
        _log.warning(
            "MemKV: vLLM %s was not tested with %s; its parts look as in %s",
            version,
            who,
            TESTED[-1],
        )


def engine_name(version: str) -> str:
    """The engine as it stands in the namespace: a build of the same release is the same."""
    return f"vllm/{version.split('+', 1)[0]}"


def _minor(version: str) -> str:
    match = re.match(r"(\d+\.\d+)(?=\.|$)", version)
    return match[1] if match else version


def _missing_parts() -> list[str]:
    """What the tier stands on beyond the documented interface."""
    from vllm.v1.kv_offload import base
    from vllm.v1.kv_offload.tiering.base import JobResult

    context = base.ReqContext(req_id="memkv")
    wanted = {
        "ReqContext.get_offload_key_position": hasattr(context, "get_offload_key_position"),
        "ReqContext._offload_key_positions": hasattr(context, "_offload_key_positions"),
        "JobResult.successful_keys": "successful_keys" in JobResult.__dataclass_fields__,
        "Medium.STORAGE": hasattr(base.Medium, "STORAGE"),
    }
    return [name for name, there in wanted.items() if not there]
