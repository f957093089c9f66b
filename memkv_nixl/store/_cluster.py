"""The embedded cluster: several memkvd on files of one folder, started, watched and stopped.

The folder (`_folder.py`) holds, per node i, `node<i>.dat` (its blocks) and `node<i>.log` (its log):
a cluster started again in the same folder serves what it held, on the same ports where they are
free.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from memkv_nixl._config import NodeSettings
from memkv_nixl._daemon import MemkvdProcess
from memkv_nixl._errors import ConfigError, UsageError
from memkv_nixl._sizes import parse_size
from memkv_nixl.store._folder import LOOPBACK, ClusterFolder, is_free

NODES_MAX = 64  # on one machine; a real pool has a daemon per machine


@dataclass(frozen=True)
class StoreNode:
    """One node of an embedded cluster, as it is at the moment it was asked for."""

    index: int
    address: str
    device: Path
    log: Path
    pid: int | None
    running: bool


@dataclass(frozen=True)
class NodeEnded:
    """A node that ended without having been told to."""

    node: StoreNode
    status: int
    last_words: str

    def __str__(self) -> str:
        how = f"exit status {self.status}"
        if self.status < 0:
            how = f"killed by {signal.Signals(-self.status).name}"
        words = self.last_words or "it said nothing"
        return f"node {self.node.index} ({self.node.address}) ended: {how}; its log says: {words}"


class Cluster:
    """`count` store nodes on this machine; use it in a `with`.

    Without a folder it lives in a temporary one that goes with it. `capacity` is of each node's
    file, `dram` of each node's memory; both are sizes such as "1GiB".
    """

    def __init__(
        self,
        count: int = 2,
        *,
        folder: str | Path | None = None,
        capacity: str | int = "1GiB",
        dram: str | int = "256MiB",
        buffered: bool = False,
        log_level: str | None = None,
        die_with_parent: bool = False,
    ) -> None:
        if not 1 <= count <= NODES_MAX:
            raise ConfigError(f"nodes: {count} is not between 1 and {NODES_MAX}")
        self._count = count
        self._claimed = ClusterFolder(folder)
        self._capacity = parse_size(capacity, "capacity")
        self._dram = parse_size(dram, "dram")
        self._buffered = buffered
        self._log_level = log_level
        self._die_with_parent = die_with_parent
        self._moved: list[str] = []
        self._processes: list[MemkvdProcess] = []
        self._expected_down: set[int] = set()

    def __enter__(self) -> Cluster:
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
    def addresses(self) -> tuple[str, ...]:
        """What clients name as `nodes`."""
        return tuple(process.address for process in self._processes)

    @property
    def nodes(self) -> tuple[StoreNode, ...]:
        """How each node is now."""
        return tuple(self._node(index) for index in range(len(self._processes)))

    @property
    def moved(self) -> tuple[str, ...]:
        """Sentences about nodes that could not have their former port again."""
        return tuple(self._moved)

    def start(self) -> None:
        """Starts every node and waits until all serve; if one cannot, none is left running."""
        if self._claimed.claimed:
            raise UsageError("the cluster is started already")
        try:
            self._claimed.claim()
            self._processes = [self._prepare(i) for i in range(self._count)]
            for process in self._processes:
                process.launch()
            for process in self._processes:
                process.wait_ready()
            self._claimed.remember("nodes", list(self.addresses))
        except BaseException:
            self.stop(kill=True)
            raise

    def stop(self, *, kill: bool = False) -> None:
        """Stops every node; blocks are kept unless the folder is a temporary one.

        Broken off by an exception (a second Ctrl-C), it kills them.
        """
        try:
            for process in self._processes:
                if kill:
                    process.kill()
                else:
                    process.ask_to_stop()
            for process in self._processes:
                process.wait_stopped()
        except BaseException:
            for process in self._processes:
                process.kill()
            raise
        finally:
            self._forget()

    def _forget(self) -> None:
        self._claimed.release()
        self._processes = []
        self._expected_down = set()

    def kill_node(self, index: int) -> None:
        """kill -9 of one node."""
        self._expected_down.add(index)
        self._processes[index].kill()

    def stop_node(self, index: int) -> None:
        """Stops one node in order."""
        self._expected_down.add(index)
        self._processes[index].stop()

    def restart_node(self, index: int) -> None:
        """Starts one node again, at its address and on what it had."""
        old = self._processes[index]
        if old.running:
            raise UsageError(f"node {index} runs; stop or kill it before it is started again")
        fresh = self._process(index, old.address)
        fresh.start()
        self._processes[index] = fresh
        self._expected_down.discard(index)

    def ended(self) -> NodeEnded | None:
        """The first node that ended without having been told to."""
        for index, process in enumerate(self._processes):
            status = process.exit_status()
            if status is not None and index not in self._expected_down:
                return NodeEnded(self._node(index), status, process.last_words())
        return None

    def watch(self, wake: socket.socket | int, timeout_s: float | None = None) -> NodeEnded | None:
        """Waits until a node ends on its own (and gives it), `wake` is readable, or the time is up.

        No polling: the kernel says when a process ends.
        """
        with contextlib.ExitStack() as stack:
            selector = stack.enter_context(selectors.DefaultSelector())
            selector.register(wake, selectors.EVENT_READ)
            for index, process in enumerate(self._processes):
                if index not in self._expected_down and process.pid is not None:
                    with contextlib.suppress(ProcessLookupError):  # ended() sees it
                        descriptor = os.pidfd_open(process.pid)
                        stack.callback(os.close, descriptor)
                        selector.register(descriptor, selectors.EVENT_READ)
            gone = self.ended()
            if gone is None:
                selector.select(timeout_s)
                gone = self.ended()
            return gone

    def _prepare(self, index: int) -> MemkvdProcess:
        former = self._claimed.remembered("nodes")
        wanted = former[index] if index < len(former) else f"{LOOPBACK}:0"
        if not is_free(wanted):
            self._moved.append(
                f"node {index}: {wanted} is taken by another program, so it gets another port; "
                "blocks are placed by address, and those placed by the former one are misses"
            )
            wanted = f"{LOOPBACK}:0"
        return self._process(index, wanted)

    def _process(self, index: int, listen: str) -> MemkvdProcess:
        settings = NodeSettings(
            device=str(self._claimed.device(index)),
            capacity=self._capacity,
            dram=self._dram,
            listen=listen,
            buffered=self._buffered,
            log_level=self._log_level,
        )
        log = self.folder / f"node{index}.log"
        return MemkvdProcess(settings, log, die_with_parent=self._die_with_parent)

    def _node(self, index: int) -> StoreNode:
        process = self._processes[index]
        return StoreNode(
            index,
            process.address,
            self._claimed.device(index),
            process.log,
            process.pid,
            process.running,
        )
