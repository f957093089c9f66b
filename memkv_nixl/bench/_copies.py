"""How soon second copies are there: a pool of two nodes on this machine, a namespace with two
copies, and the time from the last put until every block lies on both.

Nodes, agents and control plane are processes of their own; this one puts and then only asks STAT.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memkv_nixl._errors import CODES
from memkv_nixl._namespace import namespace_id
from memkv_nixl._native import Client
from memkv_nixl._stat import parse_stats
from memkv_nixl.bench._driver import BenchError
from memkv_nixl.store._local_pool import LocalPool

_BATCH = 16
_DEADLINE_S = 300.0
_LOOK_S = 0.02


@dataclass(frozen=True)
class Round:
    """One batch of fresh blocks: how long the puts took, and then the copies."""

    put_s: float
    first_s: float
    all_s: float


def add_command(benches: Any) -> None:
    """Adds copies."""
    copies = benches.add_parser("copies", help="second copies that a namespace's rule wants")
    copies.add_argument("--megabytes", type=int, default=512, metavar="N", help="a round (512)")
    copies.add_argument("--block", type=int, default=2, metavar="MIB", help="(2)")
    copies.add_argument("--rounds", type=int, default=5, metavar="N", help="(5)")
    copies.add_argument("--folder", metavar="PATH", help="where the pool's files are")
    copies.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    blocks = args.megabytes // args.block
    rounds = measure(args.rounds, blocks, args.block << 20, args.folder)
    put, first, whole = (
        statistics.median(getattr(one, name) for one in rounds)
        for name in ("put_s", "first_s", "all_s")
    )
    copying = max(whole - first, 1e-9)
    print(
        f"{blocks} blocks of {args.block} MiB, medians of {args.rounds} rounds: put in "
        f"{put:.2f} s; the first copy {first:.2f} s after the last put, all of them "
        f"{whole:.2f} s after it: {args.megabytes / copying:.0f} MiB/s while they are made"
    )
    return 0


def measure(rounds: int, blocks: int, length: int, folder: str | None) -> list[Round]:
    """Runs a pool and so many rounds."""
    room = 4 * rounds * blocks * length + (2 << 30)
    with LocalPool(
        2, 1, folder=folder, capacity=room, dram=2 * blocks * length + (1 << 28)
    ) as pool:
        addresses = [node.address for node in pool.nodes]
        client = Client(addresses[:1])
        nodes = [Client([address], follow=False) for address in addresses]
        try:
            _rule(pool.control[0].address)
            _await(lambda: all(_stats(node)["namespaces_settled"] for node in nodes), "the rule")
            value = os.urandom(length)
            return [_round(client, nodes, number, blocks, value) for number in range(rounds)]
        finally:
            for one in (client, *nodes):
                one.close()


def _round(
    client: Client, nodes: Sequence[Client], number: int, blocks: int, value: bytes
) -> Round:
    keys = [b"%d of %d" % (i, number) for i in range(blocks)]
    before = _placed(nodes)
    began = time.perf_counter()
    for first in range(0, blocks, _BATCH):
        some = keys[first : first + _BATCH]
        request = client.put(namespace_id("bench"), some, [value] * len(some))
        if not request.wait(60_000) or any(CODES[code] != "ok" for code in request.codes()):
            raise BenchError(f"a put ended with {[CODES[code] for code in request.codes()]}")
    done = time.perf_counter()
    _await(lambda: _placed(nodes) > before + blocks, "the first copy")
    first_s = time.perf_counter() - done
    _await(lambda: _placed(nodes) >= before + 2 * blocks, "the last copy")
    return Round(done - began, first_s, time.perf_counter() - done)


def _placed(nodes: Sequence[Client]) -> int:
    return sum(_stats(node)["copies_blocks"] for node in nodes)


def _stats(node: Client) -> dict[str, int]:
    stats = parse_stats(node.stat(0, 5_000))
    return {name: value for name, value in stats.items() if isinstance(value, int)}


def _await(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise BenchError(f"{what} did not come within {_DEADLINE_S:g} s")
        time.sleep(_LOOK_S)


def _rule(control: str) -> None:
    command = [sys.executable, "-m", "memkv_nixl.cli", "namespaces", "create", "bench"]
    subprocess.run([*command, "--copies", "2", "--control", control], check=True, timeout=60)
