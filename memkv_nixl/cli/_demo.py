"""`memkv demo`: the whole system on one machine, in less than a minute.

Two store nodes on files of a temporary folder; one process spills blocks through NIXL and ends;
another fetches them through NIXL and checks every byte; a node is killed and its blocks become
misses; it is started again on what it had, and they are back.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from memkv_nixl._errors import InternalError, MemKVError, NixlError, UnreachableError, UsageError
from memkv_nixl._nixl import INSTALL, installed
from memkv_nixl._signals import interrupted_by_signals
from memkv_nixl._sizes import format_size, parse_size
from memkv_nixl.cli._checks import direct_io_refusal
from memkv_nixl.cli._demo_plan import BATCH, Plan
from memkv_nixl.cli._output import Output, table
from memkv_nixl.store import Cluster

_BLOCKS_MAX = 512
_BLOCK_BYTES_MAX = 8 << 20
_BACK_S = 20.0  # for clients to see that a node is back
_FLUSHED_S = 20.0  # for a node to have everything on its device
_ANSWER_S = 300.0  # of a worker: far more than moving every block at its worst
_ASK_EVERY_S = 0.05
_KILLED = 1


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds demo."""
    demo = commands.add_parser(
        "demo",
        parents=[common],
        help="see it work: two nodes, two processes through NIXL, a node that dies and comes back",
        epilog="Needs NIXL in this Python environment; ./dev demo in a checkout sees to that.",
    )
    demo.add_argument("--blocks", type=int, default=192, metavar="N", help="how many (192)")
    demo.add_argument("--block-size", default="2MiB", metavar="SIZE", help="of each block (2MiB)")
    demo.set_defaults(run=_demo)


def _demo(args: argparse.Namespace, output: Output) -> None:
    size = parse_size(args.block_size, "--block-size")
    if not 1 <= size <= _BLOCK_BYTES_MAX:
        raise UsageError(f"--block-size: {size} is not between 1 byte and 8MiB")
    if not 16 <= args.blocks <= _BLOCKS_MAX:
        raise UsageError(f"--blocks: {args.blocks} is not between 16 and {_BLOCKS_MAX}")
    _need_nixl()
    started = time.monotonic()
    progress = _Progress(6)
    progress.say("starting two store nodes on files of a temporary folder")
    place = Path(tempfile.gettempdir())
    if refusal := direct_io_refusal(place):
        progress.note(f"{place} {refusal}; the nodes go through the page cache")
    # Room for every block on either node, so that nothing is evicted while the demo looks.
    room = 2 * args.blocks * (size + (64 << 10))
    capacity = max(1 << 30, room)
    cluster = Cluster(2, capacity=capacity, buffered=bool(refusal), die_with_parent=True)
    with interrupted_by_signals(), cluster:
        plan = _make_plan(cluster.addresses, args.blocks, size)
        steps = _steps(cluster, plan, progress)
    document = {
        "seconds": round(time.monotonic() - started, 1),
        "nodes": len(plan.nodes),
        "block_bytes": plan.block_bytes,
        "bytes_checked": sum(s["hits"] for s in steps[1:]) * plan.block_bytes,
        "steps": steps,
    }
    output.answer(document, _human(document))


def _need_nixl() -> None:
    if not installed():
        raise NixlError(
            f"the demo goes through NIXL, which is not installed in {sys.prefix}: {INSTALL}. "
            "In a checkout, ./dev demo does that in an environment of its own"
        )


def _make_plan(nodes: tuple[str, ...], blocks: int, size: int) -> Plan:
    """A plan that gives each node a quarter of the blocks or more; chance alone might not."""
    while True:
        plan = Plan(nodes, blocks, size, secrets.randbits(32))
        if min(plan.held_by(0), plan.held_by(1)) >= blocks // 4:
            return plan


