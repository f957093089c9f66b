"""Which SGLangs the backend knows. Its interface to storage changes between releases: pinned and
tested by version."""

from __future__ import annotations

import logging

from memkv_nixl._errors import ConfigError

TESTED = ("0.5.21", "0.5.23")  # 0.5.21 is what Dynamo 1.6.1 brings
UNTESTED = ("0.5.22",)  # used where the parts that the backend stands on are the same
_log = logging.getLogger(__name__)


def refuse_unknown_sglang(version: str) -> None:
    """Raises ConfigError where the backend does not know this SGLang."""
    release = version.split("+", 1)[0]
    if release not in TESTED + UNTESTED:
        raise ConfigError(
            f"this is SGLang {version}; MemKVHiCache of this memkv-nixl knows {', '.join(TESTED)}. "
            f"Install one of these, or a memkv-nixl that knows {release}"
        )
    if missing := _missing_parts():
        raise ConfigError(
            f"SGLang {version} lacks {', '.join(missing)}, which MemKVHiCache stands on. It knows "
            f"SGLang {', '.join(TESTED)}; install one of these"
        )
    if release in UNTESTED:
        _log.warning(
            "MemKV: SGLang %s was not tested with MemKVHiCache; its parts look as in %s",
            version,
            TESTED[-1],
        )


def engine_name(version: str) -> str:
    """The engine as it stands in the namespace: a build of the same release is the same."""
    return f"sglang/{version.split('+', 1)[0]}"


def _missing_parts() -> list[str]:
    """What the backend stands on beyond the documented interface."""
    from sglang.srt import runtime_context
    from sglang.srt.arg_groups import arg_utils, overrides
    from sglang.srt.mem_cache import hicache_storage

    extra = hicache_storage.HiCacheStorageExtraInfo.__dataclass_fields__
    wanted = {
        "HiCacheStorageExtraInfo.prefix_keys": "prefix_keys" in extra,
        "PoolHitPolicy.TRAILING_PAGES": hasattr(hicache_storage.PoolHitPolicy, "TRAILING_PAGES"),
        "runtime_context.get_server_args": hasattr(runtime_context, "get_server_args"),
        "RuntimeContext.config_leaf": hasattr(runtime_context.RuntimeContext, "config_leaf"),
        "RuntimeContext.overrides_log": hasattr(runtime_context.RuntimeContext, "overrides_log"),
        "arg_utils.namespace_of": hasattr(arg_utils, "namespace_of"),
        "overrides.resolution_result": hasattr(overrides, "resolution_result"),
    }
    return [name for name, there in wanted.items() if not there]
