"""`bench path`: puts and gets over TCP, from DRAM and flash, beside plain TCP and the raw device.

Every round measures everything once, one after another, so that a machine whose speed drifts drifts
for all; the table shows medians over the rounds and ratios of medians. The last batches of every
get are checked byte by byte after they were timed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from memkv_nixl.bench import _nixl
from memkv_nixl.bench._driver import Meter, node, write_file

MIB = 1 << 20
BATCH = 16
TCP_CHUNKS = (64 << 10, 256 << 10, 1 << 20, 4 << 20)
DEPTHS = (1, 2, 4, 8, 16, 32)
DRAM = "3GiB"  # everything of one size fits
SMALL_DRAM_BYTES = 256 << 20
SMALL_DRAM = str(SMALL_DRAM_BYTES)  # nothing of a round is left when it is asked for again
DEVICE_BYTES = 6 << 30
# What moves through one small buffer stays in a processor's cache, where a virtual disk copies
# faster than any memory is. So the raw device moves through as much memory as the store on flash.
RAW_MEMORY_BYTES = SMALL_DRAM_BYTES
FLUSH_BYTES = 128 << 20  # the store flushes once a segment, before it is written anew

Samples = dict[str, list[float]]


def add_command(benches: Any) -> None:
    """Adds `path`."""
    path = benches.add_parser("path", help="puts and gets beside the limits of TCP and the device")
    path.add_argument("--rounds", type=int, default=9, metavar="N")
    path.add_argument("--sizes", default="2,4,8,16", metavar="MIB,…", help="block sizes")
    path.add_argument("--megabytes", type=int, default=512, metavar="N", help="moved a measure")
    path.add_argument("--in-flight", type=int, default=1, metavar="N", help="batches at a time")
    path.add_argument("--dir", metavar="DIR", help="where the devices' files go (O_DIRECT)")
    path.add_argument("--nixl-python", metavar="PATH", help="a Python that has NIXL")
    path.add_argument("--json", action="store_true", help="every sample as one JSON document")
    path.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    sizes = [int(size) * MIB for size in args.sizes.split(",")]
    nixl_python = _nixl.nixl_python(args.nixl_python)
    results: dict[int, Samples] = {}
    with tempfile.TemporaryDirectory(prefix="memkv-bench-", dir=args.dir) as folder:
        files = {name: Path(folder) / name for name in ("dram", "flash", "engine", "raw")}
        for name, path in files.items():
            _say(f"writing {DEVICE_BYTES >> 30} GiB: {name}")
            write_file(path, DEVICE_BYTES)
        meter = Meter()
        with node(files["dram"], DRAM) as dram, node(files["flash"], SMALL_DRAM) as flash:
            bench = _Bench(meter, files, dram, flash, args)
            for size in sizes:
                results[size] = bench.measure_size(size)
            through_nixl = _nixl.measure(nixl_python, dram, args.rounds, args.megabytes)
        meter.close()
    if args.json:
        by_size = {str(size): samples for size, samples in results.items()}
        json.dump({**by_size, "nixl": through_nixl}, sys.stdout)
        print()
    else:
        _print_tables(results, args)
        print()
        _nixl.print_table(through_nixl, args.rounds)
    return 0


class _Bench:
    def __init__(
        self, meter: Meter, files: dict[str, Path], dram: str, flash: str, args: argparse.Namespace
    ) -> None:
        self._meter = meter
        self._files = files
        self._dram = dram
        self._flash = flash
        self._args = args
        self._round = 0  # never repeats, so that every put is a new block
        self._settled = files["raw"].open("rb")
        self._first_raw = 0  # where the last raw write began

    def measure_size(self, size: int) -> Samples:
        samples: Samples = defaultdict(list)
        for number in range(self._args.rounds + 1):
            _say(f"{size // MIB} MiB blocks: round {number} of {self._args.rounds}")
            self._round += 1
            self._measure_round(size, samples if number > 0 else defaultdict(list))
        return samples

    def _timed(self, *words: object) -> float:
        """One measure that begins when nothing of those before waits in the disk's cache."""
        os.fdatasync(self._settled.fileno())
        return self._meter.measure(*words)

    def _measure_round(self, size: int, samples: Samples) -> None:
        total = self._args.megabytes * MIB
        batches = max(1, total // (size * BATCH))
        meter = self._meter
        for chunk in TCP_CHUNKS:
            samples[f"tcp {chunk >> 10} KiB"].append(self._timed("tcp", size, BATCH, chunk, total))
        words = (size, BATCH, batches, self._round, self._args.in_flight)
        samples["put dram"].append(self._timed("put", self._dram, *words))
        meter.measure("clean", self._dram)
        before = meter.measure("number", self._dram, "hits_dram")
        samples["get dram"].append(self._timed("get", self._dram, *words))
        hits = meter.measure("number", self._dram, "hits_dram") - before
        samples["dram share"].append(hits / (batches * BATCH))
        for depth in DEPTHS:
            self._measure_raw(min(size, 4 * MIB), depth, total, samples)
        self._measure_flash(words, batches, samples)
        self._measure_engine(size, batches * BATCH, samples)

    def _measure_raw(self, io: int, depth: int, total: int, samples: Samples) -> None:
        """Writes, and reads what the measure before wrote: through the whole file and with another
        set between, as the engine's measures do, so that no cache below helps one of the two."""
        how = (total, RAW_MEMORY_BYTES, FLUSH_BYTES)
        path = self._files["raw"]
        written = (self._first_raw + total) % (DEVICE_BYTES - total)
        samples[f"write depth {depth}"].append(self._timed("write", path, io, depth, written, *how))
        before = (io, depth, self._first_raw)
        samples[f"read depth {depth}"].append(self._timed("read", path, *before, *how))
        self._first_raw = written

    def _measure_flash(
        self, words: tuple[int, int, int, int, int], batches: int, samples: Samples
    ) -> None:
        meter = self._meter
        samples["put flash"].append(self._timed("put", self._flash, *words))
        meter.measure("clean", self._flash)
        # Another set pushes the first out of DRAM.
        size, batch, _, _, in_flight = words
        self._round += 1
        meter.measure("put", self._flash, size, batch, batches, self._round, in_flight)
        meter.measure("clean", self._flash)
        before = meter.measure("number", self._flash, "hits_flash")
        samples["get flash"].append(self._timed("get", self._flash, *words))
        hits = meter.measure("number", self._flash, "hits_flash") - before
        samples["flash share"].append(hits / (batches * BATCH))

    def _measure_engine(self, size: int, blocks: int, samples: Samples) -> None:
        store = (self._files["engine"], SMALL_DRAM_BYTES)
        put = (*store, "put", size, blocks)
        samples["engine put"].append(self._timed("engine", *put, self._round, BATCH))
        self._round += 1
        # Another set pushes the first out of DRAM.
        self._meter.measure("engine", *put, self._round, BATCH)
        get = (*store, "get", size, blocks, self._round - 1, BATCH)
        samples["engine get"].append(self._timed("engine", *get))


def _best(samples: Samples, prefix: str) -> tuple[str, float]:
    medians = {
        name: statistics.median(values)
        for name, values in samples.items()
        if name.startswith(prefix)
    }
    name = max(medians, key=lambda key: medians[key])
    return name.removeprefix(prefix), medians[name]


def _print_tables(results: dict[int, Samples], args: argparse.Namespace) -> None:
    print(
        f"{platform.machine()}, medians of {args.rounds} interleaved rounds, batch {BATCH}, "
        f"{args.in_flight} batch in flight, {args.megabytes} MiB a measure; GB/s"
    )
    print()
    print("| blocks | plain TCP (best chunk) | raw read (best depth) | raw write (best depth) |")
    print("|---|---|---|---|")
    for size, samples in results.items():
        cells = [
            f"{speed / 1e9:.2f} ({name.strip()})"
            for name, speed in (_best(samples, p) for p in ("tcp ", "read depth ", "write depth "))
        ]
        print(f"| {size // MIB} MiB | {' | '.join(cells)} |")
    print()
    print("| blocks | engine alone, to flash | of raw write | from flash | of raw read |")
    print("|---|---|---|---|---|")
    for size, samples in results.items():
        put = statistics.median(samples["engine put"])
        get = statistics.median(samples["engine get"])
        write = put / _best(samples, "write depth ")[1]
        read = get / _best(samples, "read depth ")[1]
        row = f"{put / 1e9:.2f} | {write:.2f} | {get / 1e9:.2f} | {read:.2f}"
        print(f"| {size // MIB} MiB | {row} |")
    print()
    print("| blocks | path | GB/s | of TCP | of the device | of the lower limit | served from |")
    print("|---|---|---|---|---|---|---|")
    for size, samples in results.items():
        for path in ("put dram", "get dram", "put flash", "get flash"):
            print(_row(size, path, samples))


def _row(size: int, path: str, samples: Samples) -> str:
    speed = statistics.median(samples[path])
    tcp = _best(samples, "tcp ")[1]
    device = _best(samples, "read depth " if path.startswith("get") else "write depth ")[1]
    lower = min(tcp, device) if path.endswith("flash") else tcp
    of_device = f"{speed / device:.2f}" if path.endswith("flash") else "-"
    share = samples.get(f"{path.removeprefix('get ')} share") if path.startswith("get") else None
    served = f"{statistics.median(share):.0%} {path.split()[1]}" if share else "-"
    return (
        f"| {size // MIB} MiB | {path} | {speed / 1e9:.2f} | {speed / tcp:.2f} | {of_device} "
        f"| {speed / lower:.2f} | {served} |"
    )


def _say(text: str) -> None:
    print(f"… {text}", file=sys.stderr, flush=True)
