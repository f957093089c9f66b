"""More cases (cases.py): a namespace is dropped under a running plugin."""

from __future__ import annotations

import json
import subprocess
import time

import numpy as np

from tests.nixl.cases import DEADLINE_S, NOT_FOUND, OK, Agent, case, keys_of, same

DENIED = 11


@case
def dropped_and_begun_anew(parameters: dict[str, str], drop: list[str]) -> None:
    """`drop` is the operator's command; what goes on unawares finds nothing and puts nothing."""
    length, keys = 70_000, keys_of(6)
    before = Agent(parameters)
    blocks = before.put(keys, length)
    assert before.sizes(keys) == [length] * 6
    done = subprocess.run(drop, check=True, capture_output=True)
    generation = json.loads(done.stdout)["drop_generation"]
    assert generation == 1
    end = time.monotonic() + DEADLINE_S
    while before.sizes(keys) != [0] * 6:  # a round trip each, until the node has that map
        assert time.monotonic() < end, "the node does not hear of the drop"
    targets = before.targets(6, length)
    assert before.move("READ", keys, targets)[1] == [NOT_FOUND] * 6
    assert before.move("WRITE", keys, blocks)[1] == [DENIED] * 6

    anew = Agent({**parameters, "drop_generation": str(generation)}, "anew")
    assert anew.sizes(keys) == [0] * 6
    fresh = [np.bitwise_xor(block, 0xFF) for block in blocks]
    anew.memory(*fresh)
    anew.objects(keys)
    assert anew.move("WRITE", keys, fresh) == ("DONE", [OK] * 6)
    assert anew.sizes(keys) == [length] * 6
    into = anew.targets(6, length)
    assert anew.move("READ", keys, into) == ("DONE", [OK] * 6)
    same(into, fresh)
    # Not for those who go on unawares: what lies there now may mean something else.
    assert before.sizes(keys) == [0] * 6
    assert before.move("READ", keys, targets)[1] == [NOT_FOUND] * 6

    early = Agent({**parameters, "drop_generation": str(generation + 1)}, "early")
    assert early.sizes(keys) == [0] * 6
