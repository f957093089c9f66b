"""What is done with real NIXL agents; worker.py runs each case in a process of its own.

Only the standard library, numpy, NIXL and this package are there.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from nixl_cu12._api import nixl_agent, nixl_agent_config

from memkv_nixl._plugin_stat import plugin_stat

BACKENDS = ["MEMKV"]
DEADLINE_S = 30
OK, EXISTS, NOT_FOUND, INVALID, CANCELLED, UNREACHABLE = 0, 1, 2, 8, 14, 13

Bytes = np.ndarray[Any, np.dtype[np.uint8]]
CASES: dict[str, Callable[..., None]] = {}


def case(function: Callable[..., None]) -> Callable[..., None]:
    CASES[function.__name__] = function
    return function


def block_of(key: bytes, length: int) -> Bytes:
    """The bytes of a key's block: everybody can make them."""
    seed = int.from_bytes(key, "little") % 2**64
    return np.random.default_rng(seed).integers(0, 256, length, np.uint8)


def keys_of(count: int, prefix: str = "key") -> list[bytes]:
    return [f"{prefix} {i}".encode() for i in range(count)]


class Agent:
    """One NIXL agent with one MEMKV backend, and what a user writes around it."""

    def __init__(self, parameters: dict[str, str], name: str = "agent") -> None:
        self.name = name
        self.nixl = nixl_agent(name, nixl_agent_config(backends=[]))
        self.nixl.create_backend("MEMKV", parameters)
        self.devices: dict[bytes, int] = {}

    def memory(self, *buffers: Bytes) -> None:
        described = [(buffer.ctypes.data, buffer.nbytes, 0, "") for buffer in buffers]
        self.nixl.register_memory(described, "DRAM", BACKENDS)

    def objects(self, keys: Sequence[bytes]) -> None:
        """Registers keys under device ids that count from 1."""
        new = {key: len(self.devices) + 1 + i for i, key in enumerate(keys)}
        self.devices.update(new)
        described = [(0, 0, device, key) for key, device in new.items()]
        self.nixl.register_memory(described, "OBJ", BACKENDS)

    def local(self, pieces: Sequence[Bytes]) -> Any:
        return self.nixl.get_xfer_descs([(p.ctypes.data, p.nbytes, 0) for p in pieces], "DRAM")

    def remote(self, keys: Sequence[bytes], lengths: Sequence[int], offsets: Sequence[int]) -> Any:
        described = [
            (offset, length, self.devices[key])
            for key, length, offset in zip(keys, lengths, offsets, strict=True)
        ]
        return self.nixl.get_xfer_descs(described, "OBJ")

    def begin(
        self,
        operation: str,
        keys: Sequence[bytes],
        pieces: Sequence[Bytes],
        offsets: Sequence[int] = (),
        notice: bytes = b"",
    ) -> Any:
        """A handle, not posted yet."""
        lengths = [piece.nbytes for piece in pieces]
        remote = self.remote(keys, lengths, offsets or [0] * len(keys))
        local = self.local(pieces)
        return self.nixl.initialize_xfer(operation, local, remote, self.name, notice, BACKENDS)

    def finish(self, handle: Any) -> str:
        """Posts nothing; polls until it is over: DONE, or the error's name."""
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            try:
                state = str(self.nixl.check_xfer_state(handle))
            except Exception as error:  # noqa: BLE001 - NIXL's errors have no common root
                return type(error).__name__
            if state != "PROC":
                return state
            os.sched_yield()
        raise AssertionError("the transfer does not end")

    def post(self, handle: Any, notice: bytes = b"") -> str:
        try:
            state = str(self.nixl.transfer(handle, notice))
        except Exception as error:  # noqa: BLE001
            return type(error).__name__
        return state if state != "PROC" else self.finish(handle)

    def move(
        self,
        operation: str,
        keys: Sequence[bytes],
        pieces: Sequence[Bytes],
        offsets: Sequence[int] = (),
    ) -> tuple[str, list[int]]:
        """A whole transfer: its state, and the status of each block."""
        handle = self.begin(operation, keys, pieces, offsets, b"move")
        state = self.post(handle)
        (notice,) = self.notices()
        assert notice.startswith(b"move:"), notice
        self.nixl.release_xfer_handle(handle)
        return state, list(notice[len(b"move:") :])

    def notices(self) -> list[bytes]:
        found = self.nixl.get_new_notifs(BACKENDS)
        assert set(found) <= {self.name}, found
        return found.get(self.name, [])

    def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """What a query says of each key; 0 is not there."""
        described = [(0, 0, 0, key) for key in keys]
        found = self.nixl.query_memory(described, "MEMKV", "OBJ")
        return [int(one["size"]) if one is not None else 0 for one in found]

    def put(self, keys: Sequence[bytes], length: int) -> list[Bytes]:
        """Registers keys and writes their blocks."""
        blocks = [block_of(key, length) for key in keys]
        self.memory(*blocks)
        self.objects(keys)
        assert self.move("WRITE", keys, blocks) == ("DONE", [OK] * len(keys))
        return blocks

    def targets(self, count: int, length: int) -> list[Bytes]:
        targets = [np.zeros(length, np.uint8) for _ in range(count)]
        self.memory(*targets)
        return targets


