"""More cases (cases.py): the plugin by the name OBJ, driven as vLLM's own tier `obj` drives it."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config

from tests.nixl.cases import DEADLINE_S, OK, Agent, Bytes, block_of, case, raises

NAME = "ObjAgent"


class Tier:
    """An agent that knows no backend but OBJ, over one region of rows."""

    def __init__(self, parameters: dict[str, str], rows: int, length: int) -> None:
        self.nixl = nixl_agent(NAME, nixl_agent_config(backends=[]))
        self.nixl.create_backend("OBJ", parameters)
        self.region: Bytes = np.zeros((rows, length), np.uint8)
        self._length = length
        self._next_device = 1
        start = self.region.ctypes.data
        self.nixl.register_memory([(start, self.region.nbytes, 0, "")], "DRAM")
        places = [(start + row * length, length, 0) for row in range(rows)]
        self._prepped = self.nixl.prep_xfer_dlist("NIXL_INIT_AGENT", places, "DRAM")

    def there(self, keys: list[str]) -> list[bool]:
        found = self.nixl.query_memory([(0, 1, 0, key) for key in keys], "OBJ", "OBJ")
        return [one is not None for one in found]

    def move(self, operation: str, keys: list[str]) -> str:
        """Rows from the first on; the transfer's last state, or the error's name."""
        described = [(0, self._length, self._next_device + i, key) for i, key in enumerate(keys)]
        self._next_device += len(keys)
        objects = self.nixl.register_memory(described, "OBJ")
        remote = self.nixl.prep_xfer_dlist(NAME, objects.trim())
        rows = np.arange(len(keys), dtype=np.int32)
        handle = self.nixl.make_prepped_xfer(operation, self._prepped, rows, remote, rows)
        state = self._finish(handle)
        self.nixl.release_xfer_handle(handle)
        self.nixl.release_dlist_handle(remote)
        self.nixl.deregister_memory(objects)
        return state

    def _finish(self, handle: Any) -> str:
        end = time.monotonic() + DEADLINE_S
        try:
            state = str(self.nixl.transfer(handle))
            while state == "PROC" and time.monotonic() < end:
                os.sched_yield()
                state = str(self.nixl.check_xfer_state(handle))
        except Exception as error:  # noqa: BLE001 - NIXL's errors have no common root
            return type(error).__name__
        return state


def obj_keys(count: int) -> list[str]:
    return [f"/tiny_0123456789ab_r0/{i:03x}/00_g0/{i:064x}.bin" for i in range(count)]


@case
def obj_listed(parameters: dict[str, str], others: list[str]) -> None:
    agent = nixl_agent("agent", nixl_agent_config(backends=[]))
    listed = agent.get_plugin_list()
    assert set(others) | {"OBJ", "MEMKV"} <= set(listed), listed
    # NIXL's own load through their links, with the libraries they bring.
    for name in ("POSIX", "UCX"):
        assert agent.get_plugin_mem_types(name), name
    assert "nodes" in agent.get_plugin_params("OBJ")
    agent.create_backend("OBJ", parameters)
    assert agent.get_backend_mem_types("OBJ") == ["DRAM_SEG", "OBJ_SEG"]


@case
def obj_writer(parameters: dict[str, str], count: int, length: int) -> None:
    tier = Tier(parameters, count, length)
    keys = obj_keys(count)
    assert tier.there(keys) == [False] * count
    for row, key in zip(tier.region, keys, strict=True):
        row[:] = block_of(key.encode(), length)
    assert tier.move("WRITE", keys) == "DONE"
    assert tier.there([*keys, "nobody"]) == [True] * count + [False]
    assert tier.move("WRITE", keys) == "DONE"  # again: they are there


@case
def obj_reader(parameters: dict[str, str], count: int, length: int) -> None:
    tier = Tier(parameters, count, length)
    keys = obj_keys(count)
    assert tier.there(keys) == [True] * count
    assert tier.move("READ", keys) == "DONE"
    for row, key in zip(tier.region, keys, strict=True):
        np.testing.assert_array_equal(row, block_of(key.encode(), length))
    # One that is not there fails all of them, as one state is all that NIXL has.
    assert tier.move("READ", [*keys[:-1], "nobody"]) == "nixlNotFoundError"


@case
def obj_absent(parameters: dict[str, str], count: int, length: int) -> None:
    tier = Tier(parameters, count, length)
    assert tier.there(obj_keys(count)) == [False] * count
    assert tier.move("READ", obj_keys(count)) == "nixlNotFoundError"


@case
def obj_by_its_own_name(parameters: dict[str, str], count: int, length: int) -> None:
    """MEMKV beside OBJ in one process: the namespace NAMESPACE/BUCKET, the dialect obj."""
    Tier(parameters, 1, length)
    space = f"{parameters['namespace']}/{parameters['bucket']}"
    said = {"nodes": parameters["nodes"], "namespace": space, "key_dialect": "obj"}
    agent = Agent(said, "another")
    keys = [key.encode() for key in obj_keys(count)]
    agent.objects(keys)
    targets = agent.targets(count, length)
    assert agent.move("READ", keys, targets) == ("DONE", [OK] * count)
    for target, key in zip(targets, keys, strict=True):
        np.testing.assert_array_equal(target, block_of(key, length))


@case
def obj_refused(parameters: dict[str, str]) -> None:
    agent = nixl_agent("agent", nixl_agent_config(backends=[]))
    assert raises(lambda: agent.create_backend("OBJ", parameters)) == "nixlBackendError"
