"""Store nodes from Python: the embedded cluster of `memkv up`, the demo and tests.

    with Cluster(2) as cluster:
        agent = TransferAgent(nodes=cluster.addresses, namespace="demo")

It is for one machine; a pool of machines runs `memkv node serve` on each.
"""

from memkv_nixl.store._cluster import Cluster, NodeEnded, StoreNode

__all__ = ["Cluster", "NodeEnded", "StoreNode"]
