"""What systemd is to the processes of a pool: one that was killed is started again, no more.

Whether and how long after is read from the units in deploy/systemd, so that a pool that needs more
than they give does not pass.
"""

from __future__ import annotations

import configparser
import signal
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_UNITS = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
_DEADLINE_S = 30


@dataclass(frozen=True)
class Policy:
    """What a unit says of restarts."""

    restart: str
    after_s: float
    prevented: tuple[int, ...] = ()  # by these exit codes

    def wants(self, status: int) -> bool:
        """Whether one that ended so is started again; negative: by that signal."""
        return (self.restart == "always" or status != 0) and status not in self.prevented


def policy_of(unit: str) -> Policy:
    """That of a unit in deploy/systemd."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    assert parser.read(_UNITS / unit), f"there is no {unit}"
    service = parser["Service"]
    assert service["Restart"] in ("always", "on-failure"), service["Restart"]
    prevented = tuple(map(int, service.get("RestartPreventExitStatus", "").split()))
    return Policy(service["Restart"], float(service["RestartSec"]), prevented)


class Kept:
    """A process that is kept running from now on."""

    def __init__(self, what: str, command: list[str], log: Path, policy: Policy) -> None:
        self.what = what
        self._command, self._log, self._policy = command, log, policy
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._runs = False
        self.starts = 0
        self.started_at = 0.0
        self.over = ""  # why it is not started again
        self._thread = threading.Thread(target=self._keep, name=f"keeps {what}", daemon=True)
        self._thread.start()
        self.wait_started(1)

    @property
    def pid(self) -> int:
        """Of the one that was started last."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> int | None:
        """kill -9, and waits until it is gone; gives the number of starts that there will be when
        it is back, or None when it did not run."""
        with self._changed:
            if self._process is None or not self._runs:
                return None
            starts = self.starts + 1
            self._process.send_signal(signal.SIGKILL)
            gone = self._changed.wait_for(lambda: not self._runs, _DEADLINE_S)
        assert gone, f"{self.what} survived kill -9"
        return starts

    def wait_started(self, starts: int) -> None:
        """Until it was started so often."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.starts >= starts or self.over, _DEADLINE_S)
        assert came, f"{self.what} was not started again in {_DEADLINE_S} s"
        assert not self.over, f"{self.what} is not started again: {self.over}"

    def stop(self) -> None:
        """kill -9, for good."""
        self._stopping.set()
        with self._changed:
            if self._process is not None:
                self._process.send_signal(signal.SIGKILL)
        self._thread.join(_DEADLINE_S)

    def last_words(self, count: int = 12) -> str:
        """The end of its log."""
        lines = self._log.read_text("utf-8", "replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-count:])

    def _keep(self) -> None:
        while not self._stopping.is_set():
            with self._log.open("ab") as log:
                process = subprocess.Popen(
                    self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            with self._changed:
                self._process, self._runs = process, True
                self.starts += 1
                self.started_at = time.monotonic()
                self._changed.notify_all()
            status = process.wait()
            with self._changed:
                self._runs = False
                self._changed.notify_all()
            if not self._policy.wants(status) and not self._stopping.is_set():
                with self._changed:
                    self.over = f"it ended with {status}, which is no reason for its unit to"
                    self._changed.notify_all()
                return
            self._stopping.wait(self._policy.after_s)
