"""`memkv replay`: what is left of a pool's hits when nodes are lost, by how blocks are grouped."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from memkv_nixl._errors import UsageError
from memkv_nixl._sizes import format_size, parse_size
from memkv_nixl.cli._output import Output, table
from memkv_nixl.plan import (
    Plan,
    Point,
    Row,
    Rule,
    Trace,
    frontier,
    make_trace,
    read_trace,
    replay,
)

_Shown = TypeVar("_Shown", Row, Point)
WHERE = (
    "a real one is FAST25-release/traces/conversation_trace.jsonl of "
    "https://github.com/kvcache-ai/Mooncake (3 MB)"
)
_HEAD = ["GROUP", "COPIES", "BEFORE", "AFTER", "WORST", "END", "HOLES", "ASKED", "PARALLEL"]
_HEAD += ["FULLEST", "BUSIEST", "COPIED"]
_POINT_HEAD = ["GROUP", "COPIES", "REWRITE", "USABLE", "WRITTEN", "SERVED/WRITTEN"]
_POINT_LEGEND = """\
REWRITE: percent of a segment that may move to the tail when it is used again. USABLE: blocks usable
as an unbroken prefix of blocks asked for, over the whole trace. WRITTEN: blocks written over
distinct blocks of the trace. SERVED/WRITTEN: prefix tokens served per byte written, in blocks."""
_LEGEND = """\
BEFORE, AFTER, END: blocks usable as an unbroken prefix of blocks asked for, right before the loss,
right after it and at the end; behind the slash the same requests had no node been lost. WORST: the
worst choice of lost nodes. HOLES: after the loss, there but behind a gap. ASKED: nodes a look-up
asks. PARALLEL: how much faster whole prompts come from their nodes than they would from one.
FULLEST, BUSIEST: blocks on, and served by, one node over the mean of all. COPIED: second copies
over first ones."""


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds replay."""
    one = commands.add_parser(
        "replay",
        parents=[common],
        help="what is left of a pool's hits when nodes are lost, on a trace of requests",
        epilog=f"The trace has one JSON object a line, with timestamp and hash_ids; {WHERE}.",
    )
    one.add_argument("trace", nargs="?", metavar="TRACE", help="a file; - is standard input")
    one.add_argument("--make", type=int, metavar="N", help="make up N requests instead")
    pool = Plan(nodes=8)
    for flag, kind, text in (
        ("nodes", int, "nodes of the pool"),
        ("kill", int, "nodes that are lost"),
        ("kill-at", float, "after this share of the requests"),
        ("choices", int, "choices of lost nodes, at most"),
        ("window", float, "share of the requests that a rate is taken over"),
        ("hot-after", int, "look-ups that found a group before it is copied"),
        ("seed", int, "of what is made up and chosen"),
    ):
        default = getattr(pool, flag.replace("-", "_"))
        said = f"{text} ({default})"
        one.add_argument(
            f"--{flag}", type=kind, default=default, metavar=flag[0].upper(), help=said
        )
    one.add_argument(
        "--lost-after",
        type=float,
        default=pool.lost_after_s,
        metavar="S",
        help=f"seconds until the map is without them; inf: never ({pool.lost_after_s:g})",
    )
    one.add_argument("--capacity", metavar="SIZE", help="of each node (default: always room)")
    one.add_argument(
        "--block-bytes",
        metavar="SIZE",
        default=str(pool.block_bytes),
        help=f"of each block, where --capacity is said ({format_size(pool.block_bytes)})",
    )
    one.add_argument(
        "--group-sizes",
        default="1,4,8,16,32,whole",
        metavar="LIST",
        help="blocks that lie together; whole: all of a prompt (1,4,8,16,32,whole)",
    )
    one.add_argument(
        "--copies", default="1", metavar="LIST", help="1, or 1,2: groups read by many twice (1)"
    )
    one.add_argument(
        "--lead", type=int, default=0, metavar="N", help="first blocks that lie alone (0)"
    )
    one.add_argument(
        "--frontier",
        metavar="LIST",
        help="no loss, but what budgets of rewrites give and cost, in percent: 0,6,12,25,50",
    )
    one.set_defaults(run=_replay)


def _replay(args: argparse.Namespace, output: Output) -> None:
    plan = _plan(args)
    rules = [
        Rule(group, copies, args.lead)
        for copies in _numbers(args.copies, "--copies")
        for group in _groups(args.group_sizes)
    ]
    trace = _trace(args)
    if args.frontier is not None:
        percents = _numbers(args.frontier, "--frontier")
        _frontier(trace, plan, rules, percents, output)
        return
    rows = _shown(replay(trace, plan, rules), len(rules), output)
    document = {
        "trace": _about(trace),
        "plan": {
            **asdict(plan),
            "lost_after_s": plan.lost_after_s if plan.lost_after_s < math.inf else None,
        },
        "rows": [_document(row) for row in rows],
    }
    output.answer(document, _human(trace, plan, args.lead, rows))


