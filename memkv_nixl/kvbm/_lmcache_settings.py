"""Settings of the adapter: those of a tier that LMCache has a use for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from memkv_nixl._config import CREDENTIALS
from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._settings import TierSettings, tier_settings

SETTINGS = (
    *("nodes", *CREDENTIALS, "weights", "salt", "generation"),
    *("lookup_timeout_ms", "fetch_deadline_ms", "store_deadline_ms", "drain_ms", "queue_percent"),
)
# LMCache locks what is being stored for 300 s and what is being loaded for 600 s, and then uses the
# memory for something else (--l1-read-ttl-seconds, --l1-write-ttl-seconds).
DEADLINE_MS_MAX = 120_000


def adapter_settings(
    given: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
) -> TierSettings:
    """The settings out of `adapter_params`. Raises ConfigError by the name of what is wrong."""
    known = {field.name for field in dataclasses.fields(TierSettings)}
    for name in given:
        if name in known and name not in SETTINGS:
            raise ConfigError(
                f"{name}: the MemKV adapter of LMCache has no use for this setting; known are "
                f"{', '.join(SETTINGS)}"
            )
    settings = tier_settings(given, environment=environment)
    for name in ("fetch_deadline_ms", "store_deadline_ms"):
        value: int = getattr(settings, name)
        if value > DEADLINE_MS_MAX:
            raise ConfigError(
                f"{name}: {value} is more than {DEADLINE_MS_MAX}; LMCache does not keep the memory "
                "of a load or store in place for long enough"
            )
    return settings
