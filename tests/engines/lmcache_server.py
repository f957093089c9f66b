"""Server: an LMCache server in a process of its own, started as `memkv config lmcache` says."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Any

from memkv_nixl.cli._config_lmcache import server_flags
from tests.engines import venvs
from tests.engines.engine import PATIENT

NAME = "lmcache-0.5.6"
CHUNK = 256
_START_S = 120.0
_PAUSE_S = 0.2
_TAIL = 6000
_L1_BYTES = 512 << 20
_METRIC = re.compile(r"^([a-z0-9_]+)(?:\{[^}]*\})? ([-0-9.e+]+)$", re.MULTILINE)


class Server:
    """An LMCache server with the adapter on `nodes`; use it in a `with`."""

    def __init__(self, nodes: list[str], folder: Path, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "server.log"
        self.port, self._http = free_port(), free_port()
        waits = {name: PATIENT[name] for name in ("lookup_timeout_ms", "fetch_deadline_ms")}
        said = {"nodes": ",".join(nodes), **waits, **settings}
        self._command = [
            str(venvs.python_of(NAME)),
            "-m",
            "lmcache.cli.main",
            "server",
            *server_flags(said, _L1_BYTES, self.port, CHUNK),
            "--http-port",
            str(self._http),
        ]
        self._environment = {
            **os.environ,
            "PYTHONPATH": str(venvs.ROOT),
            "HOME": str(folder),
            "LMCACHE_TRACK_USAGE": "false",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=venvs.ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + _START_S
        while not self.answers():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_PAUSE_S)
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the server does not start:\n{self.log[-_TAIL:]}")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM if kind is None else signal.SIGKILL)
        try:
            self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            if kind is None:
                raise AssertionError(f"the server does not end:\n{self.log[-_TAIL:]}") from None

    @property
    def log(self) -> str:
        """All that the server wrote."""
        return self._log.read_text(errors="replace")

    def answers(self) -> bool:
        try:
            return bool(self.get("healthcheck", timeout_s=1.0))
        except (urllib.error.URLError, OSError):
            return False

    def get(self, path: str, timeout_s: float = 10.0) -> str:
        url = f"http://127.0.0.1:{self._http}/{path}"
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            text: str = answer.read().decode()
        return text

    def clear_l1(self) -> None:
        """Empties the server's own memory."""
        url = f"http://127.0.0.1:{self._http}/cache/clear"
        urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10.0).close()

    def metrics(self) -> dict[str, float]:
        """LMCache's own metrics, by name, summed over their labels."""
        found: dict[str, float] = {}
        for name, value in _METRIC.findall(self.get("metrics")):
            found[name] = found.get(name, 0.0) + float(value)
        return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
    return port
