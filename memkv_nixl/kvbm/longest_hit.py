"""LongestHitConnector: several of vLLM's connectors at once, and the longest hit is loaded.

    --kv-transfer-config '{"kv_connector": "MultiConnector",
      "kv_connector_module_path": "memkv_nixl.kvbm.longest_hit", "kv_role": "kv_both",
      "kv_load_failure_policy": "recompute", "kv_connector_extra_config": {"connectors": [
        {"kv_connector": "DynamoConnector", "kv_role": "kv_both",
         "kv_connector_module_path": "kvbm.vllm_integration.connector"},
        {"kv_connector": "OffloadingConnector", "kv_role": "kv_both", …}]}}'

vLLM's own MultiConnector loads from the first child that has anything: 256 tokens in the first hide
1,408 in the second. This one asks all of them and takes the child with the most; of equals the one
that is named first. Everything else is vLLM's: every child sees every request, gets its blocks and
saves them, and one child alone loads a request. Two hits are not put together.

What is promised, for any two or more children:

- **A child that does not know yet** (it answers None) makes its request wait, never the scheduler.
  It is not waited for when another child has all that can be had (all but the block of the last
  token), nor for longer than `WAIT_S` at a time: then the answers of the others count.
- **A child that loses** is told so as by vLLM: the request's blocks, and 0 tokens to load. It goes
  on to save what is computed. What another child loaded it never has.
- **KVBM** (DynamoConnector) is spoken to as it can stand (`_kvbm_manners.py`): a request is asked
  about until there is a hit, and again only while that answer is still about the same tokens; a
  preempted request is not asked about; and no block is reported twice.
- **What a child raises** is raised, as by vLLM.
- Versions of vLLM that are not known are refused at start, as are fewer than two children.

In the settings it bears the name MultiConnector, because by that name vLLM and Dynamo know a
connector that has children. All of it runs on the scheduler's thread and waits for nothing.
"""

from __future__ import annotations

import time
from typing import Any

import vllm
from vllm.distributed.kv_transfer.kv_connector.v1 import multi_connector

from memkv_nixl._errors import ConfigError
from memkv_nixl.kvbm._kvbm_manners import NO_HIT, Hit, manners_of
from memkv_nixl.kvbm._vllm_version import refuse_unknown_vllm

WAIT_S = 10.0  # for a child that keeps answering that it does not know yet
NAME = "MultiConnector"
_clock = time.monotonic


class LongestHitConnector(multi_connector.MultiConnector):  # type: ignore[misc]  # as in vllm.py
    """See the module."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        """Raises ConfigError with the sentence that helps; vLLM then does not start."""
        refuse_unknown_vllm(vllm.__version__, type(self).__name__, _missing_parts)
        _refuse_settings(vllm_config.kv_transfer_config)
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self._block_tokens = int(vllm_config.cache_config.block_size)
        self._manners = [manners_of(child) for child in self._connectors]
        self._waiting_since: dict[str, float] = {}

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> Hit:
        """The longest hit; None while it is worth waiting for a child that does not know yet."""
        hits = [manners.hit(request, num_computed_tokens) for manners in self._manners]
        self._requests_to_connector.pop(request.request_id, None)
        longest = max(
            range(len(hits)), key=lambda child: hits[child][0] or 0
        )  # the first of equals
        tokens = hits[longest][0] or 0
        possible = _possible(request.num_tokens, self._block_tokens) - num_computed_tokens
        unknown = any(found is None for found, _ in hits)
        if unknown and tokens < possible and self._may_wait(request.request_id):
            return None, False
        if not unknown:
            self._waiting_since.pop(request.request_id, None)
        if tokens == 0:
            return NO_HIT
        self._requests_to_connector[request.request_id] = longest
        return hits[longest]

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The child that was chosen loads; all of them learn where the request's blocks are."""
        chosen = self._requests_to_connector.get(request.request_id)
        for child, manners in enumerate(self._manners):
            manners.allocated(request, blocks, num_external_tokens if child == chosen else 0)

    def request_finished(self, request: Any, blocks: list[int]) -> Any:
        """The request is over, also one that was never scheduled."""
        self._forget(request.request_id)
        return super().request_finished(request, blocks)

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> Any:
        """The same, where vLLM has a cache of several groups."""
        self._forget(request.request_id)
        return super().request_finished_all_groups(request, block_ids)

    def _may_wait(self, request_id: str) -> bool:
        return _clock() - self._waiting_since.setdefault(request_id, _clock()) < WAIT_S

    def _forget(self, request_id: str) -> None:
        self._waiting_since.pop(request_id, None)
        for manners in self._manners:
            manners.forget(request_id)


MultiConnector = LongestHitConnector  # the name in the settings


def _possible(tokens: int, block: int) -> int:
    """The most that can be loaded of a prompt: one token at least is computed."""
    return (tokens - 1) // block * block


def _missing_parts() -> list[str]:
    """What it stands on beyond vLLM's documented interface of connectors."""
    names = multi_connector.MultiConnector.__init__.__code__.co_names
    wanted = ("_connectors", "_requests_to_connector")
    return [f"MultiConnector.{name}" for name in wanted if name not in names]


def _refuse_settings(transfer: Any) -> None:
    if transfer.kv_connector != NAME:
        raise ConfigError(
            f'"kv_connector" is {transfer.kv_connector!r}; write "{NAME}" beside '
            f'"kv_connector_module_path": "{__name__}": by that name vLLM and Dynamo know that a '
            "connector has children"
        )
    children = transfer.kv_connector_extra_config.get("connectors")
    if not isinstance(children, list) or len(children) < 2:
        raise ConfigError(
            f"{__name__} takes the longest hit of two or more connectors; list them in "
            '"kv_connector_extra_config": {"connectors": [{…}, {…}]}'
        )
