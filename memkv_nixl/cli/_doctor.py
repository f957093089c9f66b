"""`memkv doctor`: what works on this machine, what does not, and how to mend it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from memkv_nixl._config import Settings, credentials_of, load_settings
from memkv_nixl.cli._checks import Check, check_machine
from memkv_nixl.cli._checks_nixl import check_nixl
from memkv_nixl.cli._output import Output
from memkv_nixl.cli._pool import given_credentials, pool_flags


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds doctor."""
    doctor = commands.add_parser(
        "doctor",
        parents=[common, pool_flags()],
        help="what works on this machine, what does not, and how to mend it",
        epilog="The exit code is 1 when a check is an error. Warnings are about what is slower, or "
        "not needed on every machine. With --nodes (or nodes in the configuration), these are "
        "asked, too.",
    )
    doctor.add_argument(
        "--dir", metavar="FOLDER", default=".", help="where blocks would be kept (default: here)"
    )
    doctor.set_defaults(run=_doctor)


def _doctor(args: argparse.Namespace, output: Output) -> int:
    given = {
        "nodes": args.nodes,
        **given_credentials(args),
        "namespace": args.namespace,
        "timeout_ms": args.timeout_ms,
    }
    settings = load_settings(given, config=args.config)
    return report(_all(Path(args.dir), settings), output)


def report(checks: Iterator[Check], output: Output) -> int:
    """Says each check as it comes, then how many were bad; the exit code."""
    found: list[Check] = []
    for check in checks:
        found.append(check)
        if not output.as_json:
            print("\n".join(_lines(check)), flush=True)
    errors = sum(check.state == "error" for check in found)
    warnings = sum(check.state == "warning" for check in found)
    summary = f"{len(found)} checks: {errors} errors, {warnings} warnings"
    output.answer(
        {
            "ok": errors == 0,
            "errors": errors,
            "warnings": warnings,
            "checks": [check.document() for check in found],
        },
        ["", summary],
    )
    return 1 if errors else 0


def _all(folder: Path, settings: Settings) -> Iterator[Check]:
    yield from check_nixl()
    yield from check_machine(folder, settings.node.listen)
    yield from check_nodes(settings.nodes, settings.timeout_ms, credentials_of(settings))


def _lines(check: Check) -> list[str]:
    lines = [f"{check.state:<8} {check.name:<15} {check.text}"]
    if check.mend:
        lines.append(f"{'':<8} {'':<15} mend: {check.mend}")
    return lines


def check_nodes(
    nodes: Sequence[str], timeout_ms: int, credentials: Mapping[str, Any] | None = None
) -> Iterator[Check]:
    """Whether each node answers, to these credentials."""
    if not nodes:
        return
    from memkv_nixl._errors import MemKVError
    from memkv_nixl._native import Client
    from memkv_nixl._stat import parse_stats

    client = Client(
        list(nodes), name="memkv-doctor", timeout_ms=timeout_ms, **dict(credentials or {})
    )
    try:
        for index, address in enumerate(nodes):
            name = f"node {address}"
            try:
                stats = parse_stats(client.stat(index, timeout_ms))
            except MemKVError as error:
                yield Check(
                    name,
                    "error",
                    f"does not answer: {error}",
                    "is memkvd running there, and does a firewall let this machine through?",
                )
            else:
                software, blocks = stats.get("software", "?"), stats.get("blocks", "?")
                yield Check(name, "ok", f"{software}, {blocks} blocks")
    finally:
        client.close()
