"""Dynamo on a pool, the whole chain on the CPU: what test_dynamo.py asks, in its own namespace.

`python -m tests.engines.dynamo_cases PYTHON MODEL FOLDER`, started in a new network namespace, runs
the cases in the order they stand here and prints what became of each as a line of JSON. First two
workers share the pool; then all of Dynamo is started anew, with one worker, on the same pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import random
import socket
import string
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from memkv_nixl.cli._config_dynamo import POOL_CREDIT
from memkv_nixl.store import Cluster
from tests.engines.dynamo_deployment import (
    ROOM_BLOCKS,
    Answer,
    FakeSglangDeployment,
    VllmDeployment,
)
from tests.engines.engine import BLOCK

CLOSE = 1e-4  # of logprobs whose prompts were computed in other pieces
SHORT, LONG = 1500, 2900
FILLER = 3900
STORED = "vllm:kv_offload_memkv_stored_total"
EVENTS = "dynamo_component_kv_publisher"
SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1
FOUND_S = 60.0


class World:
    """The pool, what runs on it, and what was answered when nothing was in it."""

    def __init__(self, python: Path, model: Path, folder: Path, cluster: Cluster) -> None:
        self.python, self.model, self.folder = python, model, folder
        self.cluster = cluster
        self.cold: dict[int, Answer] = {}
        self.started = 0
        self._running = contextlib.ExitStack()
        self._dynamo: VllmDeployment | None = None

    @property
    def dynamo(self) -> VllmDeployment:
        assert self._dynamo is not None, "it did not start"
        return self._dynamo

    def start(self, workers: int) -> None:
        self.started += 1
        place = self.folder / f"dynamo{self.started}"
        made = VllmDeployment(place, self.python, self.model, self.cluster.addresses, workers)
        self._running.enter_context(made)
        self._dynamo = made

    def end(self) -> None:
        self._dynamo = None
        self._running.close()

    def put(self, seed: int, length: int, worker: int) -> Answer:
        """Has a prompt computed and waits until the pool has all of it."""
        dynamo = self.dynamo
        wanted = dynamo.metric(worker, STORED) + length // BLOCK
        answer = dynamo.ask(prompt(seed, length), worker=worker)

        def stored() -> bool:
            # vLLM copies the last blocks of a prompt, and counts, in a step that comes after it.
            dynamo.ask("go on", worker=worker, tokens=1)
            return dynamo.metric(worker, STORED) >= wanted

        dynamo.wait(stored, FOUND_S, f"prompt {seed} in the pool")
        return answer

    def push_out(self, seed: int, worker: int) -> None:
        """Computes other prompts until neither "GPU" nor host memory has room for older ones."""
        for i in range(3):
            self.put(1000 * seed + i, FILLER, worker)
        assert 3 * (FILLER // BLOCK) > 2 * ROOM_BLOCKS


def prompt(seed: int, length: int) -> str:
    """A text of random letters, each of them a token."""
    draw = random.Random(seed)
    return "".join(draw.choices(string.ascii_letters, k=length))


def whole(length: int) -> int:
    """Tokens of a prompt's whole blocks."""
    return length // BLOCK * BLOCK


def credited(answer: Answer, length: int) -> bool:
    """Whether the router counted all of a prompt's whole blocks as the pool's, and no more."""
    return math.isclose(answer.hit_rate, POOL_CREDIT * whole(length) / length, abs_tol=0.01)


def same(one: Answer, other: Answer) -> bool:
    """Whether they say the same, however much of the prompt each worker had to compute."""
    return one.text == other.text and all(
        a[0] == b[0] and math.isclose(a[1], b[1], abs_tol=CLOSE)
        for a, b in zip(one.logprobs, other.logprobs, strict=True)
    )


def case_what_nobody_computed_is_computed(world: World) -> None:
    world.start(workers=2)
    for seed, length in ((1, SHORT), (2, LONG)):
        answer = world.cold[seed] = world.put(seed, length, worker=0)
        assert (answer.worker, answer.from_pool, answer.hit_rate) == (0, 0, 0.0), answer


def case_another_worker_is_served_from_the_pool(world: World) -> None:
    for seed, length in ((1, SHORT), (2, LONG)):
        answer = world.dynamo.ask(prompt(seed, length), worker=1)
        assert (answer.worker, answer.from_pool) == (1, whole(length)), answer
        assert same(answer, world.cold[seed])


def case_the_router_credits_what_only_the_pool_has(world: World) -> None:
    world.push_out(1, worker=0)
    answer = world.dynamo.ask(prompt(2, LONG), worker=0)
    assert answer.from_pool == whole(LONG), answer  # nothing of it was left on the worker
    assert credited(answer, LONG), answer
    assert same(answer, world.cold[2])