def _frontier(
    trace: Trace, plan: Plan, rules: Sequence[Rule], percents: Sequence[int], output: Output
) -> None:
    points = frontier(trace, plan, rules, percents)
    found = _shown(points, len(rules) * len(percents), output)
    document = {"trace": _about(trace), "points": [_document(point) for point in found]}
    cells = [
        [
            str(point.rule.group or "whole"),
            str(point.rule.copies),
            f"{point.rewrite_percent}%",
            _rate(point.usable),
            f"{point.written:.2f}",
            f"{point.served_per_written:.3f}",
        ]
        for point in found
    ]
    lines = [*_pool_lines(trace, plan), "", *table(_POINT_HEAD, cells), ""]
    output.answer(document, [*lines, *_POINT_LEGEND.splitlines()])


def _shown(rows: Iterator[_Shown], count: int, output: Output) -> list[_Shown]:
    """All of them, and on a terminal how many there are so far."""
    shows = not output.as_json and sys.stderr.isatty()
    found = []
    for row in rows:
        found.append(row)
        if shows:
            print(f"\r{len(found)} of {count} rules", end="", file=sys.stderr, flush=True)
    if shows:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    return found


def _plan(args: argparse.Namespace) -> Plan:
    capacity = None if args.capacity is None else parse_size(args.capacity, "--capacity")
    return Plan(
        nodes=args.nodes,
        kill=args.kill,
        kill_at=args.kill_at,
        lost_after_s=args.lost_after,
        window=args.window,
        choices=args.choices,
        hot_after=args.hot_after,
        capacity=capacity,
        block_bytes=parse_size(args.block_bytes, "--block-bytes"),
        seed=args.seed,
    )


def _groups(text: str) -> list[int | None]:
    return [
        None if word.strip() == "whole" else number
        for word in text.split(",")
        for number in ([1] if word.strip() == "whole" else _numbers(word, "--group-sizes"))
    ]


def _numbers(text: str, flag: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",")]
    except ValueError as error:
        raise UsageError(f"{flag}: {text!r} is no list of whole numbers, such as 1,2") from error


# ---- the trace


def _trace(args: argparse.Namespace) -> Trace:
    if (args.trace is None) == (args.make is None):
        raise UsageError(f"name one trace, or make one up with --make N; {WHERE}")
    if args.make is not None:
        return make_trace(args.make, args.seed)
    with _opened(args.trace) as file:
        return read_trace(file, "standard input" if args.trace == "-" else args.trace)


@contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if name == "-":
        yield sys.stdin.buffer
        return
    try:
        with Path(name).open("rb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"{name}: {error.strerror}; {WHERE}") from error


# ---- the answer


def _about(trace: Trace) -> dict[str, Any]:
    return {
        "name": trace.name,
        "requests": len(trace.requests),
        "seconds": trace.times[-1] - trace.times[0],
        "blocks": trace.asked,
        "distinct": len(trace.depths),
    }


def _document(row: Row | Point) -> dict[str, Any]:
    rates = asdict(row)
    rule = rates.pop("rule")
    return {**rule, "group": rule["group"] or "whole", **rates}


def _pool_lines(trace: Trace, plan: Plan) -> list[str]:
    about = _about(trace)
    room = "always room" if plan.capacity is None else f"{format_size(plan.capacity)} each"
    requests = (
        f"{trace.name}: {about['requests']} requests in {about['seconds']:.0f} s, "
        f"{about['blocks']} blocks, {about['distinct']} distinct"
    )
    return [requests, f"{plan.nodes} nodes ({room})"]


def _human(trace: Trace, plan: Plan, lead: int, rows: Sequence[Row]) -> list[str]:
    requests, pool = _pool_lines(trace, plan)
    first = f", the first {lead} of a prompt alone" if lead else ""
    noticed = f"out of the map {plan.lost_after_s:g} s later"
    if plan.lost_after_s == math.inf:
        noticed = "never out of the map"
    nodes = f"{pool}, {plan.kill} lost after {plan.kill_at:.0%} of the requests, {noticed}{first}"
    return [
        requests,
        nodes,
        "",
        *table(_HEAD, [_cells(row) for row in rows]),
        "",
        *_LEGEND.splitlines(),
    ]


def _cells(row: Row) -> list[str]:
    return [
        str(row.rule.group or "whole"),
        str(row.rule.copies),
        _rate(row.before),
        f"{_rate(row.after)}/{_rate(row.after_without_loss)}",
        _rate(row.after_worst),
        f"{_rate(row.end)}/{_rate(row.end_without_loss)}",
        _rate(row.holes),
        f"{row.nodes_asked:.2f}",
        f"{row.parallel:.2f}",
        f"{row.fullest:.2f}",
        f"{row.busiest:.2f}",
        f"{row.copied:.3f}",
    ]


def _rate(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.3f}"
