"""`memkv up`: store nodes on this machine, in the foreground, until Ctrl-C, SIGTERM or SIGHUP.

When a node ends on its own, the others are stopped and the command ends with exit code 1 and the
node's last words: restarting is the work of systemd or Kubernetes, which see the exit code, and a
node that dies again and again is not hidden. A control process or etcd that ends is said, and the
rest goes on: that is what there are several for, and nodes need none of them.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from memkv_nixl._errors import ConfigError, UnreachableError
from memkv_nixl._signals import end_signals, interrupted_by_signals, wake_on_signals
from memkv_nixl.cli._output import Output
from memkv_nixl.store import Cluster, LocalPool


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds up."""
    up = commands.add_parser(
        "up",
        parents=[common],
        help="run store nodes on this machine until Ctrl-C",
        epilog="With --json, one line with the nodes when they serve. Without --dir, the blocks "
        "live in a temporary folder and go with it; with it, the same folder serves them again, on "
        "the same ports where these are free. If a node ends on its own, all are stopped and the "
        "exit code is 1.",
    )
    up.add_argument("--nodes", dest="count", type=int, default=2, metavar="N", help="how many (2)")
    up.add_argument("--dir", metavar="FOLDER", help="where blocks and logs are kept")
    up.add_argument("--capacity", default="10GiB", metavar="SIZE", help="of each node (10GiB)")
    up.add_argument("--dram", default="1GiB", metavar="SIZE", help="of each node (1GiB)")
    up.add_argument(
        "--buffered", action="store_true", help="do without O_DIRECT where the folder has none"
    )
    up.add_argument(
        "--control-replicas",
        type=int,
        metavar="N",
        help="also a control plane of so many processes, with an etcd when there are several",
    )
    up.set_defaults(run=_up)


def _up(args: argparse.Namespace, output: Output) -> None:
    if args.config:
        raise ConfigError("memkv up takes no --config: it makes its own nodes; see memkv up --help")
    if args.control_replicas is not None:
        _up_with_control(args, output)
        return
    cluster = Cluster(
        args.count,
        folder=args.dir,
        capacity=args.capacity,
        dram=args.dram,
        buffered=args.buffered,
        die_with_parent=True,
    )
    # A signal before the nodes serve, or a second one while they stop, breaks that off, and the
    # cluster cleans up.
    with interrupted_by_signals(), cluster, wake_on_signals(*end_signals()) as wake:
        for sentence in cluster.moved:
            print(f"memkv: {sentence}", file=sys.stderr)
        output.answer(_document(cluster), _human(cluster, kept=args.dir is not None))
        ended = cluster.watch(wake)
        if ended is not None:
            raise UnreachableError(str(ended))
        if not output.as_json:
            print("memkv: stopping", file=sys.stderr)


def _up_with_control(args: argparse.Namespace, output: Output) -> None:
    pool = LocalPool(
        args.count,
        args.control_replicas,
        folder=args.dir,
        capacity=args.capacity,
        dram=args.dram,
        buffered=args.buffered,
    )
    with interrupted_by_signals(), pool, wake_on_signals(*end_signals()) as wake:
        for sentence in pool.moved:
            print(f"memkv: {sentence}", file=sys.stderr)
        output.answer(_pool_document(pool), _pool_human(pool, kept=args.dir is not None))
        while (ended := pool.watch(wake)) is not None:
            if ended.is_node:
                raise UnreachableError(ended.sentence)
            print(f"memkv: {ended.sentence}. The others go on", file=sys.stderr)
        if not output.as_json:
            print("memkv: stopping", file=sys.stderr)


def _pool_document(pool: LocalPool) -> dict[str, Any]:
    return {
        "nodes": [process.address for process in pool.nodes],
        "control": [process.address for process in pool.control],
        "etcd": pool.etcd.address if pool.etcd is not None else None,
        "folder": str(pool.folder),
        "pids": [process.pid for process in pool.nodes],
        "logs": [str(process.log) for process in pool.nodes],
        "control_pids": [process.pid for process in pool.control],
        "control_logs": [str(process.log) for process in pool.control],
        "etcd_pid": pool.etcd.pid if pool.etcd is not None else None,
    }


def _pool_human(pool: LocalPool, *, kept: bool) -> list[str]:
    nodes = ",".join(process.address for process in pool.nodes)
    control = ",".join(process.address for process in pool.control)
    fate = "kept there" if kept else "gone when this ends; --dir FOLDER keeps them"
    memory = f"in etcd at {pool.etcd.address}" if pool.etcd is not None else "in that folder"
    return [
        f"{len(pool.nodes)} store nodes serve. Blocks and logs: {pool.folder} ({fate}).",
        f"Their control plane: {len(pool.control)} processes, its memory {memory}.",
        "",
        f"    export MEMKV_NODES={nodes}",
        f"    export MEMKV_CONTROL={control}",
        "    memkv status",
        "    memkv nodes list",
        "",
        "Ctrl-C stops them.",
    ]


def _document(cluster: Cluster) -> dict[str, Any]:
    return {
        "nodes": list(cluster.addresses),
        "folder": str(cluster.folder),
        "pids": [node.pid for node in cluster.nodes],
        "logs": [str(node.log) for node in cluster.nodes],
    }


def _human(cluster: Cluster, *, kept: bool) -> list[str]:
    nodes = ",".join(cluster.addresses)
    fate = "kept there" if kept else "gone when this ends; --dir FOLDER keeps them"
    return [
        f"{len(cluster.addresses)} store nodes serve. Blocks and logs: {cluster.folder} ({fate}).",
        "",
        f"    export MEMKV_NODES={nodes}",
        "    memkv status",
        "",
        "In Python:",
        "",
        "    from memkv_nixl.agent import TransferAgent",
        f'    agent = TransferAgent(nodes="{nodes}", namespace="try")',
        "",
        "Ctrl-C stops them.",
    ]
