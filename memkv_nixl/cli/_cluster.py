"""`memkv nodes` and `memkv namespaces`: what an operator sees of a pool, and does with it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError, MemKVError, RefusedError, UnreachableError
from memkv_nixl._sizes import format_size, parse_size
from memkv_nixl.cli._node import INSTALL
from memkv_nixl.cli._output import Output, table

CONTROL_DEFAULT = "127.0.0.1:9910"
_CALL_S = 10.0
DIALECTS = ("raw", "obj", "cmx")
_STATES = ("unknown", "serving", "silent", "lost", "draining")
_TLS = ("tls_ca", "tls_cert", "tls_key")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds nodes and namespaces."""
    reach = reach_flags(common)
    _add_nodes(commands, reach)
    _add_namespaces(commands, reach)


def reach_flags(common: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The flags of every command that talks to a control plane."""
    reach = argparse.ArgumentParser(add_help=False, parents=[common])
    reach.add_argument(
        "--control",
        metavar="HOST:PORT",
        default=os.environ.get("MEMKV_CONTROL", CONTROL_DEFAULT),
        help=f"the control plane (default: MEMKV_CONTROL, or {CONTROL_DEFAULT})",
    )
    for name in _TLS:
        reach.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help="a PEM file")
    return reach


def _add_nodes(commands: Any, reach: argparse.ArgumentParser) -> None:
    nodes = commands.add_parser("nodes", help="the nodes of a pool: list, drain, remove")
    actions = nodes.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[reach], help="how they are").set_defaults(run=_list_nodes)
    drain = actions.add_parser(
        "drain", parents=[reach], help="place no new block on one, across restarts"
    )
    drain.add_argument("--undo", action="store_true", help="take that back")
    drain.set_defaults(run=_drain)
    remove = actions.add_parser("remove", parents=[reach], help="forget one")
    remove.add_argument("--force", action="store_true", help="also one that serves")
    remove.set_defaults(run=_remove)
    for one in (drain, remove):
        one.add_argument("address", metavar="HOST:PORT")


def _add_namespaces(commands: Any, reach: argparse.ArgumentParser) -> None:
    spaces = commands.add_parser("namespaces", help="the namespaces of a pool: list, create, drop")
    actions = spaces.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[reach], help="those that were created")
    listing.set_defaults(run=_list_namespaces)
    create = actions.add_parser("create", parents=[reach], help="make one known, with its rules")
    create.add_argument("--quota", metavar="SIZE", help="bytes it may hold in the whole pool")
    create.add_argument("--ttl", metavar="S", type=int, help="seconds until a block is a miss")
    create.add_argument("--copies", type=int, choices=(1, 2), help="nodes a block lies on")
    create.set_defaults(run=_create_namespace)
    drop = actions.add_parser("drop", parents=[reach], help="end all that it holds")
    drop.set_defaults(run=_drop_namespace)
    for one in (create, drop):
        one.add_argument("name")
        one.add_argument("--key-dialect", choices=DIALECTS, default="raw")
    for one in (listing, create, drop):
        one.add_argument("--tenant", default="", help="(default: the built-in one)")


# ---- nodes


def _list_nodes(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        nodes = plane.placement("ListNodes", with_stats=True).nodes
    rows = [
        {
            "address": node.address,
            "state": _STATES[node.state] if node.state < len(_STATES) else "unknown",
            "weight": node.weight,
            "failure_domain": node.failure_domain,
            "epoch": node.epoch,
            "silent_ms": node.silent_ms,
            "software": node.software,
            "stats": dict(node.stats),
        }
        for node in nodes
    ]
    lines = [
        [
            row["address"],
            row["state"],
            str(row["weight"]),
            row["failure_domain"] or "-",
            str(row["epoch"]),
            f"{row['silent_ms'] / 1000:.1f} s ago",
            str(row["stats"].get("blocks", "-")),
        ]
        for row in rows
    ]
    head = ["NODE", "STATE", "WEIGHT", "DOMAIN", "EPOCH", "HEARD", "BLOCKS"]
    output.answer({"nodes": rows}, table(head, lines) if rows else ["No node has registered."])


def _drain(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        done = plane.placement("DrainNode", address=args.address, undo=args.undo)
    said = "takes blocks again" if args.undo else "drains: no new block is placed on it"
    output.answer(
        {"address": args.address, "draining": not args.undo, "epoch": done.epoch},
        [f"{args.address} {said} (epoch {done.epoch})."],
    )


def _remove(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        done = plane.placement("RemoveNode", address=args.address, force=args.force)
    said = "is forgotten" if done.was_known else "was not known"
    output.answer(
        {"address": args.address, "was_known": done.was_known, "epoch": done.epoch},
        [f"{args.address} {said} (epoch {done.epoch})."],
    )


# ---- namespaces


def _list_namespaces(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        found = plane.namespaces("ListNamespaces", tenant=args.tenant).namespaces
    rows = [_row(space) for space in found]
    lines = [
        [
            row["tenant"],
            row["name"],
            row["key_dialect"],
            str(row["drop_generation"]),
            format_size(row["quota_bytes"]) if row["quota_bytes"] else "-",
            f"{row['ttl_s']} s" if row["ttl_s"] else "-",
            str(row["copies"]),
        ]
        for row in rows
    ]
    head = ["TENANT", "NAMESPACE", "DIALECT", "DROPPED", "QUOTA", "TTL", "COPIES"]
    output.answer(
        {"namespaces": rows}, table(head, lines) if rows else ["No namespace was created."]
    )


def _create_namespace(args: argparse.Namespace, output: Output) -> None:
    rules = {"ttl_s": args.ttl, "copies": args.copies}
    if args.quota is not None:
        rules["quota_bytes"] = parse_size(args.quota, "--quota")
    said = {name: value for name, value in rules.items() if value is not None}
    with control(args) as plane:
        done = plane.namespaces("CreateNamespace", **_name(args), rules=said)
    output.answer(
        {**_row(done.namespace), "epoch": done.epoch},
        [f"{done.namespace.name} is known (epoch {done.epoch})."],
    )


def _drop_namespace(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        known = plane.namespaces("ListNamespaces", tenant=args.tenant).namespaces
        ours = [
            space.drop_generation
            for space in known
            if (space.name, space.key_dialect) == (args.name, args.key_dialect)
        ]
        # What nobody created is refused by the control plane, with its own sentence.
        generation = ours[0] if ours else 0
        done = plane.namespaces("DropNamespace", **_name(args), drop_generation=generation)
    output.answer(
        {**_row(done.namespace), "epoch": done.epoch},
        [f"What {args.name} held is dropped (epoch {done.epoch})."],
    )


def _name(args: argparse.Namespace) -> dict[str, str]:
    return {"tenant": args.tenant, "name": args.name, "key_dialect": args.key_dialect}


def _row(space: Any) -> dict[str, Any]:
    rules = space.rules
    return {
        "tenant": space.tenant,
        "name": space.name,
        "key_dialect": space.key_dialect,
        "id": space.id.hex(),
        "drop_generation": space.drop_generation,
        "quota_bytes": rules.quota_bytes,
        "ttl_s": rules.ttl_s,
        "copies": rules.copies,
    }


# ---- the calls


class _Control:
    """Calls of one control plane; its refusals are ours."""

    def __init__(self, channel: Any, address: str) -> None:
        from memkv_nixl.proto.memkv.v1 import (
            namespaces_pb2,
            namespaces_pb2_grpc,
            placement_pb2,
            placement_pb2_grpc,
            tenants_pb2,
            tenants_pb2_grpc,
        )

        self._address = address
        self._placement = (placement_pb2_grpc.PlacementStub(channel), placement_pb2)
        self._namespaces = (namespaces_pb2_grpc.NamespacesStub(channel), namespaces_pb2)
        self._tenants = (tenants_pb2_grpc.TenantsStub(channel), tenants_pb2)

    def placement(self, name: str, /, **said: Any) -> Any:
        """A call of the service Placement."""
        return self._call(*self._placement, name, said)

    def namespaces(self, name: str, /, **said: Any) -> Any:
        """A call of the service Namespaces."""
        return self._call(*self._namespaces, name, said)

    def tenants(self, name: str, /, **said: Any) -> Any:
        """A call of the service Tenants."""
        return self._call(*self._tenants, name, said)

    def _call(self, stub: Any, messages: Any, name: str, said: dict[str, Any]) -> Any:
        import grpc

        request = getattr(messages, f"{name}Request")(**said)
        try:
            return getattr(stub, name)(request, timeout=_CALL_S)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _error(self, error: Any) -> MemKVError:
        import grpc

        where = f"the control plane at {self._address}"
        if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return UnreachableError(f"{where} does not answer: {error.details()}")
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            return ConfigError(f"{where}: {error.details()}")
        return RefusedError(f"{where} refused: {error.details()}")


@contextmanager
def control(args: argparse.Namespace) -> Iterator[_Control]:
    """The control plane that the flags name."""
    try:
        import grpc
    except ImportError as error:
        raise ConfigError(f"this needs gRPC, which is not here ({error}): {INSTALL}") from error

    files = [getattr(args, name) for name in _TLS]
    if any(files):
        channel = grpc.secure_channel(args.control, _credentials(files))
    else:
        channel = grpc.insecure_channel(args.control)
    with channel:
        yield _Control(channel, args.control)


def _credentials(files: list[str | None]) -> Any:
    import grpc

    if None in files:
        raise ConfigError("--tls-ca, --tls-cert, --tls-key: TLS needs all three")
    try:
        authority, certificate, key = (Path(str(path)).read_bytes() for path in files)
    except OSError as error:
        raise ConfigError(f"--tls-…: {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(authority, key, certificate)
