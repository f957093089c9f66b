"""What KVBM 1.6.1 does at its edges, driven as vLLM drives it; no engine is started.

`python -m tests.engines.kvbm_cases CASE` runs one case in a process of its own (KVBM has threads
that nobody ends) and prints a line of JSON. Leader, worker and all that moves bytes are the stock
wheel's; vLLM's scheduler is played here. kvbm.py has the environment, test_kvbm.py the verdicts.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from kvbm import KvbmLeader
from kvbm._core import _vllm_integration as rust

from tests.engines.kvbm_tensor import DeviceTensor

PAGE = 16  # tokens of a block
LAYERS, HEADS, SIZE = 2, 4, 64
BLOCKS = 128
BOUND_S = 20.0
STUCK_S = 5.0  # what moves here takes milliseconds
FAILS = Path(os.environ["MEMKV_TEST_GDS_FAILS"])


def page_aligned(size: int) -> torch.Tensor:
    """Memory as cudaMalloc gives it: O_DIRECT wants whole pages."""
    memory = torch.zeros(size + 4096, dtype=torch.uint8)
    start = -memory.data_ptr() % 4096
    return memory[start : start + size]


class Kvbm:
    """KVBM's leader and worker in one process, and the cache of an engine."""

    def __init__(self) -> None:
        shape = (2, BLOCKS, PAGE, HEADS, SIZE)
        size = 2 * BLOCKS * PAGE * HEADS * SIZE * 2
        self.layers = [page_aligned(size).view(torch.float16).view(shape) for _ in range(LAYERS)]
        self.names = [f"model.layers.{i}.attn" for i in range(LAYERS)]
        self.worker = rust.PyKvConnectorWorker(None, "worker")
        named = [(name, DeviceTensor(t)) for name, t in zip(self.names, self.layers, strict=True)]
        self.worker.register_kv_caches(
            BLOCKS, PAGE, 0, 2, named, [1] * LAYERS, outer_dim=None, inner_dim=None
        )
        self.leader = rust.PyKvConnectorLeader(
            "engine",
            None,
            PAGE,
            KvbmLeader(1),
            consolidator_vllm_endpoint=None,
            consolidator_output_endpoint=None,
            consolidator_mode=None,
        )
        self.free = list(range(BLOCKS))

    # ---- the engine's cache: what a block holds follows from the tokens up to its end

    def content(self, tokens: list[int], block: int) -> list[torch.Tensor]:
        said = json.dumps(tokens[: (block + 1) * PAGE]).encode()
        seed = int.from_bytes(hashlib.sha256(said).digest()[:4], "big")
        draw = torch.Generator().manual_seed(seed)
        return [torch.randn(2, PAGE, HEADS, SIZE, generator=draw).half() for _ in self.layers]

    def compute(self, tokens: list[int], places: list[int], first: int = 0) -> None:
        for block in range(first, len(places)):
            for layer, value in zip(self.layers, self.content(tokens, block), strict=True):
                layer[:, places[block]] = value

    def right(self, tokens: list[int], places: list[int], blocks: int) -> int:
        """How many of the first blocks hold what they should."""
        return sum(
            all(
                torch.equal(layer[:, places[block]], value)
                for layer, value in zip(self.layers, self.content(tokens, block), strict=True)
            )
            for block in range(blocks)
        )

    def take(self, blocks: int) -> list[int]:
        taken, self.free = self.free[:blocks], self.free[blocks:]
        for place in taken:
            for layer in self.layers:
                layer[:, place] = 0
        return taken

    # ---- the scheduler's part

    def hit(self, name: str, tokens: list[int], computed: int = 0) -> int:
        if not self.leader.has_slot(name):
            self.leader.create_slot(rust.KvbmRequest(name, None, None), tokens)
        found, _ = self.leader.get_num_new_matched_tokens(name, len(tokens), computed)
        return int(found)

    def step(
        self,
        new: tuple[str, list[int], list[int], int] | None = None,
        scheduled: dict[str, int] | None = None,
        finished: set[str] | None = None,
        more: tuple[str, list[int], list[int], int] | None = None,
        resumed: bool = False,
    ) -> tuple[set[str], set[str]]:
        """One step; the requests whose saves, and whose loads, are over."""
        output = rust.SchedulerOutput()
        if new is not None:
            output.add_new_request(*new)
        if more is not None:
            name, token, places, computed = more
            output.add_cached_request(
                request_id=name,
                resumed_from_preemption=resumed,
                new_token_ids=token,
                new_block_ids=places,
                num_computed_tokens=computed,
            )
        output.add_num_scheduled_tokens(scheduled or {})
        self.worker.bind_connector_metadata(self.leader.build_connector_metadata(output))
        if scheduled:
            for name in self.names:
                self.worker.save_kv_layer(name, None)
        saved, loaded = self.worker.get_finished(finished or set())
        self.worker.clear_connector_metadata()
        return saved or set(), loaded or set()

    def load(self, name: str, places: list[int], tokens: int) -> bool:
        """Whether the load was said to be over."""
        self.leader.update_state_after_alloc(name, places, tokens)
        return self._until(lambda: name in self.step()[1])

    def prefill(self, name: str, tokens: list[int], places: list[int], computed: int) -> None:
        """All that is not there yet, in one step, and a token of the answer."""
        self.compute(tokens, places, computed // PAGE)
        self.step(new=(name, tokens, places, computed), scheduled={name: len(tokens) - computed})
        self.step(more=(name, [7], [], len(tokens)), scheduled={name: 1})

    def finish(self, name: str, places: list[int]) -> None:
        if self.leader.request_finished(name, places):
            saved = self.step(finished={name})[0]
            assert name in saved or self._until(lambda: name in self.step()[0])
        self.free += places

    def run(self, name: str, tokens: list[int]) -> dict[str, Any]:
        """A whole request, as vLLM does it; what was found and how much of it is right."""
        found = self.hit(name, tokens)
        blocks = -(-len(tokens) // PAGE)
        places = self.take(found // PAGE)
        said = {"found": found // PAGE}
        if found:
            said["over"] = self.load(name, places, found)
            said["right"] = self.right(tokens, places, found // PAGE)
            if not said["over"]:
                return said
        more = self.take(blocks - found // PAGE)
        places += more
        self.leader.update_state_after_alloc(name, more, 0)
        self.prefill(name, tokens, places, found)
        self.finish(name, places)
        return said

    @staticmethod
    def _until(done: Callable[[], bool], bound_s: float = STUCK_S) -> bool:
        end = time.monotonic() + bound_s
        while time.monotonic() < end:
            if done():
                return True
        return False


# ---- cases; each prints what happened, and test_kvbm.py says what it should be


def tokens_of(seed: int, blocks: int = 8) -> list[int]:
    draw = random.Random(seed)
    return [draw.randrange(1000) for _ in range(blocks * PAGE + 3)]


def found_again(kvbm: Kvbm, name: str, tokens: list[int], blocks: int) -> dict[str, Any]:
    """Runs it until KVBM, which saves behind our back, has that many blocks of it."""
    end = time.monotonic() + BOUND_S
    for attempt in range(1 << 20):
        said = kvbm.run(f"{name}-{attempt}", tokens)
        if said["found"] >= blocks or time.monotonic() > end:
            return said
    raise AssertionError("unreachable")


def case_through_host_memory() -> dict[str, Any]:
    kvbm = Kvbm()
    assert kvbm.run("cold", tokens_of(1))["found"] == 0
    return found_again(kvbm, "warm", tokens_of(1), 8)


def filled(kvbm: Kvbm) -> list[list[int]]:
    """More prompts than host memory has room for: the first are on disk only."""
    prompts = [tokens_of(seed) for seed in range(6)]
    for i, tokens in enumerate(prompts):
        kvbm.run(f"fill-{i}", tokens)
        found_again(kvbm, f"there-{i}", tokens, 8)
    return prompts


def case_through_the_disk() -> dict[str, Any]:
    kvbm = Kvbm()
    return kvbm.run("warm", filled(kvbm)[0])


def case_reads_fail() -> dict[str, Any]:
    kvbm = Kvbm()
    prompts = filled(kvbm)
    FAILS.write_text("read")
    return kvbm.run("warm", prompts[0])


def case_writes_fail() -> dict[str, Any]:
    FAILS.write_text("write")
    kvbm = Kvbm()
    prompts = filled(kvbm)
    FAILS.write_text("")
    return kvbm.run("warm", prompts[0])


def case_every_block_told_twice() -> dict[str, Any]:
    """As vLLM does after a load, whoever loaded: a child that lost is told so, too."""
    return after_anothers_load(told_again=True)


def case_every_block_told_once() -> dict[str, Any]:
    return after_anothers_load(told_again=False)


def after_anothers_load(told_again: bool) -> dict[str, Any]:
    kvbm, tokens = Kvbm(), tokens_of(1)
    assert kvbm.hit("lost", tokens) == 0
    places = kvbm.take(4)
    kvbm.leader.update_state_after_alloc("lost", places, 0)
    kvbm.compute(tokens, places)  # loaded by the other
    kvbm.step()
    more = kvbm.take(5)
    kvbm.leader.update_state_after_alloc("lost", places + more if told_again else more, 0)
    kvbm.prefill("lost", tokens, places + more, 4 * PAGE)
    kvbm.finish("lost", places + more)
    return found_again(kvbm, "again", tokens, 8)


def case_asked_again_with_more_computed() -> dict[str, Any]:
    kvbm, tokens = Kvbm(), tokens_of(1)
    kvbm.run("cold", tokens)
    found_again(kvbm, "warm", tokens, 8)
    at = [kvbm.hit("waits", tokens, computed) // PAGE for computed in (0, 2 * PAGE)]
    return {"at": at}


def case_asked_after_a_preemption() -> dict[str, Any]:
    kvbm, tokens = Kvbm(), tokens_of(1)
    kvbm.hit("preempted", tokens)
    places = kvbm.take(9)
    kvbm.leader.update_state_after_alloc("preempted", places, 0)
    kvbm.prefill("preempted", tokens, places, 0)
    try:
        kvbm.hit("preempted", tokens)
    except Exception as error:  # noqa: BLE001 - KVBM raises no other kind
        return {"raised": str(error)}
    return {"raised": ""}


def case_begun_anew_after_a_failed_load() -> dict[str, Any]:
    """What KvbmManners does when another child's load failed: the request is over and new."""
    kvbm, tokens = Kvbm(), tokens_of(1)
    kvbm.hit("failed", tokens)
    kvbm.leader.update_state_after_alloc("failed", kvbm.take(4), 0)
    kvbm.step()
    kvbm.leader.request_finished("failed", [])
    assert not kvbm.leader.has_slot("failed")
    kvbm.step()
    assert kvbm.hit("failed", tokens) == 0
    places = kvbm.take(9)
    kvbm.leader.update_state_after_alloc("failed", places, 0)
    kvbm.prefill("failed", tokens, places, 0)
    kvbm.finish("failed", places)
    return found_again(kvbm, "again", tokens, 8)


def case_preempted_without_a_word() -> dict[str, Any]:
    """What KvbmManners does of a preempted request: neither asks nor tells; another loads 3."""
    kvbm, tokens = Kvbm(), tokens_of(1)
    kvbm.hit("preempted", tokens)
    places = kvbm.take(9)
    kvbm.leader.update_state_after_alloc("preempted", places, 0)
    kvbm.compute(tokens, places)
    kvbm.step(new=("preempted", tokens, places, 0), scheduled={"preempted": 5 * PAGE})
    # At a preemption KVBM does not wait for what it is saving; that is not looked at here.
    found_again(kvbm, "saved", tokens[: 5 * PAGE + 3], 5)
    others = kvbm.take(9)
    kvbm.compute(tokens, others)
    for layer in kvbm.layers:
        layer[:, places] = 7  # the old blocks are somebody else's now
    computed = 3 * PAGE
    kvbm.step(
        more=("preempted", [], others, computed),
        resumed=True,
        scheduled={"preempted": len(tokens) - computed},
    )
    kvbm.step(more=("preempted", [7], [], len(tokens)), scheduled={"preempted": 1})
    kvbm.finish("preempted", others)
    return found_again(kvbm, "again", tokens, 8)


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    print(json.dumps(CASES[sys.argv[1]]()), flush=True)
    os._exit(0)  # KVBM's threads would go on
