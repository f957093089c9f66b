"""Gate: a way to a store node that counts what passes and does something at the right moment.

Clients know the node by the gate's address, so that a test can kill the node in the middle of a
transfer: when so many bytes have come from it, and not a guess later.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType

_PIECE = 256 << 10


class Gate:
    """Forwards every connection to `target`; use it in a `with`."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._left = 0
        self._action: Callable[[], None] | None = None
        self._open: set[socket.socket] = set()

    @property
    def address(self) -> str:
        host, port = self._listening.getsockname()
        return f"{host}:{port}"

    def after(self, size: int, action: Callable[[], None]) -> None:
        """Does something once, when `size` more bytes have come from the node."""
        with self._lock:
            self._left, self._action = size, action

    def __enter__(self) -> Gate:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for end in self._open:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            for end in (near, far):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {near, far}
            for source, sink, counted in ((near, far, False), (far, near, True)):
                threading.Thread(
                    target=self._pump, args=(source, sink, counted), daemon=True
                ).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        piece = bytearray(_PIECE)
        view = memoryview(piece)
        try:
            while size := source.recv_into(piece):
                sink.sendall(view[:size])
                if counted:
                    self._count(size)
        except OSError:
            pass  # the other direction sees the end, too
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._open -= {source, sink}
        source.close()

    def _count(self, size: int) -> None:
        with self._lock:
            self._left -= size
            action = self._action if self._left <= 0 else None
            if action is not None:
                self._action = None
        if action is not None:
            action()
