"""Where a control plane is: one address, or those of its replicas, and which of them to ask next.

One replica leads. The others answer what only reads, and refuse what changes something; such a
refusal names the leader when it is known. gRPC is imported where it is needed: a client of blocks
does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

INSTALL = "pip install 'memkv-nixl[control]'"  # what it needs


class Refusal(NamedTuple):
    """What a status says beside its sentence (docs/formats/control.md); empty: nothing."""

    reason: str = ""
    leader: str = ""


class Replicas:
    """The addresses of a control plane; `current` is the one to ask now."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = list(addresses)
        self._tries = 0
        self.current = self._addresses[0]

    def __str__(self) -> str:
        return ",".join(self._addresses)

    @property
    def several(self) -> bool:
        """Whether there is another one to ask."""
        return len(self._addresses) > 1

    def found(self) -> None:
        """The current one is right."""
        self._tries = 0

    def turn(self, leader: str = "") -> bool:
        """Goes to the leader that was named, or to the next.

        False when that makes a round since the last one: then wait a little before it is asked.
        """
        if leader:
            self.current = leader
        else:
            known = self.current in self._addresses
            at = self._addresses.index(self.current) + 1 if known else 0
            self.current = self._addresses[at % len(self._addresses)]
        self._tries += 1
        if self._tries < len(self._addresses):
            return True
        self._tries = 0
        return False


def refusal_of(error: Any) -> Refusal:
    """The reason in the details of a gRPC error."""
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return Refusal(str(info.reason), str(info.metadata.get("leader", "")))
    return Refusal()
