"""LongestHitConnector with children that say what they are told to say; no engine is started.

`python -m tests.engines.longest_cases MODEL` runs every `case_` here with an engine's Python and
prints a line of JSON, as meaning_cases.py does. The connector's parent and its factory are vLLM's;
the children are scripted, because no real one can be made to answer late or for ever "not yet".
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole
from vllm.v1.core.kv_cache_manager import KVCacheBlocks
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec

from memkv_nixl.kvbm import longest_hit
from memkv_nixl.kvbm._kvbm_manners import KvbmManners
from memkv_nixl.kvbm._vllm_version import refuse_unknown_vllm
from tests.engines.meaning_cases import outcome_of, refused, vllm_config

BLOCK = 128
TOKENS = 10 * BLOCK + 5
NOT_YET = None


class Scripted(KVConnectorBase_V1):
    """TEST ONLY: answers `says`, and keeps what it is told."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.says: int | None = 0
        self.asked: list[int] = []
        self.told: list[tuple[list[int], int]] = []
        self.finished: list[str] = []

    def get_num_new_matched_tokens(self, request: Any, computed: int) -> tuple[int | None, bool]:
        self.asked.append(computed)
        return self.says, bool(self.says)

    def update_state_after_alloc(self, request: Any, blocks: Any, tokens: int) -> None:
        self.told.append((blocks.get_block_ids()[0], tokens))

    def request_finished(self, request: Any, blocks: Any) -> tuple[bool, None]:
        self.finished.append(request.request_id)
        return False, None

    def build_connector_meta(self, output: Any) -> Any: ...
    def start_load_kv(self, context: Any, **more: Any) -> None: ...
    def wait_for_layer_load(self, name: str) -> None: ...
    def save_kv_layer(self, name: str, layer: Any, metadata: Any, **more: Any) -> None: ...
    def wait_for_save(self) -> None: ...


@dataclass
class Asked:
    """As much of vLLM's request as a connector looks at here."""

    request_id: str = "r"
    num_tokens: int = TOKENS
    num_preemptions: int = 0


@dataclass
class Block:
    block_id: int
    block_hash: Any = field(default=None)


def blocks(*ids: int) -> KVCacheBlocks:
    return KVCacheBlocks(([Block(i) for i in ids],))


def made(children: int = 2, **wrapper: Any) -> Any:
    """The connector as vLLM's factory makes it out of the settings."""
    child = {
        "kv_connector": "Scripted",
        "kv_connector_module_path": __spec__.name,
        "kv_role": "kv_both",
    }
    transfer = {
        "kv_connector": "MultiConnector",
        "kv_connector_module_path": "memkv_nixl.kvbm.longest_hit",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"connectors": [dict(child) for _ in range(children)]},
        **wrapper,
    }
    attention = FullAttentionSpec(
        block_size=BLOCK, num_kv_heads=4, head_size=64, dtype=torch.float32
    )
    cache = KVCacheConfig(
        num_blocks=8,
        kv_cache_tensors=[],
        kv_cache_groups=[KVCacheGroupSpec(["model.layers.0.self_attn.attn"], attention)],
    )
    config = vllm_config(kv_transfer_config=transfer)
    return KVConnectorFactory.create_connector(config, KVConnectorRole.SCHEDULER, cache)


def answer(
    connector: Any, *says: int | None, request: Asked | None = None, computed: int = 0
) -> Any:
    for child, said in zip(connector.sub_connectors, says, strict=True):
        child.says = said
    return connector.get_num_new_matched_tokens(request or Asked(), computed)


def loads(connector: Any, tokens: int, *ids: int, request: Asked | None = None) -> list[int]:
    """How many tokens each child was told to load."""
    connector.update_state_after_alloc(request or Asked(), blocks(*ids), tokens)
    return [child.told[-1][1] for child in connector.sub_connectors]


def case_vllm_makes_it_and_turns_its_hybrid_manager_off() -> None:
    connector = made()
    assert type(connector) is longest_hit.LongestHitConnector
    assert connector._vllm_config.scheduler_config.disable_hybrid_kv_cache_manager


def case_the_longest_wins_wherever_it_stands() -> None:
    for says, winner in (((256, 512), 1), ((512, 256), 0), ((0, 256), 1), ((256, 0), 0)):
        connector = made()
        assert answer(connector, *says) == (max(says), True)
        wanted = [0, 0]
        wanted[winner] = max(says)
        assert loads(connector, max(says), 1, 2) == wanted


def case_of_equals_the_first() -> None:
    connector = made(3)
    assert answer(connector, 0, 256, 256) == (256, True)
    assert loads(connector, 256, 1, 2) == [0, 256, 0]


def case_nobody_has_anything() -> None:
    connector = made()
    assert answer(connector, 0, 0) == (0, False)
    assert loads(connector, 0, 1) == [0, 0]


def case_an_old_choice_does_not_count() -> None:
    connector = made()
    assert answer(connector, 0, 256) == (256, True)  # and then there was no room for it
    assert answer(connector, 0, 0) == (0, False)
    assert loads(connector, 0, 1) == [0, 0]
    assert answer(connector, 256, 0) == (256, True)
    assert loads(connector, 256, 1, 2) == [256, 0]