def same(found: Sequence[Bytes], wanted: Sequence[Bytes]) -> None:
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        np.testing.assert_array_equal(one, other, err_msg=f"block {number}")


def raises(call: Callable[[], object]) -> str:
    """The name of the error a call raises."""
    try:
        call()
    except Exception as error:  # noqa: BLE001
        return type(error).__name__
    raise AssertionError("it was accepted")


# ---- the ways of a block


@case
def listed(parameters: dict[str, str]) -> None:
    agent = nixl_agent("agent", nixl_agent_config(backends=[]))
    assert agent.get_plugin_list() == ["MEMKV"]
    assert agent.get_plugin_mem_types("MEMKV") == ["DRAM_SEG", "OBJ_SEG"]
    defaults = agent.get_plugin_params("MEMKV")
    assert set(defaults) == {
        *("nodes", "namespace", "key_dialect", "token_file", "transport"),
        *("tls_ca", "tls_cert", "tls_key", "tls_server_name"),
        *("timeout_ms", "query_timeout_ms", "verify", "drop_generation"),
    }
    # As many do: all parameters, some of them changed.
    agent.create_backend("MEMKV", {**defaults, **parameters})
    assert agent.get_backend_mem_types("MEMKV") == ["DRAM_SEG", "OBJ_SEG"]
    assert agent.get_backend_params("MEMKV")["namespace"] == parameters["namespace"]


@case
def writer(parameters: dict[str, str], count: int, length: int) -> None:
    agent = Agent(parameters)
    keys = keys_of(count)
    assert agent.sizes(keys) == [0] * count
    blocks = agent.put(keys, length)
    assert agent.sizes([*keys, b"nobody"]) == [length] * count + [0]
    # Again: it moves nothing and succeeds.
    assert agent.move("WRITE", keys, blocks) == ("DONE", [EXISTS] * count)


@case
def reader(parameters: dict[str, str], count: int, length: int) -> None:
    agent = Agent(parameters, "another")
    keys = keys_of(count)
    assert agent.sizes(keys) == [length] * count
    agent.objects(keys)
    targets = agent.targets(count, length)
    assert agent.move("READ", keys, targets) == ("DONE", [OK] * count)
    same(targets, [block_of(key, length) for key in keys])


