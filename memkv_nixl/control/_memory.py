"""What a keeper needs of where its state is kept: a folder (_snapshot), or etcd (_replica)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from memkv_nixl._errors import RefusedError
from memkv_nixl.control._cluster import Cluster


class UnwrittenError(RefusedError):
    """A state that could not be written; the sentence says where, why, and what that means."""


@dataclass(frozen=True)
class Loaded:
    """What was found: nothing at a first start."""

    cluster: Cluster | None
    damage: tuple[str, ...] = ()  # sentences about copies that were of no use


class Memory(Protocol):
    """A place that a state is kept in."""

    def load(self) -> Loaded:
        """What is there."""

    def leads(self) -> bool:
        """Whether who asks may change the state now."""

    def leader(self) -> str:
        """The address of who may, when another one does and is known."""

    def check_leads(self) -> None:
        """Raises the RefusalError for who may not change the state now."""

    async def put(self, cluster: Cluster) -> None:
        """Comes back when it is there for good. Raises UnwrittenError."""

    async def release(self) -> None:
        """Lets another one have it."""
