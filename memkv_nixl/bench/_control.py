"""What the control plane costs: nodes that register, then beat, and its own processor time.

The control plane is a process of its own; the nodes are streams of this one, each with a daemon's
worth of numbers in its heartbeats. Nothing else talks to it meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkv_nixl.bench._driver import BenchError

NUMBERS = 105  # of a node without rules: STAT's, and its agent's
_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Cost:
    """What was measured."""

    nodes: int
    join_s: float  # until all hold the map that has them all
    beats_per_s: float
    cores: float
    resident_bytes: int


def add_command(benches: Any) -> None:
    """Adds control."""
    control = benches.add_parser("control", help="the control plane under heartbeats")
    control.add_argument("--nodes", type=int, default=200, metavar="N", help="(200)")
    control.add_argument("--interval", type=float, default=1.0, metavar="S", help="(1)")
    control.add_argument("--seconds", type=float, default=20.0, metavar="S", help="(20)")
    control.add_argument(
        "--numbers",
        type=int,
        default=NUMBERS,
        metavar="N",
        help=f"in a heartbeat; more where there are rules ({NUMBERS})",
    )
    control.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    cost = measure(args.nodes, args.interval, args.seconds, args.numbers)
    print(
        f"{cost.nodes} nodes, a heartbeat of {args.numbers} numbers every {args.interval:g} s: all "
        f"hold one map {cost.join_s:.2f} s after the first came; {cost.beats_per_s:.0f} heartbeats "
        f"a second cost {cost.cores:.3f} cores and {cost.resident_bytes / 2**20:.0f} MiB"
    )
    return 0


def measure(nodes: int, interval_s: float, seconds: float, numbers: int = NUMBERS) -> Cost:
    """Runs a control plane and its nodes for so long; each heartbeat has so many numbers."""
    with _control() as (pid, address):
        stats = _stats(numbers)
        return asyncio.run(_measure(pid, address, nodes, interval_s, seconds, stats))


def _stats(numbers: int) -> dict[str, int]:
    """What a heartbeat carries: names as long as STAT's, then those of namespaces with rules."""
    names = [f"number_of_stat_{i}" for i in range(min(numbers, NUMBERS))]
    names += [f"usage_1_{i:032x}" for i in range(numbers - len(names))]
    return {name: i * 1_000_003 for i, name in enumerate(names)}


async def _measure(
    pid: int, address: str, nodes: int, interval_s: float, seconds: float, stats: dict[str, int]
) -> Cost:
    import grpc

    async with grpc.aio.insecure_channel(address) as channel:
        began = time.perf_counter()
        agents = [_Agent(channel, index, stats) for index in range(nodes)]
        await asyncio.gather(*(agent.join() for agent in agents))
        await asyncio.gather(*(agent.wait_for(nodes) for agent in agents))
        joined = time.perf_counter()
        readers = [asyncio.create_task(agent.read_on()) for agent in agents]
        before = sum(agent.answered for agent in agents)
        used = _cpu_seconds(pid)
        await asyncio.gather(*(agent.beat_on(interval_s, seconds) for agent in agents))
        used = _cpu_seconds(pid) - used
        took = time.perf_counter() - joined
        answered = sum(agent.answered for agent in agents) - before
        for reader in readers:
            if reader.done():  # it reads until it is cancelled, unless its stream broke
                await reader
            reader.cancel()
        if answered < nodes * int(seconds / interval_s) * 0.9:
            raise BenchError(f"only {answered} heartbeats were answered: this measures nothing")
        return Cost(nodes, joined - began, answered / took, used / took, _resident_bytes(pid))


class _Agent:
    def __init__(self, channel: Any, index: int, stats: dict[str, int]) -> None:
        from memkv_nixl.proto.memkv.v1 import placement_pb2, placement_pb2_grpc

        self._pb = placement_pb2
        self._stream: Any = placement_pb2_grpc.PlacementStub(channel).RegisterNode()
        self._index, self._stats = index, stats
        self._map: Any = None
        self.answered = 0

    async def join(self) -> None:
        hello = self._pb.NodeHello(
            address=f"10.1.{self._index // 250}.{self._index % 250}:9900",
            weight=100,
            agent=self._index.to_bytes(16, "big"),
            software="bench",
        )
        await self._stream.write(self._pb.RegisterNodeRequest(hello=hello))
        await self._read()

    async def wait_for(self, nodes: int) -> None:
        while len(self._map.nodes) < nodes:
            await self._read()

    async def beat_on(self, interval_s: float, seconds: float) -> None:
        await asyncio.sleep(interval_s * self._index / 200 % interval_s)  # nodes do not beat as one
        for sequence in range(1, int(seconds / interval_s) + 1):
            beat = self._pb.NodeHeartbeat(
                sequence=sequence,
                history=self._map.history,
                epoch=self._map.epoch,
                stats=self._stats,
            )
            await self._stream.write(self._pb.RegisterNodeRequest(heartbeat=beat))
            await asyncio.sleep(interval_s)

    async def read_on(self) -> None:
        while True:
            await self._read()

    async def _read(self) -> None:
        answer = await self._stream.read()
        if not answer:
            raise BenchError("the control plane ended a stream")
        if answer.HasField("map"):
            self._map = answer.map
        self.answered += answer.sequence > 0


@contextmanager
def _control() -> Iterator[tuple[int, str]]:
    with tempfile.TemporaryDirectory(prefix="memkv-bench-") as folder:
        command = [sys.executable, "-m", "memkv_nixl.cli", "control", "serve", "--json"]
        command += ["--listen", "127.0.0.1:0", "--state", folder, "--log-level", "warning"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise BenchError("the control plane did not start; its message stands above")
            try:
                yield process.pid, str(json.loads(line)["address"])
            finally:
                process.terminate()


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="utf-8").split()[1]) * _PAGE


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])  # of user and system
    return ticks / os.sysconf("SC_CLK_TCK")
