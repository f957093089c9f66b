"""LMCache's NIXL backends and the key dialects `obj` and `cmx`, with LMCache's own code.

`python -m tests.engines.lmcache_nixl_cases NODES` runs every `case_` here with LMCache's Python and
prints a line of JSON, as meaning_cases.py does. NIXL_PLUGIN_DIR names a folder in which our plugin
goes by the names OBJ and DOCA_MEMOS, which are those that LMCache lets through. Names, descriptors
and transfers are those of LMCache's agent; its cache engine, which has no device on the CPU, is not
there.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.storage_backend import nixl_storage_backend as theirs

from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from tests.engines.lmcache_cases import outcome_of

NODES = ""
PAGE = 64 << 10
PAGES = 8
DIALECTS = {"OBJ": "obj", "DOCA_MEMOS": "cmx"}
_spaces = itertools.count(1)


def key_of(chunk: int, model: str = "org/a model") -> Any:
    return CacheEngineKey(model, 2, 1, chunk, torch.bfloat16)


def name_of(backend: str, key: Any) -> str:
    """The name that LMCache's dynamic backend gives to a key."""
    one = theirs.NixlDynamicStorageBackend.__new__(theirs.NixlDynamicStorageBackend)
    one._use_b128_object_keys = backend == "DOCA_MEMOS"
    name: str = one._format_object_key(key)
    return name


class Agent:
    """LMCache's own agent on our plugin, with memory of its own."""

    def __init__(self, backend: str, space: str) -> None:
        self.pages = np.zeros((PAGES, PAGE), np.uint8)
        memory = SimpleNamespace(
            buffer_ptr=self.pages.ctypes.data, buffer_size=self.pages.nbytes, align_bytes=PAGE
        )
        parameters = {"nodes": NODES, "namespace": space, "key_dialect": DIALECTS[backend]}
        self._agent = theirs.NixlDynamicStorageAgent(memory, "cpu", backend, parameters, True)
        self._devices = itertools.count()

    def move(self, write: bool, names: list[str], pages: list[int]) -> None:
        """Raises where not every page moved."""
        descriptors = [theirs.NixlDesc(next(self._devices), name) for name in names]
        objects, storage = self._agent.create_batched_storage_handler(descriptors, PAGE)
        indices = list(range(len(names)))
        make = (
            self._agent.get_mem_to_storage_handle
            if write
            else self._agent.get_storage_to_mem_handle
        )
        handle = make(pages, storage, indices)
        self._agent.post_blocking(handle)
        self._agent.release_handle(handle)
        self._agent.release_storage_handler(objects, storage, descriptors)

    def has(self, name: str) -> bool:
        there: bool = self._agent.nixl_desc_exists(name, "")
        return there


def round_trip(backend: str) -> tuple[str, list[str]]:
    """Stores three pages by LMCache's names and gets them back elsewhere; namespace and names."""
    space = f"lmcache-nixl-{os.getpid()}-{next(_spaces)}"
    names = [name_of(backend, key_of(chunk)) for chunk in (1, 2**63, 2**64 - 1)]
    agent = Agent(backend, space)
    agent.pages[:3] = np.random.default_rng(1).integers(0, 256, (3, PAGE), np.uint8)
    assert not any(agent.has(name) for name in names)
    agent.move(True, names, [0, 1, 2])
    assert all(agent.has(name) for name in names)
    other = Agent(backend, space)
    other.move(False, names[::-1], [5, 4, 3])
    assert np.array_equal(other.pages[3:6], agent.pages[:3])
    assert not other.has(name_of(backend, key_of(3)))
    return space, names


def in_the_pool(space: str, dialect: str, keys: list[bytes]) -> bool:
    """Whether blocks lie under these keys in the namespace of a dialect (object-key.md)."""
    ours = hashlib.blake2b(
        namespace_id(space) + dialect.encode(), digest_size=16, person=b"memkv.dialect"
    ).digest()
    client = Client(NODES.split(","), name="case", timeout_ms=5000)
    request = client.match(ours, keys)
    assert request.wait(10_000)
    found = [where for _, where, _ in request.matches()]
    client.close()
    return all(found)


def case_obj_reads_the_names_of_the_dynamic_backend() -> None:
    space, names = round_trip("OBJ")
    assert in_the_pool(space, "obj", [name.encode() for name in names])
    assert not in_the_pool(space, "cmx", [name.encode() for name in names])


def case_cmx_reads_the_names_for_doca_memos() -> None:
    space, names = round_trip("DOCA_MEMOS")
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in names)
    assert in_the_pool(space, "cmx", [bytes.fromhex(name) for name in names])


def case_a_name_says_all_of_the_key() -> None:
    for backend in DIALECTS:
        keys = [
            key_of(1),
            key_of(2),
            key_of(1, "org/b"),
            CacheEngineKey("org/a model", 1, 0, 1, torch.bfloat16),
            CacheEngineKey("org/a model", 2, 1, 1, torch.float16),
        ]
        assert len({name_of(backend, key) for key in keys}) == len(keys)


def case_obj_names_run_into_one_another() -> None:
    """Known, and told in the guide: two models whose names differ in these signs only."""
    assert name_of("OBJ", key_of(1, "a/b")) == name_of("OBJ", key_of(1, "a_b"))
    assert name_of("DOCA_MEMOS", key_of(1, "a/b")) != name_of("DOCA_MEMOS", key_of(1, "a_b"))


def case_slots_of_a_static_pool_are_names_that_are_used_again() -> None:
    """Why a pool size must be 0: a slot is written over, so a slot's name is refused."""
    for backend, shape in (("OBJ", r"obj_\d+_[0-9a-f]{4}"), ("DOCA_MEMOS", "[0-9a-f]{32}")):
        pool = theirs.NixlObjectPool(2, b128=backend == "DOCA_MEMOS")
        assert all(re.fullmatch(shape, name) for name in pool.keys)
        slot = pool.pop()
        pool.push(slot)
        assert pool.pop() == slot
    space = f"lmcache-nixl-{os.getpid()}-{next(_spaces)}"
    agent = Agent("OBJ", space)
    refusal = None
    try:
        agent.move(True, ["obj_0_abcd"], [0])
    except Exception as error:  # noqa: BLE001 - NIXL's, whose module has a name per CUDA
        refusal = error
    assert refusal is not None, "a slot was written to"


def case_lmcache_lets_no_other_name_through() -> None:
    lets = theirs.NixlStorageConfig.validate_nixl_backend
    assert lets("OBJ", "cpu")
    assert lets("DOCA_MEMOS", "cpu")
    assert not lets("MEMKV", "cpu")


CASES = {name[5:]: case for name, case in globals().items() if name.startswith("case_")}

if __name__ == "__main__":
    NODES = sys.argv[1]
    wanted = sys.argv[2:] or list(CASES)
    answer = os.dup(1)
    os.dup2(2, 1)
    outcomes = {name: outcome_of(CASES[name]) for name in wanted}
    os.write(answer, json.dumps(outcomes).encode() + b"\n")
