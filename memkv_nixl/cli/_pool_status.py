"""`memkv status --control` and `memkv events`: a whole pool, and what happened to it."""

from __future__ import annotations

import argparse
import json
import os
import signal
from datetime import datetime, timezone
from typing import Any

from memkv_nixl._sizes import format_size
from memkv_nixl.cli._cluster import _STATES, control, control_flags
from memkv_nixl.cli._output import Output, table

EXIT_HEALTHY = 0
EXIT_DEGRADED = 1
EXIT_DOWN = 4
_EXITS = {"healthy": EXIT_HEALTHY, "degraded": EXIT_DEGRADED, "down": EXIT_DOWN}
_EVENTS_SHOWN = 8
_EXIT_INTERRUPTED = 130
_SUMS = ("capacity_bytes", "block_bytes", "blocks", "gets", "misses", "evicted_blocks")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds events."""
    events = commands.add_parser(
        "events",
        parents=[control_flags(common)],
        help="what happened to a pool, with reasons",
        epilog="With --json, one JSON document a line.",
    )
    events.add_argument("--follow", action="store_true", help="stay, and say what happens")
    events.add_argument("--after", type=int, default=0, metavar="N", help="only those behind no. N")
    events.set_defaults(run=_events)


def pool_status(args: argparse.Namespace, output: Output) -> int:
    """The whole pool on one screen."""
    with control(args) as reached:
        plane = reached.status()
        nodes = reached.placement("ListNodes", with_stats=True).nodes
        events = list(reached.events())[-_EVENTS_SHOWN:]
    document = _document(plane, nodes, events)
    output.answer(document, _human(document, args.control))
    return _EXITS[document["health"]]


def _document(plane: Any, nodes: Any, events: Any) -> dict[str, Any]:
    rows = [_node(node, plane.epoch) for node in nodes]
    heard = [row for row in rows if row["state"] in ("serving", "draining")]
    total = {name: sum(row["stats"].get(name, 0) for row in heard) for name in _SUMS}
    total["hits"] = sum(_hits(row["stats"]) for row in heard)
    reasons = _reasons(plane, rows)
    down = not any(row["state"] == "serving" for row in rows)
    return {
        "health": "down" if down else "degraded" if reasons else "healthy",
        "reasons": reasons,
        "epoch": plane.epoch,
        "epoch_everywhere": plane.epoch_everywhere,
        "map_lag": max((row["map_lag"] for row in heard), default=0),
        "nodes_by_state": {count.state: count.count for count in plane.nodes},
        **total,
        "namespaces": plane.namespaces,
        "tenants": plane.tenants,
        "snapshot_ok": plane.snapshot_ok,
        "software": plane.software,
        "uptime_ms": plane.uptime_ms,
        "nodes": rows,
        "events": [_event(event) for event in events],
    }


def _node(node: Any, epoch: int) -> dict[str, Any]:
    return {
        "address": node.address,
        "state": _STATES[node.state] if node.state < len(_STATES) else "unknown",
        "map_lag": max(0, epoch - node.epoch),
        "silent_ms": node.silent_ms,
        "stats": dict(node.stats),
    }


def _reasons(plane: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Why the pool is not what it should be."""
    found = [
        f"{row['address']} is {row['state']}: not heard for {row['silent_ms'] / 1000:.1f} s"
        for row in rows
        if row["state"] in ("silent", "lost")
    ]
    if not any(row["state"] == "serving" for row in rows):
        found.append("no node takes blocks" if rows else "no node has registered")
    if not plane.snapshot_ok:
        found.append("the control plane cannot write its state: nothing can be changed")
    return found


def _hits(stats: dict[str, int]) -> int:
    return stats.get("hits_dram", 0) + stats.get("hits_flash", 0)


def _human(document: dict[str, Any], address: str) -> list[str]:
    counts = document["nodes_by_state"]
    states = ", ".join(f"{count} {state}" for state, count in counts.items() if count) or "none"
    lag = document["map_lag"]
    held = f"; a node is {lag} behind" if lag else ", held by all nodes"
    used, capacity = document["block_bytes"], document["capacity_bytes"]
    full = f" ({used / capacity:.0%})" if capacity else ""
    blocks = f"{document['blocks']} blocks, {document['evicted_blocks']} evicted"
    lines = [
        f"The pool at {address} is {document['health']}.",
        *(f"  ! {reason}" for reason in document["reasons"]),
        "",
        f"nodes   {states}",
        f"map     epoch {document['epoch']}{held if document['nodes'] else ''}",
        f"used    {format_size(used)} of {format_size(capacity)}{full}, {blocks}",
        f"hits    {_share(document['hits'], document['gets'])}, {document['misses']} misses",
        f"knows   {document['namespaces']} namespaces, {document['tenants']} tenants",
    ]
    if document["nodes"]:
        lines += ["", *_node_table(document["nodes"])]
    lines += ["", "last events", *(f"  {_event_line(event)}" for event in document["events"])]
    return lines


def _node_table(rows: list[dict[str, Any]]) -> list[str]:
    head = ["NODE", "STATE", "BLOCKS", "USED", "HITS", "LAG", "HEARD"]
    return table(
        head,
        [
            [
                row["address"],
                row["state"],
                str(row["stats"].get("blocks", "-")),
                _used(row["stats"]),
                _share(_hits(row["stats"]), row["stats"].get("gets", 0)),
                str(row["map_lag"]),
                f"{row['silent_ms'] / 1000:.1f} s ago",
            ]
            for row in rows
        ],
    )


def _share(hits: int, gets: int) -> str:
    return f"{hits / gets:.1%} of {gets}" if gets else "none yet"


def _used(stats: dict[str, int]) -> str:
    sizes = (format_size(stats.get(name, 0)) for name in ("block_bytes", "capacity_bytes"))
    return " of ".join(sizes)


# ---- events


def _events(args: argparse.Namespace, output: Output) -> None:
    if args.follow:
        # An exception that falls into gRPC's own code would be lost; there is nothing to clean up.
        signal.signal(signal.SIGINT, lambda *_: os._exit(_EXIT_INTERRUPTED))
    with control(args) as reached:
        for event in reached.events(after=args.after, follow=args.follow):
            row = _event(event)
            print(json.dumps(row) if output.as_json else _event_line(row), flush=True)


def _event(event: Any) -> dict[str, Any]:
    at = datetime.fromtimestamp(event.time_ms / 1000, timezone.utc)
    return {
        "sequence": event.sequence,
        "time": at.strftime("%Y-%m-%dT%H:%M:%S.") + f"{event.time_ms % 1000:03}Z",
        "kind": event.kind,
        "subject": event.subject,
        "reason": event.text,
        "epoch": event.epoch,
    }


def _event_line(row: dict[str, Any]) -> str:
    return f"{row['time']}  {row['kind']}  {row['subject']}: {row['reason']}"
