"""More cases (cases.py): what is registered and deregistered, as NIXL does it, too."""

from __future__ import annotations

from importlib import metadata
from typing import Any

import numpy as np

from tests.nixl.cases import BACKENDS, OK, Agent, case, raises, same


@case
def two_keys_on_one_device(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    nixl = agent.nixl
    first = nixl.register_memory([(0, 0, 7, b"one")], "OBJ", BACKENDS)
    error = raises(lambda: nixl.register_memory([(0, 0, 7, b"two")], "OBJ", BACKENDS))
    assert error in ("nixlNotAllowedError", "nixlBackendError"), error
    if not metadata.version("nixl-cu12").startswith("1.0."):
        # NIXL 1.0 itself loses what was registered when it is refused something.
        nixl.deregister_memory(first, BACKENDS)
        nixl.register_memory([(0, 0, 7, b"two")], "OBJ", BACKENDS)
    raises(lambda: nixl.register_memory([(0, 0, 8, b"")], "OBJ", BACKENDS))
    raises(lambda: nixl.register_memory([(0, 0, 8, b"k" * 513)], "OBJ", BACKENDS))


@case
def id_reused_after_deregistration(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    (block,) = agent.put([b"two"], 1000)
    nixl = agent.nixl
    (target,) = agent.targets(1, 1000)

    def prepared() -> Any:
        remote = nixl.get_xfer_descs([(0, 1000, 7)], "OBJ")
        return nixl.initialize_xfer("READ", agent.local([target]), remote, "agent", b"", BACKENDS)

    first = nixl.register_memory([(0, 1000, 7, b"one")], "OBJ", BACKENDS)
    nixl.deregister_memory(first, BACKENDS)
    nixl.register_memory([(0, 1000, 8, b"x")], "OBJ", BACKENDS)
    raises(prepared)
    nixl.register_memory([(0, 1000, 7, b"two")], "OBJ", BACKENDS)
    assert agent.post(prepared()) == "DONE"
    same([target], [block])


@case
def registered_twice(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    (block,) = agent.put([b"one"], 1000)
    nixl = agent.nixl
    other = np.zeros(1000, np.uint8)
    memory = (other.ctypes.data, other.nbytes, 0, "")
    for kind, one in (("DRAM", memory), ("OBJ", (0, 1000, 7, b"one"))):
        twice = nixl.register_memory([one, one], kind, BACKENDS)
        nixl.deregister_memory(twice, BACKENDS)
    # Other memory: NIXL keeps an entry of the first, which is refused as not registered.
    (target,) = agent.targets(1, 1000)
    nixl.register_memory([(0, 1000, 7, b"one")], "OBJ", BACKENDS)
    agent.devices[b"seven"] = 7
    assert agent.move("READ", [b"seven"], [target]) == ("DONE", [OK])
    same([target], [block])
