"""Requests through NIXL and through the bare client, one pair after another, in one process.

Runs in an environment that has NIXL; `_nixl.py` starts it and makes its table. Prints one JSON
document: for each block size and kind of request, each round's median of what NIXL and the plugin
added to a block, in microseconds, and the two paths' own times.

Both paths are driven the same way: Python gives the keys and the memory, then asks whether the
request is over until it is. What is timed with NIXL is everything a caller does for blocks it has
not named before: it registers their keys, makes the descriptor lists and the transfer, posts it,
polls it, releases it and deregisters the keys.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memkv_nixl import _native
from memkv_nixl._namespace import namespace_id
from memkv_nixl._nixl import PLUGIN, announce, load_nixl, plugin_path

NAMESPACE = "memkv bench nixl"
REGISTERED = "put again, registered"  # the keys were registered before and stay so
KINDS = ("get", "put again", REGISTERED, "put")
GETS_A_PUT = 8  # gets leave nothing behind, so there can be more of them
GOOD = {"get": {0}, "put": {0}, "put again": {1}, REGISTERED: {1}}
TIMEOUT_MS = 60_000
DEADLINE_S = TIMEOUT_MS / 1000 + 1


class WrongError(Exception):
    """A request did not do what is measured."""


class Bare:
    """The client, as memkv_nixl._native has it."""

    def __init__(self, node: str, buffers: Sequence[Any]) -> None:
        self._client = _native.Client([node], name="memkv bench", timeout_ms=TIMEOUT_MS)
        self._space = namespace_id(NAMESPACE)
        self._buffers = buffers

    def run(self, kind: str, keys: Sequence[bytes]) -> None:
        """One request, from its keys to its end."""
        begin = self._client.put if kind.startswith("put") else self._client.get
        request = begin(self._space, keys, self._buffers)
        end = time.monotonic() + DEADLINE_S
        while not request.done:
            if time.monotonic() > end:
                raise WrongError("the client's request does not end")
            os.sched_yield()
        if set(request.codes()) != GOOD[kind]:
            raise WrongError(f"{kind}, bare: {request.codes()}")

    def number(self, name: str) -> int:
        """One number of the node's STAT."""
        lines = dict(
            line.split(" ", 1) for line in self._client.stat(0, 5000).splitlines() if " " in line
        )
        return int(lines[name])


class ThroughNixl:
    """The same through a NIXL agent and the plugin."""

    def __init__(self, node: str, buffers: Sequence[Any]) -> None:
        nixl = load_nixl()
        announce(nixl, plugin_path())
        self.version = nixl.version
        self._agent: Any = nixl.api.nixl_agent("bench", nixl.api.nixl_agent_config(backends=[]))
        parameters = {"nodes": node, "namespace": NAMESPACE, "timeout_ms": str(TIMEOUT_MS)}
        self._agent.create_backend(PLUGIN, parameters)
        self._places = [(buffer.ctypes.data, buffer.nbytes, 0) for buffer in buffers]
        described = [(address, length, 0, "") for address, length, _ in self._places]
        self._agent.register_memory(described, "DRAM", [PLUGIN])
        self._devices = itertools.count(1)
        self._kept: tuple[list[int], Any] | None = None

    def run(self, kind: str, keys: Sequence[bytes]) -> None:
        """One request, from its keys to its end."""
        agent = self._agent
        kept = kind == REGISTERED
        devices, registered = self._kept if kept and self._kept else self._register(keys)
        if kept:
            self._kept = devices, registered
        local = agent.get_xfer_descs(self._places, "DRAM")
        lengths = [length for _, length, _ in self._places]
        remote = agent.get_xfer_descs(
            [(0, length, device) for length, device in zip(lengths, devices, strict=True)], "OBJ"
        )
        operation = "WRITE" if kind.startswith("put") else "READ"
        handle = agent.initialize_xfer(operation, local, remote, "bench", b"", [PLUGIN])
        state = self._finish(handle)
        agent.release_xfer_handle(handle)
        if not kept:
            agent.deregister_memory(registered, [PLUGIN])
        if state != "DONE":
            raise WrongError(f"{kind} through NIXL: {state}")

    def forget(self) -> None:
        """The keys of REGISTERED are others from now on."""
        if self._kept:
            self._agent.deregister_memory(self._kept[1], [PLUGIN])
        self._kept = None

    def _register(self, keys: Sequence[bytes]) -> tuple[list[int], Any]:
        devices = [next(self._devices) for _ in keys]
        named = [(0, 0, device, key) for device, key in zip(devices, keys, strict=True)]
        return devices, self._agent.register_memory(named, "OBJ", [PLUGIN])

    def _finish(self, handle: Any) -> str:
        end = time.monotonic() + DEADLINE_S
        state = self._agent.transfer(handle)
        while state == "PROC":
            if time.monotonic() > end:
                raise WrongError("the transfer does not end")
            os.sched_yield()
            state = self._agent.check_xfer_state(handle)
        return str(state)


