"""`memkv nodes` and `memkv namespaces`: what an operator sees of a pool, and does with it."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from memkv_nixl._config import check_address
from memkv_nixl._control_plane import INSTALL, Replicas, refusal_of
from memkv_nixl._copies import one_failure
from memkv_nixl._errors import ConfigError, MemKVError, RefusedError, UnreachableError
from memkv_nixl._sizes import format_size, parse_size
from memkv_nixl.cli._output import Output, table

CONTROL_DEFAULT = "127.0.0.1:9910"
_CALL_S = 10.0
_LOOK_S = 0.5  # between two looks at a drain
_TRY_S = 3.0  # of one replica, when there is another one to ask
_ELECTION_PAUSE_S = 0.25
DIALECTS = ("raw", "obj", "cmx")
_ADMISSIONS = {"all": 1, "second-touch": 2, "budget": 3}  # as in map.proto
_ADMISSION_WORDS = {number: word for word, number in _ADMISSIONS.items()}
_STATES = ("unknown", "serving", "silent", "lost", "draining")
_TLS = ("tls_ca", "tls_cert", "tls_key")


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds nodes and namespaces."""
    reach = control_flags(common)
    _add_nodes(commands, reach)
    _add_namespaces(commands, reach)


def control_flags(
    common: argparse.ArgumentParser, default: str | None = CONTROL_DEFAULT
) -> argparse.ArgumentParser:
    """The flags of every command that asks the control plane."""
    reach = argparse.ArgumentParser(add_help=False, parents=[common])
    reach.add_argument(
        "--control",
        metavar="HOST:PORT,…",
        default=os.environ.get("MEMKV_CONTROL", default),
        help=f"the control plane, or its replicas (default: MEMKV_CONTROL, or {default or 'none'})",
    )
    for name in _TLS:
        reach.add_argument(f"--{name.replace('_', '-')}", metavar="FILE", help="a PEM file")
    return reach


def reason_flag(command: argparse.ArgumentParser) -> None:
    """The flag of every command that changes something for others."""
    command.add_argument(
        "--reason", metavar="TEXT", default="", help="why, for those who read the events"
    )


def _add_nodes(commands: Any, reach: argparse.ArgumentParser) -> None:
    nodes = commands.add_parser("nodes", help="the nodes of a pool: list, drain, remove")
    actions = nodes.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", parents=[reach], help="how they are").set_defaults(run=_list_nodes)
    drain = actions.add_parser(
        "drain", parents=[reach], help="place no new block on one, and move its blocks away"
    )
    drain.add_argument("--undo", action="store_true", help="take that back")
    drain.add_argument(
        "--wait", action="store_true", help="until every block of it lies on another node"
    )
    drain.set_defaults(run=_drain)
    remove = actions.add_parser("remove", parents=[reach], help="forget one")
    remove.add_argument("--force", action="store_true", help="also one that holds blocks still")
    remove.set_defaults(run=_remove)
    for one in (drain, remove):
        one.add_argument("address", metavar="HOST:PORT")
        reason_flag(one)


def _add_namespaces(commands: Any, reach: argparse.ArgumentParser) -> None:
    spaces = commands.add_parser(
        "namespaces", help="the namespaces of a pool: list, create, update, drop"
    )
    actions = spaces.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[reach], help="those that were created")
    listing.set_defaults(run=_list_namespaces)
    create = actions.add_parser("create", parents=[reach], help="make one known, with its rules")
    create.set_defaults(run=_create_namespace)
    update = actions.add_parser("update", parents=[reach], help="set the rules that are named")
    update.set_defaults(run=_update_namespace)
    for one in (create, update):
        one.add_argument("--quota", metavar="SIZE", help="bytes it may hold in the whole pool")
        one.add_argument("--ttl", metavar="S", type=int, help="seconds until a block is a miss")
        one.add_argument(
            "--copies",
            type=int,
            choices=(1, 2),
            help="2: every block gets a second copy, on another node; 1: what many read",
        )
        one.add_argument("--admission", choices=tuple(_ADMISSIONS), help="which blocks it takes")
    drop = actions.add_parser("drop", parents=[reach], help="end all that it holds")
    drop.set_defaults(run=_drop_namespace)
    for one in (create, update, drop):
        one.add_argument("name")
        one.add_argument("--key-dialect", choices=DIALECTS, default="raw")
        reason_flag(one)
    for one in (listing, create, update, drop):
        one.add_argument("--tenant", default="", help="(default: the built-in one)")


# ---- nodes


