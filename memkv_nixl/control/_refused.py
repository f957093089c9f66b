"""A call that is refused: a reason for programs, a sentence for people.

`docs/formats/control.md` lists the reasons and the gRPC status of each.
"""

from __future__ import annotations

import enum

from memkv_nixl._errors import RefusedError


class Reason(enum.Enum):
    """Why a call is refused; the word goes into the status's details."""

    INVALID = enum.auto()
    NODE_UNKNOWN = enum.auto()
    NODE_REMOVED = enum.auto()
    NODE_SERVES = enum.auto()
    NODE_TAKEN_OVER = enum.auto()
    NODES_FULL = enum.auto()
    EPOCH_IMPLAUSIBLE = enum.auto()
    NAMESPACE_UNKNOWN = enum.auto()
    NAMESPACE_EXISTS = enum.auto()
    NAMESPACES_FULL = enum.auto()
    GENERATION_UNKNOWN = enum.auto()
    TENANT_UNKNOWN = enum.auto()
    TENANT_EXISTS = enum.auto()
    TENANT_BUILT_IN = enum.auto()
    TENANTS_FULL = enum.auto()
    KEY_UNKNOWN = enum.auto()
    KEY_SIGNS = enum.auto()
    KEYS_FULL = enum.auto()
    REVOKED_FULL = enum.auto()
    STATE_UNWRITABLE = enum.auto()
    NOT_LEADER = enum.auto()
    STREAM_BROKEN = enum.auto()
    TOO_SLOW = enum.auto()
    WATCHES_FULL = enum.auto()


class RefusalError(RefusedError):
    """A call was refused and changed nothing; `leader` is who would not refuse it, if known."""

    def __init__(self, reason: Reason, sentence: str, leader: str = "") -> None:
        super().__init__(sentence)
        self.reason = reason
        self.leader = leader
