"""TransferAgent: blocks by key, through NIXL."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from memkv_nixl._buffers import Extent, extent_of
from memkv_nixl._config import credentials_of, load_settings, require_nodes
from memkv_nixl._errors import UsageError
from memkv_nixl._namespace import Namespace
from memkv_nixl._nixl import announce, load_nixl, plugin_path
from memkv_nixl._port import Item, Operation, Port, Posted
from memkv_nixl._record import parameter_of, record_of
from memkv_nixl._status import Match, Status
from memkv_nixl.agent._arguments import Key, groups_of, keys_of, need_as_many, numbers_of
from memkv_nixl.agent._transfer import Transfer

_GRACE_S = 10.0  # past the plugin's own deadline before a transfer is given up
_names = itertools.count(1)


class TransferAgent:
    """Puts and gets blocks by key, through NIXL and the MEMKV plugin.

        with TransferAgent(nodes=["10.0.0.7:9900"], namespace="llama-70b") as agent:
            agent.put([b"key"], [array], group=b"prefix")
            statuses = agent.get([b"key"], [target], group=b"prefix")

    Every block has a status of its own; a missing or failed block never disturbs the others, and
    what is not `good` was not delivered. A block's bytes are those of a numpy array, a torch tensor
    on the CPU, or any contiguous buffer; they are moved from and to where they lie.

    Blocks of one `group` lie on one node: name the same group in put, get and match. Without one,
    each key is its own group. `put`, `get`, `match` and `longest_prefix` wait; `aput`, `aget`,
    `amatch` and `alongest_prefix` are awaited; `begin_put` and `begin_get` give a Transfer.

    Safe from several threads. After a fork the child needs an agent of its own.
    """

    def __init__(
        self,
        nodes: Sequence[str] | str | None = None,
        namespace: Namespace | str | None = None,
        *,
        timeout_ms: int | None = None,
        query_timeout_ms: int | None = None,
        token_file: str | None = None,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        tls_server_name: str | None = None,
        drop_generation: int | None = None,
        name: str | None = None,
    ) -> None:
        """Registers the plugin with NIXL and makes an agent; nodes are connected as needed.

        What is left out comes from the configuration (the file that MEMKV_CONFIG names, MEMKV_NODES
        and so on). `drop_generation` is the namespace's, where `memkv namespaces drop` ended those
        before: blocks are put under that one and found under no other. `timeout_ms` is the deadline
        of a put or get, `query_timeout_ms` of a match. `name` is what NIXL and the nodes' logs know
        it by.

        Raises ConfigError, and NixlError where NIXL is missing or does not take the plugin.
        """
        said = namespace if isinstance(namespace, str) else None
        settings = load_settings(
            {
                "nodes": nodes,
                "namespace": said,
                "timeout_ms": timeout_ms,
                "query_timeout_ms": query_timeout_ms,
                "token_file": token_file,
                "tls_ca": tls_ca,
                "tls_cert": tls_cert,
                "tls_key": tls_key,
                "tls_server_name": tls_server_name,
                "drop_generation": drop_generation,
            }
        )
        self._nodes = require_nodes(settings)
        self._namespace = namespace if isinstance(namespace, Namespace) else settings.namespace
        self._timeout_s = settings.timeout_ms / 1000
        parameters = {
            "nodes": ",".join(self._nodes),
            "namespace": parameter_of(self._namespace),
            "key_dialect": "full",
            "drop_generation": str(settings.drop_generation),
            "timeout_ms": str(settings.timeout_ms),
        }
        if settings.query_timeout_ms is not None:
            parameters["query_timeout_ms"] = str(settings.query_timeout_ms)
        parameters |= credentials_of(settings)
        self._name = name or f"memkv-{os.getpid()}-{next(_names)}"
        nixl = load_nixl()
        announce(nixl, plugin_path())
        self._port = Port(nixl, self._name, parameters)

    @property
    def nodes(self) -> tuple[str, ...]:
        """The store nodes it was given."""
        return self._nodes

    @property
    def namespace(self) -> Namespace | str:
        """The namespace of its blocks."""
        return self._namespace

    @property
    def name(self) -> str:
        """Its name among NIXL's agents."""
        return self._name

    def put(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        depth: int | Sequence[int] = 0,
        recompute_cost_us: int | Sequence[int] = 0,
    ) -> list[Status]:
        """Puts whole blocks and waits: a status per key; OK and EXISTS are `good`.

        `group` is one for all or one per key. `depth` is a block's place in its prefix chain (among
        blocks of equal age the deeper is evicted first) and `recompute_cost_us` what a hit saves;
        again one for all, or one per key. When it raises (Ctrl-C), the transfer is over.
        """
        return self._wait("WRITE", _put_items(keys, buffers, group, depth, recompute_cost_us))

    async def aput(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        depth: int | Sequence[int] = 0,
        recompute_cost_us: int | Sequence[int] = 0,
    ) -> list[Status]:
        """`put`, awaited. Cancelling the task cancels the transfer."""
        items = _put_items(keys, buffers, group, depth, recompute_cost_us)
        return await self._await("WRITE", items)

    def begin_put(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        depth: int | Sequence[int] = 0,
        recompute_cost_us: int | Sequence[int] = 0,
    ) -> Transfer:
        """`put` without waiting. The buffers must stay as they are until the transfer is over."""
        return self._begin("WRITE", _put_items(keys, buffers, group, depth, recompute_cost_us))

    def get(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        offset: int | Sequence[int] = 0,
    ) -> list[Status]:
        """Fills buffers with blocks and waits: a status per key.

        A buffer that is shorter than its block gets that much of it, from `offset` on. Only a
        buffer whose status is OK may be used; every byte of it was checked against the writer's
        checksums. What the others hold is unspecified. When it raises (Ctrl-C), the transfer
        is over and the buffers are the caller's.
        """
        return self._wait("READ", _get_items(keys, buffers, group, offset))

    async def aget(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        offset: int | Sequence[int] = 0,
    ) -> list[Status]:
        """`get`, awaited. Cancelling the task cancels the transfer."""
        return await self._await("READ", _get_items(keys, buffers, group, offset))

    def begin_get(
        self,
        keys: Sequence[Key],
        buffers: Sequence[Any],
        *,
        group: Key | Sequence[Key] | None = None,
        offset: int | Sequence[int] = 0,
    ) -> Transfer:
        """`get` without waiting. The buffers belong to the transfer until it is over."""
        return self._begin("READ", _get_items(keys, buffers, group, offset))

    def match(
        self, keys: Sequence[Key], *, group: Key | Sequence[Key] | None = None
    ) -> list[Match]:
        """Which blocks are there, and how long they are; waits at most `query_timeout_ms`.

        An answer, not a promise: a block may be evicted before it is fetched. A node that does not
        answer counts as not having them.
        """
        names = keys_of(keys)
        groups = groups_of(group, len(names))
        records = [record_of(name, its) for name, its in zip(names, groups, strict=True)]
        return [_match_of(answer) for answer in self._port.query(records)] if records else []

    async def amatch(
        self, keys: Sequence[Key], *, group: Key | Sequence[Key] | None = None
    ) -> list[Match]:
        """`match`, awaited; a thread waits for it."""
        return await asyncio.to_thread(self.match, keys, group=group)

    def longest_prefix(
        self, keys: Sequence[Key], *, group: Key | Sequence[Key] | None = None
    ) -> int:
        """How many of the keys, counted from the first, are there without a hole."""
        matches = self.match(keys, group=group)
        return next((i for i, match in enumerate(matches) if not match.found), len(matches))

    async def alongest_prefix(
        self, keys: Sequence[Key], *, group: Key | Sequence[Key] | None = None
    ) -> int:
        """`longest_prefix`, awaited; a thread waits for it."""
        return await asyncio.to_thread(self.longest_prefix, keys, group=group)

    def register_memory(self, *buffers: Any) -> None:
        """Registers memory once, for many puts and gets of anything that lies inside it.

        Without it each transfer registers its own buffers, which costs a few microseconds a buffer.
        """
        self._port.keep_memory(_extents(buffers))

    def deregister_memory(self, *buffers: Any) -> None:
        """Undoes `register_memory` of the very same buffers; before they are freed."""
        if not self._port.forget_memory(_extents(buffers)):
            raise UsageError("deregister_memory: one of these buffers was never registered")

    def close(self) -> None:
        """Cancels what is under way and lets go of NIXL. A second call does nothing."""
        self._port.close()

    def __enter__(self) -> TransferAgent:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> TransferAgent:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        nodes = ",".join(self._nodes)
        state = ", closed" if self._port.closed else ""
        return f"<TransferAgent {self._name}: {self._namespace} on {nodes}{state}>"

    # The next two end a transfer whatever breaks into them, and hold it where they can: while a
    # traceback keeps the frames of a call alive, a transfer that was only dropped would go on.

    def _wait(self, operation: Operation, items: list[Item]) -> list[Status]:
        transfer: Transfer | None = None
        try:
            transfer = self._begin(operation, items)
            return transfer.wait()
        except BaseException:
            if transfer is not None:
                transfer.surely_cancel()
            raise

    async def _await(self, operation: Operation, items: list[Item]) -> list[Status]:
        transfer: Transfer | None = None
        try:
            transfer = self._begin(operation, items)
            return await transfer
        except BaseException:
            if transfer is not None:
                transfer.surely_cancel()
            raise

    def _begin(self, operation: Operation, items: list[Item]) -> Transfer:
        posted: Posted | None = None
        try:
            posted = self._port.post(operation, items) if items else None
            return Transfer(self._port, posted, len(items), self._timeout_s + _GRACE_S)
        except BaseException:  # of a signal handler, say
            if posted is not None:
                self._port.let_go(posted)
            raise


