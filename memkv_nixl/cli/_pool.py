"""What the commands that talk to nodes share: settings, keys, and a client."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from memkv_nixl._config import CREDENTIALS, Settings, credentials_of, load_settings, require_nodes
from memkv_nixl._errors import UnreachableError, UsageError
from memkv_nixl._namespace import namespace_id

if TYPE_CHECKING:
    from memkv_nixl._native import Client, Request

GRACE_MS = 1000  # past a request's own deadline, for the answer to arrive here


def pool_flags() -> argparse.ArgumentParser:
    """The flags of every command that talks to nodes."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument(
        "--nodes", metavar="HOST:PORT,…", help="the store nodes, spelled alike everywhere"
    )
    add_credential_flags(flags)
    flags.add_argument(
        "--namespace", metavar="NAME", help="one meaning of bytes (default: default)"
    )
    flags.add_argument(
        "--timeout-ms", type=int, metavar="N", help="deadline of the request (default: 5000)"
    )
    return flags


def add_credential_flags(parser: argparse.ArgumentParser) -> None:
    """Adds who this is and whom it believes, the same for every command that knows nodes."""
    for name, metavar, text in (
        ("token-file", "FILE", "what `memkv token issue` wrote (default: no token)"),
        ("tls-ca", "FILE", "who signs the nodes' certificates (default: no TLS)"),
        ("tls-cert", "FILE", "a certificate, where nodes ask for one"),
        ("tls-key", "FILE", "the key of that certificate"),
        (
            "tls-server-name",
            "NAME",
            "what nodes are certified as (default: their addresses' hosts)",
        ),
    ):
        parser.add_argument(f"--{name}", metavar=metavar, help=text)


def given_credentials(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of add_credential_flags() said."""
    return {name: getattr(args, name, None) for name in CREDENTIALS}


def key_flags() -> argparse.ArgumentParser:
    """The flags of every command that names blocks."""
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("--hex", action="store_true", help="keys are hexadecimal digits")
    flags.add_argument(
        "--drop-generation",
        type=int,
        metavar="N",
        help="of the namespace, as `memkv namespaces list` says it (default: 0)",
    )
    flags.add_argument(
        "--group", metavar="TEXT", help="blocks of one group lie on one node (default: the key)"
    )
    return flags


class Pool:
    """A client with its settings, and keys as the command line writes them."""

    def __init__(self, client: Client, settings: Settings, args: argparse.Namespace) -> None:
        self.client = client
        self.settings = settings
        self.space = namespace_id(settings.namespace)
        self._hex = getattr(args, "hex", False)
        self._group: str | None = getattr(args, "group", None)

    def keys(self, texts: list[str]) -> list[bytes]:
        """The bytes of keys."""
        if not self._hex:
            return [text.encode() for text in texts]
        try:
            return [bytes.fromhex(text) for text in texts]
        except ValueError:
            raise UsageError("--hex: a key must be hexadecimal digits, two for a byte") from None

    def where(self, keys: list[bytes]) -> dict[str, Any]:
        """The group and the drop generation that the flags name, as a request takes them."""
        groups = [self._group.encode()] * len(keys) if self._group else []
        return {"groups": groups, "generation": self.settings.drop_generation}

    def finish(self, request: Request) -> None:
        """Waits for a request; every block has a code afterwards."""
        if not request.wait(self.settings.timeout_ms + GRACE_MS):
            raise UnreachableError("the request did not end by its deadline", "timeout")


@contextmanager
def open_pool(args: argparse.Namespace) -> Iterator[Pool]:
    """A pool for the length of a command."""
    from memkv_nixl._native import Client

    given: dict[str, Any] = {
        "nodes": args.nodes,
        **given_credentials(args),
        "namespace": getattr(args, "namespace", None),
        "drop_generation": getattr(args, "drop_generation", None),
        "timeout_ms": args.timeout_ms,
    }
    settings = load_settings(given, config=args.config)
    nodes = list(require_nodes(settings))
    client = Client(
        nodes,
        name="memkv-cli",
        timeout_ms=settings.timeout_ms,
        **credentials_of(settings),
    )
    try:
        yield Pool(client, settings, args)
    finally:
        client.close()


def why_unreachable(client: Client) -> str:
    """The last sentences of nodes that cannot be reached."""
    sentences = [str(row["last_error"]) for row in client.health() if row["last_error"]]
    return "; ".join(sentences) or "no node answered in time"
