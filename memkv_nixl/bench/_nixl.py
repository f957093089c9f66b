"""What NIXL and the plugin add to a block: `bench nixl`, and the last table of `bench path`.

Requests through NIXL and through the bare client take turns in one process (`_nixl_pairs.py`), with
blocks that lie in the DRAM of a node on this machine. What is added does not depend on what the
network does, but what is measured does: one request of 64 MiB varies by more than all that NIXL
adds to it. So the same is also measured with requests that move no bytes, where it can be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from memkv_nixl.bench._driver import BenchError, node, write_file

KIB = 1 << 10
SIZES = (64 * KIB, 4096 * KIB)
BATCH = 16
PAIRS = 300
DRAM = "3GiB"
DEVICE_BYTES = 1 << 30
SECONDS_MAX = 900


def add_command(benches: Any) -> None:
    """Adds `nixl`."""
    nixl = benches.add_parser("nixl", help="what NIXL and the plugin add to a block")
    nixl.add_argument("--rounds", type=int, default=9, metavar="N")
    nixl.add_argument("--megabytes", type=int, default=512, metavar="N", help="put a round")
    nixl.add_argument("--dir", metavar="DIR", help="where the device's file goes (O_DIRECT)")
    nixl.add_argument("--nixl-python", metavar="PATH", help="a Python that has NIXL")
    nixl.add_argument("--json", action="store_true", help="every round as one JSON document")
    nixl.set_defaults(run=_run)


def nixl_python(given: str | None) -> Path:
    """The Python with NIXL: the one that was named, else what ./dev bench made."""
    named = given or os.environ.get("MEMKV_NIXL_PYTHON")
    if not named:
        raise BenchError("no Python with NIXL is named: start this with ./dev bench")
    return Path(named)


def measure(python: Path, address: str, rounds: int, megabytes: int) -> dict[str, Any]:
    """Every round of both sizes, as `_nixl_pairs.py` says it."""
    command = [str(python), "-m", "memkv_nixl.bench._nixl_pairs", "--node", address]
    command += ["--sizes", ",".join(str(size) for size in SIZES), "--batch", str(BATCH)]
    command += ["--rounds", str(rounds), "--bytes", str(megabytes << 20), "--pairs", str(PAIRS)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=SECONDS_MAX, check=False)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command)} ended with {done.returncode}")
    # NIXL's own lines come before it.
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _run(args: argparse.Namespace) -> int:
    python = nixl_python(args.nixl_python)
    with tempfile.TemporaryDirectory(prefix="memkv-bench-", dir=args.dir) as folder:
        device = Path(folder) / "dram"
        write_file(device, DEVICE_BYTES)
        with node(device, DRAM) as address:
            results = measure(python, address, args.rounds, args.megabytes)
    if args.json:
        json.dump(results, sys.stdout)
        print()
    else:
        print_table(results, args.rounds)
    return 0


def print_table(results: dict[str, Any], rounds: int) -> None:
    """Medians over the rounds; in brackets the lowest and the highest round."""
    first = next(iter(results.values()))
    print(
        f"NIXL {first['nixl']}, medians of {rounds} interleaved rounds (lowest to highest), "
        f"batch {BATCH}, 1 batch in flight; µs a block"
    )
    print()
    print("| blocks | requests | pairs a round | bare client | through NIXL | added |")
    print("|---|---|---|---|---|---|")
    for size, measured in results.items():
        for kind, numbers in measured["kinds"].items():
            pairs = measured["pairs"][kind]
            added = numbers["added_us"]
            spread = f"{min(added):.1f} to {max(added):.1f}"
            bare, nixl, median = (
                statistics.median(numbers[name]) for name in ("bare_us", "nixl_us", "added_us")
            )
            print(
                f"| {int(size) // KIB} KiB | {kind} | {pairs} | {bare:.1f} | {nixl:.1f} "
                f"| **{median:.1f}** ({spread}) |"
            )
