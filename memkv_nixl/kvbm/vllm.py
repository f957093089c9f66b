"""MemKVTier: the pool as a secondary tier of vLLM's OffloadingConnector.

    --kv-transfer-config '{"kv_connector": "OffloadingConnector", "kv_role": "kv_both",
      "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {
        "spec_name": "TieringOffloadingSpec", "cpu_bytes_to_use": 68719476736,
        "secondary_tiers": [{"type": "MemKVTier", "module_path": "memkv_nixl.kvbm.vllm",
                             "nodes": "10.0.0.7:9900,10.0.0.8:9900"}]}}'

vLLM copies blocks between the GPU and its offload region in host memory; this tier moves them
between that region and the pool. All of it runs on the scheduler's thread and never waits: look-ups
of a step go out together at its end and are answered RETRY until the answer is there, loads and
stores are orders to the tier (`_tier.py`). docs/guides/vllm.md is the guide.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.metrics import OffloadingConnectorStats
from vllm.v1.kv_offload.base import (
    LookupResult,
    Medium,
    RequestOffloadingContext,
)
from vllm.v1.kv_offload.tiering.base import JobResult, SecondaryTierManager

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._chains import Block
from memkv_nixl.kvbm._counts import Numbers
from memkv_nixl.kvbm._orders import Found, Moved, nothing_moved, settled
from memkv_nixl.kvbm._settings import tier_settings
from memkv_nixl.kvbm._tier import BLOCK_BYTES_MAX, Tier
from memkv_nixl.kvbm._vllm_events import Announcer
from memkv_nixl.kvbm._vllm_meaning import namespace_of, vllm_config_of
from memkv_nixl.kvbm._vllm_metrics import Reporter, definitions
from memkv_nixl.kvbm._vllm_requests import RequestState, group_of, leading
from memkv_nixl.kvbm._vllm_version import engine_name, refuse_unknown_vllm

_ANSWER_LATE = 10  # look-up time-outs, after which a question is answered with misses


@dataclass
class _Job:
    """A load or store of vLLM's, under way."""

    job_id: int
    loading: bool
    keys: list[bytes]
    future: Future[Moved]
    request: RequestState
    announced: bool = True  # when it is done; not where vLLM forgot what its keys consist of


@dataclass
class _Question:
    """A look-up under way: the keys of one step, in the order they were asked for."""

    future: Future[Found]
    asked_at: float
    asked: list[tuple[RequestState, bytes]]


