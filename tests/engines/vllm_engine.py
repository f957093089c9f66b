"""A vLLM engine in a process of its own, which does what it is told: one JSON line in, one out.

    {"do": "generate", "prompt": [ids], "max_tokens": 8, "salt": "a"}
        → {"tokens": [...], "logprobs": [...], "cached": 4096, "seconds": 0.3, "metrics": {...}}
      with "transfer": {...}, the kv_transfer_params of the request; those of its answer come back
    {"do": "metrics"} → {"metrics": {...}}
    {"do": "events"}  → {"events": [...]}  that the engine published since they were last asked for
    {"do": "forget"}  → {}            the engine's own caches are emptied, the pool's is not
    {"do": "stop"}    → {}, and it ends

Its argument is a JSON object: what to make the engine with. Metrics are vLLM's own, by name, summed
over their labels. Run with an engine's Python.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any


def metrics_of(llm: Any) -> dict[str, float]:
    found: dict[str, float] = {}
    for metric in llm.get_metrics():
        value = getattr(metric, "value", None)
        if isinstance(value, (int, float)):
            labels = getattr(metric, "labels", {}) or {}
            source = labels.get("source")
            name = f"{metric.name}{{{source}}}" if source else metric.name
            found[name] = found.get(name, 0.0) + float(value)
    return found


def generate(llm: Any, order: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    prompt = TokensPrompt(prompt_token_ids=order["prompt"])
    if order.get("salt"):
        prompt["cache_salt"] = order["salt"]
    params = SamplingParams(
        temperature=0.0,
        max_tokens=order.get("max_tokens", 8),
        ignore_eos=True,
        logprobs=1,
        detokenize=False,
        extra_args={"kv_transfer_params": order["transfer"]} if "transfer" in order else None,
    )
    began = time.perf_counter()
    result = llm.generate([prompt], params, use_tqdm=False)[0]
    seconds = time.perf_counter() - began
    output = result.outputs[0]
    tokens = list(output.token_ids)
    logprobs = [step[token].logprob for step, token in zip(output.logprobs, tokens, strict=True)]
    return {
        "tokens": tokens,
        "logprobs": logprobs,
        "cached": result.num_cached_tokens,
        "seconds": seconds,
        "finish": output.finish_reason,
        "transfer": result.kv_transfer_params,
    }


class Events:
    """What the engine tells a router, heard as a router hears it."""

    def __init__(self, endpoint: str) -> None:
        import zmq

        self._socket = zmq.Context.instance().socket(zmq.SUB)
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")
        self._socket.connect(endpoint)

    def take(self) -> list[dict[str, Any]]:
        """All that came until nothing comes for a second."""
        import msgspec
        from vllm.distributed.kv_events import KVEventBatch

        decoder = msgspec.msgpack.Decoder(type=KVEventBatch)
        found: list[dict[str, Any]] = []
        while self._socket.poll(1000):
            batch = decoder.decode(self._socket.recv_multipart()[-1])
            found += [
                {
                    "kind": type(event).__name__,
                    "medium": getattr(event, "medium", None),
                    "locality": getattr(event, "locality", None),
                    "ownership": getattr(event, "ownership", None),
                    "blocks": len(getattr(event, "block_hashes", ())),
                    "tokens": len(getattr(event, "token_ids", ())),
                }
                for event in batch.events
            ]
        return found


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what vLLM prints goes to the log
    from vllm import LLM

    arguments = json.loads(sys.argv[1])
    events = Events(arguments["kv_events_config"]["endpoint"])
    llm = LLM(**arguments)

    def reply(answer: dict[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    reply({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        match order["do"]:
            case "generate":
                reply({**generate(llm, order), "metrics": metrics_of(llm)})
            case "metrics":
                reply({"metrics": metrics_of(llm)})
            case "events":
                reply({"events": events.take()})
            case "forget":
                llm.reset_prefix_cache(reset_connector=True)
                reply({})
            case "stop":
                break
    llm.llm_engine.engine_core.shutdown()
    reply({})


if __name__ == "__main__":
    main()