def case_without_a_store_everything_is_computed(world: World) -> None:
    for index in range(3):
        world.cluster.kill_node(index)
    answer = world.dynamo.ask(prompt(1, SHORT), worker=0)  # which only the pool had
    assert (answer.from_pool, answer.cached) == (0, 0), answer
    assert same(answer, world.cold[1])
    again = world.dynamo.ask(prompt(3, SHORT))  # wherever the router sends it
    assert again.from_pool == 0


def case_the_store_comes_back_and_is_used_again(world: World) -> None:
    for index in range(3):
        world.cluster.restart_node(index)
    dynamo, before, tries = world.dynamo, world.dynamo.metric(0, STORED), iter(range(3000, 4000))

    def stored() -> bool:
        dynamo.ask(prompt(next(tries), 3 * BLOCK), worker=0, tokens=1)
        return dynamo.metric(0, STORED) > before

    dynamo.wait(stored, FOUND_S, "the pool")
    world.push_out(2, worker=0)
    answer = dynamo.ask(prompt(1, SHORT), worker=0)
    assert answer.from_pool == whole(SHORT), answer
    assert same(answer, world.cold[1])


def case_every_event_was_accepted(world: World) -> None:
    for worker in range(2):
        accepted_everything(world.dynamo, worker)


def accepted_everything(dynamo: VllmDeployment, worker: int) -> None:
    assert dynamo.metric(worker, f"{EVENTS}_zmq_events_total", event_type="stored") > 0
    for what in ("filtered_events", "conversion_issues", "suspicious_events"):
        assert dynamo.metric(worker, f"{EVENTS}_zmq_{what}_total") == 0, what
    assert dynamo.metric(worker, f"{EVENTS}_engines_dropped_events_total") == 0


def case_it_ends_when_it_is_told_and_leaves_nothing(world: World) -> None:
    world.end()
    assert os.listdir("/dev/shm") == []  # noqa: PTH208 - of this namespace


def case_new_processes_are_served_from_the_pool(world: World) -> None:
    world.start(workers=1)
    answer = world.dynamo.ask(prompt(2, LONG))
    assert (answer.from_pool, answer.hit_rate) == (whole(LONG), 0.0), answer
    assert same(answer, world.cold[2])


def case_what_was_found_is_announced(world: World) -> None:
    """The router learns of blocks that an engine found, and credits what only the pool has."""
    world.push_out(4, worker=0)
    answer = world.dynamo.ask(prompt(2, LONG))
    assert answer.from_pool == whole(LONG), answer
    assert credited(answer, LONG), answer
    assert same(answer, world.cold[2])


def case_every_event_of_the_new_process_was_accepted(world: World) -> None:
    accepted_everything(world.dynamo, 0)
    world.end()


def case_the_pool_is_credited_for_every_worker_that_has_nothing(world: World) -> None:
    """SGLang is faked: the router takes the relay's events for those of Mooncake's store."""
    place = world.folder / "sglang"
    with FakeSglangDeployment(place, world.python, world.model, 2) as dynamo:
        question, rate = prompt(5, 640), "dynamo_component_router_shared_cache_hit_rate_sum"
        dynamo.ask(question)
        assert dynamo.frontend_metric(rate) == 0

        def known() -> bool:
            dynamo.ask(question)
            return dynamo.frontend_metric(rate) > 0

        dynamo.wait(known, FOUND_S, "the credit")
        before = dynamo.frontend_metric(rate)
        dynamo.ask(question)
        assert dynamo.frontend_metric(rate) == before + 1  # all of its pages
        dynamo.ask(prompt(6, 640))
        assert dynamo.frontend_metric(rate) == before + 1


CASES: dict[str, Callable[[World], None]] = {
    name[5:]: case for name, case in globals().items() if name.startswith("case_")
}


def set_up_loopback() -> None:
    """In a new network namespace it is down."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        request = struct.pack("16sH14x", b"lo", IFF_UP)
        fcntl.ioctl(one, SIOCSIFFLAGS, request)


def main(python: Path, model: Path, folder: Path) -> dict[str, str]:
    set_up_loopback()
    outcomes: dict[str, str] = {}
    with Cluster(3, capacity="1GiB", folder=folder / "pool", die_with_parent=True) as cluster:
        world = World(python, model, folder, cluster)
        try:
            for name, case in CASES.items():
                began = time.monotonic()
                try:
                    case(world)
                    outcomes[name] = "ok"
                except Exception:  # noqa: BLE001 - an outcome like another
                    outcomes[name] = traceback.format_exc()
                print(name, round(time.monotonic() - began, 1), outcomes[name], file=sys.stderr)
        finally:
            world.end()
    return outcomes


if __name__ == "__main__":
    answer = os.dup(1)
    os.dup2(2, 1)
    said = main(*(Path(word) for word in sys.argv[1:4]))
    os.write(answer, json.dumps(said).encode() + b"\n")
