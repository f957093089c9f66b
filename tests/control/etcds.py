"""A real etcd, of one member, that can be killed, stopped and started again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from memkv_nixl.control._etcd import Etcd, read
from memkv_nixl.proto.etcd import rpc_pb2
from tests.control.processes import free_port
from tests.integration.nodes import DEADLINE_S

BINARY = shutil.which("etcd") or "/usr/bin/etcd"


@dataclass
class EtcdProcess:
    """One that was started; the same folder is the same one again."""

    folder: Path
    scheme: str = "http"
    flags: tuple[str, ...] = ()
    address: str = field(default_factory=lambda: f"127.0.0.1:{free_port()}")
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Starts it; who talks to it waits until it serves."""
        url, nobody = f"{self.scheme}://{self.address}", "http://127.0.0.1:1"
        command = [BINARY, "--name", "one", "--data-dir", str(self.folder), *self.flags]
        command += ["--listen-client-urls", url, "--advertise-client-urls", url]
        command += ["--listen-peer-urls", "http://127.0.0.1:0", "--logger", "zap"]
        command += ["--initial-advertise-peer-urls", nobody, "--initial-cluster", f"one={nobody}"]
        with self.folder.with_suffix(".log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def keys(self, prefix: bytes) -> dict[bytes, Any]:
        """What it holds, by key."""
        etcd = Etcd([self.address])
        try:
            answer = await etcd.txn([], [read(prefix, prefix + b"\xff")], 5.0)
        finally:
            await etcd.close()
        return {kv.key: kv for kv in answer.responses[0].response_range.kvs}

    async def do(self, *operations: rpc_pb2.RequestOp) -> None:
        """Does something to it that no replica would."""
        etcd = Etcd([self.address])
        try:
            await etcd.txn([], operations, 5.0)
        finally:
            await etcd.close()


@contextmanager
def running(folder: Path, scheme: str = "http", *flags: str) -> Iterator[EtcdProcess]:
    """An etcd; Debian's package etcd-server brings it."""
    if not Path(BINARY).exists():
        pytest.skip("there is no etcd here; ./dev setup installs etcd-server")
    etcd = EtcdProcess(folder, scheme, flags)
    etcd.start()
    try:
        yield etcd
    finally:
        etcd.send(signal.SIGCONT)
        etcd.kill()
