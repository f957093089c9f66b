"""A whole pool on this machine, for `memkv up --control-replicas`: etcd, a control plane of one
process or several replicas, and nodes with their agents.

    etcd ◀── control 0 … N-1 ◀── agent of node 0 … ──▶ memkvd of node 0 …

Each is a process of its own, as on machines of their own. The folder holds `etcd` or, with one
control process, `control`; per node i `node<i>.dat` and the agent's folder `node<i>`; and a log of
each process.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import sys
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from memkv_nixl._daemon import ServedProcess
from memkv_nixl._errors import ConfigError, UnreachableError
from memkv_nixl._sizes import parse_size
from memkv_nixl.store._cluster import NODES_MAX
from memkv_nixl.store._folder import LOOPBACK, ClusterFolder, is_free
from memkv_nixl.store._kept_daemon import stop_left_behind

REPLICAS_MAX = 7
_ETCD_PATHS = ("/usr/bin/etcd", "/usr/local/bin/etcd")
_ANY_PORT = f"{LOOPBACK}:0"


class Ended(NamedTuple):
    """A process that ended without having been told to."""

    what: str
    is_node: bool
    sentence: str


class LocalPool:
    """`count` nodes under a control plane of `replicas` processes; use it in a `with`."""

    def __init__(
        self,
        count: int,
        replicas: int,
        *,
        folder: str | Path | None = None,
        capacity: str | int = "1GiB",
        dram: str | int = "256MiB",
        buffered: bool = False,
    ) -> None:
        if not 1 <= count <= NODES_MAX:
            raise ConfigError(f"nodes: {count} is not between 1 and {NODES_MAX}")
        if not 1 <= replicas <= REPLICAS_MAX:
            raise ConfigError(f"control-replicas: {replicas} is not between 1 and {REPLICAS_MAX}")
        self._count = count
        self._replicas = replicas
        self._claimed = ClusterFolder(folder)
        sizes = {"capacity": parse_size(capacity, "capacity"), "dram": parse_size(dram, "dram")}
        self._node_flags = [
            word for name, size in sizes.items() for word in (f"--{name}", f"{size}")
        ]
        self._node_flags += ["--buffered"] if buffered else []
        self._etcd: ServedProcess | None = None
        self._etcd_binary = _etcd_path() if replicas > 1 else ""
        self._control: list[ServedProcess] = []
        self._nodes: list[ServedProcess] = []
        self._told: set[str] = set()
        self.moved: list[str] = []  # sentences about nodes that could not have their former port

    def __enter__(self) -> LocalPool:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return self._claimed.path

    @property
    def nodes(self) -> list[ServedProcess]:
        """The nodes' agents; the addresses are those of memkvd."""
        return list(self._nodes)

    @property
    def control(self) -> list[ServedProcess]:
        """The control plane's processes."""
        return list(self._control)

    @property
    def etcd(self) -> ServedProcess | None:
        """There is none for one control process."""
        return self._etcd

    def start(self) -> None:
        """Starts all and waits until all serve; if one cannot, none is left running."""
        try:
            self._claimed.claim()
            if self._replicas > 1:
                self._etcd = self._start_etcd()
            self._control = [self._control_process(i) for i in range(self._replicas)]
            self._start_together(self._control)
            self._nodes = [self._node_process(i) for i in range(self._count)]
            self._start_together(self._nodes)
            self._remember()
        except BaseException:
            self.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> None:
        """Stops the nodes, then the control plane, then etcd; a second Ctrl-C kills them."""
        groups = [self._nodes, self._control, [self._etcd] if self._etcd is not None else []]
        try:
            for group in groups:
                for process in group:
                    if kill:
                        process.kill()
                    else:
                        process.ask_to_stop()
                for process in group:
                    process.wait_stopped()
        except BaseException:
            for group in groups:
                for process in group:
                    process.kill()
            raise
        finally:
            if self._claimed.claimed:
                for index in range(self._count):  # of agents that were killed
                    stop_left_behind(self._agent_folder(index))
            self._claimed.release()
            self._nodes, self._control, self._etcd = [], [], None

    def watch(self, wake: socket.socket | int) -> Ended | None:
        """Waits until one ends on its own, and gives it once, or until `wake` is readable."""
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(wake, selectors.EVENT_READ)
            for process in self._processes():
                if process.what not in self._told and process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):  # _ended() sees it
                        descriptor = os.pidfd_open(process.pid)
                        stack.callback(os.close, descriptor)
                        selector.register(descriptor, selectors.EVENT_READ)
            gone = self._ended()
            if gone is None:
                selector.select()
                gone = self._ended()
            return gone

    # ---- inside

    def _processes(self) -> list[ServedProcess]:
        return [*([self._etcd] if self._etcd is not None else []), *self._control, *self._nodes]

    def _ended(self) -> Ended | None:
        for process in self._processes():
            if process.exit_status() is not None and process.what not in self._told:
                self._told.add(process.what)
                return Ended(process.what, process in self._nodes, process.end_in_words())
        return None

    def _start_together(self, group: list[ServedProcess]) -> None:
        for process in group:
            process.launch()
        try:
            for process in group:
                process.wait_ready()
        except UnreachableError as error:
            if self._etcd is not None and self._etcd.exit_status() is not None:
                raise UnreachableError(self._etcd.end_in_words()) from error
            raise

    def _start_etcd(self) -> ServedProcess:
        former = self._claimed.remembered("etcd")
        address = former[0] if former and is_free(former[0]) else _free_address()
        etcd = _EtcdProcess(self._etcd_binary, address, self.folder)
        etcd.launch()
        return etcd

    def _control_process(self, index: int) -> ServedProcess:
        where = ["--state", str(self.folder / "control")]
        if self._etcd is not None:
            where = ["--etcd", self._etcd.address]
        former = self._claimed.remembered("control")
        listen = former[index] if index < len(former) and is_free(former[index]) else _ANY_PORT
        command = ["control", "serve", "--listen", listen, *where]
        return _MemkvProcess(f"control {index}", command, self.folder / f"control{index}.log")

    def _node_process(self, index: int) -> ServedProcess:
        former = self._claimed.remembered("nodes")
        listen = former[index] if index < len(former) else _ANY_PORT
        if not is_free(listen):
            self.moved.append(
                f"node {index}: {listen} is taken by another program, so it gets another port; "
                "blocks are placed by address, and those placed by the former one are misses"
            )
            listen = _ANY_PORT
        control = ",".join(process.address for process in self._control)
        command = ["node", "serve", "--control", control, "--listen", listen]
        command += ["--device", str(self._claimed.device(index)), *self._node_flags]
        command += ["--agent-dir", str(self._agent_folder(index))]
        return _MemkvProcess(f"node {index}", command, self.folder / f"node{index}.log")

    def _agent_folder(self, index: int) -> Path:
        return self.folder / f"node{index}"

    def _remember(self) -> None:
        self._claimed.remember("nodes", [process.address for process in self._nodes])
        self._claimed.remember("control", [process.address for process in self._control])
        if self._etcd is not None:
            self._claimed.remember("etcd", [self._etcd.address])


