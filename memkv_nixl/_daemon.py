"""Processes that serve: memkvd, its flags and where it is, and others that say when they serve.

`MemkvdProcess` starts the daemon, waits until it serves, and ends it; `memkv node serve` (which
becomes the daemon) and `memkv_nixl.store` (which watches several) both build on this module.
"""

from __future__ import annotations

import abc
import ctypes
import dataclasses
import json
import logging
import math
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from memkv_nixl._config import NodeSettings
from memkv_nixl._errors import InternalError, UnreachableError

START_DEADLINE_S = 60.0  # of whoever says that it serves; memkvd has none
_TELL_S = 10.0  # between two lines about one that does not serve yet
STOP_DEADLINE_S = 20.0  # memkvd itself gives requests under way 5 s, then flushes its index
_LAST_WORDS = 5  # lines of its log that are worth repeating
_PR_SET_PDEATHSIG = 1

_log = logging.getLogger(__name__)


def memkvd_path() -> Path:
    """The daemon that belongs to this package."""
    path = Path(__file__).resolve().parent / "_bin" / "memkvd"
    if not os.access(path, os.X_OK):
        raise InternalError(
            f"{path} is missing: in a checkout run ./dev build, else install memkv-nixl again"
        )
    return path


def memkvd_flags(settings: NodeSettings) -> list[str]:
    """The daemon's flags for these settings."""
    flags: list[str] = []
    for field in dataclasses.fields(settings):
        if field.metadata.get("agent"):
            continue
        value = getattr(settings, field.name)
        name = f"--{field.metadata.get('flag', field.name.replace('_', '-'))}"
        if value is True:
            flags.append(name)
        elif value is not None and value is not False:
            flags += [name, str(value)]
    return flags


