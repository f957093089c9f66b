"""`memkv put | get | match | drop`: blocks by hand."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkv_nixl._errors import MemKVError, MissError, UsageError, code_name, error_from_code
from memkv_nixl._sizes import format_size
from memkv_nixl.cli._output import Output, table
from memkv_nixl.cli._pool import Pool, key_flags, open_pool, pool_flags, why_unreachable

if TYPE_CHECKING:
    from memkv_nixl._native import Client

WHERE = ("absent", "flash", "dram")
_GONE = {"unreachable", "timeout"}


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Adds put, get, match and drop."""
    parents = [common, pool_flags(), key_flags()]
    put = commands.add_parser("put", parents=parents, help="put a file's bytes under a key")
    put.add_argument("key", metavar="KEY")
    put.add_argument("file", metavar="FILE", help="'-' reads standard input")
    put.set_defaults(run=_put)
    get = commands.add_parser("get", parents=parents, help="get a block into a file")
    get.add_argument("key", metavar="KEY")
    get.add_argument("file", metavar="FILE", help="'-' writes standard output")
    get.set_defaults(run=_get)
    match = commands.add_parser("match", parents=parents, help="which of these blocks are there?")
    match.add_argument("keys", metavar="KEY", nargs="+")
    match.set_defaults(run=_match)
    drop = commands.add_parser("drop", parents=parents, help="take blocks out, for good")
    drop.add_argument("keys", metavar="KEY", nargs="+")
    drop.set_defaults(run=_drop)


def _put(args: argparse.Namespace, output: Output) -> None:
    data = _read_file(args.file)
    with open_pool(args) as pool:
        keys = pool.keys([args.key])
        started = time.perf_counter()
        request = pool.client.put(pool.space, keys, [data], **pool.where(keys))
        pool.finish(request)
        seconds = time.perf_counter() - started
        code = request.codes()[0]
        _raise_unless(pool.client, code, {"ok", "exists"}, f"put {args.key}")
    status = code_name(code)
    document = {"key": args.key, "status": status, "bytes": len(data), "seconds": seconds}
    said = "is there already" if status == "exists" else f"put in {seconds * 1e3:.1f} ms"
    output.answer(document, [f"{args.key}: {format_size(len(data))}, {said}"])


def _get(args: argparse.Namespace, output: Output) -> None:
    if output.as_json and args.file == "-":
        raise UsageError("--json and FILE '-' both want standard output; name a file")
    with open_pool(args) as pool:
        keys = pool.keys([args.key])
        started = time.perf_counter()
        data = bytearray(_length_of(pool, keys, args.key))
        request = pool.client.get(pool.space, keys, [data], **pool.where(keys))
        pool.finish(request)
        seconds = time.perf_counter() - started
        _raise_unless(pool.client, request.codes()[0], {"ok"}, f"get {args.key}")
    _write_file(args.file, data)
    document = {"key": args.key, "status": "ok", "bytes": len(data), "seconds": seconds}
    if args.file != "-":
        output.answer(document, [f"{args.key}: {format_size(len(data))} in {seconds * 1e3:.1f} ms"])


def _length_of(pool: Pool, keys: list[bytes], name: str) -> int:
    request = pool.client.match(pool.space, keys, **pool.where(keys))
    pool.finish(request)
    code, where, length = request.matches()[0]
    _raise_unless(pool.client, code, {"ok"}, f"get {name}")
    if WHERE[where] == "absent":
        raise MissError(f"get {name}: the block is not there")
    return length


def _match(args: argparse.Namespace, output: Output) -> int:
    with open_pool(args) as pool:
        keys = pool.keys(args.keys)
        request = pool.client.match(pool.space, keys, **pool.where(keys))
        pool.finish(request)
        found = [
            {"key": text, "status": code_name(code), "where": WHERE[where], "bytes": length}
            for text, (code, where, length) in zip(args.keys, request.matches(), strict=True)
        ]
        _raise_if_gone(pool.client, found, "match")
    rows = [
        [row["key"], row["where"] if row["status"] == "ok" else row["status"], _bytes_of(row)]
        for row in found
    ]
    output.answer({"blocks": found}, table(["KEY", "WHERE", "SIZE"], rows))
    return 0 if all(row["where"] != "absent" for row in found) else 3


def _bytes_of(row: dict[str, Any]) -> str:
    return format_size(row["bytes"]) if row["bytes"] else "-"


def _drop(args: argparse.Namespace, output: Output) -> int:
    with open_pool(args) as pool:
        keys = pool.keys(args.keys)
        request = pool.client.drop(pool.space, keys, **pool.where(keys))
        pool.finish(request)
        dropped = [
            {"key": text, "status": code_name(code)}
            for text, code in zip(args.keys, request.codes(), strict=True)
        ]
        _raise_if_gone(pool.client, dropped, "drop")
    output.answer({"blocks": dropped}, [f"{row['key']}: {row['status']}" for row in dropped])
    states = {row["status"] for row in dropped}
    return 0 if states == {"ok"} else 3 if states <= {"ok", "not_found"} else 1


def _raise_unless(client: Client, code: int, good: set[str], what: str) -> None:
    name = code_name(code)
    if name in good:
        return
    sentence = {
        "not_found": "the block is not there",
        "conflict": "the key is there with another length; drop it first, or use another key",
        "corrupt": "the block failed a check and was taken out; put it again",
        "busy": "the node is at a limit, another put of this key is under way, or it moves from "
        "node to node while it is dropped; try again",
        "no_space": "the block is larger than the node or its quota can take, or its namespace's "
        "admission does not take it now",
        "denied": "denied: the token does not allow it, or the namespace was dropped and its drop "
        "generation is over; `memkv namespaces list` says which one there is, --drop-generation "
        "names it",
        "too_large": "a key has at most 512 bytes, a block at most 64 MiB",
        "invalid": "a key has at least 1 byte, and so has a block",
    }.get(name, name)
    if name in _GONE:
        sentence = why_unreachable(client)
    error: MemKVError = error_from_code(code, f"{what}: {sentence}")
    raise error


def _raise_if_gone(client: Client, rows: list[dict[str, Any]], what: str) -> None:
    # Some nodes being away is an answer (a row says so); all of them is an error.
    if rows and all(row["status"] in _GONE for row in rows):
        from memkv_nixl._errors import UnreachableError

        raise UnreachableError(f"{what}: {why_unreachable(client)}", rows[0]["status"])


def _read_file(name: str) -> bytes:
    try:
        data = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from error
    if not data:
        raise UsageError(f"{name}: is empty, and a block has at least one byte")
    return data


def _write_file(name: str, data: bytearray) -> None:
    try:
        if name == "-":
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            Path(name).write_bytes(data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UsageError(f"{name}: cannot be written: {error.strerror}") from error
