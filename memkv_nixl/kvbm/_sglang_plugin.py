"""SGLang's plugin that lets MemKVHiCache answer to the name `mooncake`.

Dynamo's router credits a shared pool only for workers whose `--hicache-storage-backend` is
`mooncake`. SGLang loads this at its start (the entry point `sglang.srt.plugins`); it does nothing
unless MEMKV_SGLANG_MOONCAKE=1, and Mooncake itself is then not to be had.
"""

from __future__ import annotations

import os

VARIABLE = "MEMKV_SGLANG_MOONCAKE"


def register() -> None:
    """Puts MemKVHiCache in Mooncake's place, where that is asked for."""
    if os.environ.get(VARIABLE) != "1":
        return
    from sglang.srt.mem_cache.storage.backend_factory import StorageBackendFactory

    StorageBackendFactory.register_backend("mooncake", "memkv_nixl.kvbm.sglang", "MemKVHiCache")
