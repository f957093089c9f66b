"""FAKE: an SGLang worker of Dynamo's, without SGLang, which does not install on a CPU.

It registers as one whose pages lie in a pool behind Mooncake's keys, tells the relay that the pages
of a prompt are stored once it has answered with a fixed token, and keeps nothing.
`dynamo_fake_sglang.py MODEL RELAY`; run with Dynamo's Python.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import struct
import sys
from collections.abc import AsyncIterator
from typing import Any

from memkv_nixl.kvbm._mooncake_events import Announcer

TOKEN = 10
PAGE = 64  # tokens
NAME = "tiny"
POOLED = {  # what Dynamo's SGLang worker says with --hicache-storage-backend mooncake
    "backend": "mooncake",
    "page_size": PAGE,
    "tp_size": 1,
    "pp_size": 1,
    "is_mla_model": False,
    "is_eagle": False,
    "tp_lcm_size": None,
    "should_split_heads": False,
    "extra_backend_tag": None,
    "key_prefix": NAME,
    "kv_events_endpoint": None,
}


def names_of_pages(tokens: list[int]) -> list[str]:
    """What Mooncake's backend of SGLang calls the objects of a prompt's pages."""
    names, digest = [], b""
    for first in range(0, len(tokens) // PAGE * PAGE, PAGE):
        page = tokens[first : first + PAGE]
        digest = hashlib.sha256(digest + struct.pack(f"<{PAGE}I", *page)).digest()
        names += [f"{NAME}_{digest.hex()}_0_{half}" for half in "kv"]
    return names


async def serve(model: str, relay: str) -> None:
    from dynamo.llm import ModelInput, ModelRuntimeConfig, ModelType, WorkerType, register_model
    from dynamo.runtime import DistributedRuntime

    announcer = Announcer(relay)

    async def generate(request: dict[str, Any], context: Any) -> AsyncIterator[dict[str, Any]]:
        yield {"token_ids": [TOKEN], "finish_reason": "stop"}
        announcer.tell(names_of_pages(request["token_ids"]), [])

    runtime = DistributedRuntime(asyncio.get_running_loop(), "file", "tcp", event_plane="zmq")
    endpoint = runtime.endpoint("dynamo.backend.generate")
    said = ModelRuntimeConfig()
    said.total_kv_blocks = 1000
    said.max_num_seqs = 8
    said.max_num_batched_tokens = 8192
    said.set_engine_specific("sglang_hicache_mooncake", json.dumps(POOLED))
    await register_model(
        ModelInput.Tokens,
        ModelType.Chat | ModelType.Completions,
        endpoint,
        model,
        NAME,
        kv_cache_block_size=PAGE,
        runtime_config=said,
        worker_type=WorkerType.Aggregated,
    )
    await endpoint.serve_endpoint(generate)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2]))
