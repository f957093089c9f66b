"""`memkv status`: what each node says of itself, or with --control the whole pool."""

from __future__ import annotations

import argparse
from typing import Any

from memkv_nixl._errors import MemKVError
from memkv_nixl._sizes import format_size
from memkv_nixl._stat import parse_stats
from memkv_nixl.cli._cluster import control_flags
from memkv_nixl.cli._output import Output, table
from memkv_nixl.cli._pool import Pool, open_pool, pool_flags
from memkv_nixl.cli._pool_status import pool_status


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds status."""
    status = commands.add_parser(
        "status",
        parents=[control_flags(common, default=None), pool_flags()],
        conflict_handler="resolve",  # --tls-ca and the like are for whom is asked
        help="what each node says of itself; with --control and without --nodes, the whole pool",
        epilog="Exit codes: 0 all is well; 1 a node does not answer or the pool is degraded; with "
        "--control, 4 when no node takes blocks.",
    )
    status.set_defaults(run=_status)


def _status(args: argparse.Namespace, output: Output) -> int:
    if args.control is not None and args.nodes is None:
        return pool_status(args, output)
    with open_pool(args) as pool:
        rows = [_ask(pool, i, address) for i, address in enumerate(pool.settings.nodes)]
    output.answer({"nodes": rows}, _human(rows))
    return 0 if all(row["reachable"] for row in rows) else 1


def _ask(pool: Pool, index: int, address: str) -> dict[str, Any]:
    try:
        text = pool.client.stat(index, pool.settings.timeout_ms)
    except MemKVError as error:
        return {"address": address, "reachable": False, "code": error.code, "error": str(error)}
    return {"address": address, "reachable": True, "stats": parse_stats(text)}


def _human(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows:
        if not row["reachable"]:
            lines.append([row["address"], row["code"], "-", "-", "-", "-"])
            continue
        stats = row["stats"]
        gets = stats["gets"]
        hits = stats["hits_dram"] + stats["hits_flash"]
        lines.append(
            [
                row["address"],
                "serving",
                str(stats["blocks"]),
                f"{format_size(stats['block_bytes'])} of {format_size(stats['capacity_bytes'])}",
                format_size(stats["arena_bytes"]),
                f"{hits / gets:.1%} of {gets}" if gets else "no gets yet",
            ]
        )
    out = table(["NODE", "STATE", "BLOCKS", "FLASH", "DRAM", "HITS"], lines)
    return out + [f"{row['address']}: {row['error']}" for row in rows if not row["reachable"]]
