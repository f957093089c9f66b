"""Which LMCaches are known. Its interface for plugins changes between its small versions."""

from __future__ import annotations

from memkv_nixl._errors import ConfigError

TESTED = ("0.5.6",)


def refuse_unknown_lmcache(version: str) -> None:
    """Raises ConfigError where this LMCache was not tested."""
    if release_of(version) not in TESTED:
        raise ConfigError(
            f"this is LMCache {version}; this memkv-nixl knows {', '.join(TESTED)}. Install that "
            f"one, or a memkv-nixl that knows {release_of(version)}"
        )


def engine_name(version: str) -> str:
    """LMCache as it stands in the namespace: a build of the same release is the same."""
    return f"lmcache/{release_of(version)}"


def release_of(version: str) -> str:
    """A version without what a build adds to it."""
    return version.split("+", 1)[0]
