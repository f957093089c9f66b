"""Every error that leaves memkv_nixl.

    MemKVError
    ├── ConfigError        a setting is wrong; the message names it and what to write
    ├── UsageError         a call or command breaks its contract (invalid, too_large)
    ├── MissError          the block is not there (code not_found or corrupt)
    ├── ConflictError      the key is there with another length (code conflict)
    ├── UnreachableError   no node answered in time (codes unreachable, timeout)
    ├── RefusedError       the node said no (busy, no_space, denied, shutdown, …)
    │   └── DismissedError  an agent must not come back: its node was removed, or has another
    ├── NixlError          NIXL is not there, is one we do not know, or cannot load the plugin
    └── InternalError      a broken invariant; please report it

Each carries `code`, the word that the wire, the metrics and the docs use for it. Calls on many
blocks do not raise for a block: each block has its own code.
"""

from __future__ import annotations

CODES = (
    "ok",
    "exists",
    "not_found",
    "conflict",
    "busy",
    "corrupt",
    "device_error",
    "no_space",
    "invalid",
    "too_large",
    "unsupported",
    "denied",
    "timeout",
    "unreachable",
    "cancelled",
    "shutdown",
    "protocol",
    "internal",
)


class MemKVError(Exception):
    """The root; `code` is one of CODES."""

    default_code = "internal"

    def __init__(self, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code or self.default_code


class ConfigError(MemKVError):
    """A setting is wrong."""

    default_code = "invalid"


class UsageError(MemKVError, ValueError):
    """A call breaks its contract."""

    default_code = "invalid"


class MissError(MemKVError):
    """The block is not there, or was taken out because it failed a check."""

    default_code = "not_found"


class ConflictError(MemKVError):
    """The key is there with another length."""

    default_code = "conflict"


class UnreachableError(MemKVError):
    """No node answered in time."""

    default_code = "unreachable"


class RefusedError(MemKVError):
    """The node said no."""

    default_code = "busy"


class DismissedError(RefusedError):
    """An agent that must not come back by itself."""

    default_code = "denied"


class NixlError(MemKVError):
    """NIXL is not there, is one we do not know, or cannot load the plugin."""

    default_code = "unsupported"


class InternalError(MemKVError):
    """A broken invariant of ours."""


_BY_CODE: dict[str, type[MemKVError]] = {
    "invalid": UsageError,
    "too_large": UsageError,
    "not_found": MissError,
    "corrupt": MissError,
    "conflict": ConflictError,
    "unreachable": UnreachableError,
    "timeout": UnreachableError,
    "internal": InternalError,
}


def code_name(code: int) -> str:
    """The word for a code's number."""
    return CODES[code] if 0 <= code < len(CODES) else "unknown"


def error_from_code(code: int, text: str) -> MemKVError:
    """The error that stands for a code's number, saying `text` or the code's word."""
    name = code_name(code)
    return _BY_CODE.get(name, RefusedError)(text or name, name)
