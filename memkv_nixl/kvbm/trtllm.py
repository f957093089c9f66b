"""The pool behind TensorRT-LLM's KV cache connector: MemKVScheduler and MemKVWorker.

    kv_connector_config:
      connector_module: memkv_nixl.kvbm.trtllm
      connector_scheduler_class: MemKVScheduler
      connector_worker_class: MemKVWorker

TensorRT-LLM asks once per request how many tokens need not be computed, and has no way to hear
later that one of them did not come. So nothing is promised that does not lie in pinned host memory,
verified: the look-up and the load happen inside that question, no longer than their deadlines. A
step's worker then copies rows to the GPU before the model runs, and whole blocks back when it has
run; these go into the pool behind the engine's back. docs/guides/trtllm.md is the guide, and says
what of this could not be run.

Which TensorRT-LLM: the interface as of 1.2, and as it moved to `connectors/` later; one rank.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
from typing import Any

from memkv_nixl._errors import ConfigError, MemKVError, UsageError
from memkv_nixl.kvbm._device import device_of_kernels
from memkv_nixl.kvbm._trtllm_meaning import (
    namespace_of,
    refuse_scattered,
    refuse_unfit,
    settings_of,
    tokens_per_block_of,
)
from memkv_nixl.kvbm._trtllm_requests import (
    Geometry,
    Load,
    Orders,
    Promise,
    RequestState,
    TokenChain,
    root_of,
)
from memkv_nixl.kvbm._trtllm_staging import Staging, link_of

_PLACES = (
    "tensorrt_llm._torch.pyexecutor.connectors.kv_cache_connector",
    "tensorrt_llm._torch.pyexecutor.kv_cache_connector",
)
_log = logging.getLogger(__name__)


def _interface() -> Any:
    """The module with the two base classes, wherever this TensorRT-LLM has it."""
    for place in _PLACES:
        if _is_there(place):
            return importlib.import_module(place)
    raise ConfigError(
        f"TensorRT-LLM is not installed, or has no {' and no '.join(_PLACES)}; 1.2 has"
    )


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package on the way to it is missing
        return False


_interface_module = _interface()
_Scheduler: Any = _interface_module.KvCacheConnectorScheduler
_Worker: Any = _interface_module.KvCacheConnectorWorker


class MemKVScheduler(_Scheduler):  # type: ignore[misc]  # not there when this is checked
    """Decides what is loaded and stored. Thread: the executor's."""

    def __init__(self, llm_args: Any) -> None:
        """Raises ConfigError with the sentence that helps; TensorRT-LLM then does not start."""
        super().__init__(llm_args)
        refuse_unfit(llm_args)
        self._settings, _ = settings_of(os.environ)
        self._tokens_per_block = tokens_per_block_of(llm_args)
        self._link = link_of(llm_args)
        self._geometry = Geometry(self._tokens_per_block)
        self._requests: dict[int, RequestState] = {}

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int, bool]:
        """How many tokens lie in staged rows, beyond those that are on the GPU."""
        self._forget(request.request_id)
        staging = self._link.staging
        root = root_of(request, with_lora=self._settings.lora == "fixed")
        if staging is None or root is None:
            return 0, False
        tokens = request.get_tokens(0)
        settings = self._settings
        chain = TokenChain(root, self._tokens_per_block, settings.group_blocks, settings.lead)
        chain.tell(0, tokens)
        state = RequestState(chain, len(tokens))
        self._requests[request.request_id] = state
        first, rest = divmod(num_computed_tokens, self._tokens_per_block)
        state.saved = first
        if rest or not self._geometry.holds:  # a block that is half on the GPU stays there
            return 0, False
        # One token at least is computed, or the model would have nothing to say.
        last = (len(tokens) - 1) // self._tokens_per_block
        blocks = [chain.block(place) for place in range(first, last)]
        rows = staging.fetch(blocks, self._tokens_per_block)
        state.promised = [Promise(first + i, row) for i, row in enumerate(rows)]
        state.saved = first + len(rows)
        return len(rows) * self._tokens_per_block, False

    def update_state_after_alloc(self, request: Any, block_ids: list[int]) -> None:
        """Nothing: each step tells its blocks."""

    def build_connector_meta(self, scheduler_output: Any) -> Orders:
        """What this step's worker copies, before and after the model runs."""
        orders = Orders()
        for data in (*scheduler_output.new_requests, *scheduler_output.cached_requests):
            state = self._requests.get(data.request_id)
            if state is None:
                continue
            state.learn(data)
            if data.computed_position < state.prompt:
                self._see(state, data)
            orders.loads += self._loads_of(state, data.request_id)
            saves = state.take_saves(data)
            orders.saves += saves if self._geometry.holds else []
        return orders

    def _see(self, state: RequestState, data: Any) -> None:
        """What a step of a request's prompt shows of the size of blocks."""
        before = self._geometry.wrong
        tokens = data.computed_position + data.num_scheduled_tokens
        self._geometry.see(tokens, len(state.block_ids), whole=tokens >= state.prompt)
        if self._geometry.wrong and not before:
            _log.error(
                "MemKV: TensorRT-LLM's blocks hold other than the %d tokens that tokens_per_block "
                "in kv_cache_config says; nothing is loaded or stored. Set it to what the engine "
                "uses (its log names the change)",
                self._tokens_per_block,
            )

    def _loads_of(self, state: RequestState, request_id: int) -> list[Load]:
        try:
            if state.promised and not self._geometry.holds:
                raise LookupError(state.promised[0].place)
            return state.take_loads()
        except LookupError as error:
            # The engine goes on as if the bytes were there; it must not.
            raise MemKVError(
                f"TensorRT-LLM has no block for place {error} of request {request_id}, whose "
                "bytes it was promised and accepted; please report this with its version"
            ) from error

    def request_finished(self, request: Any, cache_block_ids: list[int]) -> bool:  # noqa: ARG002
        """A request is over; its blocks were copied already, so nobody waits for them."""
        self._forget(request.request_id)
        return False

    def request_reset(self, request: Any) -> None:
        """Its blocks on the GPU were taken away, and it begins anew."""
        self._forget(request.request_id)

    def cancel_load(self, request: Any, start: int, end: int) -> None:
        """Tokens that were promised are computed after all."""
        state = self._requests.get(request.request_id)
        if state is None:
            return
        size = self._tokens_per_block
        dropped = [
            promise
            for promise in state.promised
            if promise.place * size < end and (promise.place + 1) * size > start
        ]
        state.promised = [promise for promise in state.promised if promise not in dropped]
        state.saved = min([state.saved, *(promise.place for promise in dropped)])
        self._free(dropped)

    def _forget(self, request_id: int) -> None:
        if (state := self._requests.pop(request_id, None)) is not None:
            self._free(state.promised)

    def _free(self, promised: list[Promise]) -> None:
        if promised and self._link.staging is not None:
            self._link.staging.rows.free([promise.row for promise in promised])


