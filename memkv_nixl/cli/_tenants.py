"""`memkv tenants` and `memkv token`: who shares a pool, and what says so."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from memkv_nixl._errors import ConfigError, UsageError
from memkv_nixl._namespace import dialect_id, namespace_id
from memkv_nixl._sizes import format_size, parse_size
from memkv_nixl.cli._cluster import (
    DIALECTS,
    control,
    control_flags,
    heard_nodes,
    reason_flag,
    summed,
)
from memkv_nixl.cli._output import Output, table

_RIGHTS = {"read": 1, "write": 2, "drop": 3}  # Right of tenants.proto
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds tenants and token."""
    reach = control_flags(common)
    _add_tenants(commands, reach)
    _add_token(commands, reach)


def _add_tenants(commands: Any, reach: argparse.ArgumentParser) -> None:
    tenants = commands.add_parser("tenants", help="who shares a pool: list, create, rotate, revoke")
    actions = tenants.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[reach], help="those that were created")
    listing.set_defaults(run=_list)
    create = actions.add_parser("create", parents=[reach], help="make one known, with a key")
    create.add_argument("--quota", metavar="SIZE", help="bytes it may hold in the whole pool")
    create.set_defaults(run=_create)
    rotate = actions.add_parser("rotate", parents=[reach], help="sign its tokens with a new key")
    rotate.add_argument(
        "--overlap",
        metavar="TIME",
        default="0",
        help="how long tokens of the former key are believed still, such as 30m, 12h, 7d "
        "(default: not at all)",
    )
    rotate.set_defaults(run=_rotate)
    revoke = actions.add_parser("revoke", parents=[reach], help="take trust in tokens or keys back")
    revoke.add_argument("--token", action="append", default=[], metavar="ID", help="a token's id")
    revoke.add_argument("--key", action="append", default=[], metavar="ID", help="a key's id")
    revoke.set_defaults(run=_revoke)
    for one in (create, rotate, revoke):
        one.add_argument("name")
        reason_flag(one)


def _add_token(commands: Any, reach: argparse.ArgumentParser) -> None:
    token = commands.add_parser("token", help="what says that a client may: issue")
    actions = token.add_subparsers(dest="action", required=True, metavar="ACTION")
    issue = actions.add_parser(
        "issue",
        parents=[reach],
        help="write a token, and its key, into a file for clients",
        epilog="The key is made here, and only its public half leaves this machine. Issuing into "
        "the file of a running client renews its token: it takes the new one within a second.",
    )
    issue.add_argument("--tenant", required=True, metavar="NAME")
    issue.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="made for its owner alone; -: standard output, for a pipe",
    )
    issue.add_argument(
        "--lifetime", metavar="TIME", default="30d", help="30m, 12h, 7d, … (default: 30d)"
    )
    issue.add_argument(
        "--rights",
        metavar="LIST",
        default="read,write,drop",
        help="some of read, write and drop (default: all)",
    )
    issue.add_argument(
        "--namespace",
        action="append",
        default=[],
        metavar="NAME",
        help="one that it is for, once for each (default: all of the tenant's)",
    )
    issue.add_argument("--key-dialect", choices=DIALECTS, default="raw", help="of the namespaces")
    issue.set_defaults(run=_issue)


# ---- tenants


def _list(args: argparse.Namespace, output: Output) -> None:
    with control(args) as plane:
        found = plane.tenants("ListTenants").tenants
        nodes = heard_nodes(plane).nodes
    rows = [
        {**_row(tenant), "used_bytes": summed(nodes, f"usage_{tenant.tenant}")} for tenant in found
    ]
    lines = [
        [
            row["name"],
            str(row["tenant"]),
            "-" if row["used_bytes"] is None else format_size(row["used_bytes"]),
            format_size(row["quota_bytes"]) if row["quota_bytes"] else "-",
            str(row["revoked"]),
            row["keys"][-1] if row["keys"] else "none: for those without a token",
        ]
        for row in rows
    ]
    head = ["TENANT", "NUMBER", "USED", "QUOTA", "REVOKED", "KEY"]
    output.answer({"tenants": rows}, table(head, lines))