def _steps(cluster: Cluster, plan: Plan, progress: _Progress) -> list[dict[str, Any]]:
    total = f"{plan.blocks} blocks of {format_size(plan.block_bytes)}"
    left = plan.blocks - plan.held_by(_KILLED)
    progress.say(f"one process spills {total} through NIXL")
    with _Worker(plan) as spiller:
        steps = [_step("spill", spiller.ask("spill"), plan.blocks)]
    with _Worker(plan) as fetcher:
        progress.say("another process fetches them and checks every byte")
        steps.append(_step("fetch", fetcher.ask("fetch"), plan.blocks))
        progress.say(f"kill -9 of node {_KILLED}: its blocks are misses, the others' are not")
        _wait_flushed(cluster)
        cluster.kill_node(_KILLED)
        steps.append(_step(f"node {_KILLED} killed", fetcher.ask("fetch"), left))
        progress.say(f"node {_KILLED} starts again on what it had")
        cluster.restart_node(_KILLED)
        fetcher.ask("wait_for_all", seconds=_BACK_S)
        progress.say("its blocks are back")
        steps.append(_step(f"node {_KILLED} is back", fetcher.ask("fetch"), plan.blocks))
    return steps


def _step(name: str, answer: dict[str, Any], hits: int) -> dict[str, Any]:
    """A step with its numbers; it must have had exactly these hits, or the demo has failed."""
    if answer["hits"] != hits:
        raise InternalError(
            f"{name}: {hits} of {answer['blocks']} blocks had to come, and {answer['hits']} did: "
            f"{answer['statuses']}"
        )
    return {"step": name, **answer}


def _wait_flushed(cluster: Cluster) -> None:
    """Until every block is on its node's device: a kill -9 costs what is only in DRAM."""
    from memkv_nixl._native import Client
    from memkv_nixl._stat import parse_stats

    client = Client(list(cluster.addresses), name="memkv-demo")
    try:
        end = time.monotonic() + _FLUSHED_S
        while True:
            stats = parse_stats(client.stat(_KILLED, 5000))
            if stats["dirty_bytes"] == stats["records_waiting"] == 0:
                return
            if time.monotonic() > end:
                raise UnreachableError(
                    f"node {_KILLED} did not write its blocks within {_FLUSHED_S:g} s", "timeout"
                )
            time.sleep(_ASK_EVERY_S)
    finally:
        client.close()


class _Progress:
    """Steps on standard error, which belongs to everything but the answer."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._at = 0

    def say(self, text: str) -> None:
        """The next step begins."""
        self._at += 1
        print(f"[{self._at}/{self._steps}] {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something to know about this step."""
        print(f"      {text}", file=sys.stderr, flush=True)


class _Worker:
    """A process of the demo that moves blocks; see _demo_worker."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "memkv_nixl.cli._demo_worker", plan.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # a Ctrl-C is for the demo, which then ends it
            # NIXL logs an error for every request of a dead node; the demo counts them.
            env={"NIXL_LOG_LEVEL": "FATAL", **os.environ},
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """One command and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer says so
        # One answer to one question, so nothing waits in the buffer of an earlier one.
        if not select.select([self._process.stdout], [], [], _ANSWER_S)[0]:
            raise UnreachableError(f"{do}: no answer within {_ANSWER_S:g} s", "timeout")
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise InternalError(f"the process that should {do} ended with exit status {status}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise MemKVError(f"{do}: {answer['error']}", answer["code"])
        return answer

    def __enter__(self) -> _Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        try:
            self._process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def _human(document: dict[str, Any]) -> list[str]:
    rows = [
        [
            step["step"],
            str(step["blocks"]),
            f"{step['gb_per_s']:.2f}",
            _milliseconds(step["p50_ms"]),
            _milliseconds(step["p99_ms"]),
            str(step["hits"]),
            str(step["misses"]),
        ]
        for step in document["steps"]
    ]
    head = ["STEP", "BLOCKS", "GB/s", "p50 ms", "p99 ms", "HITS", "MISSES"]
    checked = format_size(document["bytes_checked"])
    return [
        "",
        *table(head, rows),
        "",
        f"{checked} came back and every byte was right; {document['seconds']} s in all.",
        f"GB/s is of requests of {BATCH} blocks, p50 and p99 of requests of one block, over TCP.",
    ]


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
