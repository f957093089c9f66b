"""What becomes of a block: one status per key, never an exception for a block."""

from __future__ import annotations

import enum
from typing import NamedTuple

from memkv_nixl._errors import CODES


class Status(str, enum.Enum):
    """The fate of one block; equal to the word that wire, metrics and docs use for it."""

    OK = "ok"
    EXISTS = "exists"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    BUSY = "busy"
    CORRUPT = "corrupt"
    DEVICE_ERROR = "device_error"
    NO_SPACE = "no_space"
    INVALID = "invalid"
    TOO_LARGE = "too_large"
    UNSUPPORTED = "unsupported"
    DENIED = "denied"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    CANCELLED = "cancelled"
    SHUTDOWN = "shutdown"
    PROTOCOL = "protocol"
    INTERNAL = "internal"

    @property
    def good(self) -> bool:
        """Of a put: the block is there now. Of a get: every byte is in place and was verified."""
        return self in (Status.OK, Status.EXISTS)

    def __str__(self) -> str:
        return self.value

    def __repr__(self) -> str:
        return f"Status.{self.name}"


def status_of_code(code: int) -> Status:
    """The status that a code's number stands for; an unknown one is INTERNAL."""
    return Status(CODES[code]) if 0 <= code < len(CODES) else Status.INTERNAL


class Match(NamedTuple):
    """Whether a block is there, and how long it is (0 when it is not, or nobody could say)."""

    found: bool
    size: int = 0
