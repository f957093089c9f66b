"""Store nodes from Python: the embedded cluster of `memkv up`, the demo and tests.

    with Cluster(2) as cluster:
        agent = TransferAgent(nodes=cluster.addresses, namespace="demo")

`LocalPool` is the same with a control plane. Both are for one machine; a pool of machines runs
`memkv node serve` on each.
"""

from memkv_nixl.store._cluster import Cluster, NodeEnded, StoreNode
from memkv_nixl.store._local_pool import LocalPool

__all__ = ["Cluster", "LocalPool", "NodeEnded", "StoreNode"]
