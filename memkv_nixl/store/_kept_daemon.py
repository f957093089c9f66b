"""memkvd under an agent that may die: started or adopted, watched, stopped.

The agent folder holds `agent.lock` (one agent at a time), `memkvd.log`, and `memkvd.json`, which
remembers the daemon: its process, its flags, its address. memkvd is in a session of its own and
logs to a file, so nothing of it hangs on the agent; an agent that comes later finds it by
`memkvd.json` and goes on with it. Blocking: call start and stop from a thread. start() waits as
long as memkvd takes to recover its device; give_up() and stop() end that.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from memkv_nixl._config import NodeSettings
from memkv_nixl._daemon import STOP_DEADLINE_S, MemkvdProcess, memkvd_flags
from memkv_nixl._errors import ConfigError, RefusedError, UnreachableError

_log = logging.getLogger(__name__)
_STATE_AT, _TICKS_AT = 0, 19  # fields of /proc/PID/stat behind the name


@dataclass(frozen=True)
class Running:
    """A memkvd that runs; `ended` is readable when it does not any more."""

    pid: int
    address: str
    ended: int
    adopted: bool


class KeptDaemon:
    """The memkvd of one agent folder."""

    def __init__(self, settings: NodeSettings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._process: MemkvdProcess | None = None  # None: it is not our child
        self._turn = threading.Lock()  # of whoever starts it or stops it
        self.running: Running | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder / "agent.lock")
            self._given_up = os.eventfd(0)
        except OSError as error:
            raise ConfigError(
                f"node.agent_dir: {folder}: the agent cannot keep its files there: {error.strerror}"
            ) from error

    def start(self) -> Running:
        """Goes on with the memkvd that runs, when it runs with these flags; else starts one."""
        with self._turn:
            return self._start()

    def give_up(self) -> None:
        """Ends a memkvd that does not serve yet, and lets none be started any more. Thread: any."""
        os.eventfd_write(self._given_up, 1)

    def _start(self) -> Running:
        self.forget()
        former = _former(self._folder)
        if former is not None:
            pid, record, ended = former
            if record.get("flags") == memkvd_flags(self._settings) and record.get("address"):
                self.running = Running(pid, str(record["address"]), ended, adopted=True)
                return self.running
            _log.info("memkvd (process %d) runs with other settings and is started anew", pid)
            _stop(pid, ended)
            os.close(ended)
        return self._start_anew()

    def stop(self) -> None:
        """Stops it in order, and kills it at the deadline; for good."""
        self.give_up()
        with self._turn:
            if self.running is not None:
                _stop(self.running.pid, self.running.ended)
            if self._process is not None:
                self._process.wait_stopped()
            self.forget()

    def read_map(self) -> None:
        """Has it read its map file, if it runs; one that starts reads it by itself."""
        if self.running is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.running.ended, signal.SIGHUP)

    def forget(self) -> None:
        """Lets go of one that ended, or that shall run on."""
        if self._process is not None:
            self._process.exit_status()  # nothing is left of one that ended
        self._process = None
        if self.running is not None:
            os.close(self.running.ended)
            self.running = None

    def close(self) -> None:
        """Lets another agent have the folder. A memkvd that serves goes on."""
        self.give_up()
        with self._turn:
            self.forget()
            self._lock.close()
            os.close(self._given_up)

    def last_words(self) -> str:
        """What a memkvd that we started and that ended said."""
        return self._process.last_words() if self._process is not None else ""

    def _start_anew(self) -> Running:
        process = MemkvdProcess(self._settings, self._folder / "memkvd.log")
        process.launch()
        try:
            pid = process.pid
            if pid is not None:
                self._remember(pid, "")  # an agent that finds no address starts another one
            address = process.wait_ready(give_up=self._given_up)
            pid = process.pid or 0
            ended = os.pidfd_open(pid)
            self._remember(pid, address)
        except BaseException:
            process.kill()
            raise
        self._process = process
        self.running = Running(pid, address, ended, adopted=False)
        return self.running

    def _remember(self, pid: int, address: str) -> None:
        record = {
            "pid": pid,
            "ticks": _start_ticks(pid),
            "address": address,
            "flags": memkvd_flags(self._settings),
        }
        path = self._folder / "memkvd.json"
        fresh = path.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(record) + "\n", encoding="utf-8")
            fresh.replace(path)
        except OSError as error:
            raise UnreachableError(
                f"memkvd cannot be kept: {fresh} cannot be written: {error.strerror}. Make room "
                "there, or give it to this user"
            ) from error


def stop_left_behind(folder: Path) -> None:
    """Stops the memkvd that an agent of this folder left behind, if there is one."""
    former = _former(folder)
    if former is not None:
        pid, _, ended = former
        _stop(pid, ended)
        os.close(ended)


def _former(folder: Path) -> tuple[int, dict[str, Any], int] | None:
    """The process that the folder's record names, when it is that one still."""
    try:
        record = json.loads((folder / "memkvd.json").read_text(encoding="utf-8"))
        pid = int(record["pid"])
        ended = os.pidfd_open(pid)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # Looked at behind the pidfd: from now on the number cannot come to mean another process.
    if _start_ticks(pid) == record.get("ticks") and _runs(pid):
        return pid, record, ended
    os.close(ended)
    return None


def _locked(path: Path) -> IO[str]:
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(path.open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RefusedError(
                f"node.agent_dir: another agent works in {path.parent}; stop it, or name another "
                "folder with --agent-dir"
            ) from None
        stack.pop_all()
        return lock


def _fields(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def _start_ticks(pid: int) -> int | None:
    """When the process started; with its number that names it for good."""
    fields = _fields(pid)
    return int(fields[_TICKS_AT]) if fields else None


def _runs(pid: int) -> bool:
    fields = _fields(pid)
    return bool(fields) and fields[_STATE_AT] not in ("Z", "X")


def _stop(pid: int, ended: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(ended, signal.SIGTERM)
        if select.select([ended], [], [], STOP_DEADLINE_S)[0]:
            return
        _log.warning("memkvd (process %d) does not stop and is killed", pid)
        signal.pidfd_send_signal(ended, signal.SIGKILL)
        select.select([ended], [], [], STOP_DEADLINE_S)
