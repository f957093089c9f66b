"""MemKVTier under vLLM's own manager of tiers, over real nodes; no engine is started.

`python -m tests.engines.manager_cases MODEL NODES` runs every `case_` here with an engine's Python
and prints a line of JSON, as meaning_cases.py does. The manager, the offload region and the
contexts are vLLM's; only the scheduler that calls them is played here, a step at a time.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import numpy as np
from vllm.v1.kv_offload.base import LookupResult, ReqContext, ScheduleEndContext, make_offload_key
from vllm.v1.kv_offload.tiering.base import TransferJob

from memkv_nixl.cli._config_vllm import vllm_transfer_config
from tests.engines import meaning_cases
from tests.engines.meaning_cases import outcome_of, spec_of

NODES = ""
BOUND_S = 30.0
_salts = itertools.count(1)
HIT, MISS, RETRY, PENDING = (
    LookupResult.HIT,
    LookupResult.MISS,
    LookupResult.RETRY,
    LookupResult.HIT_PENDING,
)


class Side:
    """One engine's manager with its tier, and a scheduler that is played."""

    def __init__(self, region_bytes: int = 64 << 20, events: bool = False, **tier: Any) -> None:
        patient = {"lookup_timeout_ms": 5000, "fetch_deadline_ms": 60_000}
        said = {"nodes": NODES, **patient, **tier}
        extra = vllm_transfer_config(said, region_bytes)["kv_connector_extra_config"]
        # Only because of what `extra` says is the tier made; its maker's frame holds the config.
        config = meaning_cases.vllm_config(extra=extra, **_events_config(events))
        self.manager = made(config)
        self.tier = self.manager.secondary_tiers[0]
        self.view = np.asarray(self.manager.primary_tier.get_kv_memoryview())

    def step(self) -> None:
        """The end of a scheduler's step."""
        self.manager.on_schedule_end(ScheduleEndContext(set(), set()))

    def until_idle(self) -> None:
        end = time.monotonic() + BOUND_S
        while self.manager.has_pending_work():
            assert time.monotonic() < end, "jobs do not end"
            self.step()

    def lookup_all(self, keys: list[bytes], context: Any) -> list[Any]:
        """One step's look-ups, as the scheduler does them: until the first miss."""
        found = []
        for key in keys:
            found.append(self.manager.lookup(key, context))
            if found[-1] is MISS:
                break
        self.step()
        return found

    def settled(self, keys: list[bytes], context: Any) -> list[Any]:
        """Steps until nothing is RETRY or pending any more."""
        end = time.monotonic() + BOUND_S
        while True:
            found = self.lookup_all(keys, context)
            if not {RETRY, PENDING} & set(found):
                return found
            assert time.monotonic() < end, found

    def put(self, keys: list[bytes], context: Any, seed: int) -> None:
        """Stores blocks of random bytes, from the "GPU" through the region."""
        output = self.manager.prepare_store(keys, context)
        assert output is not None
        assert list(output.keys_to_store) == keys
        for i, chunk in enumerate(output.store_spec.chunk_ids):
            self.view[chunk] = bytes_of(seed, i, self.view.shape[1])
        self.manager.complete_store(keys, context)
        self.until_idle()

    def holds(self, keys: list[bytes], context: Any, seed: int) -> bool:
        """Whether the region has the very bytes."""
        spec = self.manager.prepare_load(keys, context)
        right = [
            np.array_equal(self.view[chunk], bytes_of(seed, i, self.view.shape[1]))
            for i, chunk in enumerate(spec.chunk_ids)
        ]
        self.manager.complete_load(keys, context)
        return all(right)


def _events_config(events: bool) -> dict[str, Any]:
    if not events:
        return {}
    return {"kv_events_config": {"enable_kv_cache_events": True, "publisher": "null"}}


def made(vllm_config: Any) -> Any:
    """The manager; this frame is where the tier finds the configuration."""
    return spec_of(vllm_config).get_manager()


def bytes_of(seed: int, index: int, size: int) -> Any:
    return np.random.default_rng(1000 * seed + index).integers(-128, 128, size, np.int8)


@contextmanager
def side(**given: Any) -> Iterator[Side]:
    made_side = Side(**given)
    try:
        yield made_side
    finally:
        made_side.view = np.empty((0, 0), np.int8)
        made_side.manager.shutdown()