def _put_items(
    keys: Sequence[Key],
    buffers: Sequence[Any],
    group: Key | Sequence[Key] | None,
    depth: int | Sequence[int],
    recompute_cost_us: int | Sequence[int],
) -> list[Item]:
    names = keys_of(keys)
    count = len(names)
    need_as_many(buffers, count)
    groups = groups_of(group, count)
    depths = numbers_of(depth, count, "depth")
    costs = numbers_of(recompute_cost_us, count, "recompute_cost_us")
    return [
        Item(
            record_of(names[i], groups[i], depths[i], costs[i]),
            extent_of(buffers[i], writable=False, what=f"buffers[{i}]"),
        )
        for i in range(count)
    ]


def _get_items(
    keys: Sequence[Key],
    buffers: Sequence[Any],
    group: Key | Sequence[Key] | None,
    offset: int | Sequence[int],
) -> list[Item]:
    names = keys_of(keys)
    count = len(names)
    need_as_many(buffers, count)
    groups = groups_of(group, count)
    offsets = numbers_of(offset, count, "offset")
    return [
        Item(
            record_of(names[i], groups[i]),
            extent_of(buffers[i], writable=True, what=f"buffers[{i}]"),
            offsets[i],
        )
        for i in range(count)
    ]


def _extents(buffers: Sequence[Any]) -> list[Extent]:
    return [
        extent_of(buffer, writable=False, what=f"buffers[{i}]") for i, buffer in enumerate(buffers)
    ]


def _match_of(answer: dict[str, str] | None) -> Match:
    return Match(False) if answer is None else Match(True, int(answer.get("size", "0")))
