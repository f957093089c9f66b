"""What a tier is set up with: the keys of the block manager's own JSON, over those of `_config`.

    {"nodes": "10.0.0.7:9900,10.0.0.8:9900", "fetch_deadline_ms": 2000}

`nodes`, `token_file` and the `tls_…` may also stand in the file that MEMKV_CONFIG names and in the
environment (MEMKV_NODES, MEMKV_TOKEN_FILE). A key that is not known is refused by name.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memkv_nixl._config import CREDENTIALS, TIMEOUT_MS_MAX, load_settings, require_nodes
from memkv_nixl._errors import ConfigError

GROUP_BLOCKS_MAX = 64
LEAD_BLOCKS_MAX = 4096
LORA = ("refuse", "fixed")


@dataclass(frozen=True, kw_only=True)
class TierSettings:
    """The settings of one tier, checked."""

    nodes: tuple[str, ...]
    """Store nodes, HOST:PORT."""
    token_file: str | None = None
    """The file with the token that says who this is."""
    tls_ca: str | None = None
    """The file of the CA that issued the nodes' certificates; with it every connection is TLS."""
    tls_cert: str | None = None
    """The file of a certificate, where nodes ask for one."""
    tls_key: str | None = None
    """The file of its key."""
    tls_server_name: str | None = None
    """What the nodes are certified as, where that is not the host in their addresses."""
    weights: str = ""
    """Which weights, said by hand; empty: a digest of the files the engine loaded."""
    salt: str = ""
    """Keeps this use apart from every other."""
    generation: int = 0
    """Advance it to forget everything that was stored under the others."""
    lora: str = "refuse"
    """`fixed` asserts that what lies under an adapter's name and path never changes."""
    group_blocks: int = 16
    """Blocks of a chain that lie together on one node."""
    lead_blocks: int | None = None
    """First blocks of a chain that lie each for itself: those that all prompts have in common. None
    is 1, where the engine says which they are."""
    lookup_timeout_ms: int = 40
    """The longest a request waits to learn what the pool has."""
    fetch_deadline_ms: int = 2000
    """The longest a request waits for blocks; what is not there by then is computed."""
    store_deadline_ms: int = 10000
    """What could not be put by then is given up."""
    drain_ms: int = 5000
    """How long a shutdown waits for what is still being put."""
    queue_percent: int = 50
    """How much of the offload region may wait to be put; more is dropped."""
    compute_tokens_per_s: int = 0
    """How fast the engine computes a prompt; 0: it is measured."""
    events: bool = True
    """Whether stored blocks are announced, where the engine publishes events."""

    @property
    def lead(self) -> int:
        """`lead_blocks`, or what they are when nobody said so."""
        return 1 if self.lead_blocks is None else self.lead_blocks

    def __post_init__(self) -> None:
        _between("group_blocks", self.group_blocks, 1, GROUP_BLOCKS_MAX)
        _between("lead_blocks", self.lead_blocks or 0, 0, LEAD_BLOCKS_MAX)
        for name in ("lookup_timeout_ms", "fetch_deadline_ms", "store_deadline_ms"):
            _between(name, getattr(self, name), 1, TIMEOUT_MS_MAX)
        _between("drain_ms", self.drain_ms, 0, TIMEOUT_MS_MAX)
        _between("queue_percent", self.queue_percent, 1, 100)
        _between("compute_tokens_per_s", self.compute_tokens_per_s, 0, 2**40)
        _between("generation", self.generation, 0, 2**32 - 1)
        if self.lora not in LORA:
            raise ConfigError(f"lora: {self.lora!r} is neither of {', '.join(LORA)}")


def tier_settings(
    given: Mapping[str, Any], *, environment: Mapping[str, str] | None = None
) -> TierSettings:
    """The settings out of a block manager's JSON, the environment and the configuration file."""
    fields = {field.name: field for field in dataclasses.fields(TierSettings)}
    for name in given:
        if name not in fields:
            raise ConfigError(_unknown(name, list(fields)))
    said = {name: given.get(name) for name in ("nodes", *CREDENTIALS)}
    shared = load_settings(said, environment=environment)
    values: dict[str, Any] = {"nodes": require_nodes(shared)}
    values |= {name: getattr(shared, name) for name in CREDENTIALS}
    for name, value in given.items():
        if name not in values:
            values[name] = _converted(name, value, fields[name].type)
    return TierSettings(**values)


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
    return f"{name}: the MemKV tier has no such setting; {hint}"


def _converted(name: str, value: Any, kind: Any) -> Any:
    wants = {"str": str, "int": int, "bool": bool}[str(kind)]
    if not isinstance(value, wants) or (wants is int and isinstance(value, bool)):
        words = {str: "text", int: "a whole number", bool: "true or false"}
        raise ConfigError(f"{name}: {value!r} is not {words[wants]}")
    return value


def _between(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name}: {value} is not between {least} and {most}")
