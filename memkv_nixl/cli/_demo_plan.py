"""What the processes of the demo must agree on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from memkv_nixl._placement import PlacementNode, group_fingerprint, node_id_of, place
from memkv_nixl.agent import Namespace

GROUP = 8  # blocks of one group, which lie on one node
BATCH = 8  # blocks of one request where bandwidth is measured


@dataclass(frozen=True)
class Plan:
    """The nodes, the blocks and their names; the seed decides the bytes and the namespace."""

    nodes: tuple[str, ...]
    blocks: int
    block_bytes: int
    seed: int
    timeout_ms: int = 5000

    def to_json(self) -> str:
        """As a worker's argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """What to_json wrote."""
        said = json.loads(text)
        return cls(**{**said, "nodes": tuple(said["nodes"])})

    @property
    def namespace(self) -> Namespace:
        """Where the blocks are."""
        return Namespace(model="demo", dtype="uint8", salt=str(self.seed))

    def key(self, block: int) -> bytes:
        """A block's name."""
        return b"block-%06d" % block

    def group(self, block: int) -> bytes:
        """The group it belongs to."""
        return b"run-%06d" % (block // GROUP)

    def held_by(self, node: int) -> int:
        """How many of the blocks lie on a node."""
        nodes = [PlacementNode(node_id_of(address), 1) for address in self.nodes]
        space = self.namespace.fingerprint
        held = 0
        for first in range(0, self.blocks, GROUP):
            if place(group_fingerprint(space, self.group(first)), nodes) == node:
                held += min(GROUP, self.blocks - first)
        return held
