"""vLLM's own tier `obj` under vLLM's own manager of tiers, over real nodes; no engine is started.

`python -m tests.engines.obj_cases MODEL` runs every `case_` here with an engine's Python and prints
a line of JSON, as manager_cases.py does. NIXL_PLUGIN_DIR names a folder that `memkv plugins` made,
MEMKV_NODES the nodes.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from memkv_nixl.cli._config_vllm import vllm_transfer_config
from tests.engines import manager_cases, meaning_cases
from tests.engines.manager_cases import HIT, MISS, Side, made, request
from tests.engines.meaning_cases import outcome_of

STORE = {"bucket": "kv", "endpoint_override": "http://nowhere.invalid:9000", "secret_key": "word"}
_spaces = itertools.count(1)


class ObjSide(Side):
    """One engine's manager with vLLM's tier `obj`."""

    def __init__(self, space: str | None, bucket: str = "kv") -> None:
        os.environ.pop("MEMKV_NAMESPACE", None)
        if space is not None:
            os.environ["MEMKV_NAMESPACE"] = space
        extra = vllm_transfer_config({}, 64 << 20)["kv_connector_extra_config"]
        tier = {"type": "obj", "store_config": {**STORE, "bucket": bucket}}
        config = meaning_cases.vllm_config(extra={**extra, "secondary_tiers": [tier]})
        self.manager = made(config)
        self.tier = self.manager.secondary_tiers[0]
        self.view = np.asarray(self.manager.primary_tier.get_kv_memoryview())


@contextmanager
def side(*given: Any) -> Iterator[ObjSide]:
    made_side = ObjSide(*given)
    try:
        yield made_side
    finally:
        made_side.view = np.empty((0, 0), np.int8)
        made_side.manager.shutdown()


def space() -> str:
    return f"tiny-rev{next(_spaces)}-{os.getpid()}"


def case_cold_and_warm_through_the_manager() -> None:
    apart = space()
    with side(apart) as one, side(apart) as two:
        assert type(one.tier).__module__ == "vllm.v1.kv_offload.tiering.obj.manager"
        keys, context = request(one, 20, "a")
        assert one.settled(keys, context) == [MISS]
        one.put(keys, context, 1)
        keys, context = request(two, 21, "a")
        assert two.settled(keys, context) == [HIT] * 20 + [MISS]
        assert two.holds(keys[:20], context, 1)


def case_another_namespace_or_bucket_misses() -> None:
    apart = space()
    with side(apart) as one, side(space()) as two, side(apart, "other") as three:
        keys, context = request(one, 4, "a")
        one.put(keys, context, 2)
        for other in (two, three):
            keys, context = request(other, 4, "a")
            assert other.settled(keys, context) == [MISS]


def case_without_a_namespace_it_does_not_start() -> None:
    for said in (None, "default"):
        refused = ""
        try:
            ObjSide(said)
        except Exception as error:  # noqa: BLE001 - NIXL's errors have no common root
            refused = type(error).__name__
        assert refused == "nixlBackendError", refused


def case_without_telemetry_vllm_itself_ends() -> None:
    """What the reference warns of: vLLM reads NIXL's telemetry of each transfer, unasked."""
    told = os.environ.pop("NIXL_TELEMETRY_ENABLE")
    raised = ""
    try:
        with side(space()) as one:
            keys, context = request(one, 1, "a")
            one.put(keys, context, 3)
    except Exception as error:  # noqa: BLE001 - NIXL's errors have no common root
        raised = type(error).__name__
    finally:
        os.environ["NIXL_TELEMETRY_ENABLE"] = told
    assert raised == "nixlNoTelemetryError", raised


CASES: dict[str, Callable[[], None]] = {
    name[5:]: case for name, case in globals().items() if name.startswith("case_")
}

if __name__ == "__main__":
    meaning_cases.MODEL = meaning_cases.Path(sys.argv[1])
    manager_cases.NODES = os.environ["MEMKV_NODES"]
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(case) for name, case in CASES.items()}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
    os._exit(0)  # not through the destructors of what NIXL loaded
