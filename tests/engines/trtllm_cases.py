"""The TensorRT-LLM connector over real nodes, with tensors in host memory.

TensorRT-LLM itself needs a GPU. Its interface is the stand-in of tests/kvbm/trtllm_stand_in.py, and
`Engine` here does what its executor does around a connector: asks, allocates, tells, runs, tells
again. What its blocks hold is made of the tokens, so that a wrong byte shows. Each case runs in a
namespace of its own; prints {case: "ok" or what went wrong}. Run with an engine's Python:

    python -m tests.engines.trtllm_cases NODES PIDS
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from tests.kvbm.trtllm_stand_in import (
    CacheSettings,
    Request,
    RequestData,
    SchedulerOutput,
    Settings,
    install,
)

install()

from memkv_nixl._errors import MemKVError, UsageError  # noqa: E402 - after the stand-in is there
from memkv_nixl.kvbm.trtllm import MemKVScheduler, MemKVWorker  # noqa: E402

TOKENS = 32
SHAPE = (64, 4, 2, TOKENS * 48)  # blocks of 24 KiB
NODES, PIDS = sys.argv[1], [int(pid) for pid in sys.argv[2].split(",")]


class Engine:
    """An executor with one connector and a pool of blocks."""

    def __init__(
        self,
        space: str,
        *,
        chunk: int = 10_000,
        tokens: int = TOKENS,
        args: Settings | None = None,
        **tier: Any,
    ) -> None:
        said = {"weights": "rev1", "salt": space, "lookup_timeout_ms": 5000, "staging": "64MiB"}
        os.environ["MEMKV_NODES"] = NODES
        os.environ["MEMKV_TRTLLM"] = json.dumps({**said, **tier})
        args = args or Settings("org/model", CacheSettings(tokens_per_block=tokens))
        self.worker, self.scheduler = MemKVWorker(args), MemKVScheduler(args)
        self.cache = torch.zeros(SHAPE, dtype=torch.bfloat16)
        self.worker.register_kv_caches(self.cache)
        self.staging = self.worker._link.staging
        self._chunk = chunk
        self._free = list(range(SHAPE[0] - 1, -1, -1))  # so that places and ids differ
        self._next = 1

    def run(self, tokens: list[int], generate: int = 0, **said: Any) -> int:
        """One request, from its question to its end; tokens that it need not compute."""
        request = Request(self._next, list(tokens), **said)
        self._next += 1
        matched, later = self.scheduler.get_num_new_matched_tokens(request, 0)
        assert later is False
        needed = -(-(len(tokens) + generate) // TOKENS)
        ids = [self._free.pop() for _ in range(needed)]
        self.scheduler.update_state_after_alloc(request, ids)
        prompt_ids = ids[: -(-len(tokens) // TOKENS)]
        self._prefill(request, prompt_ids, matched)
        self._generate(request, ids, prompt_ids, generate)
        assert self.scheduler.request_finished(request, ids) is False
        assert self.worker.get_finished([request.request_id], []) == ([], [])
        for block_id in ids:
            self.cache[block_id].fill_(-1)  # somebody else's from now on
        self._free += ids
        return matched

    def settle(self) -> None:
        """Until what was stored is in the pool; no row is lent any more."""
        assert self.staging.tier.drain(60)
        assert self.staging.rows.free_count == self.staging.rows.count

    def close(self) -> None:
        self.settle()
        self.staging.close()

    def _prefill(self, request: Request, ids: list[int], matched: int) -> None:
        tokens, position, first = request.tokens, matched, True
        while position < len(tokens):
            size = min(self._chunk, len(tokens) - position)
            # In a request's first step its matched tokens are not counted.
            data = RequestData(
                request.request_id,
                list(tokens) if first else [],
                list(ids) if first else [],
                0 if first else position,
                size,
            )
            self._step([data] if first else [], [] if first else [data])
            if first:
                self._check(tokens, ids, 0, matched // TOKENS)
            self._compute(tokens, ids, position, position + size)
            self.worker.wait_for_save(None)
            position, first = position + size, False

    def _generate(self, request: Request, ids: list[int], had: list[int], count: int) -> None:
        told = len(had)
        for i in range(count):
            request.tokens.append(10_000 + i)
            needed = -(-len(request.tokens) // TOKENS)
            data = RequestData(
                request.request_id,
                request.tokens[-1:],
                ids[told:needed],
                len(request.tokens) - 1,
                1,
            )
            told = needed
            self._step([], [data])
            self._compute(request.tokens, ids, len(request.tokens) - 1, len(request.tokens))
            self.worker.wait_for_save(None)

    def _step(self, new: list[RequestData], cached: list[RequestData]) -> None:
        orders = self.scheduler.build_connector_meta(SchedulerOutput(new, cached))
        self.worker.bind_connector_meta(orders)
        self.worker.start_load_kv(None)
        for layer in range(SHAPE[1]):
            self.worker.wait_for_layer_load(layer, None)

    def _compute(self, tokens: list[int], ids: list[int], first: int, last: int) -> None:
        """The model: each block holds what all tokens up to its computed end make."""
        for layer in range(SHAPE[1]):
            self.worker.save_kv_layer(layer, None)
        for place in range(first // TOKENS, -(-last // TOKENS)):
            end = min((place + 1) * TOKENS, last)
            self.cache[ids[place]].copy_(block_of(tokens[:end]))

    def _check(self, tokens: list[int], ids: list[int], first: int, last: int) -> None:
        for place in range(first, last):
            wanted = block_of(tokens[: (place + 1) * TOKENS])
            assert torch.equal(self.cache[ids[place]], wanted), f"block {place} is another"


def block_of(tokens: list[int]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(hash(tuple(tokens)) & (2**62 - 1))
    return torch.randn(SHAPE[1:], generator=draw).to(torch.bfloat16)


def prompt(seed: int, count: int) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(3, 5000) for _ in range(count)]


def shown(space: str, **said: Any) -> Engine:
    """An engine that was shown how many tokens a block has."""
    engine = Engine(space, **said)
    assert engine.run(prompt(0, 5 * TOKENS)) == 0
    engine.settle()
    return engine


# ---- cases


def case_cold_then_another_engine_then_warm() -> None:
    question = prompt(1, 20 * TOKENS + 7)
    cold = shown("warm")
    assert cold.run(question) == 0
    cold.close()
    warm = shown("warm")
    assert warm.run(question) == 20 * TOKENS
    assert warm.run(prompt(2, 20 * TOKENS)) == 0
    assert warm.staging.tier.numbers.loaded >= 20
    warm.close()


def case_the_last_token_is_computed() -> None:
    question = prompt(3, 8 * TOKENS)
    engine = shown("last")
    assert engine.run(question) == 0
    engine.settle()
    assert engine.run(question) == 7 * TOKENS
    engine.close()


def case_prompts_in_chunks() -> None:
    question = prompt(4, 20 * TOKENS + 7)
    engine = shown("chunks", chunk=3 * TOKENS + 5)
    assert engine.run(question) == 0
    engine.settle()
    assert engine.run(question) == 20 * TOKENS
    engine.close()


def case_generated_blocks_come_back() -> None:
    question = prompt(5, 6 * TOKENS + 3)
    engine = shown("generated")
    assert engine.run(question, generate=3 * TOKENS) == 0
    engine.settle()
    longer = [*question, *(10_000 + i for i in range(3 * TOKENS))]
    assert engine.run([*longer, 7]) == 9 * TOKENS
    engine.close()


def case_only_what_leads_is_promised() -> None:
    question = prompt(6, 12 * TOKENS)
    engine = shown("leading", group_blocks=1)
    engine.run(question[: 4 * TOKENS])
    engine.settle()
    assert engine.run(question) == 4 * TOKENS
    engine.settle()
    other = [*question[: 6 * TOKENS], *prompt(7, 6 * TOKENS)]
    assert engine.run(other) == 6 * TOKENS
    engine.close()


def case_salts_are_kept_apart() -> None:
    question = prompt(8, 8 * TOKENS)
    engine = shown("salted")
    engine.run(question, cache_salt_id=1)
    engine.settle()
    assert engine.run(question, cache_salt_id=2) == 0
    assert engine.run(question) == 0
    assert engine.run(question, cache_salt_id=1) == 7 * TOKENS
    assert engine.run(question, multimodal_hashes=[[1]]) == 0
    assert engine.run(question, lora_task_id=3) == 0
    engine.close()


def case_other_weights_miss() -> None:
    question = prompt(9, 8 * TOKENS)
    engine = shown("weights")
    engine.run(question)
    engine.close()
    other = shown("weights", weights="rev2")
    assert other.run(question) == 0
    other.close()


def case_a_small_staging_promises_less() -> None:
    question = prompt(10, 20 * TOKENS)
    engine = shown("small")
    engine.run(question)
    engine.close()
    small = shown("small", staging="256KiB")  # ten rows
    assert small.staging.rows.count == 10
    assert small.run(question) == 10 * TOKENS
    small.close()


def case_blocks_of_another_size_are_left_alone() -> None:
    # With half of a prompt in a step, blocks of twice the size look right in its first step.
    for tokens, chunk in ((TOKENS * 2, 10_000), (TOKENS // 2, 10_000), (TOKENS // 2, 6 * TOKENS)):
        engine = Engine(f"size-{tokens}-{chunk}", tokens=tokens, chunk=chunk)
        for seed in (11, 12, 12):
            assert engine.run(prompt(seed, 12 * TOKENS)) == 0
            engine.settle()
        assert engine.staging.tier.numbers.stored == 0
        engine.close()


def case_a_promise_without_a_place_stops_the_engine() -> None:
    question = prompt(13, 8 * TOKENS)
    engine = shown("stops")
    engine.run(question)
    engine.settle()
    request = Request(999, question)
    assert engine.scheduler.get_num_new_matched_tokens(request, 0) == (7 * TOKENS, False)
    data = RequestData(999, question, [1, 2, 3], 0, TOKENS)
    said = ""
    try:
        engine.scheduler.build_connector_meta(SchedulerOutput([data], []))
    except MemKVError as error:
        said = str(error)
    assert "no block for place" in said
    engine.scheduler.request_finished(request, [])
    engine.close()


def case_a_cancelled_load_gives_its_rows_back() -> None:
    question = prompt(14, 8 * TOKENS)
    engine = shown("cancelled")
    engine.run(question)
    engine.settle()
    request = Request(998, question)
    assert engine.scheduler.get_num_new_matched_tokens(request, 0) == (7 * TOKENS, False)
    free = engine.staging.rows.free_count
    engine.scheduler.cancel_load(request, 5 * TOKENS, 7 * TOKENS)
    assert engine.staging.rows.free_count == free + 2
    engine.scheduler.request_reset(request)
    engine.close()


def case_a_second_cache_is_refused_and_the_first_goes_on() -> None:
    """It once took the first staging away under promised rows, and lent its own rows twice."""
    question = prompt(17, 8 * TOKENS)
    engine = shown("twice")
    engine.run(question)
    engine.settle()
    request = Request(997, question)
    assert engine.scheduler.get_num_new_matched_tokens(request, 0) == (7 * TOKENS, False)
    said = ""
    try:
        engine.worker.register_kv_caches(torch.zeros(SHAPE, dtype=torch.bfloat16))
    except UsageError as error:
        said = str(error)
    assert "a second time" in said
    assert engine.worker._link.staging is engine.staging
    engine.scheduler.request_finished(request, [])  # gives back what was promised, once
    engine.settle()
    assert engine.run(question) == 7 * TOKENS
    engine.close()


def case_a_later_engine_of_the_same_settings_begins_anew() -> None:
    question = prompt(18, 8 * TOKENS)
    first = shown("later")
    first.run(question)
    first.settle()
    args = first.worker._llm_args
    second = Engine("later", args=args)
    assert second.staging is not first.staging
    assert first.staging.tier.closed
    assert second.run(prompt(0, 5 * TOKENS)) == 0  # it has to be shown the size of blocks itself
    second.settle()
    assert second.run(question) == 7 * TOKENS
    second.close()


def case_orders_are_done_once() -> None:
    question = prompt(15, 8 * TOKENS)
    engine = shown("once")
    engine.run(question)
    engine.settle()
    stored = engine.staging.tier.numbers
    engine.worker.start_load_kv(None)  # a step without a scheduler's word
    engine.worker.wait_for_save(None)
    engine.settle()
    assert engine.staging.tier.numbers == stored
    engine.close()


def case_nodes_that_stand_still_cost_a_miss() -> None:
    """The last one: nodes are frozen, and let go again."""
    question = prompt(16, 8 * TOKENS)
    engine = shown("frozen", lookup_timeout_ms=40)
    engine.run(question)
    engine.settle()
    for pid in PIDS:
        os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        for _ in range(20):
            assert engine.run(question) == 0
        assert time.monotonic() - began < 10
    finally:
        for pid in PIDS:
            os.kill(pid, signal.SIGCONT)
    end = time.monotonic() + 30
    while not engine.staging.tier.open and time.monotonic() < end:
        os.sched_yield()
    assert engine.run(question) > 0
    engine.close()


def outcome_of(case: Callable[[], None]) -> str:
    try:
        case()
    except BaseException:  # noqa: BLE001 - whatever it is, the test shall see it
        return traceback.format_exc()
    return "ok"


def main() -> None:
    cases: dict[str, Callable[[], None]] = {
        name.removeprefix("case_"): run for name, run in globals().items() if name[:5] == "case_"
    }
    print(json.dumps({name: outcome_of(run) for name, run in cases.items()}), flush=True)
    os._exit(0)  # not through the destructors of what NIXL loaded


if __name__ == "__main__":
    main()