def request(side: Side, count: int, name: str) -> tuple[list[bytes], Any]:
    """A request of so many blocks, known to the manager."""
    keys = [make_offload_key(f"{name}-{i}".encode().ljust(32, b"."), 0) for i in range(count)]
    context = ReqContext(req_id=f"{name}@{id(side)}")
    for i, key in enumerate(keys):
        context.set_offload_key_position(key, 128 * (i + 1))
    side.manager.on_new_request(context)
    return keys, context


def salt() -> str:
    return f"{os.getpid()}-{next(_salts)}"


def case_cold_and_warm_through_the_manager() -> None:
    apart = salt()
    with side(salt=apart) as one, side(salt=apart) as two:
        keys, context = request(one, 20, "a")
        assert one.settled(keys, context) == [MISS]
        one.put(keys, context, 1)
        keys, context = request(two, 21, "a")
        assert two.settled(keys, context) == [HIT] * 20 + [MISS]
        assert two.holds(keys[:20], context, 1)


def case_the_lookups_of_a_step_are_one_question() -> None:
    with side(salt=salt()) as one:
        keys, context = request(one, 12, "a")
        others, other = request(one, 5, "b")
        assert [one.manager.lookup(key, context) for key in keys] == [RETRY] * 12
        assert [one.manager.lookup(key, other) for key in others] == [RETRY] * 5
        assert one.tier.numbers.asked == 0
        assert not one.tier._tier._seeker._wanted
        one.step()
        (question,) = one.tier._questions
        assert len(question.asked) == 17
        question.future.result(BOUND_S)
        assert one.manager.lookup(keys[0], context) is MISS
        assert one.manager.lookup(others[4], other) is MISS


def case_one_step_sees_one_state() -> None:
    """An answer that comes in the middle of a step counts from the next one on."""
    with side(salt=salt()) as one:
        keys, context = request(one, 3, "a")
        one.put(keys, context, 7)
        one.manager.primary_tier.reset_cache()
        keys, context = request(one, 3, "a")
        context.req_id = "again"
        one.manager.on_new_request(context)
        ask, held = one.tier._tier.look_up, Future[Any]()
        one.tier._tier.look_up = lambda blocks: (answers.append(ask(blocks)), held)[1]
        answers: list[Future[Any]] = []
        assert one.lookup_all(keys, context) == [RETRY] * 3
        assert one.manager.lookup(keys[0], context) is RETRY
        held.set_result(answers[0].result(BOUND_S))
        assert [one.manager.lookup(key, context) for key in keys[1:]] == [RETRY] * 2
        one.step()
        assert [one.manager.lookup(key, context) for key in keys] == [PENDING] * 3
        assert one.settled(keys, context) == [HIT] * 3


def case_what_fails_to_load_is_a_miss_for_this_request() -> None:
    apart = salt()
    with side(salt=apart) as one, side(salt=apart) as two:
        keys, context = request(one, 6, "a")
        one.put(keys, context, 2)
        keys, context = request(two, 6, "a")
        two.lookup_all(keys, context)
        two.tier._questions[0].future.result(BOUND_S)
        drop(keys, 3, two)  # after it was found
        assert two.settled(keys, context) == [HIT] * 3 + [MISS]
        assert two.holds(keys[:3], context, 2)
        assert two.tier.numbers.loads_failed == 1


def drop(keys: list[bytes], place: int, side: Side) -> None:
    """Takes a block of a request out of the pool, behind everybody's back."""
    from memkv_nixl._native import Client
    from memkv_nixl.kvbm._chains import Chain

    settings = side.tier._settings
    chain = Chain(128, settings.group_blocks, settings.lead)
    for i, key in enumerate(keys):
        chain.learn(key, 128 * (i + 1))
    block = chain.block(keys[place], 128 * (place + 1))
    assert block is not None
    space = side.tier._tier._namespace.fingerprint
    dropped = Client(NODES.split(",")).drop(space, [block.key], groups=[block.group])
    assert dropped.wait(5000)
    assert dropped.codes() == [0]