def _list_nodes(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        found = heard_nodes(plane)
    rows = [
        {
            "address": node.address,
            "state": _state(node),
            "weight": node.weight,
            "failure_domain": node.failure_domain,
            "epoch": node.epoch,
            "silent_ms": node.silent_ms,
            "software": node.software,
            "stats": dict(node.stats),
        }
        for node in found.nodes
    ]
    lines = [
        [
            row["address"],
            row["state"],
            str(row["weight"]),
            row["failure_domain"] or "-",
            str(row["epoch"]),
            "-" if found.leader else f"{row['silent_ms'] / 1000:.1f} s ago",
            _blocks(row["stats"]),
        ]
        for row in rows
    ]
    head = ["NODE", "STATE", "WEIGHT", "DOMAIN", "EPOCH", "HEARD", "BLOCKS"]
    output.answer({"nodes": rows}, table(head, lines) if rows else ["No node has registered."])


def heard_nodes(plane: _Control) -> Any:
    """Of whoever hears them, where that replica answers; else what the map says."""
    found = plane.placement("ListNodes", with_stats=True)
    if found.leader:
        plane.replicas.turn(found.leader)
        with suppress(UnreachableError):
            found = plane.placement("ListNodes", with_stats=True)
    return found


def _state(node: Any) -> str:
    state = _STATES[node.state] if node.state < len(_STATES) else "unknown"
    if state != "draining":
        return state
    if node.stats.get("drained") == 1:
        return "drained"
    return "drain refused" if _left_behind(node.stats) else state


def _left_behind(stats: Any) -> str:
    """What a drain that has ended left behind, and why; "" when that is nothing."""
    left = {
        name.removeprefix("left_"): count
        for name, count in sorted(stats.items())
        if name.startswith("left_") and count > 0
    }
    return ", ".join(f"{count} {name}" for name, count in left.items())


def _blocks(stats: Any) -> str:
    left = _left_behind(stats)
    held = str(stats.get("blocks", "-"))
    return f"{held} ({left})" if left else held


def _drain(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        done = plane.placement(
            "DrainNode", address=args.address, undo=args.undo, reason=args.reason
        )
        moved = {}
        if args.wait and not args.undo:
            moved = _await_drained(plane, args.address, output)
    said = "takes blocks again" if args.undo else "drains: no new block is placed on it"
    if moved:
        said = f"is drained, {moved['moved_blocks']} blocks moved: it can be removed"
    output.answer(
        {"address": args.address, "draining": not args.undo, "epoch": done.epoch, **moved},
        [f"{args.address} {said} (epoch {done.epoch})."],
    )


def _await_drained(control: _Control, address: str, output: Output) -> dict[str, int]:
    """Says how far it is until every block lies elsewhere; what this drain moved."""
    said = ""
    while True:
        nodes = control.placement("ListNodes", with_stats=True).nodes
        node = next((node for node in nodes if node.address == address), None)
        if node is None:
            raise RefusedError(f"{address} drains no more: somebody removed it")
        state = _state(node)
        _check_drains(address, state, nodes)
        moved = {
            name: node.stats.get(f"drain_{name}", 0) for name in ("moved_blocks", "moved_bytes")
        }
        if state == "drained":
            return moved
        so_far = f"{moved['moved_blocks']} blocks moved ({format_size(moved['moved_bytes'])})"
        if state == "drain refused":
            raise RefusedError(
                f"{address} is not drained: {so_far}, and the nodes where the others belong "
                f"refused them: {_left_behind(node.stats)} (no_space: a namespace's admission or "
                "quota, or no room). It tries again every ten minutes; change the rules, or remove "
                "it with --force and lose them"
            )
        now = f"{address} {state}: {so_far}, {node.stats.get('blocks', 0)} on it"
        if now != said:
            output.note(now)
        said = now
        time.sleep(_LOOK_S)


def _check_drains(address: str, state: str, nodes: Any) -> None:
    """A node that will not come to be drained is not waited for."""
    if state in ("silent", "lost"):
        raise UnreachableError(
            f"{address} is {state}: nobody hears it, so nothing moves. Start it or its agent "
            "again; the drain goes on by itself then"
        )
    if state not in ("draining", "drained", "drain refused"):
        raise RefusedError(f"{address} drains no more: somebody took that back")
    if not any(_state(other) == "serving" and other.weight for other in nodes):
        raise RefusedError("no other node takes blocks: add one, or take the drain back")


def _remove(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        done = plane.placement(
            "RemoveNode", address=args.address, force=args.force, reason=args.reason
        )
    said = "is forgotten" if done.was_known else "was not known"
    output.answer(
        {"address": args.address, "was_known": done.was_known, "epoch": done.epoch},
        [f"{args.address} {said} (epoch {done.epoch})."],
    )


# ---- namespaces


def _list_namespaces(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        found = plane.namespaces("ListNamespaces", tenant=args.tenant).namespaces
        nodes = heard_nodes(plane).nodes
        tenants = {tenant.name: tenant.tenant for tenant in plane.tenants("ListTenants").tenants}
    twofold = [space for space in found if space.rules.copies > 1]
    taking = _taking(nodes) if twofold else []
    warning = _warning(taking)
    rows = [
        {
            **_row(space),
            "used_bytes": summed(nodes, f"usage_{_named(tenants, space)}"),
            "copies_waiting": summed(taking, f"waiting_{_named(tenants, space)}"),
        }
        for space in found
    ]
    lines = [
        [
            row["tenant"],
            row["name"],
            row["key_dialect"],
            str(row["drop_generation"]),
            "-" if row["used_bytes"] is None else format_size(row["used_bytes"]),
            format_size(row["quota_bytes"]) if row["quota_bytes"] else "-",
            f"{row['ttl_s']} s" if row["ttl_s"] else "-",
            str(row["copies"]),
            "-" if row["copies_waiting"] is None else str(row["copies_waiting"]),
            row["admission"],
        ]
        for row in rows
    ]
    head = ["TENANT", "NAMESPACE", "DIALECT", "DROPPED", "USED", "QUOTA", "TTL", "COPIES"]
    head += ["WAITING"]
    warnings = [f"{', '.join(space.name for space in twofold)}: {warning}"] if warning else []
    output.answer(
        {"namespaces": rows, "warnings": warnings},
        [*table([*head, "ADMISSION"], lines), *(f"warning: {one}" for one in warnings)]
        if rows
        else ["No namespace was created."],
    )


def _named(tenants: dict[str, int], space: Any) -> str:
    """How the names of a namespace's numbers end."""
    return f"{tenants.get(space.tenant)}_{space.id.hex()}"


def summed(nodes: Any, name: str) -> int | None:
    """What all nodes together say under this name; None when none of them says."""
    said = [node.stats[name] for node in nodes if name in node.stats]
    return sum(said) if said else None


def _taking(nodes: Any) -> list[Any]:
    """The nodes that take blocks."""
    return [node for node in nodes if _STATES[node.state] in ("serving", "silent")]


def _warning(nodes: list[Any]) -> str:
    return one_failure((node.address, node.failure_domain) for node in nodes)


def _create_namespace(args: argparse.Namespace, output: Output) -> None:
    _settle(args, output, "CreateNamespace", "{} is known (epoch {}).")


def _update_namespace(args: argparse.Namespace, output: Output) -> None:
    _settle(args, output, "UpdateNamespace", "The rules of {} are set (epoch {}).")


def _settle(args: argparse.Namespace, output: Output, call: str, said: str) -> None:
    with control(args) as plane:
        done = plane.namespaces(call, **_name(args), rules=_rules(args), reason=args.reason)
        warning = (
            _warning(_taking(heard_nodes(plane).nodes)) if done.namespace.rules.copies > 1 else ""
        )
    output.answer(
        {**_row(done.namespace), "epoch": done.epoch, "warnings": [warning] if warning else []},
        [
            said.format(done.namespace.name, done.epoch),
            *([f"warning: {warning}"] if warning else []),
        ],
    )


def _rules(args: argparse.Namespace) -> dict[str, int]:
    rules = {"ttl_s": args.ttl, "copies": args.copies}
    if args.quota is not None:
        rules["quota_bytes"] = parse_size(args.quota, "--quota")
    if args.admission is not None:
        rules["admission"] = _ADMISSIONS[args.admission]
    return {name: value for name, value in rules.items() if value is not None}


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
        done = plane.namespaces(
            "DropNamespace", **_name(args), drop_generation=generation, reason=args.reason
        )
    output.answer(
        {**_row(done.namespace), "epoch": done.epoch},
        [
            f"What {args.name} held is dropped (epoch {done.epoch}).",
            f"Whoever goes on with it says drop_generation {done.namespace.drop_generation}.",
        ],
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
        "admission": _ADMISSION_WORDS.get(rules.admission, "all"),
    }


# ---- the calls


class _Control:
    """Calls of one control plane, whichever of its replicas answers; its refusals are ours."""

    def __init__(self, replicas: Replicas, credentials: Any) -> None:
        from memkv_nixl.proto.memkv.v1 import (
            admin_pb2,
            admin_pb2_grpc,
            namespaces_pb2,
            namespaces_pb2_grpc,
            placement_pb2,
            placement_pb2_grpc,
            tenants_pb2,
            tenants_pb2_grpc,
        )

        self.replicas = replicas
        self._credentials = credentials
        self._channels: dict[str, Any] = {}
        self._placement = (placement_pb2_grpc.PlacementStub, placement_pb2)
        self._admin = (admin_pb2_grpc.AdminStub, admin_pb2)
        self._namespaces = (namespaces_pb2_grpc.NamespacesStub, namespaces_pb2)
        self._tenants = (tenants_pb2_grpc.TenantsStub, tenants_pb2)

    def close(self) -> None:
        """Hangs up."""
        for channel in self._channels.values():
            channel.close()

    def placement(self, name: str, /, **said: Any) -> Any:
        """A call of the service Placement."""
        return self._call(*self._placement, name, said)

    def namespaces(self, name: str, /, **said: Any) -> Any:
        """A call of the service Namespaces."""
        return self._call(*self._namespaces, name, said)

    def tenants(self, name: str, /, **said: Any) -> Any:
        """A call of the service Tenants."""
        return self._call(*self._tenants, name, said)

    def status(self) -> Any:
        """How it is."""
        return self._call(*self._admin, "Status", {})

    def events(self, *, after: int = 0, follow: bool = False) -> Iterator[Any]:
        """What happened, oldest first; with `follow` also what happens from now on."""
        import grpc

        stub, messages = self._admin
        request = messages.WatchEventsRequest(after=after, follow=follow)
        timeout_s = None if follow else _CALL_S
        try:
            yield from stub(self._channel()).WatchEvents(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _call(self, stub: Any, messages: Any, name: str, said: dict[str, Any]) -> Any:
        """Asks one replica after the other, and again as long as they are about to elect one."""
        import grpc

        elsewhere = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        request = getattr(messages, f"{name}Request")(**said)
        end = time.monotonic() + _CALL_S
        election = False
        while True:
            left = max(0.1, end - time.monotonic())
            try:
                answer = getattr(stub(self._channel()), name)(
                    request, timeout=min(left, _TRY_S) if self.replicas.several else left
                )
            except grpc.RpcError as error:
                sentence = self._error(error)
                reason, leader = refusal_of(error)
                if error.code() not in elsewhere or time.monotonic() >= end:
                    raise sentence from error
                if reason:
                    election = reason == "NOT_LEADER"
                if not self.replicas.turn(leader):
                    if not election:
                        raise sentence from error
                    time.sleep(_ELECTION_PAUSE_S)
            else:
                self.replicas.found()
                return answer

    def _channel(self) -> Any:
        import grpc

        address = self.replicas.current
        if address not in self._channels:
            if self._credentials is None:
                self._channels[address] = grpc.insecure_channel(address)
            else:
                self._channels[address] = grpc.secure_channel(address, self._credentials)
        return self._channels[address]

    def _error(self, error: Any) -> MemKVError:
        import grpc

        where = f"the control plane at {self.replicas.current}"
        unreachable = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        if error.code() in unreachable and not refusal_of(error).reason:
            return UnreachableError(f"{where} does not answer: {error.details()}")
        if error.code() == grpc.StatusCode.INVALID_ARGUMENT:
            return ConfigError(f"{where}: {error.details()}")
        return RefusedError(f"{where} refused: {error.details()}")


@contextmanager
def control(args: argparse.Namespace) -> Iterator[_Control]:
    """The control plane that the flags name."""
    try:
        import grpc  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"this needs gRPC, which is not here ({error}): {INSTALL}") from error

    addresses = [part.strip() for part in args.control.split(",") if part.strip()]
    for address in addresses:
        check_address(address, "--control")
    if not addresses:
        raise ConfigError("--control: name the control plane, HOST:PORT or HOST:PORT,…")
    files = [getattr(args, name) for name in _TLS]
    control = _Control(Replicas(addresses), _credentials(files) if any(files) else None)
    try:
        yield control
    finally:
        control.close()


def _credentials(files: list[str | None]) -> Any:
    import grpc

    if None in files:
        raise ConfigError("--tls-ca, --tls-cert, --tls-key: TLS needs all three")
    try:
        authority, certificate, key = (Path(str(path)).read_bytes() for path in files)
    except OSError as error:
        raise ConfigError(f"--tls-…: {error.filename}: {error.strerror}") from error
    return grpc.ssl_channel_credentials(authority, key, certificate)