class Pairs:
    """Pairs of requests with blocks of one size."""

    def __init__(self, node: str, size: int, batch: int) -> None:
        random = np.random.default_rng(size)
        self._source = random.integers(0, 256, (batch, size), np.uint8)
        self._buffers = [np.zeros(size, np.uint8) for _ in range(batch)]
        self._batch = batch
        self._size = size
        self.bare = Bare(node, self._buffers)
        self.nixl = ThroughNixl(node, self._buffers)
        self._fresh = itertools.count()
        self._there = 0

    def _keys(self, name: str) -> list[bytes]:
        return [f"{self._size}/{name}/{i}".encode() for i in range(self._batch)]

    def _new_keys(self) -> list[bytes]:
        return self._keys(f"new {next(self._fresh)}")

    def _fill(self) -> None:
        for buffer, block in zip(self._buffers, self._source, strict=True):
            buffer[:] = block

    def _check(self) -> None:
        for buffer, block in zip(self._buffers, self._source, strict=True):
            if not np.array_equal(buffer, block):
                raise WrongError("a block came back with other bytes than were put")

    def prepare(self) -> None:
        """New blocks for gets and second puts to find, in DRAM."""
        self._there += 1
        self.nixl.forget()
        self._fill()
        self.bare.run("put", self._keys_for("get"))

    def round(self, kind: str, pairs: int) -> tuple[list[float], list[float]]:
        """Seconds of each request: bare, and through NIXL."""
        times: dict[int, list[float]] = {0: [], 1: []}
        ways: tuple[Callable[[str, Sequence[bytes]], None], ...] = (self.bare.run, self.nixl.run)
        self._fill()
        for pair in range(pairs):
            # Bare first, NIXL first, in turns: what the second finds warm is shared out.
            for way in (0, 1) if pair % 2 == 0 else (1, 0):
                keys = self._keys_for(kind)
                began = time.perf_counter()
                ways[way](kind, keys)
                times[way].append(time.perf_counter() - began)
        if kind == "get":
            for way in (0, 1):
                for buffer in self._buffers:
                    buffer.fill(0)
                ways[way](kind, self._keys_for(kind))
                self._check()
        return times[0], times[1]

    def _keys_for(self, kind: str) -> list[bytes]:
        if kind == "put":
            return self._new_keys()
        return self._keys(f"there {self._there}")


def measure(node: str, size: int, batch: int, rounds: int, bytes_max: int, pairs_max: int) -> Any:
    """All kinds of one size; rounds are interleaved, the first of them is not counted."""
    pairs = Pairs(node, size, batch)
    put_pairs = max(4, min(pairs_max, bytes_max // (2 * size * batch)))
    counts = dict.fromkeys(KINDS, pairs_max)
    counts |= {"put": put_pairs, "get": min(pairs_max, GETS_A_PUT * put_pairs)}
    found: dict[str, dict[str, list[float]]] = {
        kind: {"added_us": [], "bare_us": [], "nixl_us": []} for kind in KINDS
    }
    before = pairs.bare.number("hits_flash")
    for number in range(rounds + 1):
        pairs.prepare()
        for kind in KINDS:
            bare, nixl = pairs.round(kind, counts[kind])
            if number == 0:
                continue
            added = [(b - a) * 1e6 / batch for a, b in zip(bare, nixl, strict=True)]
            found[kind]["added_us"].append(statistics.median(added))
            found[kind]["bare_us"].append(statistics.median(bare) * 1e6 / batch)
            found[kind]["nixl_us"].append(statistics.median(nixl) * 1e6 / batch)
    from_flash = pairs.bare.number("hits_flash") - before
    if from_flash:
        raise WrongError(f"{from_flash} blocks came from flash: give the node more DRAM")
    return {
        "kinds": found,
        "pairs": counts,
        "nixl": pairs.nixl.version,
    }


def main() -> int:
    """Measures, and prints the document."""
    parser = argparse.ArgumentParser(prog="python -m memkv_nixl.bench._nixl_pairs")
    parser.add_argument("--node", required=True)
    parser.add_argument("--sizes", required=True, help="bytes, with commas between them")
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--bytes", type=int, required=True, help="put a round, at most")
    parser.add_argument("--pairs", type=int, required=True, help="a round and kind, at most")
    args = parser.parse_args()
    results = {}
    for text in args.sizes.split(","):
        print(f"… through NIXL: blocks of {text} bytes", file=sys.stderr, flush=True)
        size = int(text)
        results[text] = measure(args.node, size, args.batch, args.rounds, args.bytes, args.pairs)
    json.dump(results, sys.stdout)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