@case
def offsets(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(2)
    first, second = agent.put(keys, 300_000)
    ranges = [(0, 1), (299_999, 1), (65_535, 2), (100_000, 200_000)]
    targets = [np.zeros(length, np.uint8) for _, length in ranges]
    agent.memory(*targets)
    at = [offset for offset, _ in ranges]
    assert agent.move("READ", [keys[0]] * 4, targets, at) == ("DONE", [OK] * 4)
    same(targets, [first[offset : offset + length] for offset, length in ranges])
    mixed = [keys[0], keys[1], keys[0], keys[1]]
    assert agent.move("READ", mixed, targets, at) == ("DONE", [OK] * 4)
    wanted = [
        block[offset : offset + length]
        for block, (offset, length) in zip((first, second, first, second), ranges, strict=True)
    ]
    same(targets, wanted)


@case
def missing_among_present(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    present = keys_of(4)
    blocks = agent.put(present, 70_000)
    agent.objects([b"nobody", b"neither"])
    keys = [present[0], b"nobody", present[1], present[2], b"neither", present[3]]
    targets = agent.targets(6, 70_000)
    state, codes = agent.move("READ", keys, targets)
    assert state == "nixlNotFoundError"
    assert codes == [OK, NOT_FOUND, OK, OK, NOT_FOUND, OK]
    same([targets[i] for i in (0, 2, 3, 5)], blocks)


@case
def posted_again(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(8)
    blocks = agent.put(keys, 100_000)
    targets = agent.targets(8, 100_000)
    handle = agent.begin("READ", keys, targets, notice=b"prepared")
    for notice in (b"", b"one", b"two"):
        for target in targets:
            target.fill(0)
        assert agent.post(handle, notice) == "DONE"
        same(targets, blocks)
    found = agent.notices()
    assert [text.rpartition(b":")[0] for text in found] == [b"prepared", b"one", b"two"]
    assert [text.rpartition(b":")[2] for text in found] == [bytes(8)] * 3
    agent.nixl.release_xfer_handle(handle)


@case
def four_thousand(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    count, length = 4096, 4096
    keys = keys_of(count)
    source = np.concatenate([block_of(key, length) for key in keys])
    target = np.zeros_like(source)
    agent.memory(source, target)
    agent.objects(keys)

    def pieces(whole: Bytes) -> list[Bytes]:
        return list(whole.reshape(count, length))

    assert agent.move("WRITE", keys, pieces(source)) == ("DONE", [OK] * count)
    assert agent.sizes(keys) == [length] * count
    assert agent.move("READ", keys, pieces(target)) == ("DONE", [OK] * count)
    np.testing.assert_array_equal(target, source)


@case
def prepped_lists(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    count, length = 64, 10_000
    keys = keys_of(count)
    blocks = agent.put(keys, length)
    target = np.zeros(count * length, np.uint8)
    agent.memory(target)
    start = target.ctypes.data
    places = np.array([(start + i * length, length, 0) for i in range(count)], np.uint64)
    objects = np.array([(0, length, agent.devices[key]) for key in keys], np.uint64)
    nixl = agent.nixl
    local = nixl.prep_xfer_dlist("NIXL_INIT_AGENT", places, "DRAM", BACKENDS)
    remote = nixl.prep_xfer_dlist(agent.name, objects, "OBJ", BACKENDS)
    order = np.random.default_rng(1).permutation(count).astype(np.int32)
    for chosen in (order, order[: count // 3]):
        target.fill(0)
        here = np.arange(len(chosen), dtype=np.int32)
        handle = nixl.make_prepped_xfer("READ", local, here, remote, chosen, b"p", BACKENDS)
        assert agent.post(handle) == "DONE"
        assert agent.notices() == [b"p:" + bytes(len(chosen))]
        found = target.reshape(count, length)
        same(list(found[: len(chosen)]), [blocks[i] for i in chosen])
        assert not found[len(chosen) :].any()
        nixl.release_xfer_handle(handle)
    # Ranges of one block that lie beside one another on both sides: NIXL makes one of them.
    ranges = np.array([(i * 100, 100, agent.devices[keys[5]]) for i in range(10)], np.uint64)
    pieces = np.array([(start + i * 100, 100, 0) for i in range(10)], np.uint64)
    local = nixl.prep_xfer_dlist("NIXL_INIT_AGENT", pieces, "DRAM", BACKENDS)
    remote = nixl.prep_xfer_dlist(agent.name, ranges, "OBJ", BACKENDS)
    every = list(range(10))
    for keep_apart, blocks_seen in ((False, 1), (True, 10)):
        handle = nixl.make_prepped_xfer(
            "READ", local, every, remote, every, b"m", BACKENDS, keep_apart
        )
        assert agent.post(handle) == "DONE"
        assert agent.notices() == [b"m:" + bytes(blocks_seen)]
    np.testing.assert_array_equal(target[:1000], blocks[5][:1000])


@case
def every_dialect(parameters: dict[str, str]) -> None:
    record = b"MKVK\x01\0\x01\0\x01\0\0\0\x02\0\0\0\x03\0\0\0kg"
    for dialect, infos in {
        "raw": [b"plain", b"\0\xff\n", b"k" * 512],
        "obj": [b"", b"name"],
        "cmx": [b"", b"00ff", b"0123456789abcdef0123456789ABCDEF"],
        "full": [record],
    }.items():
        agent = Agent({**parameters, "key_dialect": dialect}, dialect)
        assert agent.sizes(infos) == [0] * len(infos), dialect
        blocks = agent.put(infos, 1000)
        targets = agent.targets(len(infos), 1000)
        assert agent.move("READ", infos, targets) == ("DONE", [OK] * len(infos))
        same(targets, blocks)


# ---- in flight


@case
def released_in_flight(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(8)
    blocks = agent.put(keys, 4 << 20)
    targets = agent.targets(8, 4 << 20)
    early = 0
    for number in range(20):
        handle = agent.begin("READ", keys, targets)
        agent.nixl.transfer(handle)
        end = time.monotonic() + number / 1000
        while time.monotonic() < end:
            os.sched_yield()
        early += agent.nixl.check_xfer_state(handle) == "PROC"
        agent.nixl.release_xfer_handle(handle)
        for target in targets:
            target.fill(0xAA)
        # Another transfer over the same links: what was late would have come before its end.
        other = agent.targets(1, 4 << 20)
        assert agent.move("READ", keys[-1:], other) == ("DONE", [OK])
        same(other, blocks[-1:])
        assert all((target == 0xAA).all() for target in targets), number
    assert early > 0, "nothing was released in flight"


@case
def cancelled_before_a_frozen_node(parameters: dict[str, str], pid: int) -> None:
    agent = Agent({**parameters, "timeout_ms": "20000"})
    keys = keys_of(4)
    blocks = agent.put(keys, 1 << 20)
    targets = agent.targets(4, 1 << 20)
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        reading = agent.begin("READ", keys, targets, notice=b"r")
        agent.objects([b"new"])
        writing = agent.begin("WRITE", [b"new"], blocks[:1], notice=b"w")
        for handle in (reading, writing):
            assert agent.nixl.transfer(handle) == "PROC"
            agent.nixl.release_xfer_handle(handle)
        assert time.monotonic() - began < 5, "release waited for the node"
        found = {text[:2]: list(text[2:]) for text in agent.notices()}
        assert found == {b"r:": [CANCELLED] * 4, b"w:": [CANCELLED]}
    finally:
        os.kill(pid, signal.SIGCONT)
    assert agent.move("READ", keys, targets) == ("DONE", [OK] * 4)
    same(targets, blocks)


@case
def killed_in_flight(parameters: dict[str, str], pid: int) -> None:
    agent = Agent(parameters)
    keys = keys_of(16)
    blocks = agent.put(keys, 4 << 20)
    targets = agent.targets(16, 4 << 20)
    handle = agent.begin("READ", keys, targets, notice=b"n")
    assert agent.nixl.transfer(handle) == "PROC"
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    assert agent.finish(handle) == "nixlBackendError"
    assert time.monotonic() - began < 3
    (notice,) = agent.notices()
    codes = list(notice[2:])
    for code, target, block in zip(codes, targets, blocks, strict=True):
        assert code in (OK, UNREACHABLE), codes
        if code == OK:
            np.testing.assert_array_equal(target, block)
    assert UNREACHABLE in codes
    agent.nixl.release_xfer_handle(handle)
    # The other node's blocks are there all the time, the dead one's are misses at once.
    began = time.monotonic()
    state, codes = agent.move("READ", keys, targets)
    assert state == "nixlBackendError"
    assert set(codes) == {OK, UNREACHABLE}
    sizes = agent.sizes(keys)
    assert [size > 0 for size in sizes] == [code == OK for code in codes]
    assert time.monotonic() - began < 3


@case
def nobody_there(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    began = time.monotonic()
    keys = keys_of(5000)
    assert agent.sizes(keys) == [0] * 5000
    agent.objects(keys[:2])
    targets = agent.targets(2, 1000)
    assert agent.move("READ", keys[:2], targets) == ("nixlBackendError", [UNREACHABLE] * 2)
    assert time.monotonic() - began < 3


@case
def several_agents_and_threads(parameters: dict[str, str]) -> None:
    agents = [Agent(parameters, name) for name in ("one", "two")]
    locks = [threading.Lock() for _ in agents]  # an agent of NIXL's is for one thread at a time
    failures: list[BaseException] = []

    def work(number: int) -> None:
        own, other = number % 2, 1 - number % 2
        keys = keys_of(6, f"thread {number}")
        try:
            with locks[own]:
                blocks = agents[own].put(keys, 200_000)
            with locks[other]:
                agents[other].objects(keys)
            for _ in range(3):
                with locks[other]:
                    agent = agents[other]
                    targets = agent.targets(6, 200_000)
                    assert agent.sizes(keys) == [200_000] * 6
                    assert agent.move("READ", keys, targets) == ("DONE", [OK] * 6)
                same(targets, blocks)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# ---- what is refused


@case
def refused_parameters(parameters: dict[str, str], wrong: list[dict[str, str]]) -> None:
    for one in wrong:
        agent = nixl_agent("agent", nixl_agent_config(backends=[]))
        raises(lambda given=one, nixl=agent: nixl.create_backend("MEMKV", {**parameters, **given}))
    # And after all that one that is right.
    assert Agent(parameters).sizes([b"key"]) == [0]


@case
def from_environment() -> None:
    agent = Agent({})
    blocks = agent.put([b"\x01\x02"], 1000)
    assert agent.nixl.get_plugin_params("MEMKV")["timeout_ms"] == "4321"
    targets = agent.targets(1, 1000)
    assert agent.move("READ", [b"\x01\x02"], targets) == ("DONE", [OK])
    same(targets, blocks)


@case
def wrong_lengths(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(2)
    blocks = agent.put(keys, 5000)
    nixl = agent.nixl
    (longer,) = agent.targets(1, 6000)

    def prepared(operation: str, near: int, far: int, offset: int = 0) -> Any:
        local = nixl.get_xfer_descs([(longer.ctypes.data, near, 0)], "DRAM")
        remote = nixl.get_xfer_descs([(offset, far, agent.devices[keys[0]])], "OBJ")
        return nixl.initialize_xfer(operation, local, remote, agent.name, b"", BACKENDS)

    raises(lambda: prepared("READ", 5000, 4999))
    raises(lambda: prepared("READ", 4999, 5000))
    raises(lambda: prepared("WRITE", 5000, 5000, 1))
    raises(lambda: prepared("READ", 6001, 6001))
    raises(lambda: prepared("READ", 5000, 5000, 64 << 20))
    # Longer than the block, beside one that is right.
    (right,) = agent.targets(1, 5000)
    assert agent.move("READ", keys, [longer, right]) == ("nixlBackendError", [INVALID, OK])
    same([right], blocks[1:])
    assert agent.move("READ", keys[:1], [longer[:5000]], [1]) == ("nixlBackendError", [INVALID])
    assert agent.move("READ", keys[:1], [longer[:4999]], [1]) == ("DONE", [OK])
    same([longer[:4999]], [blocks[0][1:]])
    # Another length under a key that is there.
    state, codes = agent.move("WRITE", keys[:1], [longer])
    assert (state, codes) == ("nixlBackendError", [3])


# ---- fork, exit, estimates


@case
def forked(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(4)
    blocks = agent.put(keys, 100_000)
    targets = agent.targets(4, 100_000)
    handle = agent.begin("READ", keys, targets)
    child = os.fork()
    if child == 0:
        right = False
        try:
            began = time.monotonic()
            right = agent.sizes(keys) == [0] * 4
            right = right and agent.post(handle) in ("nixlBackendError", "ERR")
            right = right and time.monotonic() - began < 1
        finally:
            os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert agent.post(handle) == "DONE"
    same(targets, blocks)
    agent.nixl.release_xfer_handle(handle)


@case
def exits_in_flight(parameters: dict[str, str], pid: int) -> None:
    agent = Agent(parameters)
    keys = keys_of(4)
    agent.put(keys, 100_000)
    targets = agent.targets(4, 100_000)
    os.kill(pid, signal.SIGSTOP)
    handle = agent.begin("READ", keys, targets)
    assert agent.nixl.transfer(handle) == "PROC"
    # Nothing is released: the process ends with all of it.
    globals()["kept"] = (agent, handle, targets)


@case
def estimates(parameters: dict[str, str]) -> None:
    agent = Agent(parameters)
    keys = keys_of(8)
    blocks = agent.put(keys, 1 << 20)
    handle = agent.begin("READ", keys, blocks)
    duration, margin, _ = agent.nixl.estimate_xfer_cost(handle)
    assert (duration, margin) == (8389, 8389)  # 8 MiB at 1 GB/s: nothing was read yet
    took = []
    for _ in range(10):
        began = time.monotonic()
        assert agent.post(handle) == "DONE"
        took.append((time.monotonic() - began) * 1e6)
    duration, margin, _ = agent.nixl.estimate_xfer_cost(handle)
    assert min(took) / 4 < duration < max(took) * 4
    agent.nixl.release_xfer_handle(handle)


@case
def counted(parameters: dict[str, str]) -> None:
    """What the process's metrics read, while a backend is there and when it is gone."""
    agent = Agent(parameters)
    keys = keys_of(3)
    agent.put(keys, 1000)
    agent.objects([b"nobody"])
    targets = agent.targets(2, 1000)
    assert agent.move("READ", [keys[0], b"nobody"], targets)[1] == [OK, NOT_FOUND]
    agent.sizes(keys)
    wanted = {"poisoned": 0, "backends": 1, "put_ok": 3, "bytes_put": 3000, "gets": 2}
    wanted |= {"get_ok": 1, "get_misses": 1, "bytes_got": 1000, "matches": 3, "corrupt": 0}
    found = plugin_stat()
    assert found is not None
    assert {name: found[name] for name in wanted} == wanted
    child = os.fork()
    if child == 0:
        os._exit(0 if plugin_stat() == {} else 1)
    assert os.waitpid(child, 0)[1] == 0
