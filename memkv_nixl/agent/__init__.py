"""MemKV for engines that speak NIXL: the plugin made known to NIXL, and blocks by key.

    from memkv_nixl.agent import Namespace, TransferAgent

    namespace = Namespace(model="llama-70b", dtype="bfloat16", layout="NHD", tokens_per_block=16)
    with TransferAgent(nodes=["10.0.0.7:9900", "10.0.0.8:9900"], namespace=namespace) as agent:
        agent.put(keys, blocks, group=prefix)
        statuses = agent.get(keys, targets, group=prefix)

Whoever drives `nixl_agent` directly calls `register()` first and then `create_backend("MEMKV", …)`.
"""

from memkv_nixl._namespace import Namespace
from memkv_nixl._status import Match, Status
from memkv_nixl.agent._agent import TransferAgent
from memkv_nixl.agent._register import Registration, register
from memkv_nixl.agent._transfer import Transfer

__all__ = [
    "Match",
    "Namespace",
    "Registration",
    "Status",
    "Transfer",
    "TransferAgent",
    "register",
]
