"""The map as it is published: a `Cluster` in the words of the protocol, made once per change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from memkv_nixl._native import place_ranked
from memkv_nixl._placement import node_id_of
from memkv_nixl.control._cluster import Cluster, Member, Rules, Space, Tenant
from memkv_nixl.control._limits import NODES_MAX
from memkv_nixl.proto.memkv.v1 import map_pb2 as pb

ADMISSION_WORDS = {
    pb.ADMISSION_UNSPECIFIED: "all",
    pb.ADMISSION_ALL: "all",
    pb.ADMISSION_SECOND_TOUCH: "second_touch",
    pb.ADMISSION_BUDGET: "budget",
}
_ADMISSION_NUMBERS = {
    word: number for number, word in ADMISSION_WORDS.items() if number != pb.ADMISSION_UNSPECIFIED
}


@dataclass(frozen=True)
class Published:
    """A map that everybody may know."""

    cluster: Cluster
    message: pb.ClusterMap
    addresses: tuple[str, ...]
    shares: tuple[tuple[int, int], ...]  # id and weight

    @property
    def history(self) -> int:
        """The memory that its epoch is counted in."""
        return self.cluster.history

    @property
    def epoch(self) -> int:
        """Its epoch."""
        return self.cluster.epoch

    def is_held(self, history: int, epoch: int) -> bool:
        """Whether somebody who holds this one holds the map."""
        return (history, epoch) == (self.history, self.epoch)

    def places(self, namespace: bytes, groups: Sequence[bytes], count: int) -> list[list[str]]:
        """The addresses of the nodes that hold each group, the holder first. Blocking, without the
        GIL: many groups on many nodes take a moment."""
        ranked = place_ranked(namespace, groups, self.shares, count)
        return [[self.addresses[index] for index in indices] for indices in ranked]


def publish(cluster: Cluster) -> Published:
    """The map of this cluster."""
    members = [cluster.members[address] for address in sorted(cluster.members)]
    nodes = [_node(member, cluster) for member in members]
    numbers = {tenant.name: tenant.number for tenant in cluster.tenants.values()}
    message = pb.ClusterMap(
        history=cluster.history,
        epoch=cluster.epoch,
        nodes=nodes,
        namespaces=[_namespace(space, numbers) for _, space in sorted(cluster.spaces.items())],
        tenants=[_tenant(tenant) for _, tenant in sorted(cluster.tenants.items())],
    )
    return Published(
        cluster,
        message,
        tuple(member.address for member in members),
        tuple((node.node_id, node.weight) for node in nodes),
    )


@lru_cache(maxsize=4 * NODES_MAX)
def node_id(address: str) -> int:
    """What placement knows a node by."""
    return node_id_of(address)


def rules_message(rules: Rules) -> pb.NamespaceRules:
    """All rules, none left out."""
    return pb.NamespaceRules(
        quota_bytes=rules.quota_bytes,
        ttl_s=rules.ttl_s,
        copies=rules.copies,
        admission=_ADMISSION_NUMBERS[rules.admission],
    )


def _node(member: Member, cluster: Cluster) -> pb.MapNode:
    state = pb.NODE_STATE_SERVING
    if member.lost:
        state = pb.NODE_STATE_LOST
    elif member.draining:
        state = pb.NODE_STATE_DRAINING
    return pb.MapNode(
        address=member.address,
        node_id=node_id(member.address),
        weight=member.share,
        failure_domain=member.failure_domain,
        state=state,
        former_weights=[one.shares.get(member.address, 0) for one in cluster.formers],
    )


def _namespace(space: Space, numbers: dict[str, int]) -> pb.NamespaceRule:
    return pb.NamespaceRule(
        tenant=numbers[space.tenant],
        id=space.id,
        drop_generation=space.generation,
        rules=rules_message(space.rules),
    )


def _tenant(tenant: Tenant) -> pb.TenantRule:
    return pb.TenantRule(
        tenant=tenant.number,
        quota_bytes=tenant.quota_bytes,
        keys=[
            pb.TrustedKey(id=key.id, public_key=key.public, until_s=key.until_s)
            for key in tenant.keys
        ],
        revoked=sorted(tenant.revoked),
    )
