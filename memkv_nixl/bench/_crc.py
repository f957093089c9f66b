"""`bench crc`: how fast one core takes CRC32C of bytes, in the processor's caches and out of them.

A plain copy of the same bytes is beside it: the CRC of what comes from memory cannot be faster
than memory.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial

from memkv_nixl._native import crc32c

KIB = 1 << 10
SIZES_KIB = (64, 256, 4096, 262144)  # a unit, a slice of a node's, a block, no cache
BYTES = 1 << 30  # a measure


def add_command(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `crc`."""
    crc = benches.add_parser("crc", help="CRC32C on one core")
    crc.add_argument("--rounds", type=int, default=9, metavar="N")
    crc.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    print(f"medians of {args.rounds} rounds in turns, {BYTES >> 20} MiB a measure; GB/s")
    print("\n| bytes at a time | CRC32C | a copy |\n|---|---|---|")
    for size in (kib * KIB for kib in SIZES_KIB):
        data, into = bytearray(b"\x5a" * size), bytearray(size)
        crcs, copies = [], []
        for number in range(args.rounds + 1):
            print(f"{size >> 10} KiB, round {number} of {args.rounds}", file=sys.stderr, flush=True)
            crc = _speed(size, partial(crc32c, data))
            copy = _speed(size, partial(_copy, data, into))
            if number > 0:  # the first one warms up
                crcs.append(crc)
                copies.append(copy)
        row = f"{statistics.median(crcs):.1f} | {statistics.median(copies):.1f}"
        print(f"| {size >> 10} KiB | {row} |", flush=True)
    return 0


def _copy(data: bytearray, into: bytearray) -> None:
    memoryview(into)[:] = data


def _speed(size: int, work: Callable[[], object]) -> float:
    times = max(1, BYTES // size)
    began = time.process_time()
    for _ in range(times):
        work()
    return times * size / (time.process_time() - began) / 1e9