def _create(args: argparse.Namespace, output: Output) -> None:
    quota = parse_size(args.quota, "--quota") if args.quota is not None else 0
    with control(args) as plane:
        done = plane.tenants("CreateTenant", name=args.name, quota_bytes=quota, reason=args.reason)
    output.answer(
        {**_row(done.tenant), "epoch": done.epoch},
        [f"{args.name} is known (epoch {done.epoch}); `memkv token issue --tenant {args.name}`."],
    )


def _rotate(args: argparse.Namespace, output: Output) -> None:
    overlap_s = _seconds("--overlap", args.overlap)
    with control(args) as plane:
        ours = [one for one in plane.tenants("ListTenants").tenants if one.name == args.name]
        # Whom nobody created is refused by the control plane, with its own sentence.
        signing = ours[0].keys[-1] if ours and ours[0].keys else b""
        done = plane.tenants(
            "RotateKey",
            tenant=args.name,
            from_key=signing,
            overlap_s=overlap_s,
            reason=args.reason,
        )
    former = f"for {args.overlap} still" if overlap_s else "not any more"
    output.answer(
        {**_row(done.tenant), "epoch": done.epoch},
        [
            f"{done.tenant.keys[-1].hex()} signs for {args.name} (epoch {done.epoch}).",
            f"Tokens of the former key are believed {former}.",
        ],
    )


def _revoke(args: argparse.Namespace, output: Output) -> None:
    tokens = [_id("--token", text) for text in args.token]
    keys = [_id("--key", text) for text in args.key]
    with control(args) as plane:
        done = plane.tenants(
            "Revoke", tenant=args.name, token_ids=tokens, key_ids=keys, reason=args.reason
        )
    output.answer(
        {**_row(done.tenant), "epoch": done.epoch},
        [f"No node that holds epoch {done.epoch} believes them."],
    )


def _row(tenant: Any) -> dict[str, Any]:
    return {
        "name": tenant.name,
        "tenant": tenant.tenant,
        "quota_bytes": tenant.quota_bytes,
        "keys": [key.hex() for key in tenant.keys],
        "revoked": tenant.revoked,
    }


# ---- tokens


def _issue(args: argparse.Namespace, output: Output) -> None:
    if args.out == "-" and (output.as_json or sys.stdout.isatty()):
        raise UsageError(
            "--out -: the token is a secret and is written as its file has it, to a pipe: leave "
            "--json out, and lead the output into whatever keeps it"
        )
    spaces = [dialect_id(namespace_id(name), args.key_dialect) for name in args.namespace]
    with control(args) as plane:
        from memkv_nixl import _token  # needs what gRPC comes with

        private = _token.new_private()
        done = plane.tenants(
            "IssueToken",
            tenant=args.tenant,
            holder_key=_token.public_half(private),
            rights=_rights(args.rights),
            namespace_ids=spaces,
            lifetime_s=_seconds("--lifetime", args.lifetime),
        )
    until = _token.utc(done.expires_s)
    notes = (
        f"tenant {args.tenant}, token {done.token_id.hex()}",
        f"good until {until}; keep it to yourself",
    )
    if args.out == "-":
        print(_token.token_text(done.token, private, *notes), end="", flush=True)
        return
    try:
        _token.write_token_file(Path(args.out), done.token, private, *notes)
    except OSError as error:
        raise ConfigError(f"--out: {args.out}: cannot be written: {error.strerror}") from error
    output.answer(
        {
            "file": args.out,
            "tenant": args.tenant,
            "token_id": done.token_id.hex(),
            "expires_s": done.expires_s,
        },
        [
            f"{args.out} is good for {args.tenant} until {until}.",
            f"To take it back: memkv tenants revoke {args.tenant} --token {done.token_id.hex()}",
        ],
    )


def _rights(text: str) -> list[int]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in _RIGHTS:
            raise UsageError(f"--rights: {word!r} is none; there are {', '.join(_RIGHTS)}")
    return [_RIGHTS[word] for word in words]


def _seconds(flag: str, text: str) -> int:
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise UsageError(f"{flag}: {text!r} is no time; write one such as 90s, 30m, 12h or 7d")
    return min(int(match[1]) * _UNITS[match[2] or "s"], 2**32 - 1)


def _id(flag: str, text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{flag}: {text!r} is no id; write its hexadecimal digits") from None