class MemKVTier(SecondaryTierManager):  # type: ignore[misc]  # vLLM is not there when this is checked
    """See the module. The keywords beyond vLLM's own are those of `TierSettings`."""

    medium = Medium.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **given: Any,
    ) -> None:
        """Raises ConfigError with the sentence that helps; vLLM then does not start."""
        super().__init__(offloading_spec, primary_kv_view, tier_type, backpressure_detector)
        _log_with_vllm()
        refuse_unknown_vllm(vllm.__version__)
        self._settings = tier_settings(given)
        config = offloading_spec.config
        self._tokens_of_group = {
            group.group_id: group.tokens_per_block * config.cache.blocks_per_chunk
            for group in config.groups
        }
        self._tokens: int = self._tokens_of_group[config.groups[0].group_id]
        self._block_bytes: int = self._block_size_bytes
        self._capacity = len(primary_kv_view)
        self._refuse_large_blocks()
        namespace = namespace_of(
            offloading_spec,
            vllm_config_of(offloading_spec),
            self._settings,
            self._block_bytes,
            engine_name(vllm.__version__),
        )
        self._requests: dict[str, RequestState] = {}
        self._fresh: list[tuple[RequestState, bytes, Block]] = []
        self._questions: list[_Question] = []
        self._step_begins = True  # answers are taken then, so that one step sees one state
        self._jobs: list[_Job] = []
        publishes = offloading_spec.kv_events_config.enable_kv_cache_events
        self._announcer = Announcer(self.medium, bool(publishes) and self._settings.events)
        self._tier = Tier(self._settings, namespace, primary_kv_view)
        self._reporter = Reporter(self._tier)

    @property
    def numbers(self) -> Numbers:
        """What was done since it was made."""
        return self._tier.numbers

    # ---- what vLLM asks for while it schedules

    def on_new_request(self, req_context: Any) -> Any:
        """A request comes."""
        self._request(req_context)
        return RequestOffloadingContext()

    def lookup(self, key: bytes, req_context: Any) -> Any:
        """Whether the pool has a block: RETRY until that is known."""
        if not self._tier.open:
            return LookupResult.MISS
        request = self._request(req_context)
        request.loaded.pop(key, None)  # host memory lost it again, or nobody would ask here
        if key not in request.verdicts:
            block = request.block(key)
            if block is None:
                return LookupResult.MISS
            request.verdicts[key] = None
            self._fresh.append((request, key, block))
            return LookupResult.RETRY
        if self._step_begins:
            self._take_answers()
        if request.verdicts[key] is None:
            return LookupResult.RETRY
        return LookupResult.HIT if request.may_load(key) else LookupResult.MISS

    def on_schedule_end(self, context: Any) -> None:
        """The look-ups of this step go out together."""
        self._announce_loaded(context.new_req_ids)
        self._take_answers()
        self._step_begins = True
        fresh, self._fresh = self._fresh, []
        if fresh:
            future = self._tier.look_up([block for _, _, block in fresh])
            asked = [(request, key) for request, key, _ in fresh]
            self._questions.append(_Question(future, time.monotonic(), asked))

    def touch(self, keys: Collection[bytes], req_context: Any) -> None:
        """Blocks are in use from elsewhere; the pool should keep them."""
        request = self._request(req_context)
        self._tier.touch([block for key in keys if (block := request.block(key)) is not None])

    def on_request_finished(self, req_context: Any) -> None:
        """A request is over."""
        request = self._requests.pop(req_context.req_id, None)
        if request is not None:
            request.finished = True
            self._tier.pace.computed(request.tokens_per_s)
            if request.scheduled:
                self._announcer.there(list(request.loaded))

    # ---- loads and stores

    def submit_load(self, job_metadata: Any) -> None:
        """Blocks into the offload region."""
        request = self._request(job_metadata.req_context)
        keys = list(job_metadata.keys)
        request.load_began(keys)
        if self._tier.closed:
            future = settled(nothing_moved(len(keys)))
        else:
            blocks = self._blocks(request, keys)
            rows = [self._row(chunk) for chunk in job_metadata.chunk_ids]
            future = self._tier.load(blocks, rows, self._tokens_in(keys))
        self._jobs.append(_Job(job_metadata.job_id, True, keys, future, request))

    def submit_store(self, job_metadata: Any) -> None:
        """Blocks out of the offload region."""
        request = self._request(job_metadata.req_context)
        keys = list(job_metadata.keys)
        if keys:
            request.computed_to(max(map(request.end_of, keys)), time.monotonic())
        if self._tier.closed:
            future = settled(nothing_moved(len(keys)))
        else:
            blocks = self._blocks(request, keys)
            rows = [self._row(chunk) for chunk in job_metadata.chunk_ids]
            future = self._tier.store(blocks, rows, self._tokens)
        self._jobs.append(_Job(job_metadata.job_id, False, keys, future, request))

    def get_finished_jobs(self) -> Iterable[Any]:
        """The loads and stores that are over."""
        over: list[_Job] = []
        waiting: list[_Job] = []
        for job in self._jobs:
            (over if job.future.done() else waiting).append(job)
        self._jobs = waiting
        return [self._result(job) for job in over]

    def has_pending_work(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._fresh or self._questions)

    def drain_jobs(self) -> None:
        """Waits until nothing touches the region; each job's deadline makes it end.

        vLLM calls it before it empties host memory, and forgets then what its keys consist of.
        """
        self._tier.drain()
        self._announcer.forget()
        for job in self._jobs:
            job.announced = False
        for request in self._requests.values():
            request.loaded.clear()

    def shutdown(self) -> None:
        """Lets stores end for a while, then lets go of the region."""
        self._tier.close()
        self._jobs.clear()
        self._requests.clear()

    # ---- what it tells

    def take_events(self) -> Iterable[Any]:
        """Blocks that came into the pool, or turned out to be there or gone."""
        return self._announcer.take()

    def get_stats(self) -> Any:
        """What was counted since the last call."""
        return self._reporter.report(OffloadingConnectorStats())

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG003
        """Its metrics, beside those that vLLM keeps of every tier."""
        return definitions()

    # ---- inside

    def _request(self, context: Any) -> RequestState:
        request = self._requests.get(context.req_id)
        if request is None:
            settings = self._settings
            request = RequestState(
                context, self._tokens_per_block, settings.group_blocks, settings.lead
            )
            self._requests[context.req_id] = request
        return request

    def _tokens_per_block(self, group: int) -> int:
        tokens: int = self._tokens_of_group.get(group, self._tokens)
        return tokens

    def _row(self, chunk: int) -> Any:
        return self._tier.part(int(chunk) * self._block_bytes, self._block_bytes)

    def _blocks(self, request: RequestState, keys: list[bytes]) -> list[Block]:
        # Without a place, which vLLM always notes, a block would be its own group.
        return [request.block(key) or Block(key, key, 0) for key in keys]

    def _tokens_in(self, keys: list[bytes]) -> int:
        """Tokens that so many keys stand for: groups cover the same tokens."""
        per_group: dict[int, int] = {}
        for key in keys:
            per_group[group_of(key)] = per_group.get(group_of(key), 0) + 1
        return max(
            (count * self._tokens_per_block(group) for group, count in per_group.items()), default=0
        )

    def _take_answers(self) -> None:
        self._step_begins = False
        if not self._questions:
            return
        waiting = []
        given_up = time.monotonic() - _ANSWER_LATE * self._settings.lookup_timeout_ms / 1000
        for question in self._questions:
            if question.future.done():
                self._take_answer(question, question.future.result().there)
            elif question.asked_at < given_up:
                self._take_answer(question, [False] * len(question.asked))
            else:
                waiting.append(question)
        self._questions = waiting

    def _take_answer(self, question: _Question, found: Sequence[bool]) -> None:
        answers: dict[int, tuple[RequestState, list[bytes], list[bool]]] = {}
        for (request, key), there in zip(question.asked, found, strict=True):
            _, keys, has = answers.setdefault(id(request), (request, [], []))
            keys.append(key)
            has.append(there)
        for request, keys, has in answers.values():
            if not request.finished:
                self._judge(request, keys, has)

    def _judge(self, request: RequestState, keys: list[bytes], has: list[bool]) -> None:
        """The verdict on the keys of one request: what is there, unless loading it loses."""
        usable = leading(keys, has)
        blocks = sum(usable.values())
        tokens = max(
            (count * self._tokens_per_block(group) for group, count in usable.items()), default=0
        )
        wins = blocks > 0 and self._tier.worth_loading(blocks * self._block_bytes, tokens)
        if not wins:
            self._tier.decline(blocks)
            starts = [request.end_of(key) - self._tokens_per_block(group_of(key)) for key in keys]
            request.computing_from(max(min(starts), 0), time.monotonic())
        room = self._capacity
        for key, there in zip(keys, has, strict=True):
            request.verdicts[key] = there and wins and room > 0
            room -= there
        self._announcer.gone([key for key, there in zip(keys, has, strict=True) if not there])

    def _result(self, job: _Job) -> Any:
        moved = job.future.result()
        self._reporter.took(moved.seconds, load=job.loading)
        good = [key for key, done in zip(job.keys, moved.done, strict=True) if done]
        whole = len(good) == len(job.keys)
        if job.loading:
            job.request.load_failed(set(job.keys).difference(good))
        if job.announced and job.loading:
            job.request.loaded.update(dict.fromkeys(good))
        elif job.announced:
            self._announcer.there(good)
        return JobResult(
            job_id=job.job_id,
            success=whole,
            successful_keys=None if whole else tuple(good),
            transfer_time=moved.seconds,
            transfer_bytes=moved.moved_bytes,
        )

    def _announce_loaded(self, scheduled: Iterable[str]) -> None:
        """Tells what requests loaded: vLLM looked it up in host memory before it schedules them."""
        for req_id in scheduled:
            request = self._requests.get(req_id)
            if request is not None:
                request.scheduled = True
                loaded, request.loaded = request.loaded, {}
                self._announcer.there(list(loaded))

    def _refuse_large_blocks(self) -> None:
        if self._block_bytes > BLOCK_BYTES_MAX:
            raise ConfigError(
                f"vLLM's chunk of {self._tokens} tokens has {self._block_bytes} bytes, and a "
                f'block at most {BLOCK_BYTES_MAX}. Set a smaller "block_size" (or '
                '"blocks_per_chunk") in kv_connector_extra_config, or a smaller --block-size'
            )
        if self._capacity == 0:
            raise ConfigError("cpu_bytes_to_use is too small for a single block")


def _log_with_vllm() -> None:
    """What the tier says goes where vLLM's own log goes, unless somebody said otherwise."""
    ours, theirs = logging.getLogger("memkv_nixl"), logging.getLogger("vllm")
    if not ours.handlers and theirs.handlers:
        for handler in theirs.handlers:
            ours.addHandler(handler)
        ours.setLevel(theirs.level)
        ours.propagate = False