class ServedProcess(abc.ABC):
    """A process that writes one line of JSON with its address when it serves. `what` names it.

    Its log goes to `log`, which is appended to. With `die_with_parent` the kernel stops it when the
    thread that started it ends, however that happens: for a main thread that would otherwise leave
    it behind after a kill -9.
    """

    start_deadline_s: float | None = START_DEADLINE_S  # None: as long as it lives

    def __init__(self, what: str, address: str, log: Path, *, die_with_parent: bool) -> None:
        self.what = what
        self.address = address
        self.log = log
        self._die_with_parent = die_with_parent
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0
        self._ready: int | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it was not seen to end."""
        return self._process.pid if self._process is not None and self.running else None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> str:
        """Starts it, waits until it serves and gives the address it serves on."""
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Starts it and comes back at once; `wait_ready` has to follow. Raises UnreachableError."""
        ready, told = os.pipe()
        try:
            command, says_on_stdout = self._command(told)
            with self._open_log() as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=told if says_on_stdout else log,
                    stderr=log,
                    pass_fds=(told,),
                    # A Ctrl-C in the terminal is for whoever started it; who then stops it.
                    start_new_session=True,
                    preexec_fn=end_with_parent() if self._die_with_parent else None,  # noqa: PLW1509
                )
        except OSError as error:
            os.close(ready)
            raise UnreachableError(f"{self.what} did not start: {error}") from error
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(told)
        self._ready = ready

    def _open_log(self) -> BinaryIO:
        try:
            log = self.log.open("ab")
        except OSError as error:
            raise UnreachableError(
                f"{self.what} did not start: its log {self.log} cannot be written: "
                f"{error.strerror}. Make room there, or give it to this user"
            ) from error
        self._log_start = os.fstat(log.fileno()).st_size  # of a pipe, too
        return log

    @abc.abstractmethod
    def _command(self, told: int, /) -> tuple[list[str], bool]:
        """What is started, and whether it says on its standard output that it serves; else it says
        so on the descriptor `told`, or not at all."""

    def wait_ready(self, *, give_up: int | None = None) -> str:
        """Waits until it serves, and says in the log that it waits: as long as it lives, at most
        `start_deadline_s`, and until the descriptor `give_up` can be read.

        One that does not come to serve is ended, and its last words are the error.
        """
        assert self._ready is not None, "launch() first"
        ready, self._ready = self._ready, None
        try:
            line, why = self._hear(ready, give_up)
        finally:
            os.close(ready)
        if not line.endswith(b"\n"):
            words = "" if not why and self._ended_within(2.0) else why or "it hung up"
            self.kill()
            said = "; ".join(filter(None, [words, self.last_words()]))
            raise UnreachableError(f"{self.what} did not start: {said}")
        document = json.loads(line)
        if "error" in document:
            self.kill()
            raise UnreachableError(f"{self.what} did not start: {document['error']['message']}")
        self.address = str(document["address"])
        return self.address

    def _hear(self, ready: int, give_up: int | None) -> tuple[bytes, str]:
        """The line that it serves; where it is not whole, why nobody waits for the rest: "" when
        it let go of the descriptor."""
        began = time.monotonic()
        limit = math.inf if self.start_deadline_s is None else self.start_deadline_s
        line, told = b"", 0.0
        while not line.endswith(b"\n"):
            waited = time.monotonic() - began
            if waited >= limit:
                return line, f"no answer within {limit:g} s"
            if waited >= told + _TELL_S:
                told = waited
                _log.info(
                    "%s does not serve yet, after %.0f s; its log says: %s",
                    self.what,
                    waited,
                    self.last_words(lines=1) or "nothing",
                )
            watched = [ready] if give_up is None else [ready, give_up]
            readable, _, _ = select.select(watched, [], [], min(limit, told + _TELL_S) - waited)
            if give_up in readable:
                return line, "it was given up, for whoever started it stops"
            if ready in readable:
                part = os.read(ready, 4096)
                if not part:
                    break
                line += part
        return line, ""

    def stop(self, *, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Asks it to stop and waits; one that does not is killed. Gives its exit status."""
        self.ask_to_stop()
        return self.wait_stopped(deadline_s=deadline_s)

    def ask_to_stop(self) -> None:
        """SIGTERM, to one that runs."""
        if self._process is not None and self.running:
            self._process.send_signal(signal.SIGTERM)

    def wait_stopped(self, *, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Waits until it has ended; kills it at the deadline. Gives its exit status."""
        self._forget_ready()
        if self._process is None:
            return 0
        if not self._ended_within(deadline_s):
            self._process.kill()
        return self._process.wait()

    def kill(self) -> None:
        """kill -9, and waits until it is gone."""
        self._forget_ready()
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def exit_status(self) -> int | None:
        """Its exit status (negative: the signal), None while it runs or was never started."""
        return self._process.poll() if self._process is not None else None

    def end_in_words(self) -> str:
        """How one that has ended did so, with its last words."""
        status = self.exit_status()
        how = f"exit status {status}"
        if status is not None and status < 0:
            how = f"killed by {signal.Signals(-status).name}"
        words = self.last_words() or "nothing"
        return f"{self.what} ({self.address}) ended: {how}; its log says: {words}"

    def last_words(self, *, lines: int = _LAST_WORDS) -> str:
        """The last lines of its log since it was started."""
        try:
            with self.log.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - 8192))
                said = log.read().decode(errors="replace").splitlines()
        except OSError:
            return ""
        return " | ".join(line.strip() for line in said[-lines:] if line.strip())

    def _forget_ready(self) -> None:
        """Of one that is ended before anybody waited for it to serve."""
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None

    def _ended_within(self, seconds: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(timeout=max(0.0, seconds))
        except subprocess.TimeoutExpired:
            return False
        return True


class MemkvdProcess(ServedProcess):
    """One memkvd."""

    # To touch much memory and to recover a large device takes its time, and what cannot go on ends.
    start_deadline_s = None

    def __init__(self, settings: NodeSettings, log: Path, *, die_with_parent: bool = False) -> None:
        what = f"memkvd on {settings.device}"
        super().__init__(what, settings.listen, log, die_with_parent=die_with_parent)
        self.settings = settings

    def _command(self, told: int) -> tuple[list[str], bool]:
        return [
            str(memkvd_path()),
            *memkvd_flags(self.settings),
            "--ready-fd",
            str(told),
        ], False


def end_with_parent() -> Callable[[], None]:
    """What a child calls first so that the kernel ends it when this process ends."""
    # Everything is looked up before the fork; the child itself only makes two system calls.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before we asked to be told
            os._exit(1)

    return prepare
