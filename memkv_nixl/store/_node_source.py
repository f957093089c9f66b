"""Where a node's /metrics comes from, and who serves it where there is no agent.

    memkvd (the process that `memkv node serve` was)      its agent, where there is one
       └── a process of its own, NodeSource, HTTP            └── NodeSource, HTTP in its event loop

Either asks memkvd with STAT, like any client. What serves the page may die and memkvd does not
notice; when memkvd ends, the process beside it does, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from memkv_nixl._config import NodeSettings
from memkv_nixl._daemon import end_with_parent
from memkv_nixl._errors import MemKVError
from memkv_nixl._metrics_http import MetricsServer, listen
from memkv_nixl._stat import parse_stats
from memkv_nixl.store._node_metrics import AgentNumbers, Stats, node_page
from memkv_nixl.store._own_client import own_data_tls
from memkv_nixl.store._wear import Wear, read_wear

_log = logging.getLogger(__name__)
_STAT_TIMEOUT_MS = 1000
_WEAR_EVERY_S = 60.0


class NodeSource:
    """A node's page. `ask` asks memkvd for STAT and raises MemKVError when it does not answer."""

    def __init__(
        self,
        device: str,
        ask: Callable[[], Awaitable[Stats]],
        agent: Callable[[], AgentNumbers] | None = None,
    ) -> None:
        self._device = device
        self._ask = ask
        self._agent = agent
        self._wear: Wear | None = None
        self._wear_read = -_WEAR_EVERY_S

    async def page(self) -> str:
        """/metrics."""
        stats: Stats | None = None
        with contextlib.suppress(MemKVError):  # the page says so
            stats = await self._ask()
        agent = self._agent() if self._agent is not None else None
        return node_page(stats, await self._worn(), agent)

    async def trouble(self) -> str:
        """/healthz."""
        await self._ask()
        return ""

    async def _worn(self) -> Wear | None:
        now = time.monotonic()
        if now - self._wear_read >= _WEAR_EVERY_S:
            self._wear_read = now
            self._wear = await asyncio.to_thread(read_wear, self._device)
        return self._wear


def serve_beside(settings: NodeSettings, ready: Callable[[dict[str, Any]], None]) -> list[str]:
    """Starts the process that serves /metrics of the memkvd which this process is about to become.

    Gives the flags by which memkvd tells that process that it serves. `ready` is called in that
    process then, with what memkvd said and the address of /metrics.
    """
    assert settings.metrics is not None
    assert settings.device is not None
    end_with_us = end_with_parent()
    with listen(settings.metrics, "node.metrics") as listening:
        heard, told = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        if os.fork() == 0:
            status = 1
            try:
                end_with_us()
                os.close(told)
                for number in (signal.SIGINT, signal.SIGHUP):
                    signal.signal(number, signal.SIG_IGN)  # for memkvd; its end is ours
                asyncio.run(_serve_page(listening, heard, settings, ready))
                status = 0
            except Exception as error:  # noqa: BLE001 - it is said, and memkvd serves on
                _log.exception("/metrics is not served: %s", error)
            finally:
                os._exit(status)
        os.close(heard)
    os.set_inheritable(told, True)
    return ["--ready-fd", str(told)]


async def _serve_page(
    listening: socket.socket,
    heard: int,
    settings: NodeSettings,
    ready: Callable[[dict[str, Any]], None],
) -> None:
    with os.fdopen(heard, encoding="utf-8") as lines:
        line = lines.readline()  # there is nothing else to do meanwhile
    if not line:
        return  # memkvd did not start, and says why itself
    from memkv_nixl._native import Client

    said = json.loads(line)
    address = str(said["address"])
    client = Client(
        [address],
        name="memkv-metrics",
        timeout_ms=_STAT_TIMEOUT_MS,
        follow=False,
        **own_data_tls(settings, address),
    )

    async def ask() -> Stats:
        return parse_stats(await asyncio.to_thread(client.stat, 0, _STAT_TIMEOUT_MS))

    source = NodeSource(str(settings.device), ask)
    server = MetricsServer(listening, source.page, source.trouble)
    ready({**said, "metrics": await server.start()})
    await asyncio.Event().wait()
