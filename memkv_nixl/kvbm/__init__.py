"""The tier in the block managers of inference engines: a small module for each, by its name.

    memkv_nixl.kvbm.vllm      MemKVTier, a secondary tier of vLLM's OffloadingConnector
    memkv_nixl.kvbm.lmcache   MemKVAdapter, an L2 of the LMCache server; its vLLMs are on
                              memkv_nixl.kvbm.lmcache_connector
    memkv_nixl.kvbm.trtllm    MemKVScheduler and MemKVWorker, TensorRT-LLM's KV cache connector
    memkv_nixl.kvbm.longest_hit   several connectors of vLLM's at once, Dynamo's KVBM among them

What they share stands beside them: `_tier.py` is its story. Nothing is imported here, so that a
module can be named to an engine that has none of the others.
"""
