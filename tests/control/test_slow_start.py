"""A memkvd that takes long until it serves: it is waited for, and that is said and can be ended.

It is the real one behind a script that stops itself until the test lets it go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from memkv_nixl import _daemon
from memkv_nixl._config import NodeSettings
from memkv_nixl._errors import UnreachableError
from memkv_nixl._native import Client
from memkv_nixl.store._kept_daemon import KeptDaemon
from memkv_nixl.store._node_agent import NodeAgent
from tests.integration.nodes import DEADLINE_S

LINES = 4  # that say that it does not serve yet


class Waits(logging.Handler):
    """Hears the lines that say that it does not serve yet."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []
        self.often = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if "does not serve yet" in record.getMessage():
            self.said.append(record.getMessage())
        if len(self.said) >= LINES:
            self.often.set()


@pytest.fixture
def waits() -> Iterator[Waits]:
    heard, log = Waits(), logging.getLogger("memkv_nixl")
    before = log.level
    log.addHandler(heard)
    log.setLevel(logging.INFO)
    yield heard
    log.removeHandler(heard)
    log.setLevel(before)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeSettings:
    """Of a memkvd that stops itself before it begins."""
    script = tmp_path / "memkvd"
    script.write_text(
        "#!/bin/sh\necho comes to a stop >&2\nkill -STOP $$\n"
        f'exec "{_daemon.memkvd_path()}" "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)
    monkeypatch.setattr(_daemon, "memkvd_path", lambda: script)
    monkeypatch.setattr(_daemon, "_TELL_S", 0.05)
    # What others are given; a memkvd that was given it would be killed long before it may go on.
    monkeypatch.setattr(_daemon.ServedProcess, "start_deadline_s", 0.05)
    return NodeSettings(
        device=str(tmp_path / "blocks"),
        capacity=1 << 30,
        dram=256 << 20,
        listen="127.0.0.1:0",
        agent_dir=str(tmp_path / "agent"),
        control="127.0.0.1:1",  # nobody listens there
    )


def process(settings: NodeSettings) -> int:
    record = json.loads((Path(settings.agent_dir) / "memkvd.json").read_text(encoding="utf-8"))
    return int(record["pid"])


def test_it_is_waited_for_as_long_as_it_lives(settings: NodeSettings, waits: Waits) -> None:
    daemon = KeptDaemon(settings, Path(settings.agent_dir))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(daemon.start)
        try:
            while not waits.often.wait(0.1):
                assert not starting.done(), starting.exception()
            os.kill(process(settings), signal.SIGCONT)
            running = starting.result(DEADLINE_S)
            client = Client([running.address])
            assert "software memkvd" in client.stat(0, DEADLINE_S * 1000)
            client.close()
        finally:
            daemon.stop()
            daemon.close()
    assert any(line.endswith("its log says: comes to a stop") for line in waits.said)


def test_one_that_dies_meanwhile_is_not_waited_for(settings: NodeSettings, waits: Waits) -> None:
    daemon = KeptDaemon(settings, Path(settings.agent_dir))
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(daemon.start)
        assert waits.often.wait(DEADLINE_S)
        os.kill(process(settings), signal.SIGKILL)
        with pytest.raises(UnreachableError, match="did not start: comes to a stop"):
            starting.result(DEADLINE_S)
    daemon.close()


def test_an_agent_that_is_to_stop_does_not_wait(settings: NodeSettings, waits: Waits) -> None:
    served = []

    async def story() -> None:
        agent, stop = NodeAgent(settings), asyncio.Event()
        run = asyncio.create_task(agent.run(stop, lambda running, _: served.append(running)))
        try:
            assert await asyncio.to_thread(waits.often.wait, DEADLINE_S)
            stop.set()
            await asyncio.wait_for(run, DEADLINE_S)
        finally:
            agent.close()

    asyncio.run(story())
    assert not served
    with contextlib.suppress(ProcessLookupError):
        os.kill(process(settings), 0)
        pytest.fail("it was left behind")
