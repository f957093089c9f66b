"""GET /metrics and GET /healthz over HTTP, and nothing else, for whatever has a page.

A connection is one request. At most CONNECTIONS_MAX are open, a request has REQUEST_BYTES_MAX, and
whoever sends or reads slower than DEADLINE_S allows is hung up on. There is no TLS and no token:
it listens where it is told to, and what it says names no key and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

from memkv_nixl._config import check_address
from memkv_nixl._errors import MemKVError, UnreachableError
from memkv_nixl._metrics import CONTENT_TYPE

CONNECTIONS_MAX = 16
REQUEST_BYTES_MAX = 8192
DEADLINE_S = 5.0
PLAIN = "text/plain; charset=utf-8"

_log = logging.getLogger(__name__)
_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def listen(address: str, setting: str) -> socket.socket:
    """A socket that listens there; refused with a sentence that names the setting."""
    check_address(address, setting)
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, int(port)), family=family, backlog=CONNECTIONS_MAX)
    except OSError as error:
        raise UnreachableError(
            f"{setting}: {address} cannot be listened on: {error.strerror}; name another address"
        ) from error


def address_of(listening: socket.socket) -> str:
    """HOST:PORT that a socket listens on."""
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class MetricsServer:
    """Serves a page on a socket. `start` and `close` in one event loop.

    `page` gives the text of /metrics; `trouble` gives "" when all is well, else the sentence that
    /healthz answers with 503.
    """

    def __init__(
        self,
        listening: socket.socket,
        page: Callable[[], Awaitable[str]],
        trouble: Callable[[], Awaitable[str]],
    ) -> None:
        self._socket = listening
        self._page = page
        self._trouble = trouble
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        """Serves, and gives the address."""
        self._server = await asyncio.start_server(
            self._connected, sock=self._socket, limit=REQUEST_BYTES_MAX
        )
        return address_of(self._socket)

    async def close(self) -> None:
        """Hangs up on everybody."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._tasks) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        task = asyncio.ensure_future(self._talk(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
            writer.write(await self._answer(head))
            await asyncio.wait_for(writer.drain(), DEADLINE_S)
            writer.close()
            await asyncio.wait_for(writer.wait_closed(), DEADLINE_S)
        except (asyncio.TimeoutError, asyncio.IncompleteReadError, OSError):
            pass  # it was told nothing that it waits for
        except asyncio.LimitOverrunError:
            writer.write(_response(400, "a request of more than 8 KiB\n"))
            with contextlib.suppress(asyncio.TimeoutError, OSError):
                await asyncio.wait_for(writer.drain(), DEADLINE_S)
        finally:
            writer.transport.abort()

    async def _answer(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _response(400, "this is no request of HTTP/1\n")
        method, path = words[0], words[1].partition("?")[0]
        if path not in ("/metrics", "/healthz"):
            return _response(404, "there are /metrics and /healthz\n", method)
        if method not in ("GET", "HEAD"):
            return _response(405, "there are GET and HEAD\n", method)
        try:
            if path == "/metrics":
                return _response(200, await self._page(), method, CONTENT_TYPE)
            trouble = await self._trouble()
        except MemKVError as error:
            return _response(503, f"{error}\n", method)
        except Exception:  # noqa: BLE001 - logged and answered
            _log.exception("%s could not be answered", path)
            return _response(500, "a broken invariant; the log has more\n", method)
        return _response(503 if trouble else 200, f"{trouble or 'ok'}\n", method)


def _response(status: int, body: str, method: str = "GET", kind: str = PLAIN) -> bytes:
    content = body.encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(content)}",
        "Connection: close",
    ]
    if status == 405:
        lines.append("Allow: GET, HEAD")
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head if method == "HEAD" else head + content