def case_loading_that_loses_is_declined() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 8, "a")
        one.put(keys, context, 3)
    with side(salt=apart, compute_tokens_per_s=10**12) as two:
        keys, context = request(two, 8, "a")
        assert two.settled(keys, context) == [HIT] * 8  # how fast the pool is, nobody knows yet
        two.manager.reset_cache()
        keys, context = request(two, 8, "a")
        context.req_id = "again"
        two.manager.on_new_request(context)
        assert two.settled(keys, context) == [MISS]
        assert two.tier.numbers.declined == 8


def case_no_more_is_promised_than_the_region_holds() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 40, "a")
        for i in range(0, 40, 8):
            one.put(keys[i : i + 8], context, 4 + i)
    with side(salt=apart, region_bytes=16 << 20) as two:
        rows = len(two.view)
        assert rows < 40
        keys, context = request(two, 40, "a")
        found = two.settled(keys, context)
        assert 0 < found.count(HIT) <= rows


def in_the_pool(side: Side) -> list[Any]:
    """The events so far that are about the pool."""
    return [event for event in side.manager.take_events() if event.medium.value == "STORAGE"]


def scheduled(side: Side, context: Any) -> None:
    """The end of the step in which a request is scheduled first."""
    side.manager.on_schedule_end(ScheduleEndContext([context.req_id], set()))


def anew(side: Side, count: int, name: str) -> tuple[list[bytes], Any]:
    """The same keys in another request."""
    keys, context = request(side, count, name)
    context.req_id = f"{name}-{next(_salts)}@{id(side)}"
    side.manager.on_new_request(context)
    return keys, context


def case_blocks_that_come_into_the_pool_are_announced_and_withdrawn() -> None:
    with side(salt=salt(), events=True) as one:
        keys, context = request(one, 4, "a")
        one.put(keys, context, 5)
        (stored,) = in_the_pool(one)
        assert list(stored.keys) == keys
        assert (stored.removed, stored.locality, stored.ownership) == (False, None, None)
        drop(keys, 0, one)
        one.manager.primary_tier.reset_cache()
        keys, context = anew(one, 4, "a")
        assert one.settled(keys, context) == [MISS]
        (gone,) = in_the_pool(one)
        assert (list(gone.keys), gone.removed) == ([keys[0]], True)


def case_blocks_that_are_found_are_announced_when_vllm_knows_what_they_are() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 4, "a")
        one.put(keys, context, 5)
        assert not in_the_pool(one)  # nobody listens
    with side(salt=apart, events=True) as two:
        keys, context = request(two, 4, "a")
        assert two.settled(keys[1:], context) == [HIT] * 3
        assert not in_the_pool(two)
        scheduled(two, context)
        (found,) = in_the_pool(two)
        assert (list(found.keys), found.removed) == (keys[1:], False)
        two.manager.on_request_finished(context)
        assert not in_the_pool(two)


def case_a_request_that_is_never_scheduled_announces_nothing() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 4, "a")
        one.put(keys, context, 5)
    with side(salt=apart, events=True) as two:
        keys, context = request(two, 4, "a")
        assert two.settled(keys, context) == [HIT] * 4
        two.manager.on_request_finished(context)  # given up while it waited
        assert not in_the_pool(two)
        keys, context = anew(two, 4, "a")
        two.lookup_all(keys, context)
        assert not in_the_pool(two)  # nor what host memory has by now


def case_what_host_memory_lost_again_is_not_announced() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 2, "a")
        one.put(keys, context, 5)
    with side(salt=apart, events=True) as two:
        keys, context = request(two, 2, "a")
        assert two.settled(keys, context) == [HIT] * 2
        drop_from_host_memory(two)
        assert two.lookup_all(keys[:1], context) == [PENDING]  # it is loaded anew
        scheduled(two, context)
        announced = [key for event in in_the_pool(two) for key in event.keys]
        assert keys[0] not in announced


def drop_from_host_memory(side: Side) -> None:
    side.until_idle()
    side.manager.primary_tier.reset_cache()


def case_after_a_reset_what_is_found_is_announced_anew() -> None:
    with side(salt=salt(), events=True) as one:
        keys, context = request(one, 3, "a")
        one.put(keys, context, 5)
        one.manager.reset_cache()
        assert not in_the_pool(one)  # vLLM does not know any more what they are
        keys, context = anew(one, 3, "a")
        assert one.settled(keys, context) == [HIT] * 3
        scheduled(one, context)
        assert [list(event.keys) for event in in_the_pool(one) if not event.removed] == [keys]


