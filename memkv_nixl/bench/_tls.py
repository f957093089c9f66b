"""`bench tls`: puts and gets of the same blocks with TLS and without, in turns.

Two nodes that differ in nothing else; blocks lie in DRAM. The last batches of every get are checked
byte by byte after they were timed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from memkv_nixl.bench._driver import Meter, node, write_file

MIB = 1 << 20
BATCH = 16
DEVICE_BYTES = 2 << 30
DRAM = "1GiB"


def add_command(benches: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `tls`."""
    tls = benches.add_parser("tls", help="puts and gets with TLS beside those without")
    tls.add_argument("--rounds", type=int, default=9, metavar="N")
    tls.add_argument("--size", type=int, default=4, metavar="MIB", help="of a block")
    tls.add_argument("--megabytes", type=int, default=256, metavar="N", help="moved a measure")
    tls.add_argument("--dir", metavar="DIR", help="where the devices' files go (O_DIRECT)")
    tls.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    samples: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="memkv-bench-", dir=args.dir) as name:
        folder = Path(name)
        _certify(folder)
        for device in ("plain", "tls"):
            write_file(folder / device, DEVICE_BYTES)
        shown = ("--tls-cert", str(folder / "node.crt"), "--tls-key", str(folder / "node.key"))
        meter = Meter()
        with (
            node(folder / "plain", DRAM) as plain,
            node(folder / "tls", DRAM, *shown) as secured,
        ):
            meter.measure("trust", secured, folder / "node.crt")
            for number in range(args.rounds + 1):
                print(f"round {number} of {args.rounds}", file=sys.stderr, flush=True)
                into = samples if number > 0 else defaultdict(list)
                _round(meter, {"plain": plain, "tls": secured}, number, args, into)
        meter.close()
    _print(samples, args)
    return 0


def _certify(folder: Path) -> None:
    """A certificate for 127.0.0.1 that is its own authority."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    words = [*command.split(), "-subj", "/CN=bench", "-addext", "subjectAltName=IP:127.0.0.1"]
    words += ["-keyout", str(folder / "node.key"), "-out", str(folder / "node.crt")]
    subprocess.run(words, check=True, capture_output=True)


def _round(
    meter: Meter,
    nodes: dict[str, str],
    number: int,
    args: argparse.Namespace,
    into: dict[str, list[float]],
) -> None:
    size = args.size * MIB
    words = (size, BATCH, max(1, args.megabytes * MIB // (size * BATCH)), number, 1)
    # Who goes first takes turns.
    order = list(nodes.items()) if number % 2 else list(reversed(nodes.items()))
    for what in ("put", "get"):
        for name, address in order:
            into[f"{what} {name}"].append(meter.measure(what, address, *words))
            meter.measure("clean", address)


def _print(samples: dict[str, list[float]], args: argparse.Namespace) -> None:
    print(f"medians of {args.rounds} rounds in turns, {args.size} MiB blocks, {BATCH} at a time\n")
    print("| path | without TLS, GB/s | with TLS, GB/s | with / without |")
    print("|---|---|---|---|")
    for what in ("put", "get"):
        plain, tls = (statistics.median(samples[f"{what} {name}"]) for name in ("plain", "tls"))
        print(f"| {what} | {plain / 1e9:.2f} | {tls / 1e9:.2f} | {tls / plain:.2f} |")