class MemKVWorker(_Worker):  # type: ignore[misc]  # not there when this is checked
    """Copies between the GPU and staged rows. Thread: the executor's."""

    def __init__(self, llm_args: Any) -> None:
        """Raises ConfigError with the sentence that helps; TensorRT-LLM then does not start."""
        super().__init__(llm_args)
        refuse_unfit(llm_args)
        self._settings, self._staging_bytes = settings_of(os.environ)
        self._tokens_per_block = tokens_per_block_of(llm_args)
        self._link = link_of(llm_args)
        self._registered = False
        self._orders = Orders()

    def register_kv_caches(self, kv_cache_tensor: Any) -> None:
        """The cache is there: from now on something can be found.

        Raises UsageError when it is called again: TensorRT-LLM does so once for a connector.
        """
        if self._registered:
            # Rows that are promised lie in the first staging, and block ids are of the first cache.
            raise UsageError(
                "TensorRT-LLM hands its KV cache to this connector a second time; what was "
                "promised to running requests would come out of other memory. Start the engine "
                "anew, and please report this with its version"
            )
        if self._link.staging is not None:  # of an engine before, with the same settings
            self._link.staging.close()
        refuse_scattered(self._llm_args, kv_cache_tensor)
        version = importlib.metadata.version("tensorrt_llm")
        namespace = namespace_of(
            self._llm_args, self._settings, kv_cache_tensor, version, device_of_kernels()
        )
        self._link.staging = Staging(
            self._settings, namespace, kv_cache_tensor, self._staging_bytes
        )
        self._registered = True
        _log.info("MemKV: %d blocks of staging", self._link.staging.rows.count)

    def start_load_kv(self, stream: Any) -> None:  # noqa: ARG002
        """Promised blocks to the GPU; they are there when this returns."""
        # Each step's orders once: a step without a scheduler's output leaves the last ones bound.
        self._orders = self.get_connector_meta() or Orders()
        self.bind_connector_meta(None)
        if self._link.staging is not None:
            self._link.staging.place(self._orders.loads)

    def wait_for_layer_load(self, layer_idx: int, stream: Any) -> None:
        """Nothing: all layers are there."""

    def save_kv_layer(self, layer_idx: int, stream: Any) -> None:
        """Nothing: a block goes out when all of its layers are computed."""

    def wait_for_save(self, stream: Any) -> None:  # noqa: ARG002
        """Blocks that are whole now, off the GPU."""
        orders, self._orders = self._orders, Orders()
        if self._link.staging is not None:
            self._link.staging.save(orders.saves, self._tokens_per_block)

    def get_finished(
        self,
        finished_gen_req_ids: list[int],  # noqa: ARG002
        started_loading_req_ids: list[int],  # noqa: ARG002
    ) -> tuple[list[int], list[int]]:
        """Nothing is under way between steps that the engine would have to wait for."""
        return [], []