def case_what_is_announced_again_is_first_taken_back() -> None:
    """Dynamo's router counts how often it was told of a block, and forgets it at a reset."""
    with side(salt=salt(), events=True) as one:
        keys, context = request(one, 3, "a")
        one.put(keys, context, 5)
        assert len(in_the_pool(one)) == 1
        one.manager.primary_tier.reset_cache()
        keys, context = anew(one, 3, "a")
        assert one.settled(keys, context) == [HIT] * 3
        scheduled(one, context)
        again = [(event.removed, list(event.keys)) for event in in_the_pool(one)]
        assert again == [(True, keys), (False, keys)]


def case_what_ends_in_a_reset_is_not_announced() -> None:
    with side(salt=salt(), events=True) as one:
        keys, context = request(one, 3, "a")
        output = one.manager.prepare_store(keys, context)
        assert output is not None
        one.manager.complete_store(keys, context)
        one.manager.reset_cache()
        one.step()
        assert not in_the_pool(one)
        assert one.tier.numbers.stored == 3


def case_what_is_counted_is_what_was_defined() -> None:
    apart = salt()
    with side(salt=apart) as one:
        keys, context = request(one, 3, "a")
        one.settled(keys, context)
        one.put(keys, context, 6)
        stats = one.manager.get_stats()
        reduced = [name for name in stats.reduce() if "memkv" in name]
        ours = {name.removesuffix("_count").removesuffix("_sum") for name in reduced}
        defined = type(one.tier).build_metric_definitions({})
        assert {"vllm:kv_offload_memkv_stored", "vllm:kv_offload_memkv_store_seconds"} <= ours
        assert ours <= set(defined)
        again = one.manager.get_stats()
        assert again is None or not {name for name in again.reduce() if "memkv" in name}


def case_draining_ends_and_shutdown_lets_go_of_the_region() -> None:
    with side(salt=salt()) as one:
        keys, context = request(one, 10, "a")
        output = one.manager.prepare_store(keys, context)
        assert output is not None
        one.manager.complete_store(keys, context)
        one.manager.reset_cache()  # drains, and asserts that every job has ended
        mapped = one.manager.primary_tier._mmap_region
        path = mapped.mmap_path
    assert mapped.mmap_obj is None  # closed: nobody held a view of it
    assert not os.path.exists(path)  # noqa: PTH110


def case_an_answer_that_does_not_come_is_a_miss() -> None:
    with side(salt=salt(), lookup_timeout_ms=20) as one:
        keys, context = request(one, 3, "a")
        one.tier._tier.look_up = lambda blocks: Future[Any]()
        assert one.settled(keys, context) == [MISS]
        assert not one.tier.has_pending_work()


def case_what_is_ordered_after_the_end_fails() -> None:
    with side(salt=salt()) as one:
        keys, context = request(one, 2, "a")
        one.put(keys, context, 8)
        tier = one.tier
        tier.shutdown()
        job = TransferJob(7, keys, np.arange(2), True, context)
        for submit in (tier.submit_load, tier.submit_store):
            submit(job)
            (result,) = tier.get_finished_jobs()
            assert (result.job_id, result.success, result.successful_keys) == (7, False, ())
        assert tier.lookup(keys[1], context) in (MISS, RETRY)


def case_finished_requests_are_forgotten() -> None:
    with side(salt=salt()) as one:
        for i in range(3):
            keys, context = request(one, 2, f"r{i}")
            one.lookup_all(keys, context)
            one.manager.on_request_finished(context)
        one.until_idle()
        assert not one.tier._requests


def case_wrong_settings_are_said() -> None:
    with meaning_cases.refused("did you mean 'fetch_deadline_ms'"):
        Side(fetch_deadline=3)
    with meaning_cases.refused("no store nodes are named"):
        Side(nodes="")


CASES: dict[str, Callable[[], None]] = {
    name[5:]: case for name, case in globals().items() if name.startswith("case_")
}

if __name__ == "__main__":
    meaning_cases.MODEL = meaning_cases.Path(sys.argv[1])
    NODES = sys.argv[2]
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(case) for name, case in CASES.items()}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