def case_who_does_not_know_yet_is_waited_for_and_all_are_asked() -> None:
    connector = made(3)
    assert answer(connector, NOT_YET, 256, 0) == (None, False)
    assert [child.asked for child in connector.sub_connectors] == [[0], [0], [0]]
    assert answer(connector, 512, 256, 0) == (512, True)
    assert loads(connector, 512, 1, 2, 3, 4) == [512, 0, 0]


def case_a_whole_hit_waits_for_nobody() -> None:
    connector = made()
    assert answer(connector, 9 * BLOCK, NOT_YET) == (None, False)
    assert answer(connector, 10 * BLOCK, NOT_YET) == (10 * BLOCK, True)
    assert answer(connector, 8 * BLOCK, NOT_YET, computed=2 * BLOCK) == (8 * BLOCK, True)
    exact = Asked("exact", num_tokens=10 * BLOCK)  # the last token is computed, and so its block
    assert answer(connector, 9 * BLOCK, NOT_YET, request=exact) == (9 * BLOCK, True)


def case_nobody_is_waited_for_for_ever() -> None:
    now = [0.0]
    longest_hit._clock = lambda: now[0]
    connector = made()
    assert answer(connector, 256, NOT_YET) == (None, False)
    now[0] = longest_hit.WAIT_S - 0.1
    assert answer(connector, 256, NOT_YET) == (None, False)
    now[0] = longest_hit.WAIT_S
    assert answer(connector, 256, NOT_YET) == (256, True)
    assert loads(connector, 256, 1, 2) == [256, 0]
    # An answer ends the waiting; the next begins anew.
    assert answer(connector, 256, 0) == (256, True)
    assert answer(connector, 256, NOT_YET) == (None, False)


def case_a_request_that_is_over_is_forgotten() -> None:
    connector = made()
    assert answer(connector, 256, NOT_YET) == (None, False)
    connector.request_finished(Asked(), [])
    assert connector._waiting_since == {}
    assert [child.finished for child in connector.sub_connectors] == [["r"], ["r"]]


def kvbm_like() -> tuple[Any, Any]:
    """A connector whose first child is spoken to as KVBM is, and that child."""
    connector = made()
    child = connector.sub_connectors[0]
    connector._manners[0] = KvbmManners(child)
    return connector, child


def case_kvbm_is_told_each_block_once() -> None:
    connector, child = kvbm_like()
    assert answer(connector, 0, 256) == (256, True)
    loads(connector, 256, 1, 2)
    loads(connector, 0, 1, 2, 3)
    assert child.told == [([1, 2], 0), ([3], 0)]
    assert connector.sub_connectors[1].told == [([1, 2], 256), ([1, 2, 3], 0)]


def case_kvbms_answer_counts_while_it_is_about_the_same() -> None:
    connector, child = kvbm_like()
    assert answer(connector, 512, NOT_YET) == (None, False)
    assert answer(connector, 512, 256) == (512, True)
    assert answer(connector, 512, 256, computed=BLOCK) == (256, True)
    assert child.asked == [0, 0]


def case_kvbm_is_not_asked_about_what_was_preempted() -> None:
    connector, child = kvbm_like()
    answer(connector, 0, 0)
    loads(connector, 0, 1, 2)
    preempted = Asked(num_preemptions=1)
    assert answer(connector, 512, 256, request=preempted) == (256, True)
    connector.update_state_after_alloc(preempted, blocks(5, 6), 256)
    assert child.asked == [0]
    assert child.told == [([1, 2], 0)]


def case_kvbm_begins_anew_where_anothers_load_failed() -> None:
    connector, child = kvbm_like()
    answer(connector, 0, 256)
    loads(connector, 256, 1, 2)
    assert answer(connector, 0, 0) == (0, False)  # asked again and not preempted: it failed
    assert child.finished == ["r"]
    loads(connector, 0, 7, 8)
    assert child.told == [([1, 2], 0), ([7, 8], 0)]
    connector.request_finished(Asked(), [7, 8])
    assert connector._manners[0]._told == {}


def case_by_its_class_kvbm_is_known() -> None:
    from memkv_nixl.kvbm._kvbm_manners import Manners, manners_of

    theirs = type("DynamoConnector", (), {"__module__": "kvbm.vllm_integration.connector"})
    assert type(manners_of(theirs())) is KvbmManners
    assert type(manners_of(type("Mine", (theirs,), {})())) is KvbmManners
    assert type(manners_of(SimpleNamespace())) is Manners


def case_what_is_wrong_is_said() -> None:
    with refused("two or more connectors"):
        made(1)
    with refused("by that name vLLM and Dynamo know"):
        made(kv_connector="LongestHitConnector")
    with refused("LongestHitConnector of this memkv-nixl knows 0.31, 0.32"):
        refuse_unknown_vllm("0.30.1", "LongestHitConnector", longest_hit._missing_parts)
    with refused("lacks MultiConnector._x"):
        refuse_unknown_vllm("0.32.0", "LongestHitConnector", lambda: ["MultiConnector._x"])
    assert longest_hit._missing_parts() == []


CASES = {name[5:]: case for name, case in list(globals().items()) if name.startswith("case_")}

if __name__ == "__main__":
    reply = os.dup(1)
    os.dup2(2, 1)  # what vLLM prints goes to the log
    outcomes = {name: outcome_of(case) for name, case in CASES.items()}
    os.write(reply, json.dumps(outcomes).encode() + b"\n")