class _MemkvProcess(ServedProcess):
    """`memkv …` of this very package."""

    def __init__(self, what: str, command: list[str], log: Path) -> None:
        super().__init__(what, _ANY_PORT, log, die_with_parent=True)
        self._words = command

    def _command(self, _told: int) -> tuple[list[str], bool]:
        return [sys.executable, "-m", "memkv_nixl.cli", *self._words, "--json"], True


class _EtcdProcess(ServedProcess):
    """An etcd of one member. It does not say when it serves: those who ask it wait for it."""

    def __init__(self, binary: str, address: str, folder: Path) -> None:
        super().__init__("etcd", address, folder / "etcd.log", die_with_parent=True)
        self._binary = binary
        self._data = folder / "etcd"

    def launch(self) -> None:
        super().launch()
        self._forget_ready()

    def _command(self, _told: int) -> tuple[list[str], bool]:
        url, no_peer = f"http://{self.address}", f"http://{LOOPBACK}:1"
        command = [self._binary, "--name", "memkv", "--data-dir", str(self._data)]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", f"http://{_ANY_PORT}", "--logger", "zap"]
        command += ["--initial-advertise-peer-urls", no_peer]
        command += ["--initial-cluster", f"memkv={no_peer}"]
        # The control plane needs no former revisions.
        command += ["--auto-compaction-mode", "revision", "--auto-compaction-retention", "1000"]
        return command, False


def _etcd_path() -> str:
    """Where etcd is."""
    found = shutil.which("etcd") or next(
        (path for path in _ETCD_PATHS if os.access(path, os.X_OK)), None
    )
    if found is None:
        raise ConfigError(
            "control-replicas: several replicas need etcd, which is not here; install it (Debian: "
            "apt-get install etcd-server), or say --control-replicas 1"
        )
    return found


def _free_address() -> str:
    with socket.create_server((LOOPBACK, 0)) as probe:
        return f"{LOOPBACK}:{probe.getsockname()[1]}"
